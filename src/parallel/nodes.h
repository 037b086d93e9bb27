/* Where the ranks of a job are: who shares a node with whom, and who adds what for its node. */
#ifndef RK_PARALLEL_NODES_H
#define RK_PARALLEL_NODES_H

#include "parallel/comm.h"

typedef struct rk__nodes {
    int count; /* 1: what the lists after `of` say is as for one node */
    int ranks, me;
    int *of;    /* (ranks) number of a rank's node */
    int *turn;  /* (ranks) rank r has piece number turn[r] of a vector: those that one rank of a node adds up
                   for it are neighbours, and as many as another's */
    int *whose; /* (ranks) the rank that has piece number i */
    int *adds;  /* (count, ranks) the rank of node k that adds up what its node has of rank r's piece; of its
                   own node r itself */
} rk__nodes;

/* [C] RANKINE_BY_NODE=0 in the environment of any rank: as if all were on one node. c may be NULL, of one
 * rank. */
rk_status rk__nodes_find(rk_ctx *ctx, rk_comm *c, int ranks, rk__nodes *out);
void rk__nodes_free(rk__nodes *n);

#endif
