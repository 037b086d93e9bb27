#include "train/crew.h"

#include "io/doc.h"
#include "train/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- which program ---- */

typedef struct found_id {
    const void *code; /* an address within it */
    uint8_t id[32];
    size_t n;
} found_id;

static void read_notes(const uint8_t *p, size_t size, found_id *f)
{
    for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= size;) {
        ElfW(Nhdr) h;
        memcpy(&h, p + at, sizeof h);
        size_t name = at + sizeof h, desc = name + ((size_t)h.n_namesz + 3) / 4 * 4;
        at = desc + ((size_t)h.n_descsz + 3) / 4 * 4;
        if (at > size)
            return;
        if (h.n_type != NT_GNU_BUILD_ID || h.n_namesz != 4 || memcmp(p + name, "GNU", 4))
            continue;
        f->n = h.n_descsz < sizeof f->id ? h.n_descsz : sizeof f->id;
        memcpy(f->id, p + desc, f->n);
    }
}

/* The loaded object that holds f->code. */
static int look_at(struct dl_phdr_info *info, size_t size, void *arg)
{
    found_id *f = arg;
    bool here = false;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        here |= p->p_type == PT_LOAD && (uintptr_t)f->code - (info->dlpi_addr + p->p_vaddr) < p->p_memsz;
    }
    for (int i = 0; here && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_NOTE)
            read_notes((const uint8_t *)(info->dlpi_addr + p->p_vaddr), p->p_memsz, f);
    }
    return here;
}

static uint64_t hash(uint64_t h, const void *data, size_t n) /* FNV-1a */
{
    for (const uint8_t *p = data; n-- > 0; p++)
        h = (h ^ *p) * 0x100000001b3u;
    return h;
}

#define HASH_BEGIN 0xcbf29ce484222325u

/* What the linker wrote into the object that this code is in; the same source built alike has the same. */
static uint64_t build_id(void)
{
    static const char here;
    found_id f = { .code = &here };
    dl_iterate_phdr(look_at, &f);
    return hash(HASH_BEGIN, f.id, f.n);
}

/* ---- who ---- */

static void describe_self(rk_ctx *ctx, rk__mate *m)
{
    cpu_set_t set;
    *m = (rk__mate){ .node = ctx->comm->node, .threads = ctx->device->threads(ctx->dev), .pid = getpid() };
    if (gethostname(m->host, sizeof m->host - 1))
        snprintf(m->host, sizeof m->host, "node %d", m->node);
    m->host[sizeof m->host - 1] = '\0';
    if (!sched_getaffinity(0, sizeof set, &set))
        for (int i = 0; i < (int)(sizeof m->cpu * 8) && i < CPU_SETSIZE; i++)
            if (CPU_ISSET(i, &set))
                m->cpu[i / 64] |= (uint64_t)1 << i % 64;
}

const char *rk__crew_host(const rk__crew *r, int rank)
{
    return r->mate ? r->mate[rank].host : "";
}

int rk__crew_nodes(const rk__crew *r)
{
    return r->mate ? r->ctx->comm->nodes : 1;
}

int rk__crew_crowded(const rk__crew *r, int *ranks, int *threads, int *cores)
{
    for (int node = 0; r->mate && node < r->ctx->comm->nodes; node++) {
        uint64_t all[16] = { 0 };
        *ranks = *threads = *cores = 0;
        for (int i = 0; i < r->ctx->ranks; i++) {
            if (r->mate[i].node != node)
                continue;
            ++*ranks;
            *threads += r->mate[i].threads;
            for (int w = 0; w < 16; w++)
                all[w] |= r->mate[i].cpu[w];
        }
        for (int w = 0; w < 16; w++)
            *cores += __builtin_popcountll(all[w]);
        if (*threads > *cores && *cores > 0)
            return node;
    }
    return -1;
}

/* ---- the same work ---- */

