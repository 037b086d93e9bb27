#include "train/accumulate.h"

#include "core/rounded.h"

#include "core/order.h"
#include "nn/module.h"
#include "parallel/trace.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_LEVELS = 30 };

static void free_lists(void *arg)
{
    free(arg);
}

static void *list_make(rk_ctx *ctx, size_t n, size_t size)
{
    void *p = rk__calloc(ctx, n ? n : 1, size);
    if (p && rk__at_close(ctx, free_lists, p)) {
        free(p);
        return NULL;
    }
    return p;
}

/* The running statistics of a batch norm are summed up over micro-batches as gradients are. */
static void add_running(rk__accumulator *a, const rk_module *m)
{
    if (rk__moves_running(m)) {
        a->trained[a->n_trained++] = m->mean;
        a->trained[a->n_trained++] = m->var;
    }
    for (const rk_module *c = m->first; c; c = c->next)
        add_running(a, c);
}

static rk_status finish_running(const rk__accumulator *a, const rk_module *m, int64_t shards)
{
    if (rk__moves_running(m)) {
        RK_TRY(rk__running_finish(m->mean, m->a.batch_norm.cfg.momentum, shards));
        RK_TRY(rk__running_finish(m->var, m->a.batch_norm.cfg.momentum, shards));
    }
    for (const rk_module *c = m->first; c; c = c->next)
        RK_TRY(finish_running(a, c, shards));
    return RK_OK;
}

rk_status rk__accumulator_init(rk__accumulator *a, rk__job *job, rk_module *net, rk__loss_fn *loss, void *arg,
                               int64_t micro, rk__zero zero, int64_t bucket)
{
    rk_ctx *ctx = job->ctx;
    *a = (rk__accumulator){
        .ctx = ctx, .job = job, .net = net, .loss = loss, .loss_arg = arg, .micro = micro
    };
    int n = rk_param_count(net), n_frozen = 0;
    a->trained = list_make(ctx, (size_t)n, sizeof *a->trained);
    a->sums = list_make(ctx, (size_t)n * MAX_LEVELS, sizeof *a->sums);
    a->pieces = list_make(ctx, (size_t)n, sizeof *a->pieces);
    rk_tensor **frozen = list_make(ctx, (size_t)n, sizeof *frozen);
    if (!a->trained || !a->sums || !a->pieces || !frozen)
        return rk_failed(ctx);
    for (int i = 0; i < n; i++) {
        rk_param p = rk_param_at(net, i);
        if (!p.buffer && !p.frozen)
            a->trained[a->n_trained++] = p.tensor;
        else if (!p.buffer)
            frozen[n_frozen++] = p.tensor;
    }
    a->n_params = a->n_trained;
    if (net)
        add_running(a, net->root);
    if (job->ranks == 1)
        return RK_OK;
    a->by_piece = zero >= RK__ZERO_WEIGHTS;
    return rk__grads_make(job,
                          &(rk__grads_cfg){ .t = a->trained,
                                            .n = a->n_params,
                                            .frozen = frozen,
                                            .n_frozen = n_frozen,
                                            .zero = zero,
                                            .bucket = bucket },
                          &a->grads);
}

/* The host waits for it, unless the device goes on by itself. */
static rk_status note_loss(rk__accumulator *a, rk_tensor *loss, double *value)
{
    *value = 0;
    if (!a->unread)
        *value = rk_item(loss);
    else
        a->loss_at_hand = rk_keep(rk_tensor_dtype(loss) == RK_F32 ? loss : rk__converted(loss, RK_F32));
    return rk_failed(a->ctx);
}

/* ---- the whole batch at once ---- */

static rk_status whole(rk__accumulator *a, const rk_batch *b, double *loss_value)
{
    double begin = rk__trace_begin(a->job);
    rk_tensor *loss = a->loss(a->loss_arg, rk_forward(a->net, b->x), b->y);
    RK_TRY(note_loss(a, loss, loss_value));
    rk__trace_end(a->job, RK__TRACK_STEP, "forward", begin);
    begin = rk__trace_begin(a->job);
    rk_status st = isfinite(*loss_value) ? rk_backward(loss) : RK_OK;
    rk__trace_end(a->job, RK__TRACK_STEP, "backward", begin);
    return st;
}

