/* Copies by strides, and conversions between element types. */
#include "cpu/cpu.h"

#include <math.h>
#include <string.h>

/* ---- strided copies ---- */

typedef struct walk {
    int ndim;
    int64_t dim[RK_MAX_DIMS], src[RK_MAX_DIMS], dst[RK_MAX_DIMS];
} walk;

/* Drops axes of size 1 and joins neighbours that are one stretch on both sides. */
static void simplify(walk *w, int ndim, const int64_t *dim, const int64_t *src, const int64_t *dst)
{
    w->ndim = 0;
    for (int i = 0; i < ndim; i++) {
        if (dim[i] == 1)
            continue;
        int last = w->ndim - 1;
        if (last >= 0 && w->src[last] == src[i] * dim[i] && w->dst[last] == dst[i] * dim[i]) {
            w->dim[last] *= dim[i];
            w->src[last] = src[i];
            w->dst[last] = dst[i];
            continue;
        }
        w->dim[w->ndim] = dim[i];
        w->src[w->ndim] = src[i];
        w->dst[w->ndim++] = dst[i];
    }
    if (w->ndim == 0) {
        w->ndim = 1;
        w->dim[0] = w->src[0] = w->dst[0] = 1;
    }
}

#define COPY_ROW(T)                                                                 \
    static void copy_row_##T(int64_t n, const T *src, int64_t s, T *dst, int64_t d) \
    {                                                                               \
        for (int64_t i = 0; i < n; i++)                                             \
            dst[i * d] = src[i * s];                                                \
    }
COPY_ROW(uint8_t)
COPY_ROW(uint16_t)
COPY_ROW(uint32_t)
COPY_ROW(uint64_t)

static void copy_row(size_t elem, int64_t n, const void *src, int64_t s, void *dst, int64_t d)
{
    if (s == 1 && d == 1)
        memcpy(dst, src, (size_t)n * elem);
    else if (elem == 4)
        copy_row_uint32_t(n, src, s, dst, d);
    else if (elem == 8)
        copy_row_uint64_t(n, src, s, dst, d);
    else if (elem == 2)
        copy_row_uint16_t(n, src, s, dst, d);
    else
        copy_row_uint8_t(n, src, s, dst, d);
}

static void copy_axes(const walk *w, int axis, size_t elem, const char *src, char *dst)
{
    if (axis == w->ndim - 1) {
        copy_row(elem, w->dim[axis], src, w->src[axis], dst, w->dst[axis]);
        return;
    }
    for (int64_t i = 0; i < w->dim[axis]; i++)
        copy_axes(w, axis + 1, elem, src + i * w->src[axis] * (int64_t)elem,
                  dst + i * w->dst[axis] * (int64_t)elem);
}

rk_status rk__copy_strided_cpu(rk_dev *dev, size_t elem, int ndim, const int64_t *dim,
                               const int64_t *src_stride, const void *src, const int64_t *dst_stride,
                               void *dst)
{
    (void)dev;
    for (int i = 0; i < ndim; i++)
        if (dim[i] == 0)
            return RK_OK;
    walk w;
    simplify(&w, ndim, dim, src_stride, dst_stride);
    copy_axes(&w, 0, elem, src, dst);
    return RK_OK;
}

/* ---- element types ---- */

/* IEEE binary16 to and from binary32, round to nearest even; every value is handled, no hardware needed. */
static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff, bits;
    if (exponent == 31)
        bits = sign | 0x7f800000 | fraction << 13;
    else if (exponent)
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    else {
        float f = (float)fraction * 0x1p-24f;
        memcpy(&bits, &f, 4);
        bits |= sign;
    }
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static uint16_t float_to_half(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return sign | 0x7e00;
    if (magnitude >= 0x477ff000) /* rounds to 65536 or more */
        return sign | 0x7c00;
    if (magnitude < 0x38800000) { /* subnormal: an exact addition rounds at 2^-24 */
        float m;
        memcpy(&m, &magnitude, 4);
        m += 0.5f;
        memcpy(&magnitude, &m, 4);
        return (uint16_t)(sign | (magnitude - 0x3f000000));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - 0x38000000) >> 13);
}

