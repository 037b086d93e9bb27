/* The mean of workers and the outer step, on one rank, against their definitions; several ranks are compared
 * with it in tests/equivalence/test_average_ranks.sh. */
#include "test.h"

#include <rankine/rankine.h>

#include "parallel/average.h"

enum { WORKERS = 8, N = 5003, MOVED = 4001, ROUNDS = 5 };

static float worker[WORKERS][N];

/* Values of very different sizes, so that another order gives other bits. */
static void fill(uint32_t seed)
{
    for (int k = 0; k < WORKERS; k++)
        for (int i = 0; i < N; i++) {
            seed = seed * 1664525u + 1013904223u;
            worker[k][i] = ldexpf((float)(seed >> 8) - 8388608.0f, (int)(seed % 13u) - 30);
        }
}

/* The sum over workers [lo, hi) by definition: halves, left first. */
static float by_halves(int lo, int hi, int i)
{
    if (hi - lo == 1)
        return worker[lo][i];
    return by_halves(lo, (lo + hi) / 2, i) + by_halves((lo + hi) / 2, hi, i);
}

static rk_ctx *open_ctx(int threads)
{
    rk_ctx *ctx;
    rk_open(&(rk_open_cfg){ .threads = threads, .alone = true }, &ctx);
    return ctx;
}

static void make(rk_ctx *ctx, int workers, bool nesterov, rk__average **a)
{
    rk__job *job;
    CHECK(rk__job_open(ctx, 1, &job) == RK_OK);
    const rk__average_cfg cfg = {
        .workers = workers, .n = N, .moved = MOVED, .nesterov = nesterov, .lr = 0.7, .momentum = 0.9
    };
    CHECK(rk__average_make(job, &cfg, a) == RK_OK);
    CHECK(rk__average_bytes(*a) == 0); /* nobody to send to */
}

/* Rows as a network has them: pieces of the vector, each with all workers side by side. */
static void put(rk__average *a, int workers, int64_t at, int64_t n)
{
    float *rows = malloc((size_t)(workers * n) * sizeof *rows);
    for (int k = 0; k < workers; k++)
        memcpy(rows + k * n, worker[k] + at, (size_t)n * sizeof *rows);
    CHECK(rk__average_put(a, at, n, rows) == RK_OK);
    free(rows);
}

static void put_all(rk__average *a, int workers)
{
    put(a, workers, 0, 1);
    put(a, workers, 1, MOVED - 1);
    put(a, workers, MOVED, N - MOVED);
}

TEST(mean_in_the_order_of_the_tree)
{
    static const int counts[] = { 1, 2, 4, 8 };
    for (int c = 0; c < 4; c++)
        for (int threads = 1; threads <= 2; threads++) {
            rk_ctx *ctx = open_ctx(threads);
            rk__average *a;
            int wrong = 0;
            make(ctx, counts[c], false, &a);
            fill(7);
            put_all(a, counts[c]);
            CHECK(rk__average_meet(a) == RK_OK);
            for (int i = 0; i < N; i++)
                wrong += rk__average_outer(a)[i] != by_halves(0, counts[c], i) / (float)counts[c];
            CHECK(wrong == 0);
            rk_close(ctx);
        }
}

/* Douillard et al. 2023, algorithm 1, in double: delta = old - mean, m = 0.9 m + delta, w -= 0.7 (delta + 0.9
 * m). What is not trained becomes the mean. */
TEST(outer_nesterov)
{
    static double w[N], m[N];
    rk_ctx *ctx = open_ctx(2);
    rk__average *a;
    int64_t from, to;
    int wrong = 0, wrong_m = 0, differs = 0;
    make(ctx, WORKERS, true, &a);
    const float *momentum = rk__average_momentum(a, &from, &to);
    CHECK(momentum && from == 0 && to == N);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        fill(round);
        put_all(a, WORKERS);
        CHECK(rk__average_meet(a) == RK_OK);
        for (int i = 0; i < N; i++) {
            double mean = 0, delta;
            for (int k = 0; k < WORKERS; k++)
                mean += (double)worker[k][i] / WORKERS;
            delta = w[i] - mean;
            m[i] = 0.9 * m[i] + delta;
            w[i] = i < MOVED ? w[i] - 0.7 * (delta + 0.9 * m[i]) : mean;
        }
    }
    for (int i = 0; i < N; i++) {
        wrong += fabs(rk__average_outer(a)[i] - w[i]) > 1e-5 * (1 + fabs(w[i]));
        differs += i < MOVED && fabs(w[i]) > 1e-2;
        wrong_m += i < MOVED && fabs(momentum[i] - m[i]) > 1e-5 * (1 + fabs(m[i]));
    }
    CHECK(wrong == 0);
    CHECK(wrong_m == 0);
    CHECK(differs > N / 10);
    rk_close(ctx);
}

TEST_MAIN
