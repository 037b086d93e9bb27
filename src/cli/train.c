/* rankine train CONFIG: trains, or goes on training what the run's folder holds. */
#include "cli/cli.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The loop polls it between steps. */
static volatile int stop_requested;
static volatile sig_atomic_t on_terminal, speaks;

/* The first signal asks for a save; an interrupt after that leaves at once: snapshots are whole or absent, so
 * nothing is lost but the steps since the last one. */
static void on_signal(int signal)
{
    static const char leaving[] = "\nrankine: left at once, without saving\n";
    static const char saving[] = "\nrankine: saving, then stopping; once more to leave at once\n";
    if (stop_requested && signal == SIGINT) {
        if (speaks && write(STDERR_FILENO, leaving, sizeof leaving - 1) < 0)
            _exit(130);
        _exit(130);
    }
    if (!stop_requested && on_terminal && write(STDERR_FILENO, saving, sizeof saving - 1) < 0)
        on_terminal = 0;
    stop_requested = 1;
}

static void catch_signals(void)
{
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    speaks = rk_launch_rank() == 0;
    on_terminal = isatty(STDERR_FILENO) && rk_launch_rank() == 0;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* a reader of the log that leaves does not end the run */
}

static rk_config *load(rk_ctx *ctx, const cli_args *a)
{
    const char *path = cli_value(a, "config") ? cli_value(a, "config") : a->words[0];
    return rk_config_load(ctx, path, a->overrides, a->n_overrides);
}

/* How the configuration wants the context opened that trains it. A context that knows nothing yet reads it.
 */
static rk_status read_open_cfg(const cli_args *a, rk_open_cfg *oc, char *why, size_t size)
{
    rk_ctx *small;
    rk_status st = cli_open_small(&small);
    rk_config *cfg = st ? NULL : load(small, a);
    st = rk_failed(small);
    if (st)
        snprintf(why, size, "%s", rk_error(small));
    else
        rk_config_open_cfg(cfg, oc);
    rk_close(small);
    return st;
}

/* A rank that cannot read the configuration meets the others all the same, to tell them so. [C] */
static rk_status open_as_configured(const cli_args *a, rk_ctx **ctx, rk_config **cfg)
{
    rk_open_cfg oc = { 0 };
    char why[1024];
    rk_status st = read_open_cfg(a, &oc, why, sizeof why);
    oc.failed = st;
    oc.why = why;
    if (!rk_open(&oc, ctx))
        *cfg = load(*ctx, a);
    return rk_failed(*ctx);
}

/* --fresh throws a run away: only with --yes if there is something to lose. [C] */
static rk_status check_fresh(const cli_args *a, rk_ctx *ctx, const char *run)
{
    rk_ctx *look;
    const int64_t *steps;
    int n = 0;
    if (!cli_has(a, "fresh") || cli_has(a, "yes"))
        return RK_OK;
    if (rk_rank(ctx) > 0)
        return rk_barrier(ctx);
    rk_status st = cli_open_small(&look);
    if (!st)
        st = rk_run_steps(look, run, &steps, &n);
    if (!st && n > 0)
        rk_fail(ctx, RK_EUSAGE, "%s holds a run of %lld steps; --fresh would remove it: add --yes to agree",
                run, (long long)steps[n - 1]);
    rk_close(look);
    return rk_barrier(ctx);
}

static void say_stopped(const cli_report *r, const char *run)
{
    fprintf(stderr,
            "rankine: stopped on request at step %lld and saved in %s; the same command goes on from there\n",
            (long long)cli_report_step(r), run);
}

/* The run's folder is what a training is for, not the log: the exit code speaks of the former. */
static void say_log_lost(const char *run)
{
    if (fflush(stdout) || ferror(stdout))
        fprintf(stderr, "rankine: the log could not be written to standard output; %s/metrics.jsonl has it\n",
                run);
}

static int run_train(const cli_args *a)
{
    rk_ctx *ctx = NULL;
    rk_config *cfg = NULL;
    if (!a->n_words == !cli_has(a, "config"))
        return cli_fail(RK_EUSAGE, "train: give one configuration: rankine train %s", a->verb->synopsis);
    catch_signals(); /* before the ranks meet: a launcher may ask to stop by then */
    if (open_as_configured(a, &ctx, &cfg))
        return cli_close(ctx);
    const char *run = rk_config_run_dir(cfg);
    if (check_fresh(a, ctx, run))
        return cli_close(ctx);
    cli_report *report = cli_report_open(ctx, rk_config_get(cfg, "log.format"));
    if (!report) {
        rk_fail(ctx, RK_ENOMEM, "out of memory");
        return cli_close(ctx);
    }
    rk_status st = rk_train(ctx, cfg,
                            &(rk_train_opts){ .on_event = cli_report_event,
                                              .user = report,
                                              .stop = &stop_requested,
                                              .fresh = cli_has(a, "fresh"),
                                              .allow_change = cli_has(a, "allow-change") });
    if (st == RK_EPREEMPTED && rk_rank(ctx) == 0)
        say_stopped(report, run);
    cli_report_close(report);
    if (st != RK_OK && st != RK_EPREEMPTED)
        return cli_close(ctx);
    if (rk_rank(ctx) == 0)
        say_log_lost(run);
    rk_close(ctx);
    return rk_exit_code(st);
}

static const cli_flag flags[] = {
    { "config", "FILE", "the configuration, if it is not the first word" },
    { "fresh", NULL, "start anew: remove the run that the folder holds" },
    { "yes", NULL, "agree to what --fresh removes" },
    { "allow-change", NULL, "continue a run although options have changed that shape it" },
    { NULL, NULL, NULL },
};

const cli_verb cli_train = {
    .name = "train",
    .synopsis = "CONFIG [KEY=VALUE ...]",
    .summary = "train as a configuration says; go on if its run folder holds a run",
    .text = "CONFIG is a YAML or JSON file. KEY=VALUE or --KEY=VALUE overrides an option of it (see rankine "
            "help options).\n"
            "--lr, --batch-size and --num-epochs stand for optim.lr, batch.global and run.epochs.\n"
            "TERM, USR1 and the first interrupt save and exit with 75; the same command then goes on. A "
            "second interrupt\n"
            "leaves at once. mpirun -n N rankine train ... trains on N ranks, with the same result: USR1 to "
            "mpirun "
            "stops it.",
    .flags = flags,
    .min_words = 0,
    .max_words = 1,
    .ranks = true,
    .overrides = true,
    .run = run_train,
};
