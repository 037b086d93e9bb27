/* rankine config check|show|schema */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

static int print_schema(void)
{
    char *schema = rk_config_schema();
    if (!schema)
        return cli_fail(RK_ENOMEM, "out of memory");
    puts(schema);
    free(schema);
    return cli_flush();
}

static void show(rk_ctx *ctx, const rk_config *cfg)
{
    char *json = rk_config_json(cfg, 2);
    if (json)
        puts(json);
    else
        rk_fail(ctx, RK_ENOMEM, "out of memory");
    free(json);
}

static void show_layout(rk_ctx *ctx, const rk_config *cfg)
{
    char *table = rk_config_layout(ctx, cfg);
    if (table)
        fputs(table, stdout);
    free(table);
}

static int run_config(const cli_args *a)
{
    static const char *const whats[] = { "check", "show", "schema" };
    const char *what = a->words[0];
    if (!strcmp(what, "schema") && a->n_words == 1)
        return print_schema();
    bool shows = !strcmp(what, "show");
    if (!shows && strcmp(what, "check")) {
        const char *near = rk_nearest(what, whats, 3);
        return cli_fail(RK_EUSAGE, "config: \"%s\" is none of check, show, schema%s%s%s", what,
                        near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
    if (cli_has(a, "layout") && !shows)
        return cli_fail(RK_EUSAGE, "config: --layout belongs to rankine config show CONFIG");
    if (a->n_words < 2)
        return cli_fail(RK_EUSAGE, "config: which file? rankine config %s CONFIG", what);
    rk_ctx *ctx;
    if (cli_open_small(&ctx))
        return cli_close(ctx);
    const rk_config *cfg = rk_config_load(ctx, a->words[1], a->overrides, a->n_overrides);
    if (!rk_failed(ctx) && shows && cli_has(a, "layout"))
        show_layout(ctx, cfg);
    else if (!rk_failed(ctx) && shows)
        show(ctx, cfg);
    else if (!rk_failed(ctx))
        printf("%s: good; it would run in %s\n", a->words[1], rk_config_run_dir(cfg));
    return cli_close(ctx);
}

static const cli_flag flags[] = {
    { "layout", NULL, "show: print how the tensor shards of grid.tensor cut each parameter, and why" },
    { NULL, NULL, NULL },
};

const cli_verb cli_config = {
    .name = "config",
    .synopsis = "check CONFIG | show CONFIG | schema",
    .flags = flags,
    .summary = "check a configuration, show the effective one, print the JSON schema",
    .min_words = 1,
    .max_words = 2,
    .overrides = true,
    .run = run_config,
};
