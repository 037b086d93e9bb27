/* What a training run tells while it runs: log lines on stdout for collectors and files, and on a terminal
 * one rewritten line on stderr.
 *
 * A log line is "TIME name=value ...": every '=' is followed by a number, names have no dot and no slash, and
 * a value that is not finite is written "name:nan". Katib's collector, for one, takes "val/loss=2" for loss
 * and stops on an empty value. Words stand on lines of their own, without '='. */
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define DRAW_SECONDS 0.25

struct cli_report {
    rk_ctx *ctx;
    bool lines, json, terminal;
    bool drawn; /* the terminal's line stands there */
    double last_draw;
    double peak;                 /* < 0: not measured yet */
    double busy, samples, flops; /* since the last drawing: seconds, and what was done in them */
    int64_t step, saved;
    int slow_rank; /* told last; -1 */
};

static bool quiet_terminal(void)
{
    const char *term = getenv("TERM"), *ci = getenv("CI"), *no_color = getenv("NO_COLOR");
    return (ci && *ci) || (no_color && *no_color) || !term || !strcmp(term, "dumb");
}

cli_report *cli_report_open(rk_ctx *ctx, const char *format)
{
    cli_report *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    bool automatic = !format || !strcmp(format, "auto"), none = format && !strcmp(format, "none");
    bool line_fits = isatty(STDERR_FILENO) && !quiet_terminal();
    r->ctx = ctx;
    r->peak = -1;
    r->saved = -1;
    r->slow_rank = -1;
    r->json = format && !strcmp(format, "json");
    r->lines = !none && (!automatic || !line_fits || !isatty(STDOUT_FILENO));
    /* both on one terminal would write over each other */
    r->terminal = !none && line_fits && !(r->lines && isatty(STDOUT_FILENO));
    return r;
}

int64_t cli_report_step(const cli_report *r)
{
    return r->step;
}

int64_t cli_report_saved(const cli_report *r)
{
    return r->saved;
}

static double peak(cli_report *r)
{
    if (r->peak < 0)
        r->peak = rk_peak_flops(r->ctx);
    return r->peak;
}

/* ---- the terminal ---- */

static void erase(cli_report *r)
{
    if (r->drawn)
        fputs("\r\033[K", stderr);
    r->drawn = false;
}

static int columns(void)
{
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) || w.ws_col < 20)
        return 79;
    return w.ws_col - 1; /* some terminals wrap after the last column */
}

/* Speeds are those since the last drawing: single steps flicker. */
static void draw(cli_report *r, const rk_progress *p)
{
    char line[512];
    rk_progress shown = *p;
    if (r->busy > 0) { /* else nobody has waited for the device yet */
        shown.samples_per_s = r->samples / r->busy;
        shown.flops_per_s = r->flops / r->busy;
    }
    r->busy = r->samples = r->flops = 0;
    cli_progress_line(line, sizeof line, columns(), &shown, peak(r));
    fprintf(stderr, "\r%s\033[K", line);
    fflush(stderr);
    r->drawn = true;
    r->last_draw = cli_now();
}

static void terminal_step(cli_report *r, const rk_progress *p)
{
    r->busy += p->step_s;
    r->samples += p->samples_per_s * p->step_s;
    r->flops += p->flops_per_s * p->step_s;
    if (cli_now() - r->last_draw >= DRAW_SECONDS || (p->steps > 0 && p->step == p->steps))
        draw(r, p);
}

static void terminal_text(cli_report *r, const char *prefix, const char *text)
{
    erase(r);
    fprintf(stderr, "%s%s\n", prefix, text);
}

static void terminal_eval(cli_report *r, const rk_event *e)
{
    erase(r);
    fprintf(stderr, "step %lld:", (long long)e->step);
    for (int i = 0; i < e->n_metrics; i++)
        fprintf(stderr, " %s %.4g", e->metrics[i].name, e->metrics[i].value);
    fputc('\n', stderr);
}

/* ---- log lines ---- */

static void begin(const cli_report *r)
{
    char time[32];
    printf(r->json ? "{\"timestamp\":\"%s\"" : "%s", cli_time(time, sizeof time));
}

static void end(const cli_report *r)
{
    fputs(r->json ? "}\n" : "\n", stdout);
    fflush(stdout);
}

/* Metric values are strings in JSON: that is what Katib's collector reads. */
static void value(const cli_report *r, const char *name, const char *text, bool finite)
{
    if (r->json && finite)
        printf(",\"%s\":\"%s\"", name, text);
    else if (!r->json)
        printf(" %s%c%s", name, finite ? '=' : ':', text);
}

