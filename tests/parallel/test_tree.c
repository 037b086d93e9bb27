/* Sums of subtrees, added between ranks, against the sum over all leaves. */
#include "test.h"

#include <rankine/rankine.h>

#include "parallel/tree.h"

enum { SHARDS = 16, N = 9001 };

static float leaf[SHARDS][N];

static rk_ctx *open_ctx(int threads)
{
    rk_ctx *ctx;
    rk_open(&(rk_open_cfg){ .threads = threads }, &ctx);
    return ctx;
}

/* Values of very different sizes, so that another order gives other bits. */
static void fill_leaves(void)
{
    uint32_t seed = 1;
    for (int s = 0; s < SHARDS; s++)
        for (int i = 0; i < N; i++) {
            seed = seed * 1664525u + 1013904223u;
            leaf[s][i] = ldexpf((float)(seed >> 8) - 8388608.0f, (int)(seed % 23u) - 30);
        }
}

/* The sum over leaves [first, first + leaves) by definition: halves, left first. */
static float by_halves(int first, int leaves, int i)
{
    if (leaves == 1)
        return leaf[first][i];
    return by_halves(first, leaves / 2, i) + by_halves(first + leaves / 2, leaves / 2, i);
}

static float *part_sum(rk_subtree part, int64_t n)
{
    float *sum = malloc((size_t)(n ? n : 1) * sizeof *sum);
    for (int i = 0; i < n; i++)
        sum[i] = by_halves(part.first, part.leaves, i);
    return sum;
}

/* All subtrees of `ranks` ranks, in order. */
static int all_parts(int shards, int ranks, rk_subtree *parts)
{
    int count = 0;
    for (int r = 0; r < ranks; r++)
        count += rk_order_parts(shards, ranks, r, parts + count);
    return count;
}

/* Returns the first element whose bits are wrong, -1 if none. */
static int64_t wrong_at(rk_ctx *ctx, int shards, int ranks, int64_t n, int alias)
{
    rk_subtree parts[SHARDS * RK_ORDER_PARTS];
    float *from[SHARDS * RK_ORDER_PARTS] = { 0 }, *own = malloc((size_t)(n + 1) * sizeof *own);
    int count = all_parts(shards, ranks, parts);
    for (int i = 0; i < count; i++)
        from[i] = part_sum(parts[i], n);
    float *out = alias >= 0 ? from[alias % count] : own;
    out[0] = n ? out[0] : 0;
    rk_status st = rk__tree_add(ctx, n, count, parts, (const float *const *)from, out);
    int64_t wrong = st ? 0 : -1;
    for (int64_t i = 0; !st && wrong < 0 && i < n; i++) {
        float want = by_halves(0, shards, (int)i);
        if (memcmp(&want, &out[i], sizeof want))
            wrong = i;
    }
    for (int i = 0; i < count; i++)
        free(from[i]);
    free(own);
    return wrong;
}

TEST(any_number_of_ranks_gives_the_bits_of_the_whole_tree)
{
    rk_ctx *ctx = open_ctx(2);
    fill_leaves();
    for (int shards = 1; shards <= SHARDS; shards *= 2)
        for (int ranks = 1; ranks <= shards; ranks++)
            CHECK_INT(wrong_at(ctx, shards, ranks, 1001, -1), -1);
    CHECK_STR(rk_error(ctx), "");
    rk_close(ctx);
}

TEST(out_may_be_any_of_the_vectors)
{
    rk_ctx *ctx = open_ctx(2);
    fill_leaves();
    for (int ranks = 1; ranks <= 8; ranks++)
        for (int alias = 0; alias < 8; alias++)
            CHECK_INT(wrong_at(ctx, 8, ranks, 77, alias), -1);
    rk_close(ctx);
}

TEST(sizes_around_the_blocks)
{
    static const int64_t sizes[] = { 0, 1, 7, 2047, 2048, 2049, 4097, N };
    rk_ctx *ctx = open_ctx(2);
    fill_leaves();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int ranks = 1; ranks <= 5; ranks++)
            CHECK_INT(wrong_at(ctx, 8, ranks, sizes[i], (int)i % 2 ? 0 : -1), -1);
    rk_close(ctx);
}

TEST(one_thread_and_more_agree)
{
    rk_ctx *ctx = open_ctx(1);
    fill_leaves();
    CHECK_INT(wrong_at(ctx, 16, 7, N, -1), -1);
    rk_close(ctx);
}

/* A node's part of the tree is added before it travels. */
TEST(a_subtree_of_the_tree_is_one_too)
{
    rk_ctx *ctx = open_ctx(2);
    rk_subtree parts[3] = { { 8, 2 }, { 10, 1 }, { 11, 1 } };
    float *a = part_sum(parts[0], 100), *b = part_sum(parts[1], 100), *c = part_sum(parts[2], 100);
    const float *from[3] = { a, b, c };
    float out[100];
    fill_leaves();
    for (int i = 0; i < 100; i++) {
        a[i] = by_halves(8, 2, i);
        b[i] = leaf[10][i];
        c[i] = leaf[11][i];
    }
    CHECK_OK(ctx, rk__tree_add(ctx, 100, 3, parts, from, out));
    for (int i = 0; i < 100; i++)
        CHECK(out[i] == by_halves(8, 4, i));
    free(a);
    free(b);
    free(c);
    rk_close(ctx);
}

TEST(parts_that_are_no_subtree_are_refused)
{
    static const rk_subtree gap[3] = { { 0, 2 }, { 2, 1 }, { 4, 1 } };
    static const rk_subtree shifted[2] = { { 1, 1 }, { 2, 1 } };
    rk_ctx *ctx = open_ctx(1);
    float x[4] = { 1, 2, 3, 4 }, out[4];
    const float *from[3] = { x, x, x };
    CHECK_INT(rk__tree_add(ctx, 4, 3, gap, from, out), RK_EINTERNAL);
    rk_error_clear(ctx);
    CHECK_INT(rk__tree_add(ctx, 4, 2, shifted, from, out), RK_EINTERNAL);
    rk_error_clear(ctx);
    CHECK_INT(rk__tree_add(ctx, 4, 0, shifted, from, out), RK_EINTERNAL);
    rk_close(ctx);
}

TEST_MAIN
