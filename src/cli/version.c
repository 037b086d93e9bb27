/* rankine version */
#include "cli/cli.h"

static int run_version(const cli_args *a)
{
    (void)a;
    printf("rankine %s\n", rk_version());
    return cli_flush();
}

const cli_verb cli_version = {
    .name = "version",
    .synopsis = "",
    .summary = "print the version",
    .run = run_version,
};