/* "rank 3", "ranks 1-3 and 5": those with differs[r] set. */
static void name_ranks(const bool *differs, int ranks, char *buf, size_t size)
{
    int many = 0;
    size_t used;
    for (int r = 0; r < ranks; r++)
        many += differs[r];
    used = (size_t)snprintf(buf, size, many == 1 ? "rank" : "ranks");
    for (int r = 0, first = 1; r < ranks && used < size; r++) {
        int last = r;
        if (!differs[r])
            continue;
        while (last + 1 < ranks && differs[last + 1])
            last++;
        used += (size_t)snprintf(buf + used, size - used, last > r ? "%s%d-%d" : "%s%d", first ? " " : ", ",
                                 r, last);
        r = last;
        first = 0;
    }
}

/* May differ from rank to rank: a matter of its machine, or no part of the results. */
static bool own_matter(const char *key)
{
    static const char *const keys[] = { "parallel.threads", "data.threads", "data.prefetch", "log.format" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(key, keys[i]))
            return true;
    return false;
}

/* Everything of a configuration that ranks must agree on, "key value" by lines. */
static char *common_text(const rk_config *cfg)
{
    rk__text t = { 0 };
    rk_option_info o;
    for (int i = 0; rk_config_option(i, &o); i++) {
        const char *v = own_matter(o.key) ? NULL : rk_config_get(cfg, o.key);
        if (!v)
            continue;
        rk__text_puts(&t, o.key);
        rk__text_puts(&t, " ");
        for (const char *s = v; *s; s++)
            rk__text_printf(&t, "%c", *s == '\n' ? ' ' : *s);
        rk__text_puts(&t, "\n");
    }
    rk__text_puts(&t, "");
    return rk__text_take(&t);
}

/* The value of the line of `key` in such a text. */
static void value_in(const char *text, const char *key, size_t n, char *buf, size_t size)
{
    snprintf(buf, size, "unset");
    for (const char *line = text, *end; line && (end = strchr(line, '\n')); line = end + 1)
        if ((size_t)(end - line) > n && !strncmp(line, key, n) && line[n] == ' ') {
            snprintf(buf, size, "%.*s", (int)(end - line - (ptrdiff_t)n - 1), line + n + 1);
            return;
        }
}

/* "optim.lr is 0.1 on rank 0 and 0.2 on rank 3" */
static void first_difference(const char *text, const char *mine, int rank, char *buf, size_t size)
{
    const char *const in[2] = { text, mine };
    for (int k = 0; k < 2; k++)
        for (const char *line = in[k], *end; (end = strchr(line, '\n')); line = end + 1) {
            char a[160], b[160];
            size_t n = strcspn(line, " ");
            value_in(text, line, n, a, sizeof a);
            value_in(mine, line, n, b, sizeof b);
            if (!strcmp(a, b))
                continue;
            snprintf(buf, size, "%.*s is %.100s on rank 0 and %.100s on rank %d", (int)n, line, a, b, rank);
            return;
        }
    snprintf(buf, size, "they differ in a long value");
}

/* [C] Every rank's hash; differs[r]: not rank 0's. Returns the first such rank, -1 if there is none. */
static int compare_hashes(rk_ctx *ctx, const char *name, uint64_t own, bool *differs)
{
    uint64_t *all = rk__calloc(ctx, (size_t)ctx->ranks, sizeof *all);
    int first = -1;
    if (all && !rk__comm_all_values(ctx->comm, name, &own, sizeof own, all))
        for (int r = ctx->ranks - 1; r > 0; r--) {
            differs[r] = all[r] != all[0];
            first = differs[r] ? r : first;
        }
    free(all);
    return first;
}

/* [C] Rank `who` tells all how its configuration differs from the first rank's. */
static rk_status tell_difference(rk_ctx *ctx, const char *mine, int who, const bool *differs)
{
    char ranks[200], what[400] = "";
    int64_t n = (int64_t)strlen(mine) + 1;
    RK_TRY(rk__comm_broadcast(ctx->comm, "configuration's length", 0, &n, sizeof n));
    char *text = rk__calloc(ctx, (size_t)n, 1);
    if (text && ctx->rank == 0)
        memcpy(text, mine, (size_t)n);
    rk_status st = text ? rk__comm_broadcast(ctx->comm, "configuration", 0, text, (size_t)n) : RK_ENOMEM;
    if (!st && ctx->rank == who)
        first_difference(text, mine, who, what, sizeof what);
    free(text);
    RK_TRY(st);
    RK_TRY(rk__comm_broadcast(ctx->comm, "difference", who, what, sizeof what));
    name_ranks(differs, ctx->ranks, ranks, sizeof ranks);
    return rk_fail(ctx, RK_ECONFIG,
                   "%s and rank 0 have different configurations: %s. Give every rank the same file and the "
                   "same overrides",
                   ranks, what);
}

