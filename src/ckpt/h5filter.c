#include "ckpt/h5filter.h"

#include <stdlib.h>
#include <zstd.h>

/* No chunk of ours is larger than 1 MiB; a frame that claims more than this is not ours. */
static const unsigned long long MAX_FRAME = 64ull << 20;

static void *decompress(const void *src, size_t n, size_t *out)
{
    unsigned long long size = ZSTD_getFrameContentSize(src, n);
    if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN || size > MAX_FRAME)
        return NULL;
    void *p = malloc(size ? size : 1);
    if (!p)
        return NULL;
    *out = ZSTD_decompress(p, size, src, n);
    if (ZSTD_isError(*out) || *out != size) {
        free(p);
        return NULL;
    }
    return p;
}

static void *compress(const void *src, size_t n, int level, size_t *out)
{
    size_t cap = ZSTD_compressBound(n);
    void *p = malloc(cap);
    ZSTD_CCtx *z = p ? ZSTD_createCCtx() : NULL;
    if (z) {
        ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, level);
        ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
        *out = ZSTD_compress2(z, p, cap, src, n);
        ZSTD_freeCCtx(z);
        if (!ZSTD_isError(*out))
            return p;
    }
    free(p);
    return NULL;
}

/* HDF5 owns *buf through malloc and free; 0 is a failure. */
static size_t filter(unsigned flags, size_t n_params, const unsigned params[], size_t bytes, size_t *size,
                     void **buf)
{
    size_t n = 0;
    void *p = flags & H5Z_FLAG_REVERSE ? decompress(*buf, bytes, &n)
                                       : compress(*buf, bytes, n_params ? (int)params[0] : 1, &n);
    if (!p)
        return 0;
    free(*buf);
    *buf = p;
    *size = n;
    return n;
}

const H5Z_class2_t rk__h5_zstd = {
    .version = H5Z_CLASS_T_VERS,
    .id = RK__H5_ZSTD,
    .encoder_present = 1,
    .decoder_present = 1,
    .name = "zstd",
    .filter = filter,
};
