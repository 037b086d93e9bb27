#include "core/permute.h"

#include "core/philox.h"

enum { ROUNDS = 8 };

static int bits_for(uint64_t n)
{
    return n <= 1 ? 0 : 64 - __builtin_clzll(n - 1);
}

static uint32_t mix(uint64_t key, uint64_t epoch, int round, uint32_t half)
{
    uint32_t k[2] = { (uint32_t)key, (uint32_t)(key >> 32) }, out[4];
    uint32_t ctr[4] = { half, (uint32_t)round, (uint32_t)epoch, (uint32_t)(epoch >> 32) };
    rk_philox(k, ctr, out);
    return out[0];
}

/* One pass over the network: a bijection of [0, 2^(lo_bits + hi_bits)), whatever the widths, because each
 * round changes one half by a function of the other. */
static uint64_t network(uint64_t key, uint64_t epoch, int lo_bits, int hi_bits, uint64_t x)
{
    uint32_t lo_mask = (uint32_t)((UINT64_C(1) << lo_bits) - 1),
             hi_mask = (uint32_t)((UINT64_C(1) << hi_bits) - 1);
    uint32_t lo = (uint32_t)x & lo_mask, hi = (uint32_t)(x >> lo_bits) & hi_mask;
    for (int round = 0; round < ROUNDS; round += 2) {
        lo ^= mix(key, epoch, round, hi) & lo_mask;
        hi ^= mix(key, epoch, round + 1, lo) & hi_mask;
    }
    return (uint64_t)hi << lo_bits | lo;
}

uint64_t rk__permute(uint64_t key, uint64_t epoch, uint64_t n, uint64_t i)
{
    int bits = bits_for(n);
    if (bits == 0)
        return i;
    /* The network is a bijection of a domain below 2n, so the walk from i < n comes back below n. */
    do
        i = network(key, epoch, bits - bits / 2, bits / 2, i);
    while (i >= n);
    return i;
}