static rk_status same_program(rk_ctx *ctx, bool *differs)
{
    char ranks[200];
    uint64_t own = hash(build_id(), rk_version(), strlen(rk_version()));
    int who = compare_hashes(ctx, "program", own, differs);
    RK_TRY(rk_failed(ctx));
    if (who < 0)
        return RK_OK;
    name_ranks(differs, ctx->ranks, ranks, sizeof ranks);
    return rk_fail(
        ctx, RK_ECONFIG,
        "%s and rank 0 run different programs (rank 0: rankine %s): install one build on every host", ranks,
        rk_version());
}

static rk_status same_config(rk_ctx *ctx, const rk_config *cfg, bool *differs)
{
    char *mine = common_text(cfg);
    if (!mine)
        return rk_fail(ctx, RK_ENOMEM, "out of memory");
    int who = compare_hashes(ctx, "configurations", hash(HASH_BEGIN, mine, strlen(mine)), differs);
    rk_status st = rk_failed(ctx);
    if (!st && who >= 0)
        st = tell_difference(ctx, mine, who, differs);
    free(mine);
    return st;
}

rk_status rk__crew_meet(rk__crew *r, rk_ctx *ctx, const rk_config *cfg)
{
    rk__mate self;
    *r = (rk__crew){ .ctx = ctx, .log = -1, .slow_rank = -1 };
    if (ctx->ranks == 1)
        return rk_failed(ctx);
    bool *differs = rk__calloc(ctx, (size_t)ctx->ranks, sizeof *differs);
    r->mate = rk__calloc(ctx, (size_t)ctx->ranks, sizeof *r->mate);
    rk_status st = differs && r->mate ? same_program(ctx, differs) : RK_ENOMEM;
    if (!st)
        st = same_config(ctx, cfg, differs);
    free(differs);
    RK_TRY(st);
    describe_self(ctx, &self);
    return rk__comm_all_values(ctx->comm, "hosts", &self, sizeof self, r->mate);
}

/* [C] What the first rank sees and what rank `who` sees: samples to train on, to evaluate. */
static rk_status tell_data(const rk__setup *s, const int64_t own[2], int who, const bool *differs)
{
    rk_ctx *ctx = s->ctx;
    int64_t first[2] = { own[0], own[1] }, other[2] = { own[0], own[1] };
    char ranks[200];
    RK_TRY(rk__comm_broadcast(ctx->comm, "size of the data", 0, first, sizeof first));
    RK_TRY(rk__comm_broadcast(ctx->comm, "size of the data", who, other, sizeof other));
    name_ranks(differs, ctx->ranks, ranks, sizeof ranks);
    if (!memcmp(first, other, sizeof first))
        return rk_fail(
            ctx, RK_EDATA,
            "%s: %s and rank 0 see as many samples, but of other content. Every host needs the same "
            "files",
            s->cfg->data_path, ranks);
    return rk_fail(
        ctx, RK_EDATA,
        "%s: %s and rank 0 see different data: %lld and %lld samples to train on, %lld and %lld to "
        "evaluate. Every host needs the same files",
        s->cfg->data_path, ranks, (long long)other[0], (long long)first[0], (long long)other[1],
        (long long)first[1]);
}

