/* Data sets and the loader that turns them into batches. */
#ifndef RANKINE_IO_H
#define RANKINE_IO_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a loader reads and how. Zero-initialise for defaults. Strings are copied. */
typedef struct rk_data_cfg {
    const char *path;         /* a file, or the common prefix of an IDX pair: "DIR/train" finds
                                 DIR/train-images-idx3-ubyte[.gz]         and DIR/train-labels-idx1-ubyte[.gz] */
    const char *format;       /* "idx", "csv", "hdf5", or NULL: by name and magic number */
    const char *labels;       /* IDX: label file if not found by name */
    const char *label_column; /* CSV: name or 1-based number of the target; NULL: the last */
    const char *task; /* "classification", "regression", "reconstruction" (y = x); NULL: classification */
    const char *x_name, *y_name; /* HDF5 data sets; NULL: "x", "y" */
    const char *categorical; /* CSV: comma-separated columns to one-hot besides those that are not numeric */
    bool no_header;          /* CSV without a header line */
    char delimiter;          /* CSV; 0: , */
    int64_t batch;           /* samples of a global batch */
    bool shuffle;            /* keyed permutation per epoch */
    bool drop_last;          /* skip the short last batch of an epoch */
    uint64_t seed;
    double split;          /* fraction held out for validation, [0, 1) */
    bool validation;       /* serve the held-out part */
    const char *normalize; /* "none", "scale" (u8 to [0,1]), "standard" (per channel / column, from the
                              training part); NULL: standard */
    /* augmentation, training only, drawn from Philox by (seed, epoch, sample) */
    int shift;      /* up to this many pixels in each direction */
    int crop_pad;   /* pad by this and crop at random */
    bool flip;      /* horizontally with probability 1/2 */
    double noise;   /* standard deviation of added normal noise */
    int threads;    /* prefetch threads; 0: 1 */
    int prefetch;   /* batches ahead; 0: 4 */
    int64_t epochs; /* end after so many; 0: endless */
    /* Which part of each global batch is served: the shards [rank * shards / ranks, (rank + 1) * shards /
     * ranks) of `shards` (a power of two; 0: as many as ranks). 0, 0: this rank's of the context's. */
    int rank, ranks, shards;
    int64_t limit;  /* use only the first so many samples; 0: all */
    bool no_labels; /* x alone is read (prediction): y of a batch is NULL */
    const char
        *schema; /* rk_loader_schema() of another loader: columns, categories, classes and normalisation are
                    its own, so that new data is treated like the training data; NULL: from the data */
    const struct rk_loader
        *share; /* serve a part of the data set that this loader (same context) has open: path, format,
           task and columns are its own, and nothing is read twice (the held-out part); or NULL */
} rk_data_cfg;

typedef struct rk_batch {
    rk_tensor *x;          /* (n, ...) f32; step-owned */
    rk_tensor *y;          /* (n) i64 class, (n, k) f32 targets, or x itself (reconstruction) */
    int64_t n;             /* samples in this batch (local) */
    int64_t global;        /* samples of the global batch */
    int64_t first;         /* position of the first local sample in the global batch */
    int64_t index;         /* number of the batch since the start, from 0 */
    int64_t epoch;         /* from 0 */
    bool epoch_end;        /* the last of its epoch */
    const int64_t *sample; /* (n) sample numbers in the data set; valid until the next batch */
} rk_batch;

typedef struct rk_loader rk_loader;

/* Opens the data set, reads its header and (normalize standard) statistics. Owned by ctx. After a failure:
 * inert. Errors: RK_ENOINPUT, RK_EDATA with file, offset or line, and reason; RK_ECONFIG for an impossible
 * cfg. */
RK_API rk_loader *rk_loader_make(rk_ctx *ctx, const rk_data_cfg *cfg);
/* The next batch; false at the end (or after a failure). */
RK_API bool rk_loader_next(rk_loader *l, rk_batch *b);
RK_API int64_t rk_loader_samples(const rk_loader *l);       /* of the part served (split, limit applied) */
RK_API int64_t rk_loader_batches(const rk_loader *l);       /* per epoch */
RK_API rk_shape rk_loader_sample_shape(const rk_loader *l); /* of one x, without the batch axis */
RK_API int64_t rk_loader_classes(const rk_loader *l);       /* 0: not a classification */
RK_API const char *rk_loader_class_name(const rk_loader *l, int64_t c); /* CSV categories; NULL if unnamed */
RK_API int64_t rk_loader_targets(const rk_loader *l);                   /* width of y for regression */
/* The state of a loader is this one number: samples served since the start. Setting it continues with the
 * exact next sample. */
RK_API int64_t rk_loader_cursor(const rk_loader *l);
RK_API rk_status rk_loader_seek(rk_loader *l, int64_t cursor);
/* Normalisation statistics as used, one pair a channel or column, so that another data set can be treated
 * alike: n = number of pairs; pointers live as long as the loader. */
RK_API int rk_loader_stats(const rk_loader *l, const double **mean, const double **std);
RK_API rk_status rk_loader_set_stats(rk_loader *l, int n, const double *mean, const double *std);
/* All that another data set needs to be treated alike, as one JSON object: normalisation and, for CSV,
 * columns, categories and class names. malloc'ed; NULL after a failure. */
RK_API char *rk_loader_schema(const rk_loader *l);
RK_API void rk_loader_close(rk_loader *l); /* optional: rk_close() does it */

/* "Did you mean": the nearest of n names to word by edit distance, NULL if none is near. */
RK_API const char *rk_nearest(const char *word, const char *const *names, int n);

/* The libraries that Rankine stands on, with the versions that run now; false past the end. */
RK_API bool rk_library(int i, const char **name, const char **version);

#ifdef __cplusplus
}
#endif
#endif
