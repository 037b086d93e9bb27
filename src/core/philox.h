/* Philox4x32-10: random numbers as a pure function of key and counter (Salmon, Moraes, Dror & Shaw 2011,
 * "Parallel random numbers: as easy as 1, 2, 3"). No state: any number of any stream is computed by itself,
 * so that layout, threads and restarts cannot change it.
 *
 * A stream is an rk_rng. Its word i is element i % 4 of the block with counter {block, ctr[0], ctr[1],
 * ctr[2]}, block = i / 4 (its upper half, for more than 2^34 words, is added to ctr[0]). Streams of samples:
 * the 64-bit sample number is added to (ctr[0], ctr[1]) and words count the elements of that sample. ctr[2]
 * is the step. */
#ifndef RK_CORE_PHILOX_H
#define RK_CORE_PHILOX_H

#include "core/hd.h"
#include "core/kernels.h"

#define RK_PHILOX_M0 0xD2511F53u
#define RK_PHILOX_M1 0xCD9E8D57u
#define RK_PHILOX_W0 0x9E3779B9u
#define RK_PHILOX_W1 0xBB67AE85u

/* What a stream is for. Values are part of the reproducibility of runs: never renumber. */
typedef enum rk_rng_purpose {
    RK_RNG_RANDN = 1,   /* rk_randn; layer: the caller's stream */
    RK_RNG_RAND = 2,    /* rk_rand */
    RK_RNG_INIT = 3,    /* initial weights; layer: hash of the parameter's name */
    RK_RNG_DROPOUT = 4, /* layer: the dropout layer; sample, element */
    RK_RNG_SHUFFLE = 5, /* data order; see permute.h */
    RK_RNG_SPLIT = 6,   /* train / validation split */
    RK_RNG_AUGMENT = 7, /* sample: number of the sample in the data set; step: epoch */
    RK_RNG_OTHER = 64   /* and above: free for others */
} rk_rng_purpose;

RK_HD static inline void rk_philox(const uint32_t key[2], const uint32_t ctr[4], uint32_t out[4])
{
    uint32_t k0 = key[0], k1 = key[1], c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)RK_PHILOX_M0 * c0, p1 = (uint64_t)RK_PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += RK_PHILOX_W0;
        k1 += RK_PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The 64-bit key of (seed, purpose, layer). */
RK_HD static inline uint64_t rk_rng_key(uint64_t seed, int purpose, uint64_t layer)
{
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) }, out[4];
    uint32_t ctr[4] = { (uint32_t)purpose, (uint32_t)layer, (uint32_t)(layer >> 32), 0 };
    rk_philox(key, ctr, out);
    return out[0] | (uint64_t)out[1] << 32;
}

/* The stream of (seed, purpose, layer) in one step. The upper half of the step goes into the key. */
RK_HD static inline rk_rng rk_rng_make(uint64_t seed, int purpose, uint64_t layer, uint64_t step)
{
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) }, out[4];
    uint32_t ctr[4] = { (uint32_t)purpose, (uint32_t)layer, (uint32_t)(layer >> 32), (uint32_t)(step >> 32) };
    rk_philox(key, ctr, out);
    return (rk_rng){ .key = { out[0], out[1] }, .ctr = { 0, 0, (uint32_t)step } };
}

/* The stream of one sample. */
RK_HD static inline rk_rng rk_rng_sample(rk_rng rng, uint64_t sample)
{
    uint64_t at = (rng.ctr[0] | (uint64_t)rng.ctr[1] << 32) + sample;
    rng.ctr[0] = (uint32_t)at;
    rng.ctr[1] = (uint32_t)(at >> 32);
    return rng;
}

/* The four words of a block: words 4 * block .. 4 * block + 3 of the stream. */
RK_HD static inline void rk_rng_block(const rk_rng *rng, uint64_t block, uint32_t out[4])
{
    uint32_t ctr[4] = { (uint32_t)block, rng->ctr[0] + (uint32_t)(block >> 32), rng->ctr[1], rng->ctr[2] };
    rk_philox(rng->key, ctr, out);
}

RK_HD static inline uint32_t rk_rng_word(const rk_rng *rng, uint64_t i)
{
    uint32_t out[4];
    rk_rng_block(rng, i / 4, out);
    return out[i % 4];
}

/* [0, 1) with 24 bits, as the uniform kernel makes it. */
RK_HD static inline double rk_rng_uniform(const rk_rng *rng, uint64_t i)
{
    return (double)(rk_rng_word(rng, i) >> 8) * 0x1p-24;
}

#endif
