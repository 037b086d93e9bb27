/* parallel.strategy average: K workers train apart, each on its share of every batch, with weights, running
 * statistics and an optimiser of its own; every average.every steps they all continue from one outer network
 * (parallel/average.h).
 *
 * Workers belong to the job: a rank has a run of them and passes its one network through each in turn, with
 * that worker's values in the network's tensors. Between the passes the network has the outer weights: they
 * are what is evaluated and what snapshots have under the names of the network. A worker's pass is that of
 * one rank alone on all shards of the grid, so its bits are those of a run of its own. Nothing meets between
 * two averagings but losses for the log. */
#ifndef RK_TRAIN_WORKERS_H
#define RK_TRAIN_WORKERS_H

#include "train/trainer.h"

typedef struct rk__workers rk__workers;

/* [C] t->workers for t->setup's network; t->optim is the first worker's. Strategy sync: nothing is made.
 * Lives as long as the context. */
rk_status rk__workers_make(rk__trainer *t, const rk_optim_cfg *cfg);
/* "workers/NAME/value", "/m" and "/v" (K, ...), of which a rank has its workers' rows, "outer/NAME",
 * "ema/NAME" and counters. */
rk_status rk__workers_state(rk__trainer *t, rk_state *st);
/* One step of each worker of this rank, of a batch that has all of theirs. RK_EDIVERGED: of this rank alone.
 */
rk_status rk__workers_step(rk__trainer *t, const rk_batch *b, double lr_scale);
/* Can their steps be looked at later (train/late.h)? Then they are from now on. */
bool rk__workers_alone(rk__trainer *t);
/* rk__late_look() of the last n steps; RK_EDIVERGED: of this rank alone. */
rk_status rk__workers_look(rk__trainer *t, int n);
/* [C] After t->step has been counted: averages if it is time to, and at the end of the run. t->loss and
 * t->grad_norm become the means over the batch if somebody is to see them. */
rk_status rk__workers_stepped(rk__trainer *t);
/* The last step ended with an averaging, or there are no workers. */
bool rk__workers_agree(const rk__trainer *t);
/* Swaps the outer weights with their averages; calling it twice restores. */
void rk__workers_swap_ema(rk__trainer *t);
/* Bytes that a rank sends in one averaging. */
size_t rk__workers_bytes(const rk__trainer *t);

#endif
