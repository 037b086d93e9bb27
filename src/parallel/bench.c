/* How fast ranks add up: as gradients meet, against MPI's own all-reduce of the host's memory. */
#include <rankine/parallel.h>

#include "core/clock.h"
#include "parallel/comm_ranks.h"
#include "parallel/comm_tables.h"
#include "parallel/job.h"
#include "parallel/tree.h"

#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 3, LEAST_RUNS = 5, MOST_RUNS = 1000 };

typedef struct bench {
    rk_comm *comm; /* where tensors go */
    rk_comm *host; /* the same ranks */
    rk__net *net;  /* NULL: no MPI, or nothing to compare it with */
    int64_t n;
    int own, all, most; /* subtrees of this rank, of all, of the rank with most */
    rk_subtree *part;   /* (all) */
    int *first;         /* (ranks + 1): whose they are */
    float *data;        /* (own, n), of comm */
    float *sum;         /* (n), of comm */
    float *fresh, *got; /* both as the host sees them: the same memory, or copies of a device's */
    float *in, *out;    /* (n), MPI's */
    const float **from;
    rk_leg *send, *recv;
    rk_request **request;
    double *ours, *theirs; /* seconds of the runs */
    int64_t wrong, mpi_wrong;
} bench;

static int64_t bound(const bench *b, int rank)
{
    return b->n * rank / b->comm->size;
}

/* [C] The communicator for the device's memory, of all ranks. */
static rk_status find_tensors(rk_ctx *ctx, rk_comm **out)
{
    const rk__job *j = ctx->job;
    *out = ctx->comm;
    if (rk__on_host(ctx))
        return RK_OK;
    if (j && j->comm == ctx->comm) {
        *out = j->tensors;
        return RK_OK;
    }
    if (!ctx->tensors)
        RK_TRY(rk__comm_of_device(ctx->comm, &ctx->tensors));
    *out = ctx->tensors;
    return RK_OK;
}

static rk_status take_memory(bench *b)
{
    rk_comm *c = b->comm;
    const size_t data = (size_t)(b->own * b->n) * sizeof *b->data, sum = (size_t)b->n * sizeof *b->sum;
    b->data = c->table->alloc(c, data);
    b->sum = c->table->alloc(c, sum);
    b->fresh = c->of_device ? rk__calloc(c->ctx, data, 1) : b->data;
    b->got = c->of_device ? rk__calloc(c->ctx, sum, 1) : b->sum;
    return rk_failed(c->ctx);
}

static rk_status open_bench(bench *b, rk_ctx *ctx, int64_t n)
{
    int shards = 1, ranks = ctx->comm->size;
    while (shards < ranks || shards < ctx->data_shards)
        shards *= 2;
    *b = (bench){ .host = ctx->comm, .n = n };
    RK_TRY(find_tensors(ctx, &b->comm));
    b->part = rk__calloc(ctx, (size_t)ranks * RK_ORDER_PARTS, sizeof *b->part);
    b->first = rk__calloc(ctx, (size_t)ranks + 1, sizeof *b->first);
    if (rk_failed(ctx))
        return rk_failed(ctx);
    for (int r = 0; r < ranks; r++) {
        int parts = rk_order_parts(shards, ranks, r, b->part + b->all);
        b->most = parts > b->most ? parts : b->most;
        b->all += parts;
        b->first[r + 1] = b->all;
    }
    b->own = b->first[b->host->rank + 1] - b->first[b->host->rank];
    b->from = rk__calloc(ctx, (size_t)b->all, sizeof *b->from);
    b->send = rk__calloc(ctx, (size_t)ranks, sizeof *b->send);
    b->recv = rk__calloc(ctx, (size_t)(ranks * b->most), sizeof *b->recv);
    b->request = rk__calloc(ctx, (size_t)b->most, sizeof(rk_request *));
    b->in = rk__calloc(ctx, (size_t)n, sizeof *b->in);
    b->out = rk__calloc(ctx, (size_t)n, sizeof *b->out);
    b->ours = rk__calloc(ctx, MOST_RUNS, sizeof *b->ours);
    b->theirs = rk__calloc(ctx, MOST_RUNS, sizeof *b->theirs);
    RK_TRY(rk_failed(ctx));
    if (!b->comm->of_device && !strcmp(b->host->table->name, "mpi"))
        b->net = rk__ranks_of(b->host)->net;
    return take_memory(b);
}

