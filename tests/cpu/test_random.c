/* Random numbers: the words of core/philox.h on every device, and what is made of them. */
#include "ref.h"

#include "core/philox.h"

static rk_rng some_stream(void)
{
    return rk_rng_make(UINT64_C(0x123456789abcdef), RK_RNG_DROPOUT, 5, 77);
}

TEST(uniform_numbers_are_the_words)
{
    rk_rng rng = some_stream();
    for (cpu_iter it = { 0 }; cpu_next(&it);)
        for (int64_t n = 0; n <= 300; n += n < 80 ? 1 : 110) {
            float *y = ref_buffer(n);
            CHECK_INT(it.k->uniform(it.dev, n, rng, y), RK_OK);
            for (int64_t i = 0; i < n; i++)
                CHECK((double)y[i] == rk_rng_uniform(&rng, (uint64_t)i));
            CHECK(ref_free(y, n));
        }
}

TEST(uniform_numbers_do_not_depend_on_threads)
{
    enum { N = 100003 };
    float *first = NULL;
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        float *y = ref_buffer(N);
        CHECK_INT(it.k->uniform(it.dev, N, some_stream(), y), RK_OK);
        CHECK(ref_agree(&first, y, N));
    }
    rk_rng rng = some_stream();
    CHECK((double)first[N - 1] == rk_rng_uniform(&rng, N - 1));
    CHECK(ref_free(first, N));
}

TEST(normal_numbers_are_box_muller_of_the_words)
{
    enum { N = 50001 };
    rk_rng rng = some_stream();
    float *first = NULL;
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        float *y = ref_buffer(N);
        CHECK_INT(it.k->normal(it.dev, N, rng, y), RK_OK);
        for (int64_t i = 0; i < N && !first; i++) {
            uint64_t pair = (uint64_t)i / 2 * 2;
            double u = rk_rng_uniform(&rng, pair) + 0x1p-24,
                   angle = 2 * M_PI * rk_rng_uniform(&rng, pair + 1);
            double want = sqrt(-2 * log(u)) * (i % 2 ? sin(angle) : cos(angle));
            CHECK_CLOSE((double)y[i], want, 5e-7, 2e-7);
        }
        CHECK(ref_agree(&first, y, N));
    }
    CHECK(ref_free(first, N));
}

/* Moments of a million numbers within five standard errors of those of the distribution. */
TEST(normal_numbers_look_normal)
{
    enum { N = 1000000 };
    float *y = ref_buffer(N);
    cpu_iter it = { 0 };
    CHECK(cpu_next(&it));
    it.k->normal(it.dev, N, some_stream(), y);
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0, neighbours = 0;
    for (int i = 0; i < N; i++) {
        double v = (double)y[i];
        m1 += v / N;
        m2 += v * v / N;
        m3 += v * v * v / N;
        m4 += v * v * v * v / N;
        neighbours += i ? v * (double)y[i - 1] / N : 0;
    }
    double unit = 5 / sqrt(N);
    CHECK(fabs(m1) < unit && fabs(neighbours) < unit);
    CHECK(fabs(m2 - 1) < unit * sqrt(2));
    CHECK(fabs(m3) < unit * sqrt(15));
    CHECK(fabs(m4 - 3) < unit * sqrt(96));
    CHECK(ref_free(y, N));
    rk_device_cpu.close(it.dev);
}

TEST(dropout_keeps_what_its_words_say)
{
    static const int64_t shapes[][2] = { { 0, 3 }, { 1, 1 }, { 4, 7 }, { 5, 33 }, { 3, 64 }, { 70, 513 } };
    static const double ps[] = { 0, 0.1, 0.5, 0.9 };
    rk_rng rng = some_stream();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t q = 0; q < sizeof ps / sizeof *ps; q++) {
            int64_t rows = shapes[s][0], cols = shapes[s][1], n = rows * cols;
            uint64_t first_sample = (UINT64_C(1) << 32) - 2; /* carries */
            float *x = ref_random(n, 1, -1, 1), *want = ref_buffer(n), scale = (float)(1 / (1 - ps[q]));
            for (int64_t i = 0; i < n; i++) {
                rk_rng sample = rk_rng_sample(rng, first_sample + (uint64_t)(i / cols));
                want[i] = rk_rng_uniform(&sample, (uint64_t)(i % cols)) >= ps[q] ? x[i] * scale : 0.0f;
            }
            for (cpu_iter it = { 0 }; cpu_next(&it);) {
                float *y = ref_buffer(n), *in_place = ref_copy(x, n);
                CHECK_INT(it.k->dropout(it.dev, rows, cols, first_sample, ps[q], rng, x, y), RK_OK);
                CHECK_INT(it.k->dropout(it.dev, rows, cols, first_sample, ps[q], rng, in_place, in_place),
                          RK_OK);
                CHECK(ref_same(y, want, n) && ref_same(in_place, want, n));
                CHECK(ref_free(y, n) && ref_free(in_place, n));
            }
            CHECK(ref_free(x, n) && ref_free(want, n));
        }
}

/* Two halves of a batch, each told where it begins, get the masks of the whole. */
TEST(dropout_does_not_see_how_a_batch_is_split)
{
    enum { ROWS = 10, COLS = 37, CUT = 4 };
    float *x = ref_random(ROWS * COLS, 1, 1, 2), y[ROWS * COLS], z[ROWS * COLS];
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        it.k->dropout(it.dev, ROWS, COLS, 100, 0.5, some_stream(), x, y);
        it.k->dropout(it.dev, CUT, COLS, 100, 0.5, some_stream(), x, z);
        it.k->dropout(it.dev, ROWS - CUT, COLS, 100 + CUT, 0.5, some_stream(), x + CUT * COLS,
                      z + CUT * COLS);
        CHECK(ref_same(y, z, ROWS * COLS));
    }
    int kept = 0;
    for (int i = 0; i < ROWS * COLS; i++)
        kept += y[i] != 0;
    CHECK(kept > ROWS * COLS / 3 && kept < ROWS * COLS * 2 / 3);
    CHECK(ref_free(x, ROWS * COLS));
}

TEST_MAIN
