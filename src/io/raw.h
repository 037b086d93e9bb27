/* Element types of files, and their conversion. */
#ifndef RK_IO_RAW_H
#define RK_IO_RAW_H

#include <rankine/base.h>

typedef enum rk__raw_kind {
    RK__RAW_U8,
    RK__RAW_I8,
    RK__RAW_I16,
    RK__RAW_U16,
    RK__RAW_I32,
    RK__RAW_U32,
    RK__RAW_I64,
    RK__RAW_U64,
    RK__RAW_F32,
    RK__RAW_F64
} rk__raw_kind;

typedef struct rk__raw {
    rk__raw_kind kind;
    bool swap; /* the other byte order than this machine's */
} rk__raw;

size_t rk__raw_size(rk__raw t);
bool rk__raw_is_float(rk__raw t);

/* Convert n elements at p (any alignment). Returns the index of the first that is not finite (as a float) /
 * no whole number that fits, or -1. */
int64_t rk__raw_to_f32(rk__raw t, const void *p, int64_t n, float *out);
int64_t rk__raw_to_i64(rk__raw t, const void *p, int64_t n, int64_t *out);

#endif
