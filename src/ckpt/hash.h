/* SHA-256 over logical tensors: the same for every layout of ranks, files and pieces. */
#ifndef RK_CKPT_HASH_H
#define RK_CKPT_HASH_H

#include <rankine/tensor.h>

typedef struct rk__sha256 rk__sha256;

rk__sha256 *rk__sha256_begin(void); /* NULL: out of memory */
void rk__sha256_add(rk__sha256 *h, const void *p, size_t n);
/* name, NUL, dtype name, NUL, ndim and dims as i64le; the bytes follow. */
void rk__sha256_add_header(rk__sha256 *h, const char *name, rk_dtype t, const rk_shape *shape);
bool rk__sha256_end(rk__sha256 *h, char *hex); /* hex: 65 bytes; frees h; false if libcrypto failed */
bool rk__sha256_text(const char *text, char *hex);

/* Lower-case hex of n bytes and a NUL: 2 * n + 1 bytes. */
void rk__hex(const unsigned char *p, size_t n, char *hex);

#endif
