/* MANIFEST.json: what a snapshot holds and the sums of its files. The only thing a reader believes, once its
 * own sum is right. Format: docs/snapshots.md. */
#ifndef RK_CKPT_MANIFEST_H
#define RK_CKPT_MANIFEST_H

#include "ckpt/io_ops.h"
#include "core/state.h"

enum {
    RK__SCHEMA = 1,              /* of the manifest; a reader refuses a higher one */
    RK__SUM_BYTES = 1 << 20,     /* bytes of a file under one XXH3-64 */
    RK__MANIFEST_MAX = 256 << 20 /* bytes of a manifest that are read at all */
};

#define RK__MANIFEST "MANIFEST.json"
#define RK__STEP_MAX INT64_C(999999999999) /* twelve digits in the folder's name */

typedef struct rk__m_file {
    char *name; /* [A-Za-z0-9._-], no leading dot */
    uint64_t size;
    char sum[33];        /* XXH3-128 of the whole file */
    uint64_t *chunk_sum; /* XXH3-64 of each RK__SUM_BYTES */
    int64_t n_chunks;
} rk__m_file;

/* One data set of one file: a box of the logical tensor. */
typedef struct rk__m_piece {
    int file;
    char *data_set;
    int64_t lo[RK_MAX_DIMS];
    rk_shape extent;
} rk__m_piece;

typedef struct rk__m_tensor {
    char *name;
    rk_state_kind kind;
    rk_dtype dtype;
    rk_shape shape;
    rk__m_piece *pieces; /* disjoint, and together all of it */
    int n_pieces;
} rk__m_tensor;

typedef struct rk__m_cursor {
    char *name;
    int64_t value;
} rk__m_cursor;

typedef struct rk__manifest {
    int64_t step;
    uint64_t epoch; /* of the lock under which it was written */
    int ranks;      /* that wrote it */
    int grid_data, grid_tensor;
    bool best;
    char *version;
    char *config_json, *extra_json; /* NULL: none */
    rk__m_file *files;
    int n_files;
    rk__m_tensor *tensors; /* sorted by name */
    int n_tensors;
    rk__m_cursor *cursors; /* sorted by name */
    int n_cursors;
} rk__manifest;

const char *rk__kind_name(rk_state_kind k);
int rk__dtype_of(const char *name); /* -1: unknown */
bool rk__file_name_ok(const char *name);
size_t rk__m_tensor_bytes(const rk__m_tensor *t);
rk__m_tensor *rk__m_find(const rk__manifest *m, const char *name);

/* The text, malloc'ed; NULL when out of memory. Any thread. */
char *rk__manifest_text(const rk__manifest *m, size_t *n);
/* Strict: bounds, names, products, sums and cover are checked before anything is sized by them. The context
 * must not have failed and has not failed afterwards: what is wrong is in f. */
rk_status rk__manifest_parse(rk_ctx *ctx, const char *file, const uint8_t *p, size_t n, rk__manifest *m,
                             rk__fault *f);
void rk__manifest_free(rk__manifest *m);

/* The sum that closes a manifest, over everything before its line. */
void rk__manifest_sum(const uint8_t *p, size_t n, char *hex33);

#endif
