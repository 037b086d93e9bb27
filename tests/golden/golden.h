/* Reference values made by other programs (make_*.py here): named arrays in one small file. The format stands
 * in golden.py.
 *
 *     golden *g = golden_open(RK_SOURCE_DIR "/tests/golden/ops.golden");
 *     const golden_array *a = golden_find(g, "softmax/y");           NULL: not there
 *     golden_value(a, i)                                             element i as a double
 *     golden_close(g);
 *
 * The files are our own, but a truncated one is refused all the same. */
#ifndef RK_TEST_GOLDEN_H
#define RK_TEST_GOLDEN_H

#include <rankine/tensor.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct golden_array {
    char name[96];
    rk_dtype dtype; /* RK_F32, RK_F64 or RK_I64 */
    rk_shape shape;
    int64_t n;        /* elements */
    const void *data; /* not aligned: read with golden_value() or memcpy */
} golden_array;

typedef struct golden {
    unsigned char *bytes;
    golden_array *at;
    int n;
} golden;

static inline bool golden_take(const golden *g, size_t size, size_t *pos, void *to, size_t n)
{
    if (n > size - *pos)
        return false;
    memcpy(to, g->bytes + *pos, n);
    *pos += n;
    return true;
}

static inline bool golden_entry(const golden *g, size_t size, size_t *pos, golden_array *a)
{
    static const rk_dtype types[] = { RK_F32, RK_F64, RK_I64 };
    uint16_t len;
    unsigned char head[2];
    if (!golden_take(g, size, pos, &len, 2) || len >= sizeof a->name ||
        !golden_take(g, size, pos, a->name, len) || !golden_take(g, size, pos, head, 2) || head[0] > 2 ||
        head[1] > RK_MAX_DIMS)
        return false;
    a->name[len] = 0;
    a->dtype = types[head[0]];
    a->shape = (rk_shape){ .ndim = head[1] };
    a->n = 1;
    for (int i = 0; i < head[1]; i++) {
        uint32_t d;
        if (!golden_take(g, size, pos, &d, 4))
            return false;
        a->shape.dim[i] = d;
        a->n *= d;
    }
    size_t bytes = (size_t)a->n * rk_dtype_size(a->dtype);
    if (bytes > size - *pos)
        return false;
    a->data = g->bytes + *pos;
    *pos += bytes;
    return true;
}

static inline void golden_close(golden *g)
{
    if (g) {
        free(g->bytes);
        free(g->at);
        free(g);
    }
}

static inline bool golden_parse(golden *g, size_t size)
{
    size_t pos = 0;
    char magic[8];
    uint32_t n;
    if (!golden_take(g, size, &pos, magic, 8) || memcmp(magic, "RKGOLD1\n", 8) ||
        !golden_take(g, size, &pos, &n, 4) || n > size)
        return false;
    g->at = calloc(n ? n : 1, sizeof *g->at);
    for (g->n = 0; g->at && g->n < (int)n; g->n++)
        if (!golden_entry(g, size, &pos, &g->at[g->n]))
            return false;
    return g->at && pos == size;
}

/* NULL, after a line on stderr, if there is no whole file. */
static inline golden *golden_open(const char *path)
{
    FILE *f = fopen(path, "rb");
    golden *g = calloc(1, sizeof *g);
    long size = -1;
    if (f && g && fseek(f, 0, SEEK_END) == 0 && (size = ftell(f)) >= 0 && fseek(f, 0, SEEK_SET) == 0)
        g->bytes = malloc((size_t)size + 1);
    bool whole =
        g && g->bytes && fread(g->bytes, 1, (size_t)size, f) == (size_t)size && golden_parse(g, (size_t)size);
    if (f)
        fclose(f);
    if (whole)
        return g;
    fprintf(stderr, "%s: not a whole golden file\n", path);
    golden_close(g);
    return NULL;
}

static inline const golden_array *golden_find(const golden *g, const char *name)
{
    for (int i = 0; g && i < g->n; i++)
        if (!strcmp(g->at[i].name, name))
            return &g->at[i];
    return NULL;
}

static inline double golden_value(const golden_array *a, int64_t i)
{
    const char *p = (const char *)a->data + (size_t)i * rk_dtype_size(a->dtype);
    float f;
    double d;
    int64_t l;
    switch (a->dtype) {
    case RK_F32:
        memcpy(&f, p, sizeof f);
        return f;
    case RK_F64:
        memcpy(&d, p, sizeof d);
        return d;
    default:
        memcpy(&l, p, sizeof l);
        return (double)l;
    }
}

/* The array as a step tensor of type t (an i64 array stays i64). */
static inline rk_tensor *golden_tensor(rk_ctx *ctx, const golden_array *a, rk_dtype t)
{
    void *copy = malloc((size_t)a->n * rk_dtype_size(a->dtype) + 1);
    memcpy(copy, a->data, (size_t)a->n * rk_dtype_size(a->dtype));
    rk_tensor *x = rk_from_host(ctx, a->dtype, a->shape, copy);
    free(copy);
    return a->dtype == RK_I64 ? x : rk_cast(x, t);
}

#endif
