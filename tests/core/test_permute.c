#include "core/permute.h"

#include "core/philox.h"
#include "test.h"

/* Known answers of the authors' Random123 distribution (kat_vectors, philox4x32 10). */
TEST(philox_known_answers)
{
    static const struct {
        uint32_t ctr[4], key[2], out[4];
    } kat[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
          { 0xffffffff, 0xffffffff },
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        uint32_t out[4];
        rk_philox(kat[i].key, kat[i].ctr, out);
        CHECK(!memcmp(out, kat[i].out, sizeof out));
    }
}

TEST(streams_differ_in_each_coordinate)
{
    rk_rng base = rk_rng_make(1, RK_RNG_DROPOUT, 2, 3), others[] = {
        rk_rng_make(2, RK_RNG_DROPOUT, 2, 3),
        rk_rng_make(UINT64_C(1) << 32 | 1, RK_RNG_DROPOUT, 2, 3),
        rk_rng_make(1, RK_RNG_INIT, 2, 3),
        rk_rng_make(1, RK_RNG_DROPOUT, 3, 3),
        rk_rng_make(1, RK_RNG_DROPOUT, 2 | UINT64_C(1) << 40, 3),
        rk_rng_make(1, RK_RNG_DROPOUT, 2, 4),
        rk_rng_make(1, RK_RNG_DROPOUT, 2, 3 | UINT64_C(1) << 33),
        rk_rng_sample(base, 1),
        rk_rng_sample(base, UINT64_C(1) << 32),
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        int same = 0;
        for (uint64_t w = 0; w < 64; w++)
            same += rk_rng_word(&base, w) == rk_rng_word(&others[i], w);
        CHECK_INT(same, 0);
    }
    rk_rng twice = rk_rng_sample(rk_rng_sample(base, 5), UINT64_MAX - 1), once = rk_rng_sample(base, 3);
    CHECK(!memcmp(&twice, &once, sizeof once));
}

static int is_bijection(uint64_t key, uint64_t epoch, uint64_t n)
{
    unsigned char *seen = calloc(n ? n : 1, 1);
    int ok = seen != NULL;
    for (uint64_t i = 0; ok && i < n; i++) {
        uint64_t j = rk__permute(key, epoch, n, i);
        ok = j < n && !seen[j];
        if (ok)
            seen[j] = 1;
    }
    free(seen);
    return ok;
}

TEST(permutation_is_a_bijection)
{
    for (uint64_t n = 1; n <= 300; n++)
        CHECK(is_bijection(n * 77, n % 5, n));
    static const uint64_t sizes[] = { 1023, 1024, 1025, 4097, 60000, 65537 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (uint64_t epoch = 0; epoch < 2; epoch++)
            CHECK(is_bijection(42, epoch, sizes[i]));
    uint64_t huge = (UINT64_C(1) << 63) - 25;
    for (uint64_t i = 0; i < 100; i++)
        CHECK(rk__permute(1, 1, huge, huge - 1 - i) < huge);
}

/* Saved runs continue in the same order for ever: these values must never change. */
TEST(permutation_known_answers)
{
    static const uint64_t first[] = { 13141, 55028, 13822, 21566, 7861, 51542, 10, 12365 };
    for (uint64_t i = 0; i < sizeof first / sizeof *first; i++)
        CHECK_INT(rk__permute(7, 3, 60000, i), first[i]);
}

/* Every element is about equally often at every place, and neighbours do not stay neighbours. Bounds:
 * chi-square with (n-1)^2 degrees of freedom within 5 standard deviations. */
TEST(permutation_looks_uniform)
{
    enum { N = 13, TRIALS = 20000 };
    static int count[N][N];
    int neighbours = 0;
    for (uint64_t t = 0; t < TRIALS; t++)
        for (uint64_t i = 0; i < N; i++) {
            uint64_t j = rk__permute(99, t, N, i);
            count[i][j]++;
            neighbours += i + 1 < N && rk__permute(99, t, N, i + 1) == j + 1;
        }
    double chi = 0, expect = (double)TRIALS / N;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            chi += (count[i][j] - expect) * (count[i][j] - expect) / expect;
    double df = (N - 1) * (N - 1);
    CHECK(fabs(chi - df) < 5 * sqrt(2 * df));
    double pairs =
        (double)TRIALS * (N - 1) * (N - 1) / (N * (N - 1)); /* expected number kept as (j, j + 1) */
    CHECK(fabs(neighbours - pairs) < 5 * sqrt(pairs));
}

TEST(orders_of_two_epochs_are_unrelated)
{
    enum { N = 10000 };
    int same = 0, inversions = 0;
    for (uint64_t i = 0; i < N; i++) {
        same += rk__permute(5, 0, N, i) == rk__permute(5, 1, N, i);
        inversions += rk__permute(5, 0, N, i) > rk__permute(5, 0, N, (i + 1) % N);
    }
    CHECK(same < 10); /* expected 1 */
    CHECK(abs(inversions - N / 2) < 250);
}

TEST_MAIN
