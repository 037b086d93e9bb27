#include "io/ds_array.h"

#include <stdlib.h>
#include <string.h>

#include "core/ctx.h"

#define MAX_CLASSES ((int64_t)1 << 20)

enum { BLOCK = 4096 }; /* labels looked at in one go */

typedef struct ds_array {
    rk__ds ds;
    rk__ds_info info;
    rk__array x, y;
    bool has_y;
    int64_t x_elems, y_elems; /* of one sample */
} ds_array;

rk_status rk__array_bytes(rk_ctx *ctx, const rk__array *a, int64_t *bytes)
{
    int64_t n = (int64_t)rk__raw_size(a->type);
    bool empty = false;
    for (int i = 0; i < a->shape.ndim; i++) {
        int64_t dim = a->shape.dim[i];
        empty = empty || dim == 0;
        if (dim < 0 || __builtin_mul_overflow(n, dim ? dim : 1,
                                              &n)) /* no axis of 0 may hide that others are too large */
            return rk_fail(ctx, RK_EDATA, "%s: the sizes in its header are too large", a->name);
    }
    *bytes = empty ? 0 : n;
    return RK_OK;
}

void rk__array_free(rk__array *a)
{
    rk__store_close(&a->store);
    free(a->name);
    *a = (rk__array){ .store.fd = -1 };
}

/* Class numbers are checked once, so that nobody has to later. */
static rk_status count_classes(rk_ctx *ctx, ds_array *d)
{
    const rk__array *y = &d->y;
    int64_t size = (int64_t)rk__raw_size(y->type), n = y->shape.dim[0], label[BLOCK], most = -1;
    uint8_t raw[BLOCK * 8];
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t k = n - at < BLOCK ? n - at : BLOCK;
        RK_TRY(rk__store_read(ctx, &y->store, at * size, raw, k * size));
        int64_t bad = rk__raw_to_i64(y->type, raw, k, label);
        for (int64_t i = 0; i < k && bad < 0; i++) {
            if (label[i] < 0 || label[i] >= MAX_CLASSES)
                bad = i;
            most = label[i] > most ? label[i] : most;
        }
        if (bad >= 0)
            return rk_fail(ctx, RK_EDATA, "%s: label of sample %lld: not a whole number from 0 to %lld",
                           y->name, (long long)(at + bad), (long long)MAX_CLASSES - 1);
    }
    d->info.classes = most + 1;
    return RK_OK;
}

static rk_status check_targets(rk_ctx *ctx, ds_array *d, rk__task task)
{
    const rk__array *y = &d->y;
    d->y_elems = 1;
    for (int i = 1; i < y->shape.ndim; i++)
        d->y_elems *= y->shape.dim[i];
    if (y->shape.ndim < 1 || y->shape.dim[0] != d->x.shape.dim[0])
        return rk_fail(ctx, RK_EDATA, "%s: %lld samples, but %s has %lld", y->name,
                       (long long)(y->shape.ndim ? y->shape.dim[0] : 0), d->x.name,
                       (long long)d->x.shape.dim[0]);
    if (task == RK__REGRESSION) {
        if (d->y_elems < 1)
            return rk_fail(ctx, RK_EDATA, "%s: targets of no width", y->name);
        d->info.targets = d->y_elems;
        return RK_OK;
    }
    if (d->y_elems != 1)
        return rk_fail(ctx, RK_EDATA,
                       "%s: classification needs one class number a sample, it has %lld values "
                       "(data.task: regression takes several)",
                       y->name, (long long)d->y_elems);
    return count_classes(ctx, d);
}

/* (h, w) is an image of one channel; (c, h, w) one of c; anything else has a group an element or a first
 * axis. */
static void lay_out(ds_array *d)
{
    rk_shape *s = &d->info.shape;
    const rk_shape *all = &d->x.shape;
    int ndim = all->ndim - 1;
    s->ndim = ndim;
    memcpy(s->dim, all->dim + 1, sizeof(int64_t) * (size_t)ndim);
    if (ndim == 0)
        *s = RK_SHAPE(1);
    if (ndim == 2)
        *s = RK_SHAPE(1, all->dim[1], all->dim[2]);
    d->x_elems = 1;
    for (int i = 0; i < s->ndim; i++)
        d->x_elems *= s->dim[i];
    d->info.groups = s->dim[0];
    d->info.inner = s->dim[0] ? d->x_elems / s->dim[0] : 0;
}