/* ---- in pieces ---- */

/* The least power of two of pieces such that none has more than `micro` samples. */
static int64_t pieces_of(int64_t n, int64_t micro)
{
    int64_t pieces = 1;
    while (n > micro * pieces) /* halving leaves at most ceil(n / pieces) samples */
        pieces *= 2;
    return pieces;
}

static void bounds(int64_t n, int64_t pieces, int64_t p, int64_t *lo, int64_t *hi)
{
    rk_order_leaf(n, (int)pieces, (int)p, lo, hi);
}

static rk_status make_level(rk__accumulator *a, int level)
{
    if (level < a->levels)
        return RK_OK;
    for (int i = 0; i < a->n_trained; i++)
        a->sums[level * a->n_trained + i] = rk_tensor_make(a->ctx, RK_F32, rk_tensor_shape(a->trained[i]));
    a->levels = level + 1;
    return rk_failed(a->ctx);
}

/* The leaf of a parameter that holds its gradient of the part at hand. */
static rk_tensor *leaf_at_hand(const rk__accumulator *a, int i)
{
    return rk__part_leaf(a->trained[i], a->ctx->grid.first_part);
}

/* The gradient a parameter got in the subtree at hand; one that got none is a sum of nothing: +0. */
static rk_status working_gradient(const rk__accumulator *a, int i, rk_tensor **g)
{
    rk_tensor *t = leaf_at_hand(a, i);
    rk_order order;
    if (!t)
        return RK_ENOMEM;
    *g = rk_grad(t);
    if (*g)
        return RK_OK;
    *g = rk__grad_begin(t, 1, &order);
    if (!*g)
        return rk_failed(t->ctx);
    rk_status st = rk__kernels(t->ctx, t->dtype)->fill(t->ctx->dev, rk__size(*g), 0, rk__data(*g));
    return st ? rk_fail(t->ctx, st, "a gradient cannot be cleared") : RK_OK;
}

/* Adds the left sibling's sums of `level` to the working gradients, or if aside, puts these in their place.
 */
static rk_status collect(rk__accumulator *a, int level, bool aside)
{
    for (int i = 0; i < a->n_trained; i++) {
        rk_tensor *g, *left = a->sums[level * a->n_trained + i];
        RK_TRY(working_gradient(a, i, &g));
        a->pieces[i] = (rk_optim_piece){ .n = rk__size(g),
                                         .w = rk__data(aside ? left : g),
                                         .g = rk__data(aside ? g : left) };
    }
    RK_TRY(rk_failed(a->ctx));
    rk_status st = rk__kernels(a->ctx, RK_F32)->collect(a->ctx->dev, !aside, a->n_trained, a->pieces);
    return st ? rk_fail(a->ctx, st, "gradients cannot be added") : RK_OK;
}

/* Memory changes hands where it may. */
static rk_status swap_sums(rk__accumulator *a, int level)
{
    for (int i = 0; i < a->n_trained; i++) {
        rk_tensor *g, *sum = a->sums[level * a->n_trained + i];
        RK_TRY(working_gradient(a, i, &g));
        rk__storage *s = g->storage;
        g->storage = sum->storage;
        sum->storage = s;
    }
    return RK_OK;
}

/* Puts the working gradients aside as the sums of `level`. */
static rk_status put_aside(rk__accumulator *a, int level)
{
    RK_TRY(make_level(a, level));
    RK_TRY(a->grads ? collect(a, level, true) : swap_sums(a, level)); /* what others read stays where it is */
    for (int i = 0; i < a->n_trained; i++)
        rk_grad_zero(leaf_at_hand(a, i));
    return RK_OK;
}

/* Subtree number `done` (from 0) of `subtrees` is complete: climbs as far as its right edges go. */
static rk_status climb(rk__accumulator *a, int64_t done, int64_t subtrees)
{
    int level = 0;
    for (int64_t d = done; d & 1; d >>= 1)
        RK_TRY(collect(a, level++, false));
    return done + 1 < subtrees ? put_aside(a, level) : RK_OK;
}

