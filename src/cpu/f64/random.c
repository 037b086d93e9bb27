/* Random numbers in double: the words of the f32 table, so that masks are the same. */
#include "core/philox.h"
#include "cpu/f64/f64.h"

#include <math.h>

static const double TWO_PI = 6.28318530717958647692;

rk_status rk__dropout_f64(rk_dev *dev, int64_t rows, int64_t cols, uint64_t first_sample, double p,
                          rk_rng rng, const void *x, void *y)
{
    (void)dev;
    double scale = 1 / (1 - p);
    for (int64_t r = 0; r < rows; r++) {
        rk_rng sample = rk_rng_sample(rng, first_sample + (uint64_t)r);
        for (int64_t c = 0; c < cols; c++) {
            bool keep = rk_rng_uniform(&sample, (uint64_t)c) >= p;
            ((double *)y)[r * cols + c] = keep ? ((const double *)x)[r * cols + c] * scale : 0;
        }
    }
    return RK_OK;
}

rk_status rk__uniform_f64(rk_dev *dev, int64_t n, rk_rng rng, void *y)
{
    (void)dev;
    for (int64_t i = 0; i < n; i++)
        ((double *)y)[i] = rk_rng_uniform(&rng, (uint64_t)i);
    return RK_OK;
}

/* Box & Muller 1958: words 2j and 2j + 1 make elements 2j (cosine) and 2j + 1 (sine). The radius comes from
 * (0, 1], so that its logarithm is finite. */
rk_status rk__normal_f64(rk_dev *dev, int64_t n, rk_rng rng, void *y)
{
    (void)dev;
    for (int64_t i = 0; i < n; i++) {
        uint64_t pair = (uint64_t)i / 2 * 2;
        double u = ((double)(rk_rng_word(&rng, pair) >> 8) + 1) * 0x1p-24;
        double angle = TWO_PI * rk_rng_uniform(&rng, pair + 1);
        ((double *)y)[i] = sqrt(-2 * log(u)) * (i % 2 ? sin(angle) : cos(angle));
    }
    return RK_OK;
}