static void number(const cli_report *r, const char *name, double v)
{
    char text[40];
    snprintf(text, sizeof text, "%.6g", v);
    value(r, name, isfinite(v) ? text : isnan(v) ? "nan" : v > 0 ? "inf" : "-inf", isfinite(v));
}

static void integer(const cli_report *r, const char *name, int64_t v)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)v);
    value(r, name, text, true);
}

static void log_text(const cli_report *r, const char *kind, const char *text)
{
    begin(r);
    if (r->json) {
        printf(",\"event\":\"%s\",\"text\":\"", kind);
        cli_json_text(stdout, text);
        fputc('"', stdout);
    } else {
        fputc(' ', stdout);
        for (const char *s = text; *s; s++)
            fputc(*s == '=' ? ':' : (unsigned char)*s < ' ' ? ' ' : *s, stdout);
    }
    end(r);
}

static void log_step(cli_report *r, const rk_progress *p)
{
    begin(r);
    integer(r, "step", p->step);
    number(r, "loss", p->loss);
    number(r, "lr", p->lr);
    number(r, "grad_norm", p->grad_norm);
    if (p->loss_scale > 0)
        number(r, "loss_scale", p->loss_scale);
    number(r, "epoch", p->epoch);
    number(r, "samples_per_s", p->samples_per_s);
    if (p->flops_per_s > 0) {
        number(r, "gflops", p->flops_per_s / 1e9);
        if (peak(r) > 0)
            number(r, "mfu", p->flops_per_s / peak(r));
    }
    number(r, "mem_gib", (double)p->memory_bytes / (1024.0 * 1024 * 1024));
    number(r, "step_ms", 1e3 * p->step_s);
    number(r, "data_ms", 1e3 * p->data_s);
    if (p->ranks > 1)
        number(r, "exchange_ms", 1e3 * p->exchange_s);
    if (p->slow_rank >= 0) {
        integer(r, "slow_rank", p->slow_rank);
        number(r, "slow_by", p->slow_by);
    }
    if (p->steps > 0)
        number(r, "eta_s", p->eta_s);
    end(r);
}

/* Words stand on a line of their own, and only when they change. */
static void log_slow(cli_report *r, const rk_progress *p)
{
    char text[160];
    if (p->slow_rank >= 0 && p->slow_rank != r->slow_rank) {
        snprintf(text, sizeof text, "slowest: rank %d on %s, %.2f times the median", p->slow_rank,
                 p->slow_host, p->slow_by);
        log_text(r, "slow", text);
    }
    r->slow_rank = p->slow_rank;
}

static void log_eval(const cli_report *r, const rk_event *e)
{
    begin(r);
    integer(r, "step", e->step);
    for (int i = 0; i < e->n_metrics; i++) {
        char name[80];
        const char *given = e->metrics[i].name;
        snprintf(name, sizeof name, "%s%s", strncmp(given, "val_", 4) ? "val_" : "", given);
        number(r, name, e->metrics[i].value);
    }
    end(r);
}

static void log_saved(const cli_report *r, int64_t step)
{
    char text[64];
    snprintf(text, sizeof text, "saved: step %lld", (long long)step);
    log_text(r, "saved", text);
}

void cli_report_event(void *report, const rk_event *e)
{
    cli_report *r = report;
    static const char *const kinds[] = { [RK_EVENT_BANNER] = "banner",
                                         [RK_EVENT_START] = "start",
                                         [RK_EVENT_WARN] = "warning",
                                         [RK_EVENT_END] = "end" };
    switch (e->kind) {
    case RK_EVENT_STEP:
        r->step = e->progress->step;
        if (r->terminal)
            terminal_step(r, e->progress);
        break;
    case RK_EVENT_LOG:
        r->step = e->progress->step;
        if (r->lines) {
            log_step(r, e->progress);
            log_slow(r, e->progress);
        }
        break;
    case RK_EVENT_EVAL:
        if (r->lines)
            log_eval(r, e);
        if (r->terminal)
            terminal_eval(r, e);
        break;
    case RK_EVENT_SAVED:
        r->saved = e->step;
        if (r->lines)
            log_saved(r, e->step);
        break;
    case RK_EVENT_BANNER:
    case RK_EVENT_START:
    case RK_EVENT_WARN:
    case RK_EVENT_END:
        if (r->lines)
            log_text(r, kinds[e->kind], e->text);
        if (r->terminal && !r->lines)
            terminal_text(r, e->kind == RK_EVENT_WARN ? "warning: " : "", e->text);
        break;
    }
}

void cli_report_close(cli_report *r)
{
    if (!r)
        return;
    if (r->drawn)
        fputc('\n', stderr);
    fflush(stderr);
    free(r);
}