static rk_status one_piece(rk__accumulator *a, const rk_batch *b, int64_t lo, int64_t hi, rk_tensor **out)
{
    double begin = rk__trace_begin(a->job);
    rk_tensor *x = rk_slice(b->x, 0, lo, hi), *y = b->y == b->x ? x : rk_slice(b->y, 0, lo, hi);
    rk_tensor *z = rk_forward(a->net, x);
    *out = rk_detach(z); /* holds the values when the walk has passed */
    rk__trace_end(a->job, RK__TRACK_STEP, "forward", begin);
    begin = rk__trace_begin(a->job);
    rk_status st = rk_backward(a->loss(a->loss_arg, z, y));
    rk__trace_end(a->job, RK__TRACK_STEP, "backward", begin);
    if (a->by_piece)
        rk__grads_note_reads(a->grads, false);
    return st;
}

/* The loss as the whole batch has it: from all outputs at once, in the order of the whole. */
static rk_status whole_loss(rk__accumulator *a, const rk_batch *b, rk_tensor **outs, int n, double *value)
{
    rk_no_grad_begin(a->ctx);
    rk_status st = note_loss(a, a->loss(a->loss_arg, rk_concat(outs, n, 0), b->y), value);
    rk_no_grad_end(a->ctx);
    return st;
}

/* Once: batches of a run do not grow. */
static rk_status make_outs(rk__accumulator *a, int64_t pieces)
{
    if (pieces <= a->outs_cap)
        return RK_OK;
    a->outs = list_make(a->ctx, (size_t)pieces, sizeof *a->outs);
    a->outs_cap = a->outs ? pieces : 0;
    return a->outs ? RK_OK : RK_ENOMEM;
}

/* Of the pieces of the whole batch, those of a subtree. */
static int64_t pieces_in(int64_t pieces, const rk_subtree *part, int64_t shards)
{
    int64_t own = pieces * part->leaves / shards;
    return own > 0 ? own : 1;
}

/* The pieces of one subtree of `leaves` shards, whose samples are [lo, hi) of this rank's. */
static rk_status subtree_in_pieces(rk__accumulator *a, const rk_batch *b, uint64_t step, int64_t pieces,
                                   int leaves, int64_t from, int64_t to, int *n_outs)
{
    rk_ctx *ctx = a->ctx;
    int64_t per_shard = pieces > leaves ? pieces / leaves : 1, subtrees = pieces / per_shard;
    ctx->grid.segments = ctx->grid.shards = pieces > leaves ? 1 : (int)(leaves / pieces);
    ctx->grid.chain = per_shard > 1;
    for (int64_t p = 0; p < pieces; p++) {
        int64_t lo, hi;
        bounds(to - from, pieces, p, &lo, &hi);
        rk_set_step(ctx, step, b->first + from + lo);
        if (hi > lo)
            RK_TRY(one_piece(a, b, from + lo, from + hi, &a->outs[(*n_outs)++]));
        if ((p + 1) % per_shard == 0)
            RK_TRY(climb(a, p / per_shard, subtrees));
    }
    return RK_OK;
}

/* ---- weights by piece: all ranks read them equally often ---- */

/* Passes of rank r over a batch in `pieces`. */
static int64_t passes_of(const rk__accumulator *a, int r, int64_t global, int64_t pieces)
{
    const rk__job *j = a->job;
    const int shards = a->ctx->data_shards;
    int64_t passes = 0;
    for (int p = j->first[r]; p < j->first[r + 1]; p++) {
        int64_t lo, hi, from, to, own = pieces_in(pieces, &j->part[p], shards);
        rk_order_samples(global, shards, j->part[p], &lo, &hi);
        for (int64_t i = 0; i < own; i++) {
            bounds(hi - lo, own, i, &from, &to);
            passes += to > from;
        }
    }
    return passes > 0 ? passes : 1;
}

/* [C] For the passes that other ranks make and this one does not, it reads what it read in its first; that of
 * a rank without samples is over none. */
