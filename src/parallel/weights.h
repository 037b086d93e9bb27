/* Weights that the ranks of a batch hold together: each rank updates its pieces, and the pieces meet where
 * the weights are read.
 *
 * The parameters lie in one flat vector of memory that the ranks of a node read in place. After an update all
 * pieces set out, those of the first layers first, and a bucket is waited for when a layer reads it. By piece
 * (ZeRO-3) a rank keeps its own pieces alone: a bucket comes when it is read, the next one is asked for
 * ahead, and the memory of the one that was read longest ago goes back to the system. On a device the pieces
 * stand side by side, and a bucket that comes has a slot (parallel/slots.h), with a copy of this rank's
 * piece. */
#ifndef RK_PARALLEL_WEIGHTS_H
#define RK_PARALLEL_WEIGHTS_H

#include "parallel/buckets.h"

typedef struct rk__weights rk__weights;

/* Buckets in the order in which a pass reads them, by piece: a rank that makes fewer passes over a batch than
 * others asks for them again, so that all ask alike. */
typedef struct rk__reads {
    struct rk__read {
        rk__weights *weights;
        int bucket;
    } * read;
    int n, cap;
    bool on;
} rk__reads;

void rk__reads_note(rk__reads *r, bool on);     /* on: from now on, afresh */
rk_status rk__reads_repeat(const rk__reads *r); /* [C] with passes of others */
void rk__reads_free(rk__reads *r);

/* [C] The values of the parameters of b move to memory of the communicator, and are guarded there
 * (core/tape.h). reads: not NULL says that they are kept by piece, and lives as long as the context does, as
 * *out. */
rk_status rk__weights_make(const rk__buckets *b, rk__reads *reads, rk__weights **out);
/* [C] The ranks have changed their pieces: returns at once. */
rk_status rk__weights_changed(rk__weights *w);
/* What set out has arrived; pieces may be changed when a collective that is started after it is complete. */
rk_status rk__weights_settle(rk__weights *w);
/* By piece: bytes of others' weights that are at hand, at most. */
size_t rk__weights_at_hand(const rk__weights *w);

#endif
