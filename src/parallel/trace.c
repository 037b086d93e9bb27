#include "parallel/trace.h"

#include "io/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MOST_SPANS = 1 << 21, /* 64 MiB: half a million steps of one pass */
    ROUNDS = 64,          /* of a clock's comparison */
    TAG = 1000
};

typedef struct span {
    const char *name;
    double begin, length;
    rk__track track;
} span;

struct rk__trace {
    rk__job *job;
    char *path;    /* what the first rank's environment says */
    double offset; /* what to add to this rank's clock for the first rank's */
    double start;  /* of the trace, on the first rank's clock */
    span *spans;
    int64_t n, cap, lost;
};

void rk__trace_note(rk__trace *t, rk__track track, const char *name, double begin)
{
    if (t->n == t->cap) {
        int64_t cap = t->cap ? 2 * t->cap : 4096;
        span *more = cap <= MOST_SPANS ? realloc(t->spans, (size_t)cap * sizeof *more) : NULL;
        if (!more) {
            t->lost++;
            return;
        }
        t->spans = more;
        t->cap = cap;
    }
    t->spans[t->n++] = (span){ name, begin, rk__seconds() - begin, track };
}

static void trace_free(void *arg)
{
    rk__trace *t = arg;
    free(t->path);
    free(t->spans);
    free(t);
}

/* ---- clocks ---- */

/* The first rank answers with its clock; the fastest round trip knows best what it was in the middle. */
static rk_status answer(rk_comm *c, int rank)
{
    for (int i = 0; i < ROUNDS; i++) {
        char asked;
        RK_TRY(c->table->recv(c, rank, TAG, &asked, 1));
        double now = rk__seconds();
        RK_TRY(c->table->send(c, rank, TAG, &now, sizeof now));
    }
    return RK_OK;
}

static rk_status ask(rk_comm *c, double *offset)
{
    double best = 1e30;
    for (int i = 0; i < ROUNDS; i++) {
        char asking = 1;
        double theirs, begun = rk__seconds();
        RK_TRY(c->table->send(c, 0, TAG, &asking, 1));
        RK_TRY(c->table->recv(c, 0, TAG, &theirs, sizeof theirs));
        double took = rk__seconds() - begun;
        if (took < best) {
            best = took;
            *offset = theirs - (begun + took / 2);
        }
    }
    return RK_OK;
}

/* The first rank of rank r's node. */
static int first_of(const int32_t *node, int r)
{
    int first = 0;
    while (node[first] != node[r])
        first++;
    return first;
}

/* [C] Ranks of one node share a clock: the first of each compares. */
static rk_status compare_clocks(rk__trace *t, const int32_t *node, double *offsets)
{
    rk_comm *c = t->job->ctx->comm; /* every rank of the job */
    for (int r = 1; r < c->size; r++) {
        if (first_of(node, r) != r)
            continue;
        if (c->rank == 0)
            RK_TRY(answer(c, r));
        else if (c->rank == r)
            RK_TRY(ask(c, &t->offset));
    }
    RK_TRY(rk__comm_all_values(c, "clocks", &t->offset, sizeof t->offset, offsets));
    t->offset = offsets[first_of(node, c->rank)];
    t->start = rk__seconds();
    return rk__comm_broadcast(c, "start of the trace", 0, &t->start, sizeof t->start);
}

static rk_status align(rk__trace *t)
{
    rk_ctx *ctx = t->job->ctx;
    t->start = rk__seconds();
    if (ctx->ranks == 1)
        return RK_OK;
    int32_t mine = ctx->comm->node, *node = rk__calloc(ctx, (size_t)ctx->ranks, sizeof *node);
    double *offsets = rk__calloc(ctx, (size_t)ctx->ranks, sizeof *offsets);
    rk_status st =
        node && offsets ? rk__comm_all_values(ctx->comm, "nodes", &mine, sizeof mine, node) : RK_ENOMEM;
    if (!st)
        st = compare_clocks(t, node, offsets);
    free(offsets);
    free(node);
    return st;
}

rk_status rk__trace_open(rk__job *j)
{
    const char *path = j->ctx->rank == 0 ? getenv("RANKINE_TRACE") : NULL;
    int64_t length = path ? (int64_t)strlen(path) : 0;
    RK_TRY(rk_failed(j->ctx));
    if (j->ctx->ranks > 1)
        RK_TRY(rk__comm_broadcast(j->ctx->comm, "whether to trace", 0, &length, sizeof length));
    if (!length)
        return RK_OK;
    rk__trace *t = rk__calloc(j->ctx, 1, sizeof *t);
    if (!t || rk__at_close(j->ctx, trace_free, t)) {
        free(t);
        return RK_ENOMEM;
    }
    t->job = j;
    t->path = rk__calloc(j->ctx, (size_t)length + 1, 1);
    if (!t->path)
        return RK_ENOMEM;
    if (path)
        memcpy(t->path, path, (size_t)length);
    if (j->ctx->ranks > 1)
        RK_TRY(rk__comm_broadcast(j->ctx->comm, "where to write the trace", 0, t->path, (size_t)length));
    RK_TRY(align(t));
    j->trace = t;
    return RK_OK;
}

