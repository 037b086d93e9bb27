/* What the program says: failures, numbers, times. */
#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SPEAK_SECONDS = 3 }; /* a launcher ends the other ranks about 2 s after one has failed */

/* One line whatever the message holds: scripts read it so. */
static void one_line(char *s)
{
    size_t n = strlen(s);
    while (n && (s[n - 1] == '\n' || s[n - 1] == ' '))
        s[--n] = 0;
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            *s = ' ';
}

int cli_fail(rk_status st, const char *fmt, ...)
{
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    one_line(text);
    fflush(stdout);
    int rank = rk_launch_rank();
    if (rank == 0)
        fprintf(stderr, "rankine: %s\n", text);
    else if (sleep(SPEAK_SECONDS) == 0)
        fprintf(stderr, "rankine: rank %d: %s\n", rank, text);
    return rk_exit_code(st);
}

int cli_flush(void)
{
    if (fflush(stdout) || ferror(stdout))
        return cli_fail(RK_EIO, "cannot write to standard output: %s", strerror(errno));
    return 0;
}

int cli_close(rk_ctx *ctx)
{
    rk_status st = rk_failed(ctx);
    if (st && rk_rank(ctx) == 0) /* the first rank knows what went wrong on the others */
        cli_fail(st, "%s", ctx && *rk_error(ctx) ? rk_error(ctx) : rk_status_name(st));
    rk_close(ctx);
    return st ? rk_exit_code(st) : cli_flush();
}

rk_status cli_open_small(rk_ctx **ctx)
{
    return rk_open(&(rk_open_cfg){ .device = "cpu", .threads = 1, .alone = true }, ctx);
}

rk_status cli_open_device(const cli_args *a, rk_ctx **ctx)
{
    int64_t threads;
    *ctx = NULL;
    if (!cli_int(a, "threads", 0, 1, &threads))
        return RK_EUSAGE;
    return rk_open(&(rk_open_cfg){ .device = cli_value(a, "device"),
                                   .threads = threads < 4096 ? (int)threads : 4096,
                                   .alone = true },
                   ctx);
}

void cli_note_cpu(const rk_ctx *ctx)
{
    bool faulty;
    const char *why = rk_device_why_cpu(ctx, &faulty);
    if (why && faulty && rk_rank(ctx) == 0)
        fprintf(stderr, "rankine: on the processor: %s\n", why);
}

const char *cli_bytes(char *buf, size_t size, double bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
    int u = 0;
    while (bytes >= 1000 && u < 5) {
        bytes /= 1024;
        u++;
    }
    snprintf(buf, size, u && bytes < 10 ? "%.1f %s" : "%.0f %s", bytes, units[u]);
    return buf;
}

const char *cli_count(char *buf, size_t size, double n)
{
    static const char *const prefixes[] = { "", "k", "M", "G", "T", "P" };
    int u = 0;
    while (n >= 999.5 && u < 5) {
        n /= 1000;
        u++;
    }
    snprintf(buf, size, u && n < 99.95 ? (n < 9.995 ? "%.2f%s" : "%.1f%s") : "%.0f%s", n, prefixes[u]);
    return buf;
}

const char *cli_seconds(char *buf, size_t size, double s)
{
    if (!(s >= 0) || s > 1e9) {
        snprintf(buf, size, "?");
        return buf;
    }
    long t = (long)(s + 0.5);
    if (t < 60)
        snprintf(buf, size, "%lds", t);
    else if (t < 3600)
        snprintf(buf, size, "%ldm%02lds", t / 60, t % 60);
    else if (t < 86400)
        snprintf(buf, size, "%ldh%02ldm", t / 3600, t / 60 % 60);
    else
        snprintf(buf, size, "%ldd%ldh", t / 86400, t / 3600 % 24);
    return buf;
}

const char *cli_time(char *buf, size_t size)
{
    time_t t = time(NULL);
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(buf, size, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return buf;
}

double cli_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void cli_json_text(FILE *f, const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < ' ')
            fprintf(f, "\\u%04x", c);
        else
            fputc(c, f);
    }
}
