/* A document: the tree that YAML and JSON files become, with the place of every value for error messages.
 *
 * Ownership: the root owns everything; free it with rk__doc_free(). Strings are NUL-terminated UTF-8 without
 * NULs. Scalars keep their text; typed access converts and reports file, line and column on failure. */
#ifndef RK_IO_DOC_H
#define RK_IO_DOC_H

#include <rankine/base.h>

typedef enum rk_doc_kind {
    RK_DOC_NULL,
    RK_DOC_BOOL,
    RK_DOC_INT,
    RK_DOC_FLOAT,
    RK_DOC_STRING,
    RK_DOC_LIST,
    RK_DOC_MAP
} rk_doc_kind;

typedef struct rk_doc {
    rk_doc_kind kind;
    char *key;                            /* in a map: the member's key */
    char *text;                           /* scalar: as written (strings: unescaped) */
    int64_t i;                            /* RK_DOC_INT, RK_DOC_BOOL */
    double f;                             /* RK_DOC_INT, RK_DOC_FLOAT */
    struct rk_doc *child, *next, *parent; /* members in order */
    int n;                                /* number of children */
    const char *file;                     /* shared; owned by the root */
    int line, column;                     /* from 1 */
} rk_doc;

/* Parse a buffer. `file` names it in messages. Limits: depth 64, 1 million nodes, duplicate keys refused.
 * Errors: `bad` (RK_ECONFIG for configurations, RK_EDATA for data) with "file:line:column: reason". */
rk_status rk__json_parse(rk_ctx *ctx, const char *file, const uint8_t *p, size_t n, rk_status bad,
                         rk_doc **out);
rk_status rk__yaml_parse(rk_ctx *ctx, const char *file, const uint8_t *p, size_t n, rk_status bad,
                         rk_doc **out);
/* Reads a file (at most max_bytes) and parses it: .json as JSON, anything else as YAML. RK_ENOINPUT if
 * missing. */
rk_status rk__doc_load(rk_ctx *ctx, const char *path, size_t max_bytes, rk_status bad, rk_doc **out);
void rk__doc_free(rk_doc *root);

rk_doc *rk__doc_get(const rk_doc *map, const char *key);          /* NULL if absent or map is no map */
rk_doc *rk__doc_path(const rk_doc *map, const char *dotted_path); /* "optim.lr" */
/* Sets a dotted path to a scalar parsed from YAML text ("0.1", "true", "[1, 2]"), making maps on the way. */
rk_status rk__doc_set(rk_ctx *ctx, rk_doc *root, const char *dotted_path, const char *yaml_text,
                      const char *origin);
/* A scalar becomes a map whose only member, `key`, is what it was: `device: cuda` becomes `device: {kind:
 * cuda}`.
 */
rk_status rk__doc_nest(rk_ctx *ctx, rk_doc *d, const char *key);
rk_doc *rk__doc_copy(rk_ctx *ctx, const rk_doc *d);

/* Records "file:line:column: message" as the context's failure. */
rk_status rk__doc_fail(rk_ctx *ctx, rk_status st, const rk_doc *at, const char *fmt, ...) RK_PRINTF(4, 5);

/* Canonical JSON text of a tree (sorted keys if sort; indent 0: one line). malloc'ed; NULL when out of
 * memory. */
char *rk__doc_json(const rk_doc *d, bool sort, int indent);

/* Edit distance helper: the nearest of `names` to `word`, or NULL if none is near. */
const char *rk__nearest(const char *word, const char *const *names, int n);

#endif
