/* One forward and backward pass over a batch, whole or in pieces, with the same bits. */
#ifndef RK_TRAIN_ACCUMULATE_H
#define RK_TRAIN_ACCUMULATE_H

#include <rankine/io.h>
#include <rankine/nn.h>

#include "core/tape.h"
#include "parallel/grads.h"

typedef rk_tensor *rk__loss_fn(void *arg, rk_tensor *out, rk_tensor *target);

typedef struct rk__accumulator {
    rk_ctx *ctx;
    rk__job *job;
    rk__grads *grads; /* NULL: one rank */
    rk_module *net;
    rk__loss_fn *loss;
    void *loss_arg;
    int64_t micro;           /* samples at most of one pass; 0: all */
    bool unread;             /* losses stay on the device */
    rk_tensor *loss_at_hand; /* unread: of the last batch (f32), until the step's end */
    bool by_piece;           /* ranks keep pieces of the weights: all have to read them in the same order */
    rk_tensor **trained; /* parameters with a gradient; behind them what batch norms keep of micro-batches */
    int n_trained, n_params; /* of both; of the former */
    rk_tensor **sums; /* one set of gradients for each level of the tree: sums[level * n_trained + i] */
    int levels;
    rk_optim_piece *pieces; /* (n_trained) of one addition */
    rk_tensor **outs;       /* of the pieces at hand */
    int64_t outs_cap;
} rk__accumulator;

/* [C] Owned by ctx. zero, bucket: rk__grads_cfg. */
rk_status rk__accumulator_init(rk__accumulator *a, rk__job *job, rk_module *net, rk__loss_fn *loss, void *arg,
                               int64_t micro, rk__zero zero, int64_t bucket);
/* [C] Gradients of the mean loss over the batch are left in the parameters; *loss_value is that mean (0:
 * unread).
 *
 * In pieces: the batch is halved recursively into a power of two of them. With at most V pieces each one is a
 * subtree of V / pieces shards, and gradients are added in the binary tree above; with more, the pieces of a
 * shard continue its chains. A rank does so within each of its subtrees. So every sum is the one of the whole
 * batch (core/order.h). */
rk_status rk__accumulate(rk__accumulator *a, const rk_batch *b, uint64_t step, double *loss_value);

#endif
