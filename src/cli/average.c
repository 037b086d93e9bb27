/* rankine average RUN... --out RUN */
#include "cli/cli.h"

static int run_average(const cli_args *a)
{
    const char *out = cli_value(a, "out");
    rk_ctx *ctx;
    if (!out)
        return cli_fail(RK_EUSAGE, "average: --out says where the result goes: rankine average %s",
                        a->verb->synopsis);
    if (!cli_open_small(&ctx) && !rk_average(ctx, a->words, a->n_words, out))
        printf("%s: the mean of %d\n", out, a->n_words);
    return cli_close(ctx);
}

static const cli_flag flags[] = {
    { "out", "RUN", "folder of the result; it must hold no run yet" },
    { NULL, NULL, NULL },
};

const cli_verb cli_average = {
    .name = "average",
    .synopsis = "RUN... --out RUN",
    .summary = "average the weights of several runs or snapshots of one model",
    .text =
        "RUN is a run folder, whose newest good snapshot counts, or the folder of one snapshot "
        "(RUN/snap/step-...).\n"
        "Weights and buffers are added in double precision in the order given. The result has no optimiser "
        "state;\n"
        "how data are treated comes from the first. rankine eval, predict, export and model.from take it as "
        "any run.",
    .flags = flags,
    .min_words = 1,
    .max_words = 4096,
    .run = run_average,
};