static rk_status even_out(rk__accumulator *a, const rk_batch *b, int64_t pieces, int *n_outs)
{
    int64_t most = 1, own = passes_of(a, a->job->rank, b->global, pieces);
    if (!*n_outs) {
        a->ctx->grid = (rk__grid){ .part = true, .segments = 1, .shards = 1, .batch_samples = b->global };
        RK_TRY(one_piece(a, b, 0, 0, &a->outs[(*n_outs)++]));
    }
    for (int r = 0; r < a->job->ranks; r++) {
        int64_t n = passes_of(a, r, b->global, pieces);
        most = n > most ? n : most;
    }
    for (; own < most; own++)
        RK_TRY(rk__grads_repeat_reads(a->grads));
    return RK_OK;
}

/* pieces: of the whole batch, over all ranks. */
static rk_status in_pieces(rk__accumulator *a, const rk_batch *b, uint64_t step, int64_t pieces,
                           double *loss_value)
{
    rk_ctx *ctx = a->ctx;
    const rk__grid grid = ctx->grid;
    const rk__meet meet = ctx->meet;
    const int64_t shards = ctx->data_shards;
    int64_t from = 0;
    int n_outs = 0;
    rk_status st = make_outs(a, pieces + RK_ORDER_PARTS);
    ctx->meet = (rk__meet){ 0 }; /* ranks have different numbers of pieces */
    if (a->by_piece)
        rk__grads_note_reads(a->grads, true);
    for (int p = 0; p < rk__job_parts(a->job) && !st; p++) {
        const rk_subtree *part = rk__job_part(a->job, p);
        int64_t to = grid.parts > 1 ? grid.end[p] : b->n;
        ctx->grid = (rk__grid){ .part = true, .first_part = p, .batch_samples = b->global };
        st = subtree_in_pieces(a, b, step, pieces_in(pieces, part, shards), part->leaves, from, to, &n_outs);
        from = to;
    }
    if (!st && a->by_piece)
        st = even_out(a, b, pieces, &n_outs);
    ctx->grid = grid;
    ctx->meet = meet;
    rk_set_step(ctx, step, b->first);
    if (!st)
        st = finish_running(a, a->net->root, b->global < shards ? b->global : shards);
    if (!st)
        st = whole_loss(a, b, a->outs, n_outs, loss_value);
    return st ? st : rk_failed(ctx);
}

/* Samples of rank r in a batch. */
static int64_t samples_of(const rk__accumulator *a, int r, int64_t global)
{
    const rk__job *j = a->job;
    int64_t first, end, none;
    rk_order_samples(global, a->ctx->data_shards, j->part[j->first[r]], &first, &none);
    rk_order_samples(global, a->ctx->data_shards, j->part[j->first[r + 1] - 1], &none, &end);
    return end - first;
}

/* May this rank take its samples at once? Where weights are by piece, all do or none. */
static bool fits(const rk__accumulator *a, const rk_batch *b, int64_t pieces)
{
    bool all = true;
    for (int r = 0; a->by_piece && r < a->job->ranks; r++)
        all = all && samples_of(a, r, b->global) <= a->micro;
    return pieces == 1 || (all && b->n <= a->micro);
}

rk_status rk__accumulate(rk__accumulator *a, const rk_batch *b, uint64_t step, double *loss_value)
{
    *loss_value = 0;
    RK_TRY(rk_failed(a->ctx));
    rk__job_grid(a->job, b->global);
    rk_set_step(a->ctx, step, b->first);
    const int64_t pieces = a->micro > 0 ? pieces_of(b->global, a->micro) : 1;
    const bool whole_batch = fits(a, b, pieces);
    if (a->grads)
        rk__grads_begin(a->grads, whole_batch);
    rk__weights_stand(a->ctx);
    rk_status made = whole_batch ? whole(a, b, loss_value) : in_pieces(a, b, step, pieces, loss_value);
    rk__weights_move(a->ctx);
    RK_TRY(made);
    double begin = rk__trace_begin(a->job);
    rk_status st = a->grads && isfinite(*loss_value) ? rk__grads_sum(a->grads) : RK_OK;
    rk__trace_end(a->job, RK__TRACK_STEP, "exchange", begin);
    return st;
}
