/* The header of an IDX file (the format of MNIST): 0 0 type rank, then the sizes as u32, big-endian. */
#ifndef RK_IO_IDX_H
#define RK_IO_IDX_H

#include "io/ds_array.h"

enum { RK__IDX_HEADER_MAX = 4 + 4 * 255 };

/* Reads type and sizes from the first n bytes of a file into a (whose name is set); *header is the offset of
 * the data. RK_EDATA: wrong magic, unknown type, rank 0 or above RK_MAX_DIMS, cut off, sizes beyond 2^63. */
rk_status rk__idx_header(rk_ctx *ctx, const uint8_t *p, size_t n, rk__array *a, int64_t *header);

/* Opens an IDX file, plain or gzip-compressed. */
rk_status rk__idx_open(rk_ctx *ctx, const char *path, rk__array *a);

#endif
