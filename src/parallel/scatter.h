/* The first half of a sum over ranks, in the order of a tree: everyone has the sums over some subtrees of its
 * leaves, and gets one piece of the sum over all (a reduce-scatter; the ordered addition is
 * parallel/tree.h's).
 *
 * On one node each rank sends piece r of its subtrees to rank r. Where the subtrees of the ranks of a node
 * make up fewer, larger ones, these are added up within the node first: the rank that nodes->adds names gets
 * what its node has of some pieces, adds it up in the order of the tree, and sends the node's sums to the
 * pieces' ranks. So fewer bytes go between nodes, and the bits are the same. */
#ifndef RK_PARALLEL_SCATTER_H
#define RK_PARALLEL_SCATTER_H

#include "parallel/job.h"

typedef struct rk__node_part rk__node_part;

typedef struct rk__scatter {
    rk__job *job;
    const rk_subtree *part; /* (parts) of all ranks, in order of the leaves */
    const int *first;       /* (ranks + 1) rank r has part[first[r]] to part[first[r + 1] - 1] */
    int parts, most;        /* most: of one rank */
    int trips;              /* exchanges that one sum takes: lengths of requests, and of legs by ranks */
    /* By node: what the nodes' subtrees are; sums 0 where all goes straight to its rank. */
    rk__node_part *sum;  /* (sums) in order of the leaves */
    int sums, most_sums; /* most_sums: of one node */
    int strange;         /* of this node's, in which this rank has no part */
    rk_leg *send;        /* (ranks) */
    const float **from;  /* (parts) */
    rk_subtree *is;      /* (sums) */
} rk__scatter;

/* One sum that is under way. recv (trips, ranks) and request (trips) are in use until rk__scatter_add(), as
 * are the parts (rk_comm_table.exchange): part p of this rank stands at flat + p * stride, and by node its
 * values are overwritten. Of each part piece[r] goes to rank r; the pieces make up one range of the vector,
 * in the order of rk__nodes.turn. */
typedef struct rk__scattered {
    float *flat;
    int64_t stride;
    const rk__span *piece; /* (ranks) */
    rk_leg *recv;
    rk_request **request;
    float *room; /* rk__scatter_room() floats; NULL: where that is 0 */
} rk__scattered;

/* part and first stay the caller's. */
rk_status rk__scatter_init(rk__scatter *s, rk__job *j, const rk_subtree *part, const int *first);
void rk__scatter_free(rk__scatter *s);
/* Floats of the device's memory that a sum needs beside its parts. */
int64_t rk__scatter_room(const rk__scatter *s, const rk__span *piece);

/* [C] Sets out, within the node or to all. */
rk_status rk__scatter_start(rk__scatter *s, const char *name, const rk__scattered *x);
/* [C] By node: waits for that, adds, and the node's sums set out; else nothing. */
rk_status rk__scatter_pass_on(rk__scatter *s, const char *name, const rk__scattered *x);
/* [C] Waits for it: out becomes this rank's piece of the sum. */
rk_status rk__scatter_add(rk__scatter *s, const rk__scattered *x, float *out);
/* Bytes that this rank sends for a sum; *far: of them to other nodes. */
int64_t rk__scatter_bytes(const rk__scatter *s, const rk__span *piece, int64_t *far);

#endif
