#include "train/journal.h"

#include "core/ctx.h"
#include "io/doc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void rk__time_text(char out[32])
{
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static int open_log(rk_ctx *ctx, const char *dir, const char *name)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        rk_fail(ctx, RK_EIO, "%s: cannot be opened: %s", path, strerror(errno));
    return fd;
}

/* The step of a line, -1 if it has none. */
static int64_t step_of(const char *line, const char *end)
{
    static const char mark[] = "\"step\":";
    const char *p = memmem(line, (size_t)(end - line), mark, sizeof mark - 1);
    return p ? strtoll(p + sizeof mark - 1, NULL, 10) : -1;
}

/* Cuts at the first line beyond step `resume`, and an unfinished last line. */
static void cut_lost(int fd, int64_t resume)
{
    struct stat st;
    if (fstat(fd, &st) || st.st_size <= 0)
        return;
    size_t size = (size_t)st.st_size, keep = 0;
    char *text = malloc(size + 1);
    if (!text || pread(fd, text, size, 0) != (ssize_t)size) {
        free(text);
        return;
    }
    text[size] = '\0';
    for (char *line = text, *end; (end = memchr(line, '\n', size - (size_t)(line - text))); line = end + 1) {
        if (step_of(line, end) > resume)
            break;
        keep = (size_t)(end + 1 - text);
    }
    free(text);
    if (keep < size && ftruncate(fd, (off_t)keep))
        return; /* the lines stay: readers take the last one of a step */
}

rk_status rk__journal_open(rk__journal *j, rk_ctx *ctx, const char *dir, int64_t resume, bool tensorboard)
{
    *j = (rk__journal){ .metrics = -1, .events = -1, .tensorboard = tensorboard, .next = resume + 1 };
    j->dir = rk__strdup(ctx, dir);
    j->metrics = open_log(ctx, dir, "metrics.jsonl");
    j->events = open_log(ctx, dir, "events.jsonl");
    if (j->metrics >= 0)
        cut_lost(j->metrics, resume);
    return rk_failed(ctx);
}

void rk__journal_close(rk__journal *j)
{
    if (j->metrics >= 0)
        close(j->metrics);
    if (j->events >= 0)
        close(j->events);
    rk__tfevents_close(j->board);
    free(j->quiet);
    free(j->dir);
    *j = (rk__journal){ .metrics = -1, .events = -1 };
}

static void append(rk__journal *j, int fd, const char *body)
{
    if (fd < 0)
        return;
    rk__text t = { 0 };
    char now[32];
    rk__time_text(now);
    rk__text_printf(&t, "{\"time\":\"%s\",", now);
    rk__text_puts(&t, body);
    rk__text_puts(&t, "}\n");
    size_t n = t.n;
    char *line = rk__text_take(&t);
    /* one write a line: O_APPEND keeps lines whole */
    if (!line || write(fd, line, n) != (ssize_t)n)
        j->failed = true;
    free(line);
}

void rk__journal_metrics(rk__journal *j, const char *body)
{
    append(j, j->metrics, body);
}

void rk__journal_event(rk__journal *j, const char *body)
{
    append(j, j->events, body);
}

static bool open_board(rk__journal *j)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/tb", j->dir);
    j->quiet = calloc(1, sizeof *j->quiet);
    return j->quiet && rk__tfevents_open(j->quiet, path, j->next, &j->board) == RK_OK;
}

void rk__journal_scalar(rk__journal *j, const char *name, int64_t step, double value)
{
    if (!j->tensorboard)
        return;
    if ((j->board || open_board(j)) && rk__tfevents_scalar(j->board, name, step, value) == RK_OK)
        return;
    j->tensorboard = false;
    j->failed = true;
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

rk_status rk__journal_file(rk_ctx *ctx, const char *dir, const char *name, const char *text)
{
    char path[4200], tmp[4220];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(tmp, sizeof tmp, "%s/.tmp-%s", dir, name);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool ok = fd >= 0 && write_all(fd, text, strlen(text)) && !fsync(fd);
    int error = errno;
    if (fd >= 0 && close(fd) && ok) {
        ok = false;
        error = errno;
    }
    if (ok && rename(tmp, path)) {
        ok = false;
        error = errno;
    }
    if (ok)
        return RK_OK;
    unlink(tmp);
    return rk_fail(ctx, RK_EIO, "%s: cannot be written: %s", path, strerror(error));
}

bool rk__journal_has(const char *dir, const char *name)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return !access(path, F_OK);
}

/* Removes what name is below folder fd; folders of snapshots are two levels deep. */
static bool remove_entry(int at, const char *name)
{
    if (!unlinkat(at, name, 0) || errno == ENOENT)
        return true;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    bool ok = true;
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            ok &= remove_entry(dirfd(d), e->d_name);
    closedir(d);
    return ok && !unlinkat(at, name, AT_REMOVEDIR);
}

rk_status rk__journal_clear(rk_ctx *ctx, const char *dir)
{
    /* DONE goes first and the snapshots last: a clearing that is cut short leaves a run that can be continued
     */
    static const char *const names[] = { "DONE",        "result.json", "metrics.jsonl", "events.jsonl",
                                         "config.json", "tb",          "log",           "reports",
                                         "STOP",        "CHECKPOINT",  "lease.json",    "trace",
                                         "snap" };
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? RK_OK : rk_fail(ctx, RK_EIO, "%s: %s", dir, strerror(errno));
    rk_status st = RK_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names && !st; i++)
        if (!remove_entry(fd, names[i]))
            st = rk_fail(ctx, RK_EIO, "%s/%s: cannot be removed: %s", dir, names[i], strerror(errno));
    close(fd);
    return st;
}
