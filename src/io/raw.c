#include "io/raw.h"

#include <math.h>
#include <string.h>

size_t rk__raw_size(rk__raw t)
{
    static const uint8_t sizes[] = {
        [RK__RAW_U8] = 1,  [RK__RAW_I8] = 1,  [RK__RAW_I16] = 2, [RK__RAW_U16] = 2, [RK__RAW_I32] = 4,
        [RK__RAW_U32] = 4, [RK__RAW_I64] = 8, [RK__RAW_U64] = 8, [RK__RAW_F32] = 4, [RK__RAW_F64] = 8
    };
    return sizes[t.kind];
}

bool rk__raw_is_float(rk__raw t)
{
    return t.kind == RK__RAW_F32 || t.kind == RK__RAW_F64;
}

/* The bits of one element, in this machine's order. */
static uint64_t load(rk__raw t, const uint8_t *p)
{
    uint16_t h;
    uint32_t w;
    uint64_t d;
    switch (rk__raw_size(t)) {
    case 1:
        return *p;
    case 2:
        memcpy(&h, p, 2);
        return t.swap ? __builtin_bswap16(h) : h;
    case 4:
        memcpy(&w, p, 4);
        return t.swap ? __builtin_bswap32(w) : w;
    default:
        memcpy(&d, p, 8);
        return t.swap ? __builtin_bswap64(d) : d;
    }
}

static double as_double(rk__raw t, uint64_t bits)
{
    float f;
    double d;
    uint32_t w = (uint32_t)bits;
    switch (t.kind) {
    case RK__RAW_I8:
        return (int8_t)bits;
    case RK__RAW_I16:
        return (int16_t)bits;
    case RK__RAW_I32:
        return (int32_t)bits;
    case RK__RAW_I64:
        return (double)(int64_t)bits;
    case RK__RAW_F32:
        memcpy(&f, &w, 4);
        return f;
    case RK__RAW_F64:
        memcpy(&d, &bits, 8);
        return d;
    default:
        return (double)bits;
    }
}

static int64_t first_not_finite(const float *p, int64_t n)
{
    int64_t bad = 0;
    for (int64_t i = 0; i < n; i++) /* one pass without branches; the place is only sought if there is one */
        bad += !(fabsf(p[i]) <= 3.402823466e38f);
    for (int64_t i = 0; bad && i < n; i++)
        if (!isfinite(p[i]))
            return i;
    return -1;
}

int64_t rk__raw_to_f32(rk__raw t, const void *p, int64_t n, float *out)
{
    const uint8_t *b = p;
    size_t size = rk__raw_size(t);
    if (t.kind == RK__RAW_F32 && !t.swap) {
        if (n)
            memcpy(out, p, (size_t)n * 4);
    } else if (t.kind == RK__RAW_U8) {
        for (int64_t i = 0; i < n; i++)
            out[i] = b[i];
    } else {
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)as_double(t, load(t, b + (size_t)i * size));
    }
    return rk__raw_is_float(t) ? first_not_finite(out, n) : -1;
}

int64_t rk__raw_to_i64(rk__raw t, const void *p, int64_t n, int64_t *out)
{
    const uint8_t *b = p;
    size_t size = rk__raw_size(t);
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = load(t, b + (size_t)i * size);
        if (rk__raw_is_float(t)) {
            double v = as_double(t, bits);
            if (!(v == floor(v) && fabs(v) < 0x1p53))
                return i;
            out[i] = (int64_t)v;
        } else if (t.kind == RK__RAW_U64 || t.kind == RK__RAW_I64) {
            if (t.kind == RK__RAW_U64 && bits > INT64_MAX)
                return i;
            out[i] = (int64_t)bits;
        } else {
            out[i] = (int64_t)as_double(t, bits);
        }
    }
    return -1;
}
