#include <rankine/base.h>

#include "core/ctx.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int exit_code;
} statuses[] = {
    [RK_OK] = { "RK_OK", 0 },
    [RK_EUSAGE] = { "RK_EUSAGE", 64 },
    [RK_EDATA] = { "RK_EDATA", 65 },
    [RK_ENOINPUT] = { "RK_ENOINPUT", 66 },
    [RK_EPEER] = { "RK_EPEER", 69 },
    [RK_EINTERNAL] = { "RK_EINTERNAL", 70 },
    [RK_ENOMEM] = { "RK_ENOMEM", 71 },
    [RK_ELOCKED] = { "RK_ELOCKED", 73 },
    [RK_EIO] = { "RK_EIO", 74 },
    [RK_EPREEMPTED] = { "RK_EPREEMPTED", 75 },
    [RK_EHANG] = { "RK_EHANG", 76 },
    [RK_ECONFIG] = { "RK_ECONFIG", 78 },
    [RK_EDIVERGED] = { "RK_EDIVERGED", 79 },
    [RK_ECORRUPT] = { "RK_ECORRUPT", 80 },
    [RK_ESHAPE] = { "RK_ESHAPE", 78 },
    [RK_EDTYPE] = { "RK_EDTYPE", 78 },
    [RK_EDEVICE] = { "RK_EDEVICE", 70 },
};

/* What the help, the manual page and docs tell of them. */
static const struct {
    int code;
    const char *meaning;
} exits[] = {
    { 0, "done" },
    { 64, "the command line is wrong" },
    { 65, "bad input data, model or snapshot" },
    { 66, "an input is missing or unreadable" },
    { 69, "another rank or the network was lost" },
    { 70, "the device failed or cannot be used, or a bug of Rankine" },
    { 71, "out of memory" },
    { 73, "the run folder belongs to another running job" },
    { 74, "cannot write: disk full, I/O error" },
    { 75, "stopped on request and saved: start the same command again" },
    { 76, "ranks wait for different things" },
    { 78, "the configuration is invalid, or does not fit the run or the ranks" },
    { 79, "the loss or a gradient is not finite" },
    { 130, "interrupted twice: left at once" },
};

const char *rk_exit_meaning(int code)
{
    for (size_t i = 0; i < sizeof exits / sizeof *exits; i++)
        if (exits[i].code == code)
            return exits[i].meaning;
    return NULL;
}

static bool known(rk_status st)
{
    return (unsigned)st < sizeof statuses / sizeof *statuses;
}

int rk_exit_code(rk_status st)
{
    return known(st) ? statuses[st].exit_code : 70;
}

const char *rk_status_name(rk_status st)
{
    return known(st) ? statuses[st].name : "RK_?";
}

rk_status rk_failed(const rk_ctx *ctx)
{
    return ctx ? ctx->status : RK_ENOMEM;
}

const char *rk_error(const rk_ctx *ctx)
{
    return ctx ? ctx->message : "out of memory";
}

void rk_error_clear(rk_ctx *ctx)
{
    if (ctx) {
        ctx->status = RK_OK;
        ctx->message[0] = '\0';
    }
}

/* What the device has to say of its own failure follows what it was about. */
static void add_failure(rk_ctx *ctx)
{
    size_t n = strlen(ctx->message);
    if (!ctx->dev || !ctx->device->failure || n + 3 > sizeof ctx->message)
        return;
    ctx->device->failure(ctx->dev, ctx->message + n + 2, sizeof ctx->message - n - 2);
    if (ctx->message[n + 2])
        memcpy(ctx->message + n, ": ", 2);
}

void rk__fail_more(rk_ctx *ctx, const char *fmt, ...)
{
    size_t n = strlen(ctx->message);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(ctx->message + n, sizeof ctx->message - n, fmt, ap);
    va_end(ap);
}

rk_status rk_fail(rk_ctx *ctx, rk_status st, const char *fmt, ...)
{
    if (!ctx)
        return RK_ENOMEM;
    if (ctx->status == RK_OK) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(ctx->message, sizeof ctx->message, fmt, ap);
        va_end(ap);
        ctx->status = st;
        if (st == RK_EDEVICE || st == RK_ENOMEM)
            add_failure(ctx);
    }
    return ctx->status;
}

void rk__assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "rankine: internal error: %s does not hold (%s:%d)\n", cond, file, line);
    abort();
}
