/* Documents from the inside: how roots own names and nodes hang together. */
#ifndef RK_IO_DOC_TREE_H
#define RK_IO_DOC_TREE_H

#include "io/doc.h"

rk_doc *rk__doc_new_root(void);                          /* kind NULL; NULL when out of memory */
const char *rk__doc_intern(rk_doc *root, const char *s); /* a copy that root owns; NULL when out of memory */
void rk__doc_append(rk_doc *parent, rk_doc *tail, rk_doc *d); /* tail: the last child, NULL: find it */

#endif
