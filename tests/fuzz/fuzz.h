/* What fuzz targets share. A target is a file fuzz_NAME.c with LLVMFuzzerTestOneInput; its seeds lie in
 * seeds/NAME. */
#ifndef RK_FUZZ_H
#define RK_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/ctx.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#define FUZZ_CHECK(cond)                                                              \
    do {                                                                              \
        if (!(cond)) {                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

/* The input as a file; path (32 bytes) is its name until close(the returned descriptor). */
static inline int fuzz_file(const uint8_t *p, size_t n, char *path)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0 && write(fd, p, n) == (ssize_t)n);
    snprintf(path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

/* A refusal must name its reason; anything but the named kinds of failure is a bug. */
static inline void fuzz_refused(const rk_ctx *ctx, rk_status st)
{
    FUZZ_CHECK(st == ctx->status && ctx->message[0]);
    FUZZ_CHECK(st == RK_EDATA || st == RK_ECONFIG || st == RK_ENOINPUT || st == RK_ENOMEM);
}

#endif
