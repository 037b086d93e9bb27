/* rankine export h5|safetensors RUN FILE */
#include "cli/cli.h"

#include <string.h>

static int run_export(const cli_args *a)
{
    const char *format = a->words[0], *run = a->words[1], *out = a->words[2];
    bool h5 = !strcmp(format, "h5") || !strcmp(format, "hdf5");
    int64_t step;
    rk_ctx *ctx;
    if (!h5 && strcmp(format, "safetensors"))
        return cli_fail(RK_EUSAGE, "export: \"%s\" is no format; there are h5 and safetensors", format);
    if (!cli_int(a, "step", -1, 0, &step))
        return rk_exit_code(RK_EUSAGE);
    if (!cli_open_small(&ctx))
        (h5 ? rk_export_h5 : rk_export_safetensors)(ctx, run, step, cli_has(a, "ema"), out);
    return cli_close(ctx);
}

static const cli_flag flags[] = {
    { "step", "N", "snapshot of this step (default: the newest good one)" },
    { "ema", NULL, "the averaged weights instead of the trained ones" },
    { NULL, NULL, NULL },
};

const cli_verb cli_export = {
    .name = "export",
    .synopsis = "h5|safetensors RUN FILE",
    .summary = "write the weights of a run as one file that others read",
    .flags = flags,
    .min_words = 3,
    .max_words = 3,
    .run = run_export,
};
