#include "io/ds.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/ctx.h"
#include "io/doc.h"
#include "io/file.h"

static const rk__ds_ops *const formats[] = { &rk__ds_idx, &rk__ds_csv, &rk__ds_hdf5 };

enum { FORMATS = sizeof formats / sizeof *formats };

rk_status rk__task_of(rk_ctx *ctx, const rk_data_cfg *cfg, rk__task *task)
{
    static const char *const names[] = { "classification", "regression", "reconstruction" };
    *task = RK__CLASSIFICATION;
    if (!cfg->task)
        return RK_OK;
    for (int i = 0; i < 3; i++) {
        if (!strcmp(cfg->task, names[i])) {
            *task = (rk__task)i;
            return RK_OK;
        }
    }
    return rk_fail(ctx, RK_ECONFIG, "data.task: \"%s\" is none of classification, regression, reconstruction",
                   cfg->task);
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcasecmp(s + n - m, end);
}

static const rk__ds_ops *by_name(const char *path)
{
    static const struct {
        const char *end;
        const rk__ds_ops *ops;
    } ends[] = { { ".csv", &rk__ds_csv },    { ".csv.gz", &rk__ds_csv }, { ".tsv", &rk__ds_csv },
                 { ".tsv.gz", &rk__ds_csv }, { ".h5", &rk__ds_hdf5 },    { ".hdf5", &rk__ds_hdf5 } };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(path, ends[i].end))
            return ends[i].ops;
    return NULL;
}

static bool is_text(const uint8_t *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (p[i] < 0x20 && p[i] != '\n' && p[i] != '\r' && p[i] != '\t')
            return false;
    return n > 0;
}

/* By what the file begins with. A path that is no file is a prefix of an IDX pair, or missing: IDX tells. */
static rk_status by_content(rk_ctx *ctx, const char *path, const rk__ds_ops **out)
{
    uint8_t head[64];
    struct stat s;
    int fd;
    int64_t size;
    *out = &rk__ds_idx;
    if (stat(path, &s) != 0 || S_ISDIR(s.st_mode))
        return RK_OK;
    RK_TRY(rk__file_open(ctx, path, &fd, &size));
    ssize_t n = read(fd, head, sizeof head);
    close(fd);
    if (n >= 8 && !memcmp(head, "\x89HDF\r\n\x1a\n", 8))
        *out = &rk__ds_hdf5;
    else if (n >= 4 && ((head[0] == 0x1f && head[1] == 0x8b) || (head[0] == 0 && head[1] == 0)))
        *out = &rk__ds_idx;
    else if (is_text(head, n))
        *out = &rk__ds_csv;
    else
        return rk_fail(ctx, RK_EDATA,
                       "%s: neither IDX, CSV nor HDF5 by its name and first bytes: say data.format", path);
    return RK_OK;
}

rk_status rk__ds_open(rk_ctx *ctx, const rk_data_cfg *cfg, rk__ds **out)
{
    const rk__ds_ops *ops = NULL;
    *out = NULL;
    if (!cfg->path || !*cfg->path)
        return rk_fail(ctx, RK_ECONFIG, "data.path: a file, or the prefix of an IDX pair, is needed");
    for (int i = 0; cfg->format && i < FORMATS; i++)
        if (!strcmp(cfg->format, formats[i]->format))
            ops = formats[i];
    if (cfg->format && !ops)
        return rk_fail(ctx, RK_ECONFIG, "data.format: \"%s\" is none of idx, csv, hdf5", cfg->format);
    ops = ops ? ops : by_name(cfg->path);
    if (!ops)
        RK_TRY(by_content(ctx, cfg->path, &ops));
    RK_TRY(ops->open(ctx, cfg, out));
    (*out)->users = 1;
    return RK_OK;
}

void rk__ds_leave(rk__ds *ds)
{
    if (--ds->users == 0)
        ds->ops->close(ds);
}
