/* The CUDA device's copies by strides and conversions: what the CPU's give, byte for byte. */
#include "host_run.h"

#include "conformance/devices.h"

static uint64_t state;

static int64_t draw(int64_t lo, int64_t hi)
{
    return lo + (int64_t)(ref_next(&state) % (uint64_t)(hi - lo + 1));
}

typedef struct both {
    const rk_device *device[2];
    rk_dev *dev[2];
} both;

static both open_both(void)
{
    both b = { { &rk_device_cpu, cuda_device() }, { cpu_open(NULL, 1), NULL } };
    b.dev[1] = cuda_open(b.device[1]);
    return b;
}

static void close_both(both *b)
{
    for (int i = 0; i < 2; i++)
        b->device[i]->close(b->dev[i]);
}

/* Runs op on each with src and dst in the device's memory; true if dst has the same bytes then. */
typedef rk_status op_fn(const rk_device *d, rk_dev *dev, const void *src, void *dst, const void *arg);

static bool same_bytes(both *b, op_fn *op, const void *arg, const void *src, size_t src_bytes,
                       size_t dst_bytes)
{
    unsigned char *got[2];
    bool ok = true;
    for (int i = 0; i < 2; i++) {
        const rk_device *d = b->device[i];
        void *from = NULL, *to = NULL;
        got[i] = malloc(dst_bytes + 1);
        memset(got[i], 0x5c, dst_bytes + 1);
        ok &= d->alloc(b->dev[i], src_bytes, &from) == RK_OK && d->alloc(b->dev[i], dst_bytes, &to) == RK_OK;
        ok &= d->copy_in(b->dev[i], from, src, src_bytes) == RK_OK;
        ok &= d->copy_in(b->dev[i], to, got[i], dst_bytes) == RK_OK;
        ok &= op(d, b->dev[i], from, to, arg) == RK_OK;
        ok &= d->copy_out(b->dev[i], got[i], to, dst_bytes) == RK_OK;
        d->release(b->dev[i], from, src_bytes);
        d->release(b->dev[i], to, dst_bytes);
    }
    ok &= memcmp(got[0], got[1], dst_bytes + 1) == 0;
    free(got[0]);
    free(got[1]);
    return ok;
}

/* ---- copies ---- */

typedef struct strided {
    size_t elem;
    int ndim;
    int64_t dim[RK_MAX_DIMS], src[RK_MAX_DIMS], dst[RK_MAX_DIMS];
    int64_t src_size, dst_size; /* elements */
} strided;

static rk_status copy(const rk_device *d, rk_dev *dev, const void *src, void *dst, const void *arg)
{
    const strided *s = arg;
    return d->copy_strided(dev, s->elem, s->ndim, s->dim, s->src, src, s->dst, dst);
}

/* Strides of the axes in a random order, some with gaps; returns the elements. */
static int64_t draw_strides(const int64_t *dim, int ndim, bool in_order, int64_t *stride)
{
    int order[RK_MAX_DIMS];
    int64_t size = 1;
    for (int i = 0; i < ndim; i++)
        order[i] = i;
    for (int i = ndim - 1; i > 0 && !in_order; i--) {
        int j = (int)draw(0, i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int i = ndim - 1; i >= 0; i--) {
        stride[order[i]] = size;
        size *= dim[order[i]] + (draw(0, 5) == 0);
    }
    return size + 1;
}

TEST(copies_by_strides)
{
    both b = open_both();
    static unsigned char bytes[1 << 20];
    state = 1;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)draw(0, 255);
    for (int i = 0; i < 150; i++) {
        strided s = { .elem = (size_t)1 << draw(0, 3), .ndim = (int)draw(0, i % 9 ? 4 : 6) };
        for (int d = 0; d < s.ndim; d++)
            s.dim[d] = draw(i % 10 == 0 ? 0 : 1, s.ndim > 2 ? 7 : 70);
        s.src_size = draw_strides(s.dim, s.ndim, draw(0, 1), s.src);
        s.dst_size = draw_strides(s.dim, s.ndim, draw(0, 2) > 0, s.dst);
        if (draw(0, 7) == 0 && s.ndim)
            s.src[draw(0, s.ndim - 1)] = 0; /* one element for all */
        CHECK((size_t)s.src_size * s.elem <= sizeof bytes);
        CHECK(same_bytes(&b, copy, &s, bytes, (size_t)s.src_size * s.elem, (size_t)s.dst_size * s.elem));
    }
    close_both(&b);
}

/* ---- conversions ---- */

typedef struct conversion {
    int64_t n;
    rk_dtype from, to;
} conversion;

static rk_status cast(const rk_device *d, rk_dev *dev, const void *src, void *dst, const void *arg)
{
    const conversion *c = arg;
    return d->cast(dev, c->n, c->from, src, c->to, dst);
}

enum { N = 70000 };

/* Random bits hit every class of numbers but NaN, whose bits are not promised; moderate numbers hit ties. */
static void fill_source(rk_dtype t, bool moderate, unsigned char *bytes)
{
    for (int64_t i = 0; i < N; i++) {
        uint64_t u = ref_next(&state);
        if (t == RK_F64) {
            double v = ldexp((double)(int64_t)(u >> 40) - 0x1p23, (int)(u % 90) - 60);
            memcpy(bytes + i * 8, moderate ? &v : (double *)(void *)&u, 8);
            memcpy(&v, bytes + i * 8, 8);
            if (v != v)
                memset(bytes + i * 8, 0, 8);
        } else if (t == RK_F32) {
            float v = ldexpf((float)(u >> 48) - 0x1p15f, (int)(u % 60) - 40);
            uint32_t half = (uint32_t)u;
            memcpy(bytes + i * 4, moderate ? &v : (float *)(void *)&half, 4);
            memcpy(&v, bytes + i * 4, 4);
            if (v != v)
                memset(bytes + i * 4, 0, 4);
        } else if (t == RK_BF16 || t == RK_F16) {
            uint16_t v = (uint16_t)i, exponent = t == RK_F16 ? 0x7c00 : 0x7f80;
            v = (v & exponent) == exponent ? v & (uint16_t)(exponent | 0x8000) : v; /* inf, no NaN */
            memcpy(bytes + i * 2, &v, 2);
        } else if (t == RK_I64) {
            int64_t v = moderate ? (int64_t)(u >> 30) - (1 << 30) : (int64_t)u;
            memcpy(bytes + i * 8, &v, 8);
        } else {
            memcpy(bytes + i * (t == RK_I32 ? 4 : 1), &u, t == RK_I32 ? 4 : 1);
        }
    }
}

TEST(conversions)
{
    both b = open_both();
    static unsigned char bytes[N * 8 + 8];
    state = 2;
    for (int from = 0; from < RK_DTYPES; from++)
        for (int to = 0; to < RK_DTYPES; to++)
            for (int moderate = 0; moderate < 2; moderate++) {
                conversion c = { N, (rk_dtype)from, (rk_dtype)to };
                fill_source(c.from, moderate, bytes);
                if (!same_bytes(&b, cast, &c, bytes, N * rk_dtype_size(c.from), N * rk_dtype_size(c.to)))
                    TEST_FAIL("from type %d to %d, %s", from, to, moderate ? "moderate" : "any bits");
            }
    close_both(&b);
}

TEST_MAIN
