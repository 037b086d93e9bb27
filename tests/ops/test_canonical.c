/* Sums over samples follow the grid: half of the batch with half of the segments is exactly a subtree, and a
 * shard cut into micro-batches is exactly its chain. Whatever the cut, loss and gradients have the same bits.
 */
#include "core/tape.h"
#include "test.h"

enum { SAMPLES = 16, PARAMS = 13, NORM = 11 /* parameters from here on need the whole batch */ };

/* Parameters of a network that has every op with a gradient over samples. */
typedef struct net {
    rk_ctx *ctx;
    rk_tensor *p[PARAMS];
    bool norm; /* with the batch norm */
} net;

static const rk_shape shapes[PARAMS] = {
    { 4, { 6, 3, 3, 3 } }, { 1, { 6 } },  /* conv2d */
    { 3, { 6, 1, 1 } },                   /* a factor a channel */
    { 1, { 24 } },         { 1, { 24 } }, /* layer norm */
    { 2, { 9, 24 } },      { 1, { 9 } },  /* linear, gelu */
    { 2, { 5, 9 } },                      /* embedding, added */
    { 1, { 9 } },                         /* rms norm */
    { 2, { 9, 7 } },                      /* matmul */
    { 1, { 1 } },                         /* one number for all */
    { 1, { 6 } },          { 1, { 6 } },  /* batch norm */
};

static bool net_open(net *n, int shards)
{
    if (rk_open(&(rk_open_cfg){ .threads = 2, .data_shards = shards, .seed = 3 }, &n->ctx))
        return false;
    for (int i = 0; i < PARAMS; i++) {
        n->p[i] = rk_tensor_make(n->ctx, RK_F32, shapes[i]);
        rk_tensor *start = rk_rand(n->ctx, RK_F32, shapes[i], (uint64_t)i);
        int64_t count = rk_tensor_size(start);
        float *v = malloc((size_t)count * sizeof *v);
        rk_tensor_read(start, v, (size_t)count * sizeof *v);
        for (int64_t k = 0; k < count; k++)
            v[k] -= 0.4f;
        rk_tensor_write(n->p[i], v, (size_t)count * sizeof *v);
        free(v);
        rk_require_grad(n->p[i], true);
    }
    return rk_step_end(n->ctx) == RK_OK;
}

/* The loss of samples [lo, hi). */
static rk_tensor *forward(net *n, int64_t lo, int64_t hi)
{
    rk_tensor *const *p = n->p;
    rk_ctx *ctx = n->ctx;
    int64_t count = hi - lo, words[2 * SAMPLES], classes[SAMPLES];
    for (int64_t i = 0; i < count; i++) {
        words[2 * i] = (lo + i) * 3 % 5;
        words[2 * i + 1] = (lo + i) % 4;
        classes[i] = (lo + i) * 5 % 7;
    }
    rk_tensor *x = rk_slice(rk_randn(ctx, RK_F32, RK_SHAPE(SAMPLES, 3, 6, 6), 99), 0, lo, hi);
    rk_set_step(ctx, 1, lo);
    rk_tensor *h = rk_conv2d_op(x, p[0], p[1], &(rk_conv_cfg){ .act = RK_ACT_RELU });
    if (n->norm)
        h = rk_batch_norm_op(h, p[NORM], p[NORM + 1], NULL, NULL,
                             &(rk_batch_norm_cfg){ .training = true, .eps = 1e-5 });
    h = rk_max_pool2d(rk_mul(h, p[2]), &(rk_pool_cfg){ .kernel = { 2, 2 } });
    h = rk_layer_norm_op(rk_reshape(h, RK_SHAPE(count, 24)), p[3], p[4], 1e-5);
    h = rk_dropout_op(rk_linear_op(h, p[5], p[6], RK_ACT_GELU), 0.2, 1);
    rk_tensor *e = rk_embedding_op(p[7], rk_from_host(ctx, RK_I64, RK_SHAPE(count, 2), words));
    h = rk_add(h, rk_sum(e, 2u, false));
    h = rk_matmul(rk_rms_norm_op(rk_relu(h), p[8], 1e-5), p[9], false, false);
    h = rk_mul(h, rk_broadcast(p[10], RK_SHAPE(count, 7)));
    return rk_cross_entropy(h, rk_from_host(ctx, RK_I64, RK_SHAPE(count), classes));
}

typedef struct result {
    float loss;
    float *g[PARAMS];
} result;

static rk_status read_gradients(net *n, result *r)
{
    for (int i = 0; i < (n->norm ? PARAMS : NORM); i++) {
        size_t bytes = (size_t)rk_tensor_size(n->p[i]) * sizeof(float);
        r->g[i] = calloc(1, bytes);
        RK_TRY(rk_tensor_read(rk_grad(n->p[i]), r->g[i], bytes));
    }
    return RK_OK;
}

/* `passes` backward calls over equal parts of the batch. */
static bool run(int shards, int passes, int segments, bool chain, result *r)
{
    net n = { 0 };
    *r = (result){ 0 };
    bool ok = net_open(&n, shards);
    n.ctx->grid = (rk__grid){ .segments = segments, .chain = chain, .batch_samples = SAMPLES };
    for (int i = 0; ok && i < passes; i++) {
        rk_tensor *loss = forward(&n, SAMPLES / passes * i, SAMPLES / passes * (i + 1));
        ok = rk_backward(loss) == RK_OK;
        r->loss += (float)rk_item(loss);
        ok = ok && rk_step_end(n.ctx) == RK_OK;
    }
    ok = ok && read_gradients(&n, r) == RK_OK;
    if (!ok)
        fprintf(stderr, "%s\n", rk_error(n.ctx));
    rk_close(n.ctx);
    return ok;
}

