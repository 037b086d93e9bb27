/* Builds a document from a parser's events; shared by the JSON and the YAML parser. */
#ifndef RK_IO_DOC_BUILD_H
#define RK_IO_DOC_BUILD_H

#include "io/doc.h"

enum { RK__DOC_DEPTH = 64, RK__DOC_NODES = 1000000 };

typedef struct rk__doc_builder {
    rk_ctx *ctx;
    rk_status bad;
    const char *file; /* owned by root */
    rk_doc *root;     /* a placeholder until the first event */
    bool begun;
    struct {
        rk_doc *node, *tail;
    } open[RK__DOC_DEPTH];
    int depth;
    char *key; /* of the next member; NULL: none yet */
    int key_line, key_column;
    int64_t nodes;
    rk_doc **seen; /* members by (map, key): finds duplicates */
    size_t n_seen, cap_seen;
} rk__doc_builder;

rk_status rk__build_begin(rk__doc_builder *b, rk_ctx *ctx, const char *file, rk_status bad);
/* A map (RK_DOC_MAP) or list opens / the innermost one closes. */
rk_status rk__build_open(rk__doc_builder *b, rk_doc_kind kind, int line, int column);
void rk__build_close(rk__doc_builder *b);
/* The key of the next member; text is copied. Duplicates and NULs are refused. */
rk_status rk__build_key(rk__doc_builder *b, const char *text, size_t n, int line, int column);
/* A scalar; text is copied. i and f as in rk_doc. */
rk_status rk__build_scalar(rk__doc_builder *b, rk_doc_kind kind, const char *text, size_t n, int64_t i,
                           double f, int line, int column);
bool rk__build_wants_key(const rk__doc_builder *b);
/* Fails at a place of the text. */
rk_status rk__build_fail(rk__doc_builder *b, int line, int column, const char *fmt, ...) RK_PRINTF(4, 5);
/* Hands out the tree (st RK_OK) or frees it; returns st. */
rk_status rk__build_end(rk__doc_builder *b, rk_status st, rk_doc **out);

#endif
