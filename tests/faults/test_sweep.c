/* Every state-changing call of a save x every fault: the previous snapshot loads, and nothing is falsely
 * called saved. */
#include "sweep.h"

/* Being killed after a call is being killed before the next; the long tier has those too. */
static const unsigned KINDS = ~(1u << FAULT_KILL_AFTER | 1u << FAULT_EIO_STICKY);

static void run_sweep(const char *what, const rk_run_cfg *cfg, int64_t steps, int64_t elements)
{
    sweep s;
    sweep_open(&s, cfg, steps, elements);
    int calls = sweep_all(&s, KINDS);
    sweep_report(&s, what, calls);
    teardown(&s.x);
    CHECK_INT(s.violations, 0);
    CHECK(calls > 20 && s.killed && s.failed && s.saved);
}

TEST(plain_in_place)
{
    run_sweep("plain, in place", &(rk_run_cfg){ .sync_write = true }, 1, 32 * 33);
}

TEST(plain_behind_with_pruning)
{
    run_sweep("plain, behind, with pruning", &(rk_run_cfg){ .keep = 2 }, 2, 1 << 18);
}

TEST(compressed_behind)
{
    run_sweep("compressed, behind", &(rk_run_cfg){ .compress = true }, 1, 32 * 33);
}

SWEEP_MAIN
