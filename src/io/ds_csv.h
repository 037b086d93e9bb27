/* A CSV data set from the inside: its columns, how they are decided, and how rows are kept. */
#ifndef RK_IO_DS_CSV_H
#define RK_IO_DS_CSV_H

#include "io/csv.h"
#include "io/ds.h"
#include "io/store.h"
#include "io/vocab.h"

/* More or longer categories than this are a text or a key, and would not fit a network's input. */
enum { RK__CSV_CATEGORIES = 65536, RK__CSV_CATEGORY_BYTES = 1024 };

typedef enum rk__column_role { RK__FEATURE, RK__TARGET, RK__SKIPPED } rk__column_role;

typedef struct rk__column {
    char *name;
    rk__column_role role;
    bool category, decided;
    bool fixed;      /* the categories come from a schema: others are refused */
    rk__vocab vocab; /* of a category; does not move */
    int64_t at;      /* first element of x (feature) or of y (target) */
    int slot;        /* place in the kept row, in 4-byte words; -1: not kept */
} rk__column;

typedef struct rk__ds_csv_set {
    rk__ds ds;
    rk__ds_info info;
    char *path;
    rk__task task;
    rk__column *col; /* of the file, in its order */
    int n_cols;
    int words; /* of a kept row */
    bool *as_is;
    char **class_names;
    rk__store store;
} rk__ds_csv_set;

/* Decides role and kind of every column from cfg (or its schema) and the first record of data. */
rk_status rk__csv_plan(rk_ctx *ctx, rk__ds_csv_set *d, const rk_data_cfg *cfg, const rk__csv *first);
/* After the last row: sorts categories, lays out x and y. */
rk_status rk__csv_lay_out(rk_ctx *ctx, rk__ds_csv_set *d);
void rk__csv_schema(const rk__ds *ds, rk__text *json);

#endif
