/* Operands for tests of bits: numbers of a fixed stream, rounding, memory between guard pages. */
#ifndef RK_TEST_OPERANDS_H
#define RK_TEST_OPERANDS_H

#include "core/kernels.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint32_t seed = 1;

/* in (-1, 1), half of them small, some exact zeros of either sign */
static float number(void)
{
    seed = seed * 1664525u + 1013904223u;
    float x = (float)(int32_t)seed / 2147483648.0f;
    return seed >> 8 & 1 ? x : (seed >> 9) % 13 == 0 ? 0.0f * x : x * 0.01f;
}

static float *numbers(int64_t n)
{
    float *p = malloc((size_t)(n > 0 ? n : 1) * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = number();
    return p;
}

static float bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* IEEE half precision, by definition: a multiple of the last bit that there is. */
static float f16(float f)
{
    int exponent;
    if (!(fabsf(f) < 65520))
        return f != f ? f : copysignf(INFINITY, f);
    frexpf(f, &exponent);
    double unit = ldexp(1, (exponent < -13 ? -13 : exponent) - 11);
    return copysignf((float)(rint(f / unit) * unit), f);
}

static float rounded(rk_round to, float f)
{
    return to == RK_ROUND_BF16 ? bf16(f) : to == RK_ROUND_F16 ? f16(f) : f;
}

/* n floats in pages of their own, flush against a page that may not be touched: the one behind, or the one
 * before. They are copied from `from`, or numbers of the stream if it is NULL. */
typedef struct fenced {
    float *p;
    void *pages;
    size_t bytes;
} fenced;

static fenced fence(int64_t n, const float *from, bool front)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = ((size_t)n * sizeof(float) + page - 1) / page * page;
    fenced f = { .bytes = inner + 2 * page };
    f.pages = mmap(NULL, f.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (f.pages == MAP_FAILED)
        abort();
    char *start = (char *)f.pages + page;
    if (inner && mprotect(start, inner, PROT_READ | PROT_WRITE))
        abort();
    f.p = (float *)(void *)(front ? start : start + inner - (size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        f.p[i] = from ? from[i] : number();
    return f;
}

#endif
