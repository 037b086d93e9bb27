/* rankine verify RUN: every byte of every snapshot */
#include "cli/cli.h"

static void print_line(void *user, const char *line)
{
    (void)user;
    puts(line);
}

static int run_verify(const cli_args *a)
{
    rk_ctx *ctx;
    if (!rk_open(&(rk_open_cfg){ .device = "cpu", .threads = 1 },
                 &ctx)) /* started by mpirun, the ranks share the work */
        rk_run_verify(ctx, a->words[0], print_line, NULL);
    return cli_close(ctx);
}

const cli_verb cli_verify = {
    .name = "verify",
    .synopsis = "RUN",
    .summary = "check every byte of every snapshot of a run",
    .min_words = 1,
    .max_words = 1,
    .ranks = true,
    .run = run_verify,
};