static float brain_to_float(uint16_t b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static uint16_t float_to_brain(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* A float as an integer: towards zero, NaN as 0, clamped to the type. */
static int64_t to_integer(double v, int64_t lo, int64_t hi)
{
    if (isnan(v))
        return 0;
    if (v <= (double)lo)
        return lo;
    return v >= (double)hi ? hi : (int64_t)v;
}

typedef double load_fn(const void *p, int64_t i);
typedef void store_fn(void *p, int64_t i, double v);

static double load_f32(const void *p, int64_t i)
{
    return ((const float *)p)[i];
}
static double load_bf16(const void *p, int64_t i)
{
    return brain_to_float(((const uint16_t *)p)[i]);
}
static double load_f16(const void *p, int64_t i)
{
    return half_to_float(((const uint16_t *)p)[i]);
}
static double load_f64(const void *p, int64_t i)
{
    return ((const double *)p)[i];
}
static double load_i32(const void *p, int64_t i)
{
    return ((const int32_t *)p)[i];
}
static double load_i64(const void *p, int64_t i)
{
    return (double)((const int64_t *)p)[i];
}
static double load_u8(const void *p, int64_t i)
{
    return ((const uint8_t *)p)[i];
}
static void store_f32(void *p, int64_t i, double v)
{
    ((float *)p)[i] = (float)v;
}
static void store_bf16(void *p, int64_t i, double v)
{
    ((uint16_t *)p)[i] = float_to_brain((float)v);
}
static void store_f16(void *p, int64_t i, double v)
{
    ((uint16_t *)p)[i] = float_to_half((float)v);
}
static void store_f64(void *p, int64_t i, double v)
{
    ((double *)p)[i] = v;
}
static void store_i32(void *p, int64_t i, double v)
{
    ((int32_t *)p)[i] = (int32_t)to_integer(v, INT32_MIN, INT32_MAX);
}
static void store_i64(void *p, int64_t i, double v)
{
    ((int64_t *)p)[i] = to_integer(v, INT64_MIN, INT64_MAX);
}
static void store_u8(void *p, int64_t i, double v)
{
    ((uint8_t *)p)[i] = (uint8_t)to_integer(v, 0, UINT8_MAX);
}

static const struct {
    load_fn *load;
    store_fn *store;
} types[RK_DTYPES] = {
    [RK_F32] = { load_f32, store_f32 }, [RK_BF16] = { load_bf16, store_bf16 },
    [RK_F16] = { load_f16, store_f16 }, [RK_F64] = { load_f64, store_f64 },
    [RK_I32] = { load_i32, store_i32 }, [RK_I64] = { load_i64, store_i64 },
    [RK_U8] = { load_u8, store_u8 },
};

/* The pairs of the hot path, as loops that the compiler vectorises. */
static bool cast_fast(int64_t n, rk_dtype from, const void *src, rk_dtype to, void *dst)
{
    if (from == RK_F32 && to == RK_BF16)
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)dst)[i] = float_to_brain(((const float *)src)[i]);
    else if (from == RK_BF16 && to == RK_F32)
        for (int64_t i = 0; i < n; i++)
            ((float *)dst)[i] = brain_to_float(((const uint16_t *)src)[i]);
    else if (from == RK_U8 && to == RK_F32)
        for (int64_t i = 0; i < n; i++)
            ((float *)dst)[i] = ((const uint8_t *)src)[i];
    else if (from == RK_I32 && to == RK_I64)
        for (int64_t i = 0; i < n; i++)
            ((int64_t *)dst)[i] = ((const int32_t *)src)[i];
    else
        return false;
    return true;
}

rk_status rk__cast_cpu(rk_dev *dev, int64_t n, rk_dtype from, const void *src, rk_dtype to, void *dst)
{
    (void)dev;
    if (cast_fast(n, from, src, to, dst))
        return RK_OK;
    if (from == RK_I64 && to == RK_I32) { /* not through double, which loses bits above 2^53 */
        for (int64_t i = 0; i < n; i++) {
            int64_t v = ((const int64_t *)src)[i];
            ((int32_t *)dst)[i] = (int32_t)(v < INT32_MIN ? INT32_MIN : v > INT32_MAX ? INT32_MAX : v);
        }
        return RK_OK;
    }
    for (int64_t i = 0; i < n; i++)
        types[to].store(dst, i, types[from].load(src, i));
    return RK_OK;
}
