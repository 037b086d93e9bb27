#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/ctx.h"
#include "io/safetensors.h"
#include "io/text.h"

static int by_width(const void *a, const void *b)
{
    const rk__st_entry *x = a, *y = b;
    size_t p = rk_dtype_size(x->dtype), q = rk_dtype_size(y->dtype);
    return p != q ? (p > q ? -1 : 1) : strcmp(x->name, y->name);
}

static const char *dtype_name(rk_dtype t)
{
    static const char *const names[RK_DTYPES] = {
        [RK_F32] = "F32", [RK_BF16] = "BF16", [RK_F16] = "F16", [RK_F64] = "F64",
        [RK_I32] = "I32", [RK_I64] = "I64",   [RK_U8] = "U8"
    };
    return names[t];
}

static rk_status entry_bytes(rk_ctx *ctx, const rk__st_entry *e, size_t *bytes)
{
    int64_t n;
    RK_TRY(rk__shape_size(ctx, &e->shape, &n));
    return rk__mul_size(ctx, (size_t)n, rk_dtype_size(e->dtype), bytes);
}

static rk_status put_entry(rk_ctx *ctx, rk__text *t, const rk__st_entry *e, uint64_t *at)
{
    size_t bytes;
    RK_TRY(entry_bytes(ctx, e, &bytes));
    rk__text_puts(t, ",");
    rk__text_quote(t, e->name);
    rk__text_printf(t, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(e->dtype));
    for (int i = 0; i < e->shape.ndim; i++)
        rk__text_printf(t, "%s%" PRId64, i ? "," : "", e->shape.dim[i]);
    rk__text_printf(t, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", *at, *at + bytes);
    *at += bytes;
    return RK_OK;
}

rk_status rk__st_write(rk_ctx *ctx, rk__st_entry *e, int n, rk__sink *sink, void *user)
{
    rk__text t = { 0 };
    uint64_t at = 0;
    static const uint8_t length[8]; /* set below */
    if (n)
        qsort(e, (size_t)n, sizeof *e, by_width);
    rk__text_put(&t, length, sizeof length);
    rk__text_puts(&t, "{\"__metadata__\":{\"format\":\"pt\"}");
    rk_status st = RK_OK;
    for (int i = 0; i < n && st == RK_OK; i++)
        st = i && !strcmp(e[i].name, e[i - 1].name)
                 ? rk_fail(ctx, RK_ECONFIG, "safetensors: two tensors are named \"%s\"", e[i].name)
                 : put_entry(ctx, &t, &e[i], &at);
    rk__text_puts(&t, "}");
    while (t.n % 8 && !t.failed)
        rk__text_puts(&t, " ");
    if (st == RK_OK && t.failed)
        st = rk_fail(ctx, RK_ENOMEM, "safetensors: out of memory");
    if (st == RK_OK) {
        for (int i = 0; i < 8; i++)
            t.p[i] = (char)((t.n - 8) >> (8 * i));
        st = sink(user, t.p, t.n);
    }
    rk__text_free(&t);
    for (int i = 0; i < n && st == RK_OK; i++) {
        size_t bytes;
        st = entry_bytes(ctx, &e[i], &bytes);
        if (st == RK_OK && bytes)
            st = sink(user, e[i].data, bytes);
    }
    return st;
}
