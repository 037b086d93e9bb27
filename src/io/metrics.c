#include <rankine/metrics.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/ctx.h"
#include "io/file.h"
#include "io/number.h"
#include "io/text.h"
#include "io/tfevents.h"

struct rk_metrics {
    rk_ctx *ctx;
    int fd;
    char *path;
    rk__tfevents *tb;
    rk__text line; /* of `step`, without the closing brace */
    int64_t step;
};

static rk_metrics inert = { .fd = -1 };

static void close_metrics(void *arg)
{
    rk_metrics *m = arg;
    rk_metrics_flush(m);
    rk__tfevents_close(m->tb);
    rk__text_free(&m->line);
    if (m->fd >= 0)
        close(m->fd);
    free(m->path);
    free(m);
}

static rk_status open_files(rk_metrics *m, const char *dir, const rk_metrics_cfg *cfg)
{
    char tb[4096];
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return rk_fail(m->ctx, RK_EIO, "%s: cannot be made: %s", dir, strerror(errno));
    if (asprintf(&m->path, "%s/metrics.jsonl", dir) < 0) {
        m->path = NULL;
        return rk_fail(m->ctx, RK_ENOMEM, "%s: out of memory", dir);
    }
    m->fd = open(m->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (m->fd < 0)
        return rk_fail(m->ctx, RK_EIO, "%s: %s", m->path, strerror(errno));
    if (!cfg || !cfg->tensorboard)
        return RK_OK;
    if (snprintf(tb, sizeof tb, "%s/tb", dir) >= (int)sizeof tb)
        return rk_fail(m->ctx, RK_EIO, "%s: the path is too long", dir);
    return rk__tfevents_open(m->ctx, tb, cfg->start_step, &m->tb);
}

rk_metrics *rk_metrics_open(rk_ctx *ctx, const char *dir, const rk_metrics_cfg *cfg)
{
    rk_metrics *m = rk_failed(ctx) ? NULL : rk__calloc(ctx, 1, sizeof *m);
    if (!m)
        return &inert;
    m->ctx = ctx;
    m->fd = -1;
    if (open_files(m, dir, cfg) != RK_OK || rk__at_close(ctx, close_metrics, m) != RK_OK) {
        close_metrics(m);
        return &inert;
    }
    return m;
}

rk_status rk_metrics_flush(rk_metrics *m)
{
    if (m->fd < 0 || !m->line.n)
        return RK_OK;
    rk__text_puts(&m->line, "}\n");
    rk_status st = m->line.failed ? rk_fail(m->ctx, RK_ENOMEM, "%s: out of memory", m->path)
                                  : rk__write_all(m->ctx, m->fd, m->line.p, m->line.n, m->path);
    rk__text_free(&m->line);
    return st;
}

static bool good_name(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return n && !s[n];
}

rk_status rk_metric(rk_metrics *m, const char *name, int64_t step, double value)
{
    char number[32] = "null";
    if (m->fd < 0 || rk_failed(m->ctx))
        return m->ctx ? rk_failed(m->ctx) : RK_EIO;
    if (!good_name(name) || !strcmp(name, "step") || !strcmp(name, "time"))
        return rk_fail(m->ctx, RK_ECONFIG,
                       "metric \"%s\": names are of A-Z a-z 0-9 _ - and neither step nor time", name);
    if (m->line.n && step != m->step)
        RK_TRY(rk_metrics_flush(m));
    if (!m->line.n) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        m->step = step;
        rk__text_printf(&m->line, "{\"step\":%" PRId64 ",\"time\":%lld.%03ld", step, (long long)now.tv_sec,
                        now.tv_nsec / 1000000);
    }
    if (isfinite(value))
        rk__format_double(value, number);
    rk__text_puts(&m->line, ",\"");
    rk__text_puts(&m->line, name);
    rk__text_puts(&m->line, "\":");
    rk__text_puts(&m->line, number);
    return m->tb ? rk__tfevents_scalar(m->tb, name, step, value) : RK_OK;
}
