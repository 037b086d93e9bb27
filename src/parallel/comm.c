#include "parallel/comm.h"

#include "parallel/comm_net.h"
#include "parallel/comm_tables.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    rk_status (*make)(rk_ctx *ctx, rk_comm **out);
} tables[] = {
    { "self", rk__comm_make_self },
    { "mpi", rk__comm_make_mpi },
};

/* Before anybody's memory goes: what arrives late must not meet it. */
static void leave_comm(void *arg)
{
    rk__comm_leave(arg);
}

static void close_comm(void *arg)
{
    rk_comm *c = arg;
    c->table->close(c);
}

bool rk__comm_launched(void)
{
    return rk__net_launched() > 1;
}

rk_status rk__comm_named(rk_ctx *ctx, const char *name, rk_comm **out)
{
    *out = NULL;
    if (rk_failed(ctx))
        return rk_failed(ctx);
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (!strcmp(tables[i].name, name)) {
            tables[i].make(ctx, out);
            if (*out)
                rk__at_close(ctx, close_comm, *out);
            if (*out && (*out)->table->leave)
                rk__before_close(ctx, leave_comm, *out);
            return rk_failed(ctx);
        }
    return RK_OK;
}

rk_status rk__comm_self(rk_ctx *ctx, rk_comm **out)
{
    return rk__comm_named(ctx, "self", out);
}

rk_status rk__comm_open(rk_ctx *ctx, rk_comm **out)
{
    return rk__comm_named(ctx, rk__comm_launched() ? "mpi" : "self", out);
}

void rk__comm_leave(rk_comm *c)
{
    if (c->table->leave)
        c->table->leave(c);
}

/* ---- blocking forms ---- */

rk_status rk__comm_exchange(rk_comm *c, const char *name, const rk_leg *send, rk_leg *recv)
{
    rk_request *r;
    RK_TRY(c->table->exchange(c, name, send, recv, &r));
    return c->table->wait(c, r);
}

rk_status rk__comm_all_gather(rk_comm *c, const char *name, const rk_leg *piece)
{
    rk_request *r;
    RK_TRY(c->table->all_gather(c, name, piece, &r));
    return c->table->wait(c, r);
}

rk_status rk__comm_broadcast(rk_comm *c, const char *name, int root, void *data, size_t bytes)
{
    rk_request *r;
    RK_TRY(c->table->broadcast(c, name, root, data, bytes, &r));
    return c->table->wait(c, r);
}

rk_status rk__comm_all_values(rk_comm *c, const char *name, const void *mine, size_t bytes, void *out)
{
    rk_leg few[64], *piece = few;
    if (c->size > 64 && !(piece = rk__calloc(c->ctx, (size_t)c->size, sizeof *piece)))
        return RK_ENOMEM;
    for (int i = 0; i < c->size; i++)
        piece[i] = (rk_leg){ (char *)out + (size_t)i * bytes, bytes };
    if (bytes)
        memmove(piece[c->rank].data, mine, bytes);
    rk_status st = rk__comm_all_gather(c, name, piece);
    if (piece != few)
        free(piece);
    return st;
}
