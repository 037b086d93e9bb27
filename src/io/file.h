/* Files, as the parsers see them: opened or read whole, with their size known before anything is believed. */
#ifndef RK_IO_FILE_H
#define RK_IO_FILE_H

#include <rankine/base.h>

/* Reads a regular file whole. *p is malloc'ed, with a NUL after its n bytes.
 * RK_ENOINPUT: missing, unreadable or no regular file; `bad`: larger than max_bytes. */
rk_status rk__file_read(rk_ctx *ctx, const char *path, size_t max_bytes, rk_status bad, uint8_t **p,
                        size_t *n);

/* Opens a regular file for reading; *size in bytes. RK_ENOINPUT otherwise, with the reason. */
rk_status rk__file_open(rk_ctx *ctx, const char *path, int *fd, int64_t *size);
bool rk__file_exists(const char *path);

/* An unlinked temporary file in $TMPDIR, or /tmp. -1: could not be made (recorded as RK_EIO). */
int rk__temp_file(rk_ctx *ctx);

/* write() until all is written. RK_EIO names `what`. */
rk_status rk__write_all(rk_ctx *ctx, int fd, const void *p, size_t n, const char *what);

/* A gzip file inflated as a stream, member after member. */
typedef struct rk__gz rk__gz;
rk_status rk__gz_open(rk_ctx *ctx, const char *path, rk__gz **out);
/* Up to n bytes; *got < n only at the end. Bad or truncated data: RK_EDATA with the offset in the file. */
rk_status rk__gz_read(rk__gz *z, void *p, size_t n, size_t *got);
int64_t rk__gz_file_size(const rk__gz *z);
void rk__gz_close(rk__gz *z);

/* A gzip file that is in memory, at once: about twice as fast as the stream. True only if in[0, n) is nothing
 * but members whose checksums are right and that hold exactly size bytes together; on false the contents of
 * out are undefined, and the stream finds the words for what is wrong. */
bool rk__gz_whole(const uint8_t *in, size_t n, uint8_t *out, size_t size);

#endif
