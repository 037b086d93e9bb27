/* A data set of two arrays whose first axis is the sample: what IDX and HDF5 files are once opened. */
#ifndef RK_IO_DS_ARRAY_H
#define RK_IO_DS_ARRAY_H

#include "io/ds.h"
#include "io/raw.h"
#include "io/store.h"

typedef struct rk__array {
    char *name; /* for messages: the file, or file:data set */
    rk__raw type;
    rk_shape shape; /* all axes, samples first */
    rk__store store;
} rk__array;

/* Elements of shape and bytes of the array; checked products. RK_EDATA ("too large"). */
rk_status rk__array_bytes(rk_ctx *ctx, const rk__array *a, int64_t *bytes);
void rk__array_free(rk__array *a);

/* Makes the data set of x and y (y NULL: none). Takes both over, also on failure. */
rk_status rk__ds_of_arrays(rk_ctx *ctx, const rk__ds_ops *ops, rk__task task, rk__array *x, rk__array *y,
                           rk__ds **out);

/* The common entries of the table. */
const rk__ds_info *rk__ds_array_info(const rk__ds *ds);
rk_status rk__ds_array_read(const rk__ds *ds, rk_ctx *err, const int64_t *sample, int64_t n, void *x,
                            void *y);
void rk__ds_array_close(rk__ds *ds);

#endif
