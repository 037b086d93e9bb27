/* A keyed permutation of [0, n), computed index by index: the data order of an epoch needs no table, and its
 * whole state is one position. */
#ifndef RK_CORE_PERMUTE_H
#define RK_CORE_PERMUTE_H

#include <stdint.h>

/* The element at place i of the permutation of [0, n) that (key, epoch) names. 0 <= i < n. A bijection for
 * every (key, epoch, n); different keys or epochs give unrelated orders. About 0.2 us. Method: a Feistel
 * network over the smallest power of two >= n (halves of unequal width where needed), eight rounds of
 * Philox4x32-10, walked until it falls below n (Black & Rogaway 2002, "Ciphers with arbitrary finite
 * domains"). */
uint64_t rk__permute(uint64_t key, uint64_t epoch, uint64_t n, uint64_t i);

#endif
