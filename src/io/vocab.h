/* The texts that a column of categories takes, numbered as they come and ranked when all are known. */
#ifndef RK_IO_VOCAB_H
#define RK_IO_VOCAB_H

#include <rankine/base.h>

typedef struct rk__vocab {
    char **text;   /* by code */
    int32_t *rank; /* code -> place in sorted order; NULL before rk__vocab_sort() */
    int32_t n, cap;
    int32_t *slot; /* hash table of codes + 1 */
    uint32_t n_slots;
} rk__vocab;

/* The code of a text, -1 if unknown. */
int32_t rk__vocab_find(const rk__vocab *v, const char *text, size_t n);
/* The code of a text, added if unknown; -1: out of memory. */
int32_t rk__vocab_add(rk__vocab *v, const char *text, size_t n);
/* Ranks the texts: by value if all are whole numbers, else by bytes. False: out of memory. */
bool rk__vocab_sort(rk__vocab *v);
void rk__vocab_free(rk__vocab *v);

#endif
