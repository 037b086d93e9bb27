/* rk_open(): the context of core, and the ranks it belongs to. */
#include "parallel/comm_net.h"
#include "parallel/devices.h"
#include "parallel/job.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

/* Ranks that the launcher put on this node; 0: it does not say. */
static int ranks_here(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
                                         "SLURM_NTASKS_PER_NODE" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *v = getenv(names[i]);
        long n = v ? strtol(v, NULL, 10) : 0;
        if (n > 0 && n < 1 << 16)
            return (int)n;
    }
    return 0;
}

int rk_launch_rank(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID" };
    for (size_t i = 0; rk__comm_launched() && i < sizeof names / sizeof *names; i++) {
        const char *v = getenv(names[i]);
        long n = v ? strtol(v, NULL, 10) : 0;
        if (v)
            return n > 0 && n < 1 << 24 ? (int)n : 0;
    }
    return 0;
}

/* A launcher that binds ranks has shared out the cores already; otherwise they are shared here. */
static int own_cores(void)
{
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int ranks = ranks_here();
    if (sched_getaffinity(0, sizeof set, &set))
        return 0;
    int allowed = CPU_COUNT(&set);
    if (allowed < online || ranks < 2)
        return allowed;
    return allowed / ranks > 0 ? allowed / ranks : 1;
}

/* Messages between nodes move when somebody looks after them. */
static void push_on(void *arg)
{
    const rk_ctx *ctx = arg;
    rk_comm *batch = ctx->job ? ctx->job->comm : NULL;
    ctx->comm->table->progress(ctx->comm, NULL);
    if (batch && batch != ctx->comm)
        batch->table->progress(batch, NULL);
}

/* Who cannot take part needs no device. */
static rk_status open_one(const rk_open_cfg *cfg, rk_ctx **out)
{
    if (!cfg->failed)
        return rk__open(cfg, out);
    rk_status st = rk__open(&(rk_open_cfg){ .device = "cpu", .threads = 1 }, out);
    return st ? st : rk_fail(*out, cfg->failed, "%s", cfg->why ? cfg->why : rk_status_name(cfg->failed));
}

rk_status rk_open(const rk_open_cfg *cfg, rk_ctx **out)
{
    rk_open_cfg c = cfg ? *cfg : (rk_open_cfg){ 0 };
    bool join = !c.alone && rk__comm_launched();
    if (!join)
        return open_one(&c, out);
    if (c.threads == 0)
        c.threads = own_cores();
    const int local = rk__net_local_rank(); /* MPI runs from here on, and ends when all ranks do */
    if (c.local_rank == 0)
        c.local_rank = local + 1;
    open_one(&c, out);
    rk_ctx *ctx = *out;
    if (ctx)
        ctx->rank = rk_launch_rank();
    if (local >= 0)
        RK_TRY(rk__net_all_well(ctx));
    RK_TRY(ctx ? rk_failed(ctx) : RK_ENOMEM);
    RK_TRY(rk__comm_open(ctx, &ctx->comm));
    ctx->rank = ctx->comm->rank;
    ctx->ranks = ctx->comm->size;
    RK_TRY(rk__devices_agree(ctx));
    if (ctx->comm->nodes > 1 && ctx->device->on_work)
        ctx->device->on_work(ctx->dev, push_on, ctx);
    rk__job *job;
    return ctx->ranks <= ctx->data_shards ? rk__job_open(ctx, 1, &job)
                                          : RK_OK; /* else it needs tensor shards */
}

rk_status rk_barrier(rk_ctx *ctx)
{
    if (!ctx || !ctx->comm)
        return rk_failed(ctx);
    return ctx->comm->table->barrier(ctx->comm, "barrier");
}