static int different(const result *a, const result *b, bool say)
{
    int wrong = 0;
    for (int i = 0; i < PARAMS && a->g[i]; i++) {
        int64_t n = 1;
        for (int d = 0; d < shapes[i].ndim; d++)
            n *= shapes[i].dim[d];
        if (memcmp(a->g[i], b->g[i], (size_t)n * sizeof(float))) {
            if (say)
                fprintf(stderr, "gradient %d has other bits\n", i);
            wrong++;
        }
    }
    return wrong;
}

static void result_free(result *r)
{
    for (int i = 0; i < PARAMS; i++)
        free(r->g[i]);
}

/* Two passes of 4 segments are the two halves of the tree over 8. */
TEST(halves_are_subtrees)
{
    result whole, halves;
    CHECK(run(8, 1, 8, false, &whole));
    CHECK(run(8, 2, 4, false, &halves));
    CHECK_INT(different(&whole, &halves, true), 0);
    CHECK(whole.loss == halves.loss);
    result_free(&whole);
    result_free(&halves);
}

/* One shard in one, two, four or sixteen micro-batches. */
TEST(micro_batches_continue_the_chain)
{
    result whole, parts;
    CHECK(run(1, 1, 1, false, &whole));
    for (int passes = 2; passes <= 16; passes *= 2) {
        CHECK(run(1, passes, 1, true, &parts));
        CHECK_INT(different(&whole, &parts, true), 0);
        CHECK_CLOSE(parts.loss, whole.loss, 1e-6, 0);
        result_free(&parts);
    }
    result_free(&whole);
}

/* ---- several subtrees in one pass, as a rank of an odd number of ranks has them ---- */

static const int leaves[] = { 2, 2, 1, 1, 2 }; /* all eight, so that one rank can play all of them */
enum { PARTS = 5 };

/* ((p0 + p1) + ((p2 + p3) + p4)) */
static float tree(const float *p, int64_t stride)
{
    return (p[0] + p[stride]) + ((p[2 * stride] + p[3 * stride]) + p[4 * stride]);
}

static rk_status meet(void *arg, const char *name, int64_t n, const void *parts, void *out)
{
    const float *p = parts;
    (void)name;
    ++*(int *)arg;
    for (int64_t i = 0; i < n; i++)
        ((float *)out)[i] = tree(p + i, n);
    return RK_OK;
}

/* The parts' gradients, added as the ranks would. */
static void add_parts(net *n, result *r)
{
    for (int i = 0; i < PARAMS; i++) {
        int64_t count = rk_tensor_size(n->p[i]);
        float *all = malloc((size_t)count * PARTS * sizeof *all);
        for (int p = 0; p < PARTS; p++)
            CHECK_INT(rk_tensor_read(rk_grad(rk__part_leaf(n->p[i], p)), all + p * count,
                                     (size_t)count * sizeof *all),
                      RK_OK);
        r->g[i] = malloc((size_t)count * sizeof *all);
        for (int64_t k = 0; k < count; k++)
            r->g[i][k] = tree(all + k, count);
        free(all);
    }
}

static void run_parts(result *r, bool parts, int *meetings)
{
    net n = { .norm = true };
    *r = (result){ 0 };
    CHECK(net_open(&n, 8));
    n.ctx->grid = (rk__grid){ .segments = 8, .shards = 8, .batch_samples = SAMPLES };
    if (parts) {
        n.ctx->grid.parts = PARTS;
        n.ctx->meet = (rk__meet){ meetings, meet };
        for (int p = 0, end = 0; p < PARTS; p++) {
            n.ctx->grid.leaves[p] = leaves[p];
            n.ctx->grid.end[p] = end += leaves[p] * SAMPLES / 8;
        }
    }
    rk_tensor *loss = forward(&n, 0, SAMPLES);
    CHECK_INT(rk_backward(loss), RK_OK);
    r->loss = (float)rk_item(loss);
    if (parts)
        add_parts(&n, r);
    else
        CHECK_INT(read_gradients(&n, r), RK_OK);
    CHECK_INT(rk_close(n.ctx), 0);
}

TEST(several_subtrees_in_one_pass)
{
    result whole, parts;
    int meetings = 0;
    run_parts(&whole, false, NULL);
    run_parts(&parts, true, &meetings);
    CHECK_INT(meetings, 4); /* mean, variance, loss; the gradients of the norm together */
    CHECK_INT(different(&whole, &parts, true), 0);
    CHECK(whole.loss == parts.loss);
    result_free(&whole);
    result_free(&parts);
}

/* The grid does matter: other segments, other bits somewhere. Otherwise the tests above would compare
 * nothing. */
TEST(segments_change_bits)
{
    result eight, one;
    CHECK(run(8, 1, 8, false, &eight));
    CHECK(run(8, 1, 1, false, &one));
    CHECK(different(&eight, &one, false) > 5);
    result_free(&eight);
    result_free(&one);
}

TEST_MAIN