rk_status rk__ds_of_arrays(rk_ctx *ctx, const rk__ds_ops *ops, rk__task task, rk__array *x, rk__array *y,
                           rk__ds **out)
{
    rk_status st = RK_OK;
    ds_array *d = calloc(1, sizeof *d);
    *out = NULL;
    if (!d) {
        rk__array_free(x);
        if (y)
            rk__array_free(y);
        return rk_fail(ctx, RK_ENOMEM, "data set: out of memory");
    }
    d->ds.ops = ops;
    d->x = *x;
    d->y = y ? *y : (rk__array){ .store.fd = -1 };
    d->has_y = y != NULL;
    lay_out(d);
    if (d->x_elems == 0 || x->shape.dim[0] == 0)
        st = rk_fail(ctx, RK_EDATA, "%s: holds no samples", d->x.name);
    d->info.samples = d->x.shape.dim[0];
    d->info.bytes = d->x.type.kind == RK__RAW_U8;
    d->info.direct = d->info.bytes ? d->x.store.mem : NULL;
    if (st == RK_OK && y)
        st = check_targets(ctx, d, task);
    if (st != RK_OK) {
        rk__ds_array_close(&d->ds);
        return st;
    }
    *out = &d->ds;
    return RK_OK;
}

const rk__ds_info *rk__ds_array_info(const rk__ds *ds)
{
    return &((const ds_array *)ds)->info;
}

/* One row of an array as f32, through a buffer on the stack in pieces. */
static rk_status read_row(rk_ctx *err, const rk__array *a, int64_t sample, int64_t elems, float *out)
{
    uint8_t raw[8192];
    int64_t size = (int64_t)rk__raw_size(a->type), step = (int64_t)sizeof raw / size;
    for (int64_t at = 0; at < elems; at += step) {
        int64_t k = elems - at < step ? elems - at : step;
        RK_TRY(rk__store_read(err, &a->store, (sample * elems + at) * size, raw, k * size));
        int64_t bad = rk__raw_to_f32(a->type, raw, k, out + at);
        if (bad >= 0)
            return rk_fail(err, RK_EDATA, "%s: sample %lld, element %lld: not a finite number", a->name,
                           (long long)sample, (long long)(at + bad));
    }
    return RK_OK;
}

static rk_status read_label(rk_ctx *err, const rk__array *a, int64_t sample, int64_t *out)
{
    uint8_t raw[8];
    int64_t size = (int64_t)rk__raw_size(a->type);
    RK_TRY(rk__store_read(err, &a->store, sample * size, raw, size));
    rk__raw_to_i64(a->type, raw, 1, out);
    return RK_OK;
}

rk_status rk__ds_array_read(const rk__ds *ds, rk_ctx *err, const int64_t *sample, int64_t n, void *x, void *y)
{
    const ds_array *d = (const ds_array *)ds;
    for (int64_t i = 0; x && i < n; i++) {
        if (d->info.bytes)
            RK_TRY(rk__store_read(err, &d->x.store, sample[i] * d->x_elems, (uint8_t *)x + i * d->x_elems,
                                  d->x_elems));
        else
            RK_TRY(read_row(err, &d->x, sample[i], d->x_elems, (float *)x + i * d->x_elems));
    }
    for (int64_t i = 0; y && d->has_y && i < n; i++) {
        if (d->info.classes)
            RK_TRY(read_label(err, &d->y, sample[i], (int64_t *)y + i));
        else
            RK_TRY(read_row(err, &d->y, sample[i], d->y_elems, (float *)y + i * d->y_elems));
    }
    return RK_OK;
}

void rk__ds_array_close(rk__ds *ds)
{
    ds_array *d = (ds_array *)ds;
    rk__array_free(&d->x);
    rk__array_free(&d->y);
    free(d);
}
