#include "files.h"

#include <rankine/metrics.h>

#include "core/ctx.h"
#include "io/doc.h"
#include "io/tfevents.h"

TEST(crc32c_check_value)
{
    CHECK_INT(rk__crc32c("123456789", 9), 0xE3069283u);
    CHECK_INT(rk__crc32c("", 0), 0);
}

static char *read_text(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    char *p = calloc(1, 1 << 16);
    *n = f ? fread(p, 1, (1 << 16) - 1, f) : 0;
    if (f)
        fclose(f);
    return p;
}

static uint32_t u32(const char *p)
{
    const uint8_t *b = (const uint8_t *)p;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* Lengths and checksums of every record; returns their number, -1 if one is wrong. */
static int records(const char *p, size_t n)
{
    int count = 0;
    for (size_t at = 0; at < n; count++) {
        size_t len = u32(p + at);
        uint32_t c = rk__crc32c(p + at, 8), d = rk__crc32c(p + at + 12, len);
        if (u32(p + at + 4) || u32(p + at + 8) != (c >> 15 | c << 17) + 0xa282ead8u ||
            u32(p + at + 12 + len) != (d >> 15 | d << 17) + 0xa282ead8u)
            return -1;
        at += 16 + len;
    }
    return count;
}

/* The newest event file of a folder. */
static char *event_file(const char *dir, size_t *n)
{
    char path[512] = "";
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (strstr(e->d_name, "tfevents"))
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
    if (d)
        closedir(d);
    char *p = read_text(path, n);
    unlink(path);
    return p;
}

TEST(event_files)
{
    char dir[256];
    snprintf(dir, sizeof dir, "%s", file_path("tb"));
    rk_ctx ctx = { 0 };
    rk__tfevents *t;
    CHECK_OK(&ctx, rk__tfevents_open(&ctx, dir, 120, &t));
    CHECK_OK(&ctx, rk__tfevents_scalar(t, "loss", 130, 0.5));
    CHECK_OK(&ctx, rk__tfevents_text(t, "config", 0, "    a: 1\n"));
    rk__tfevents_close(t);
    size_t n;
    char *p = event_file(dir, &n);
    int count = records(p, n);
    bool version = memmem(p, n, "brain.Event:2", 13),
         loss = memmem(p, n, "\x0a\x04loss\x15\x00\x00\x00\x3f", 11);
    free(p);
    rmdir(dir);
    CHECK_INT(count, 4); /* version, start of a session, scalar, text */
    CHECK(version && loss);
    rk_error_clear(&ctx);
    CHECK_INT(rk__tfevents_open(&ctx, "/proc/nothing", 0, &t), RK_EIO);
}

TEST(jsonl_lines)
{
    char dir[256], path[300];
    snprintf(dir, sizeof dir, "%s", file_path("run"));
    rk_ctx *ctx;
    CHECK_INT(rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx), RK_OK);
    for (int attempt = 0; attempt < 2; attempt++) { /* the second appends */
        rk_metrics *m = rk_metrics_open(ctx, dir, &(rk_metrics_cfg){ .tensorboard = attempt });
        for (int step = 1; step <= 2; step++) {
            CHECK_OK(ctx, rk_metric(m, "loss", step, 0.25 * step));
            CHECK_OK(ctx, rk_metric(m, "grad_norm", step, step == 2 ? NAN : 1));
        }
        if (!attempt)
            CHECK_OK(ctx, rk_metrics_flush(m));
        if (attempt)
            CHECK_INT(rk_metric(m, "val/loss", 3, 0), RK_ECONFIG);
    }
    rk_close(ctx);
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    size_t n;
    char *p = read_text(path, &n);
    int lines = 0;
    rk_ctx c = { 0 };
    for (char *line = p, *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
        rk_doc *d;
        CHECK_OK(&c, rk__json_parse(&c, "line", (uint8_t *)line, (size_t)(end - line), RK_EDATA, &d));
        CHECK_INT(rk__doc_get(d, "step")->i, lines % 2 + 1);
        CHECK_CLOSE(rk__doc_get(d, "loss")->f, 0.25 * (lines % 2 + 1), 0, 0);
        CHECK_INT(rk__doc_get(d, "grad_norm")->kind, lines % 2 ? RK_DOC_NULL : RK_DOC_FLOAT);
        CHECK(rk__doc_get(d, "time")->f > 1.6e9);
        rk__doc_free(d);
    }
    free(p);
    unlink(path);
    snprintf(path, sizeof path, "%s/tb", dir);
    p = event_file(path, &n);
    int count = records(p, n);
    free(p);
    rmdir(path);
    rmdir(dir);
    CHECK_INT(lines, 4);
    CHECK_INT(count, 5);
}

TEST_MAIN
