/* How the parameters of a network lie in flat vectors, and how those are cut.
 *
 * Parameters stand one after another. Neighbours form buckets, which travel together: bucket 0 holds the last
 * parameters, whose gradients come first. A bucket is cut into one piece a rank, at chunks of RK_CHUNK
 * elements of a parameter. */
#ifndef RK_PARALLEL_BUCKETS_H
#define RK_PARALLEL_BUCKETS_H

#include "parallel/job.h"

typedef struct rk__bucket {
    int first, end;  /* parameters */
    rk__span all;    /* of the flat vector */
    rk__span *piece; /* (ranks) in the order of rk__nodes.turn */
} rk__bucket;

typedef struct rk__buckets {
    rk__job *job;
    rk_tensor **t; /* (n) */
    int n;
    int64_t *at; /* (n + 1) where parameter i begins in the flat vector; at[n]: its size */
    rk__bucket *bucket;
    int count;
    int64_t bytes; /* a bucket with so many is full */
    int *of;       /* (n) number of the bucket of parameter i */
} rk__buckets;

/* Lays out t (f32). Lives as long as the context. */
rk_status rk__buckets_lay_out(rk__job *j, rk_tensor *const *t, int n, rk__buckets **out);
/* [C] Cuts them into buckets of `bytes` at least; 0: of a size that is measured. small: memory counts more
 * than speed, so that few buckets at hand are little beside the whole. */
rk_status rk__buckets_cut(rk__buckets *b, int64_t bytes, bool small);

static inline int64_t rk__buckets_total(const rk__buckets *b)
{
    return b->at[b->n];
}

/* The elements [from, to) of parameter i in the piece of rank r. */
void rk__bucket_piece(const rk__buckets *b, int i, int r, int64_t *from, int64_t *to);
/* Number of a parameter; -1: it is none of them. */
int rk__bucket_find(const rk__buckets *b, const rk_tensor *t);
/* Elements of all buckets in the pieces of this rank. */
int64_t rk__buckets_own(const rk__buckets *b);

/* This rank's pieces side by side: that of bucket k begins at element packed[k]; packed (count + 1), where
 * the last is the size of all. Each lies to lines of the cache as it does in the flat vector. */
void rk__buckets_pack(const rk__buckets *b, int64_t *packed);

/* Where the flat vector would begin if its element `first` stood at p: only what is there may be used. */
static inline float *rk__flat_from(float *p, int64_t first)
{
    return (float *)((uintptr_t)p - (uintptr_t)first * sizeof *p);
}

static inline float *rk__flat_at(float *flat, int64_t i)
{
    return (float *)((uintptr_t)flat + (uintptr_t)i * sizeof *flat);
}
/* Bytes of the largest bucket. */
size_t rk__buckets_largest(const rk__buckets *b);

/* Elements of a parameter whose squares are summed by themselves: pieces begin there. */
int64_t rk__chunk_of(const rk_tensor *t);

#endif