rk_status rk__crew_same_data(const rk__crew *r, const rk__setup *s)
{
    rk_ctx *ctx = r->ctx;
    if (ctx->ranks == 1 || rk_failed(ctx))
        return rk_failed(ctx);
    const int64_t size[2] = { rk_loader_samples(s->train), s->eval ? rk_loader_samples(s->eval) : 0 };
    uint64_t own = hash(HASH_BEGIN, size, sizeof size);
    if (s->schema)
        own = hash(own, s->schema, strlen(s->schema));
    bool *differs = rk__calloc(ctx, (size_t)ctx->ranks, sizeof *differs);
    int who = differs ? compare_hashes(ctx, "data", own, differs) : -1;
    rk_status st = rk_failed(ctx);
    if (!st && who >= 0)
        st = tell_data(s, size, who, differs);
    free(differs);
    return st;
}

/* ---- logs ---- */

void rk__crew_open_log(rk__crew *r, const char *dir)
{
    char path[4300];
    if (!r->mate || r->ctx->rank == 0)
        return;
    const rk__mate *me = &r->mate[r->ctx->rank];
    snprintf(path, sizeof path, "%s/rank-%d.log", dir, r->ctx->rank);
    r->log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    rk__crew_log(r, "rankine %s: rank %d of %d, process %d on %s, %s", rk_version(), r->ctx->rank,
                 r->ctx->ranks, me->pid, me->host, rk_device_describe(r->ctx));
    if (rk_device_why_cpu(r->ctx, NULL))
        rk__crew_log(r, "on the processor: %s", rk_device_why_cpu(r->ctx, NULL));
}

void rk__crew_log(rk__crew *r, const char *fmt, ...)
{
    char now[32], text[1200], line[1300];
    va_list ap;
    if (r->log < 0)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    rk__time_text(now);
    int n = snprintf(line, sizeof line, "%s %s\n", now, text);
    if (write(r->log, line, (size_t)n) != n) {
        close(r->log);
        r->log = -1;
    }
}

void rk__crew_close(rk__crew *r)
{
    if (r->log >= 0)
        close(r->log);
    free(r->mate);
    *r = (rk__crew){ .log = -1 };
}

/* ---- time ---- */

void rk__crew_begin(rk__crew *r)
{
    r->waited = r->mate ? r->ctx->comm->waited : 0;
    r->sent = r->mate ? (rk__sent){ r->ctx->comm->sent, r->ctx->comm->sent_far } : (rk__sent){ 0 };
}

double rk__crew_waited(const rk__crew *r)
{
    return r->mate ? r->ctx->comm->waited - r->waited : 0;
}

rk__sent rk__crew_sent(const rk__crew *r)
{
    const rk_comm *c = r->ctx->comm;
    return r->mate ? (rk__sent){ c->sent - r->sent.all, c->sent_far - r->sent.far } : (rk__sent){ 0 };
}

void rk__crew_forget(rk__crew *r, rk__sent then)
{
    const rk__sent now = rk__crew_sent(r);
    r->sent.all += now.all - then.all;
    r->sent.far += now.far - then.far;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void find_slowest(rk__crew *r, const double *busy, double *sorted)
{
    const int n = r->ctx->ranks;
    int slowest = 0;
    for (int i = 1; i < n; i++)
        slowest = busy[i] > busy[slowest] ? i : slowest;
    memcpy(sorted, busy, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    double median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
    r->slow_by = median > 0 ? busy[slowest] / median : 1;
    r->slow_rank = r->slow_by > RK__SLOW ? slowest : -1;
}

rk_status rk__crew_compare(rk__crew *r, double busy)
{
    rk_ctx *ctx = r->ctx;
    r->slow_rank = -1;
    r->all_sent = r->all_far = 0;
    if (!r->mate)
        return rk_failed(ctx);
    const int n = ctx->ranks;
    const rk__sent sent = rk__crew_sent(r);
    const double mine[3] = { busy, (double)sent.all, (double)sent.far };
    double *all = rk__calloc(ctx, 5 * (size_t)n, sizeof *all), *own = all + 3 * n;
    rk_status st = all ? rk__comm_all_values(ctx->comm, "a window", mine, sizeof mine, all) : RK_ENOMEM;
    for (int i = 0; !st && i < n; i++) {
        own[i] = all[3 * i];
        r->all_sent += all[3 * i + 1];
        r->all_far += all[3 * i + 2];
    }
    if (!st)
        find_slowest(r, own, own + n);
    free(all);
    return st;
}
