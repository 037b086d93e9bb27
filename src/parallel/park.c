#include "parallel/park.h"

#include <stdlib.h>

typedef struct parked {
    rk__guard guard;
    rk_tensor *t;
    void *host; /* NULL: it is back */
} parked;

static void parked_free(void *arg)
{
    parked *p = arg;
    free(p->host);
    free(p);
}

/* From the host, where it is not any more. */
static void copy_back(parked *p, void *data)
{
    rk_ctx *ctx = p->t->ctx;
    const rk_status st = data ? ctx->device->copy_in(ctx->dev, data, p->host, p->t->storage->bytes) : RK_OK;
    if (st)
        rk_fail(ctx, st, "values cannot be copied to the device");
    free(p->host);
    p->host = NULL;
}

static void bring_back(void *arg, int number, int64_t from, int64_t to)
{
    parked *p = arg;
    rk_ctx *ctx = p->t->ctx;
    rk__storage *s = p->t->storage;
    void *data;
    (void)number, (void)from, (void)to;
    if (rk__device_alloc(ctx, s->bytes, "a tensor", &data))
        return;
    s->data = data;
    s->foreign = false;
    s->guard = NULL;
    copy_back(p, data);
}

static parked *parked_of(const rk_tensor *t)
{
    const rk__guard *g = t->storage->guard;
    return g && g->need == bring_back ? g->arg : NULL;
}

rk_status rk__park_end(rk_tensor *t, void *data)
{
    rk_ctx *ctx = t->ctx;
    parked *p = parked_of(t);
    if (!p && data)
        return rk__tensor_move(t, data);
    if (!p)
        rk__tensor_give_up(t);
    if (!p)
        return RK_OK;
    t->storage->guard = NULL;
    t->storage->data = data;
    copy_back(p, data);
    return rk_failed(ctx);
}

rk_status rk__park(rk_tensor *t)
{
    rk_ctx *ctx = t->ctx;
    if (rk_failed(ctx) || rk__on_host(ctx) || parked_of(t))
        return rk_failed(ctx);
    parked *p = rk__calloc(ctx, 1, sizeof *p);
    if (!p || rk__at_close(ctx, parked_free, p)) {
        free(p);
        return RK_ENOMEM;
    }
    *p = (parked){ .guard = { .arg = p, .need = bring_back }, .t = t };
    p->host = rk__calloc(ctx, t->storage->bytes, 1);
    if (!p->host)
        return RK_ENOMEM;
    RK_TRY(rk_tensor_read(t, p->host, t->storage->bytes));
    rk__tensor_give_up(t);
    t->storage->guard = &p->guard;
    return RK_OK;
}