static void close_bench(bench *b)
{
    rk_comm *c = b->comm;
    if (c && c->of_device) {
        free(b->fresh);
        free(b->got);
    }
    if (c) {
        c->table->release(c, b->sum);
        c->table->release(c, b->data);
    }
    void *all[] = { b->part,    b->first, b->from, b->send, b->recv,
                    b->request, b->in,    b->out,  b->ours, b->theirs };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* Small integers, other ones in each run, whose sums are exact in any order. */
static float value(int part, int64_t k, int run)
{
    return (float)((k + run) % 97 + part);
}

static rk_status fill(bench *b, int run)
{
    rk_ctx *ctx = b->host->ctx;
    for (int p = 0; p < b->own; p++)
        for (int64_t k = 0; k < b->n; k++)
            b->fresh[p * b->n + k] = value(b->first[b->host->rank] + p, k, run);
    for (int64_t k = 0; b->net && k < b->n; k++)
        b->in[k] = value(b->host->rank, k, run);
    if (b->fresh == b->data)
        return RK_OK;
    rk_status st =
        ctx->device->copy_in(ctx->dev, b->data, b->fresh, (size_t)(b->own * b->n) * sizeof *b->data);
    return st ? rk_fail(ctx, st, "values to be added cannot be copied to the device") : rk_device_wait(ctx);
}

/* The sum, where the host can look at it. */
static rk_status fetch(const bench *b)
{
    rk_ctx *ctx = b->host->ctx;
    if (b->got == b->sum)
        return RK_OK;
    rk_status st = ctx->device->copy_out(ctx->dev, b->got, b->sum, (size_t)b->n * sizeof *b->sum);
    return st ? rk_fail(ctx, st, "a sum cannot be copied from the device") : RK_OK;
}

static int64_t count_wrong(const float *sum, int64_t n, int parts, int run)
{
    int64_t wrong = 0;
    for (int64_t k = 0; k < n; k++)
        wrong += sum[k] != (float)(parts * ((k + run) % 97) + parts * (parts - 1) / 2);
    return wrong;
}

static rk_status start_part(bench *b, int p)
{
    rk_comm *c = b->comm;
    rk_leg *recv = b->recv + p * c->size;
    for (int r = 0; r < c->size; r++) {
        bool theirs = b->first[r] + p < b->first[r + 1];
        size_t out = (size_t)(bound(b, r + 1) - bound(b, r)) * sizeof(float);
        size_t in = (size_t)(bound(b, c->rank + 1) - bound(b, c->rank)) * sizeof(float);
        b->send[r] = (rk_leg){ b->data + p * b->n + bound(b, r), p < b->own ? out : 0 };
        recv[r] = (rk_leg){ NULL, theirs ? in : 0 };
    }
    return c->table->exchange(c, "sums", b->send, recv, &b->request[p]);
}

/* Until the sum is there: a device that was only asked for it has not added anything. */
static rk_status run_ours(bench *b)
{
    rk_comm *c = b->comm;
    int64_t lo = bound(b, c->rank), n = bound(b, c->rank + 1) - lo;
    for (int p = 0; p < b->most; p++)
        RK_TRY(start_part(b, p));
    for (int p = 0; p < b->most; p++) {
        RK_TRY(c->table->wait(c, b->request[p]));
        for (int r = 0; r < c->size; r++)
            if (b->first[r] + p < b->first[r + 1])
                b->from[b->first[r] + p] = b->recv[p * c->size + r].data;
    }
    RK_TRY(rk__tree_add(c->ctx, n, b->all, b->part, b->from, b->sum + lo));
    for (int r = 0; r < c->size; r++)
        b->send[r] =
            (rk_leg){ b->sum + bound(b, r), (size_t)(bound(b, r + 1) - bound(b, r)) * sizeof(float) };
    RK_TRY(rk__comm_all_gather(c, "sums", b->send));
    return rk_device_wait(c->ctx);
}

static rk_status run_mpi(bench *b)
{
    return rk__net_all_reduce(b->net, b->in, b->out, b->n);
}

/* One run: ours, then MPI's. */
static rk_status run_both(bench *b, int run, double *ours, double *theirs)
{
    rk_comm *c = b->host;
    RK_TRY(fill(b, run));
    RK_TRY(c->table->barrier(c, "go"));
    double begun = rk__seconds();
    RK_TRY(run_ours(b));
    *ours = rk__seconds() - begun;
    RK_TRY(fetch(b));
    RK_TRY(rk_step_end(c->ctx)); /* partial sums on a device */
    b->wrong += count_wrong(b->got, b->n, b->all, run);
    if (!b->net)
        return RK_OK;
    RK_TRY(c->table->barrier(c, "go"));
    begun = rk__seconds();
    RK_TRY(run_mpi(b));
    *theirs = rk__seconds() - begun;
    b->mpi_wrong += count_wrong(b->out, b->n, c->size, run);
    return RK_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* [C] Rank 0's clock decides when it is enough. */
static rk_status run_for(bench *b, double seconds, int *runs)
{
    double begun = rk__seconds(), none;
    for (int i = 0; i < WARM_UP; i++)
        RK_TRY(run_both(b, i, &none, &none));
    bool more = true;
    for (*runs = 0; more && *runs < MOST_RUNS; ++*runs) {
        RK_TRY(run_both(b, *runs, &b->ours[*runs], &b->theirs[*runs]));
        more = *runs + 1 < LEAST_RUNS || rk__seconds() - begun < seconds;
        RK_TRY(rk__comm_broadcast(b->host, "more", 0, &more, sizeof more));
    }
    qsort(b->ours, (size_t)*runs, sizeof *b->ours, by_value);
    qsort(b->theirs, (size_t)*runs, sizeof *b->theirs, by_value);
    return RK_OK;
}

static const char *way_of(const rk_comm *c)
{
    if (c->size == 1)
        return "nowhere: there is one rank";
    if (c->way)
        return c->way;
    return c->nodes == 1 ? "through shared memory" : "through shared memory, and over MPI between nodes";
}

/* [C] The slowest rank's times, everyone's errors. */
static rk_status agree(bench *b, rk_comm_timing *t)
{
    rk_comm_timing *all = rk__calloc(b->host->ctx, (size_t)b->host->size, sizeof *all), mine = *t;
    if (!all)
        return RK_ENOMEM;
    rk_status st = rk__comm_all_values(b->host, "timing", &mine, sizeof mine, all);
    t->wrong = t->mpi_wrong = 0;
    for (int r = 0; !st && r < b->host->size; r++) {
        t->seconds = all[r].seconds > t->seconds ? all[r].seconds : t->seconds;
        t->mpi_seconds = all[r].mpi_seconds > t->mpi_seconds ? all[r].mpi_seconds : t->mpi_seconds;
        t->wrong += all[r].wrong;
        t->mpi_wrong += all[r].mpi_wrong;
    }
    free(all);
    return st;
}

rk_status rk_bench_comm(rk_ctx *ctx, int64_t bytes, double seconds, rk_comm_timing *out)
{
    bench b;
    int runs = 0;
    *out = (rk_comm_timing){ .bytes = bytes };
    if (rk_failed(ctx))
        return rk_failed(ctx);
    if (bytes < 0 || bytes % (int64_t)sizeof(float))
        return rk_fail(ctx, RK_EUSAGE, "sums of %lld bytes; a multiple of 4 is needed", (long long)bytes);
    if (!ctx->comm)
        RK_TRY(rk__comm_self(ctx, &ctx->comm));
    rk_status st = open_bench(&b, ctx, bytes / (int64_t)sizeof(float));
    if (!st)
        st = run_for(&b, seconds, &runs);
    if (!st) {
        *out = (rk_comm_timing){ .bytes = bytes,
                                 .runs = runs,
                                 .seconds = b.ours[runs / 2],
                                 .mpi_seconds = b.theirs[runs / 2],
                                 .wrong = b.wrong,
                                 .mpi_wrong = b.mpi_wrong,
                                 .way = way_of(b.comm) };
        st = agree(&b, out);
    }
    close_bench(&b);
    return st;
}
