/* rankine inspect RUN|FILE: what a run or a file holds. */
#include "cli/cli.h"

#include <string.h>
#include <sys/stat.h>

static void print_shape(const rk_shape *s)
{
    char text[160] = "(";
    size_t used = 1;
    for (int i = 0; i < s->ndim && used < sizeof text - 24; i++)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s%lld", i ? ", " : "", (long long)s->dim[i]);
    snprintf(text + used, sizeof text - used, ")");
    printf("  %-20s", text);
}

static int64_t elements(const rk_shape *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++)
        n *= s->dim[i];
    return n;
}

static void print_steps(rk_ctx *ctx, const char *run)
{
    const int64_t *steps;
    int n;
    if (rk_run_steps(ctx, run, &steps, &n))
        return;
    printf("%s: %d snapshot%s, step", run, n, n == 1 ? "" : "s");
    for (int i = 0; i < n; i++)
        printf(" %lld", (long long)steps[i]);
    printf("\n");
}

static void print_entries(const rk_snapshot_info *s)
{
    char size[32];
    int64_t weights = 0;
    for (int i = 0; i < s->n_entries; i++) {
        const rk_snapshot_entry *e = &s->entries[i];
        printf("  %-8s %-4s", e->kind, rk_dtype_name(e->dtype));
        print_shape(&e->shape);
        printf(" %10s  %s\n", cli_bytes(size, sizeof size, (double)e->bytes), e->name);
        if (!strcmp(e->kind, "param"))
            weights += elements(&e->shape);
    }
    printf("%lld weights\n", (long long)weights);
}

static void print_run(rk_ctx *ctx, const char *run, int64_t step)
{
    rk_snapshot_info s;
    char size[32];
    print_steps(ctx, run);
    if (rk_failed(ctx) || rk_snapshot_describe(ctx, run, step, &s))
        return;
    printf("step %lld%s, %s on disk, written by rankine %s\n", (long long)s.step, s.best ? " (best)" : "",
           cli_bytes(size, sizeof size, (double)s.bytes), s.version ? s.version : "?");
    print_entries(&s);
}

static void print_config(rk_ctx *ctx, const char *run, int64_t step)
{
    rk_snapshot_info s;
    if (!rk_snapshot_describe(ctx, run, step, &s))
        puts(s.config_json ? s.config_json : "{}");
}

static void print_file(rk_ctx *ctx, const char *path)
{
    rk_snapshot_info s;
    if (!rk_file_describe(ctx, path, &s))
        print_entries(&s);
}

static bool is_file(const char *path)
{
    struct stat s;
    return !stat(path, &s) && S_ISREG(s.st_mode);
}

static int run_inspect(const cli_args *a)
{
    rk_ctx *ctx;
    int64_t step;
    char hex[65];
    const char *what = a->words[0];
    bool file = is_file(what);
    if (!cli_int(a, "step", -1, 0, &step))
        return rk_exit_code(RK_EUSAGE);
    if (file && (cli_has(a, "step") || cli_has(a, "config")))
        return cli_fail(RK_EUSAGE, "inspect: %s is a file: it has neither steps nor a configuration", what);
    if (cli_open_small(&ctx))
        return cli_close(ctx);
    if (cli_has(a, "hash")) {
        if (!(file ? rk_file_hash(ctx, what, hex) : rk_snapshot_hash(ctx, what, step, hex)))
            printf("sha256 %s\n", hex);
    } else if (cli_has(a, "config")) {
        print_config(ctx, what, step);
    } else if (file) {
        print_file(ctx, what);
    } else {
        print_run(ctx, what, step);
    }
    return cli_close(ctx);
}

static const cli_flag flags[] = {
    { "hash", NULL,
      "print \"sha256 HEX\" over the logical weights and optimiser state, whatever files hold them" },
    { "config", NULL, "print the configuration that the snapshot was trained with" },
    { "step", "N", "snapshot of this step (default: the newest good one)" },
    { NULL, NULL, NULL },
};

const cli_verb cli_inspect = {
    .name = "inspect",
    .synopsis = "RUN|FILE.safetensors",
    .summary = "list the tensors of a run's snapshot or of a file, or hash them",
    .flags = flags,
    .min_words = 1,
    .max_words = 1,
    .run = run_inspect,
};
