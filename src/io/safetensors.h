/* safetensors: u64 length, a JSON header of that length, then the tensors end to end, little-endian,
 * row-major. The reader takes nothing on trust: names once, types known, sizes exact, no gap and no overlap,
 * nothing after. */
#ifndef RK_IO_SAFETENSORS_H
#define RK_IO_SAFETENSORS_H

#include <rankine/tensor.h>

#include "io/doc.h"

enum { RK__ST_HEADER_MAX = 100000000 };

typedef struct rk__st_tensor {
    char *name;
    const char *dtype; /* "F32", .. as in the file */
    rk_shape shape;
    int64_t begin, bytes; /* in the data */
} rk__st_tensor;

typedef struct rk__safetensors {
    char *path;
    int fd;
    int64_t data;     /* offset of the data in the file */
    rk__st_tensor *t; /* by place in the file */
    int n;
    rk_doc *header; /* for __metadata__; may be NULL */
} rk__safetensors;

/* The header from the first n bytes of a file of file_size bytes; fd is left alone. RK_EDATA with the reason.
 */
rk_status rk__st_parse(rk_ctx *ctx, const char *path, const uint8_t *p, size_t n, int64_t file_size,
                       rk__safetensors *out);

rk_status rk__st_open(rk_ctx *ctx, const char *path, rk__safetensors *out);
const rk__st_tensor *rk__st_find(const rk__safetensors *st, const char *name); /* NULL: there is none */
const char *rk__st_metadata(const rk__safetensors *st, const char *key);       /* NULL: there is none */
/* The type as ours: false for one that has no counterpart (BOOL, I8, F8 ..). */
bool rk__st_dtype(const rk__st_tensor *t, rk_dtype *out);
/* The tensor's bytes as they are; bytes must be exact. */
rk_status rk__st_read(rk_ctx *ctx, const rk__safetensors *st, const rk__st_tensor *t, void *host,
                      size_t bytes);
void rk__st_close(rk__safetensors *st);

typedef struct rk__st_entry {
    const char *name;
    rk_dtype dtype;
    rk_shape shape;
    const void *data; /* host memory, row-major */
} rk__st_entry;

/* Takes the bytes of a file in order. */
typedef rk_status rk__sink(void *user, const void *p, size_t n);

/* Writes entries (sorted here: widest type first, then by name, so that all are aligned). RK_ECONFIG: a name
 * stands twice; else what the sink says. Where the bytes go, and how they become durable, is the caller's
 * business. */
rk_status rk__st_write(rk_ctx *ctx, rk__st_entry *e, int n, rk__sink *sink, void *user);

#endif
