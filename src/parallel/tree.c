#include "parallel/tree.h"

#include "core/tape.h"

/* A block is 8 KiB, so that its partial sums stay in the near caches. From left to right at most one subtree
 * of each size waits: 11 for 1024 leaves, and the one at hand. */
enum { BLOCK = 2048, DEVICE_BLOCK = 1 << 20, LEVELS = 12 };

/* Subtrees that wait for their sibling to the right, as the elements of one block. */
typedef struct pending {
    int count;
    rk_subtree part[LEVELS];
    const float *sum[LEVELS];
} pending;

bool rk__siblings(rk_subtree l, rk_subtree r)
{
    return l.leaves == r.leaves && r.first == l.first + l.leaves && l.first % (2 * l.leaves) == 0;
}

/* Runs the additions of one block: leaves from left to right, siblings as soon as both are there. The last
 * addition goes to out, the others to scratch: a vector that is also out has been read by then. */
static rk_status add_block(rk_ctx *ctx, int64_t at, int64_t n, int count, const rk_subtree *parts,
                           const float *const *from, float *scratch, int64_t width, float *out)
{
    rk_map2 *add = rk__kernels(ctx, RK_F32)->add;
    pending p = { 0 };
    for (int i = 0; i < count; i++) {
        if (p.count == LEVELS)
            return rk_fail(ctx, RK_EINTERNAL, "ordered addition: more than %d subtrees wait", LEVELS);
        p.part[p.count] = parts[i];
        p.sum[p.count++] = from[i] + at;
        while (p.count > 1 && rk__siblings(p.part[p.count - 2], p.part[p.count - 1])) {
            int l = p.count - 2;
            float *to = i == count - 1 && l == 0 ? out + at : scratch + l * width;
            rk_status st = add(ctx->dev, n, p.sum[l], p.sum[l + 1], 0, to);
            if (st)
                return rk_fail(ctx, st, "ordered addition of %lld values failed on the device", (long long)n);
            p.sum[l] = to;
            p.part[l].leaves *= 2;
            p.count--;
        }
    }
    if (p.count != 1)
        return rk_fail(ctx, RK_EINTERNAL, "ordered addition: %d vectors of leaves %d to %d are no subtree",
                       count, parts[0].first, parts[count - 1].first + parts[count - 1].leaves);
    return RK_OK;
}

/* The same with few launches: blocks that fill a device, partial sums in its memory. */
static rk_status add_on_device(rk_ctx *ctx, int64_t n, int count, const rk_subtree *parts,
                               const float *const *from, float *out)
{
    const int64_t width = n < DEVICE_BLOCK ? n : DEVICE_BLOCK;
    rk_tensor *room = rk__out(ctx, RK_F32, RK_SHAPE(count - 1 < LEVELS ? count - 1 : LEVELS, width));
    float *scratch = rk__data(room);
    for (int64_t at = 0; at < n && scratch; at += width)
        RK_TRY(add_block(ctx, at, n - at < width ? n - at : width, count, parts, from, scratch, width, out));
    rk__drop(room);
    return rk_failed(ctx);
}

rk_status rk__tree_add(rk_ctx *ctx, int64_t n, int count, const rk_subtree *parts, const float *const *from,
                       float *out)
{
    float scratch[LEVELS * BLOCK];
    if (rk_failed(ctx) || n == 0)
        return rk_failed(ctx);
    if (count < 1)
        return rk_fail(ctx, RK_EINTERNAL, "ordered addition of %d vectors", count);
    if (count == 1)
        return from[0] == out ? RK_OK : rk__device_copy(ctx, (size_t)n * sizeof *out, from[0], out);
    if (count == 2) /* no partial sums: one pass, on all threads */
        return add_block(ctx, 0, n, count, parts, from, scratch, BLOCK, out);
    if (!rk__on_host(ctx))
        return add_on_device(ctx, n, count, parts, from, out);
    for (int64_t at = 0; at < n; at += BLOCK)
        RK_TRY(add_block(ctx, at, n - at < BLOCK ? n - at : BLOCK, count, parts, from, scratch, BLOCK, out));
    return RK_OK;
}
