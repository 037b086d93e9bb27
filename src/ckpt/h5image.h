/* HDF5 files as images in memory, and plain data sets in them.
 *
 * A save lets HDF5 lay a file out in memory once, with room for every tensor; the copy that training waits
 * for goes straight to that room, so the staging copy IS the file, and writing it is one sequential pass that
 * hashes as it goes. Nothing here touches the context: any thread may call it (Debian's HDF5 is thread-safe).
 */
#ifndef RK_CKPT_H5IMAGE_H
#define RK_CKPT_H5IMAGE_H

#include <rankine/tensor.h>

#include "ckpt/io_ops.h"

/* Growable zeroed memory whose untouched pages cost nothing. */
typedef struct rk__image {
    unsigned char *p;
    size_t bytes; /* of the file */
    size_t cap;
} rk__image;

void rk__image_free(rk__image *img);

/* One data set of one file. */
typedef struct rk__slab {
    const char *name; /* path of the data set; parts between slashes become groups */
    rk_dtype dtype;
    rk_shape shape;
    size_t bytes;
    size_t offset; /* of its first byte in the image; set by rk__h5_layout */
} rk__slab;

/* Builds a file with an uncompressed data set for each slab; the values are zero until they are copied to
 * img->p + offset. Deterministic: the same slabs give the same bytes. */
rk_status rk__h5_layout(rk__image *img, rk__slab *slabs, int n, rk__fault *f);
/* The same data sets with byte shuffle and zstd, from the plain image that rk__h5_layout made. */
rk_status rk__h5_compress(const rk__image *plain, const rk__slab *slabs, int n, rk__image *out, rk__fault *f);

/* An HDF5 file open for reading through a descriptor (which stays the caller's). Verify its hash before. */
typedef struct rk__h5_file rk__h5_file;
rk_status rk__h5_open(int fd, uint64_t size, const char *name, rk__h5_file **out, rk__fault *f);
void rk__h5_close(rk__h5_file *h);
/* RK_EDATA unless there is a data set of exactly this type and shape. */
rk_status rk__h5_check(rk__h5_file *h, const char *data_set, rk_dtype t, const rk_shape *shape, rk__fault *f);
/* Reads the box of shape `extent` at `from` of a data set of shape `set` to the box at `to` of the row-major
 * array `host` of shape `whole`. */
rk_status rk__h5_read(rk__h5_file *h, const char *data_set, rk_dtype t, const rk_shape *set,
                      const int64_t *from, const rk_shape *extent, const int64_t *to, const rk_shape *whole,
                      void *host, rk__fault *f);

#endif