/* ---- writing ---- */

static void put_name(rk__text *out, const char *what, int rank, int track, const char *name)
{
    rk__text_printf(out, "{\"ph\":\"M\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":", what,
                    rank, track);
    rk__text_quote(out, name);
    rk__text_puts(out, "}},\n");
}

/* This rank's events, each with a comma and a line's end behind it. */
static char *events(const rk__trace *t)
{
    const int rank = t->job->ctx->rank;
    char host[64] = "", who[100];
    rk__text out = { 0 };
    gethostname(host, sizeof host - 1);
    snprintf(who, sizeof who, "rank %d on %s", rank, host);
    put_name(&out, "process_name", rank, 0, who);
    put_name(&out, "thread_name", rank, RK__TRACK_STEP,
             rk__on_host(t->job->ctx) ? "steps" : "steps (what the host asks the device for, and when)");
    put_name(&out, "thread_name", rank, RK__TRACK_SNAPSHOT, "snapshots");
    for (int64_t i = 0; i < t->n; i++) {
        const span *s = &t->spans[i];
        rk__text_printf(
            &out, "{\"ph\":\"X\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f},\n", s->name,
            rank, (int)s->track, 1e6 * (s->begin + t->offset - t->start), 1e6 * s->length);
    }
    return rk__text_take(&out);
}

static void begin_file(FILE *f, const char *own)
{
    fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", f);
    fputs(own, f);
}

/* The last event has no comma behind it. */
static void end_file(FILE *f, const rk__trace *t)
{
    fprintf(
        f,
        "{\"ph\":\"M\",\"name\":\"process_labels\",\"pid\":%d,\"args\":{\"labels\":\"%lld spans lost\"}}]}\n",
        t->job->ctx->rank, (long long)t->lost);
}

/* The first rank: its own events, then everyone's as they come. */
static rk_status write_all(rk__trace *t, const char *own, const int64_t *bytes, FILE *f)
{
    const rk__job *j = t->job;
    begin_file(f, own);
    for (int r = 1; r < j->ctx->ranks; r++) {
        char *text = rk__calloc(j->ctx, (size_t)bytes[r] + 1, 1);
        if (!text)
            return RK_ENOMEM;
        rk_status st = j->ctx->comm->table->recv(j->ctx->comm, r, TAG, text, (size_t)bytes[r]);
        fputs(text, f);
        free(text);
        RK_TRY(st);
    }
    end_file(f, t);
    return RK_OK;
}

static rk_status gather(rk__trace *t, const char *own, int64_t *bytes, char why[512])
{
    rk_ctx *ctx = t->job->ctx;
    int64_t size = (int64_t)strlen(own);
    bytes[ctx->rank] = size;
    if (ctx->ranks > 1)
        RK_TRY(rk__comm_all_values(ctx->comm, "trace", &size, sizeof size, bytes));
    if (ctx->rank > 0)
        return ctx->comm->table->send(ctx->comm, 0, TAG, own, (size_t)size);
    FILE *f = fopen(t->path, "w"), *to = f ? f : fopen("/dev/null", "w");
    int error = errno;
    rk_status st = to ? write_all(t, own, bytes, to) : rk_fail(ctx, RK_EIO, "/dev/null: %s", strerror(errno));
    bool bad = to && (ferror(to) || fflush(to));
    if (bad)
        error = errno;
    if (to)
        fclose(to);
    if (!f || bad)
        snprintf(why, 512, "the trace %.400s cannot be written: %s", t->path, strerror(error));
    return st;
}

rk_status rk__trace_write(rk__job *j, char why[512])
{
    rk__trace *t = j->trace;
    *why = '\0';
    if (!t)
        return rk_failed(j->ctx);
    j->trace = NULL;
    RK_TRY(rk_failed(j->ctx));
    int64_t *bytes = rk__calloc(j->ctx, (size_t)j->ctx->ranks, sizeof *bytes);
    char *own = events(t);
    rk_status st = own && bytes ? gather(t, own, bytes, why) : rk_fail(j->ctx, RK_ENOMEM, "out of memory");
    free(own);
    free(bytes);
    return st;
}

void rk__trace_write_own(rk__job *j)
{
    rk__trace *t = j ? j->trace : NULL;
    char path[4200];
    if (!t)
        return;
    j->trace = NULL;
    if (j->ctx->rank == 0)
        snprintf(path, sizeof path, "%s", t->path);
    else
        snprintf(path, sizeof path, "%s.rank-%d", t->path, j->ctx->rank);
    char *own = events(t);
    FILE *f = own ? fopen(path, "w") : NULL;
    if (f) {
        begin_file(f, own);
        end_file(f, t);
        fclose(f);
    }
    free(own);
}
