/* The sweep of test_sweep.c with larger files, every kind of fault, and two faults in one save. */
#include "sweep.h"

static void run_sweep(const char *what, const rk_run_cfg *cfg, int64_t steps, int64_t elements, int pairs)
{
    sweep s;
    uint64_t seed = 42;
    sweep_open(&s, cfg, steps, elements);
    int calls = sweep_all(&s, ~0u);
    for (int i = 0; i < pairs; i++) {
        int at[2], kind[2];
        for (int k = 0; k < 2; k++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            at[k] = 1 + (int)((seed >> 33) %
                              (uint64_t)(calls + 20)); /* the second attempt makes calls of its own */
            kind[k] = FAULT_ENOSPC + (int)((seed >> 20) % (FAULT_KILL_AFTER - FAULT_ENOSPC + 1));
        }
        strike(&s, at[0], kind[0], at[1], kind[1]);
    }
    sweep_report(&s, what, calls);
    teardown(&s.x);
    CHECK_INT(s.violations, 0);
    CHECK(calls > 20 && s.killed && s.failed && s.saved);
}

TEST(larger_files_behind)
{
    run_sweep("larger, behind", &(rk_run_cfg){ .keep = 2 }, 2, 1 << 20, 400);
}

TEST(larger_files_in_place)
{
    run_sweep("larger, in place", &(rk_run_cfg){ .keep = 2, .sync_write = true }, 2, 1 << 20, 400);
}

TEST(compressed)
{
    run_sweep("compressed", &(rk_run_cfg){ .compress = true }, 2, 1 << 18, 400);
}

TEST(small)
{
    run_sweep("small", &(rk_run_cfg){ .keep = 3, .keep_every = 2 }, 3, 32 * 33, 600);
}

SWEEP_MAIN
