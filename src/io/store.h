/* Bytes that are written once and then read at random: in memory while they are few, in a file beyond that,
 * so that a data set may be larger than memory. Reading is thread-safe. */
#ifndef RK_IO_STORE_H
#define RK_IO_STORE_H

#include <rankine/base.h>

/* What fits here is kept in memory; larger ones would only crowd out the page cache, which serves them
 * anyway. */
#define RK__STORE_MEMORY ((int64_t)64 << 20)

typedef struct rk__store {
    uint8_t *mem;  /* NULL: in fd */
    uint8_t *base; /* what to free, if not mem */
    int64_t cap;
    int fd; /* -1: none */
    int64_t offset, size;
    const char *name; /* for messages; the caller's, must outlive the store */
    uint8_t *pending; /* being written to fd */
    int64_t n_pending;
} rk__store;

/* Part [offset, offset + size) of a file. Takes over fd, also on failure. */
rk_status rk__store_file(rk_ctx *ctx, rk__store *s, const char *name, int fd, int64_t offset, int64_t size);

/* size bytes at mem, in memory from malloc(base) that is taken over. */
void rk__store_adopt(rk__store *s, const char *name, uint8_t *base, uint8_t *mem, int64_t size);

/* Writing: begin, put.., end. Goes to an unlinked temporary file when it grows beyond RK__STORE_MEMORY. */
void rk__store_begin(rk__store *s, const char *name);
rk_status rk__store_put(rk_ctx *ctx, rk__store *s, const void *p, int64_t n);
rk_status rk__store_end(rk_ctx *ctx, rk__store *s);

/* n bytes at `at`; checked against the size. */
rk_status rk__store_read(rk_ctx *ctx, const rk__store *s, int64_t at, void *p, int64_t n);
void rk__store_close(rk__store *s);

#endif
