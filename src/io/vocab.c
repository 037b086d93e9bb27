#include "io/vocab.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "io/number.h"

static uint32_t start_slot(const rk__vocab *v, const char *text, size_t n)
{
    /* seeded with an address, so that colliding texts cannot be prepared */
    return (uint32_t)XXH3_64bits_withSeed(text, n, (XXH64_hash_t)(uintptr_t)v) & (v->n_slots - 1);
}

static int32_t *find_slot(const rk__vocab *v, const char *text, size_t n)
{
    uint32_t i = start_slot(v, text, n);
    while (v->slot[i]) {
        const char *have = v->text[v->slot[i] - 1];
        if (!strncmp(have, text, n) && !have[n])
            break;
        i = (i + 1) & (v->n_slots - 1);
    }
    return &v->slot[i];
}

int32_t rk__vocab_find(const rk__vocab *v, const char *text, size_t n)
{
    return v->n_slots ? *find_slot(v, text, n) - 1 : -1;
}

static bool grow(rk__vocab *v)
{
    int32_t cap = v->cap ? v->cap * 2 : 16;
    char **text = realloc(v->text, (size_t)cap * sizeof *text);
    if (!text)
        return false;
    v->text = text;
    int32_t *slot = calloc((size_t)cap * 2, sizeof *slot);
    if (!slot)
        return false;
    free(v->slot);
    v->slot = slot;
    v->n_slots = (uint32_t)cap * 2;
    v->cap = cap;
    for (int32_t i = 0; i < v->n; i++)
        *find_slot(v, v->text[i], strlen(v->text[i])) = i + 1;
    return true;
}

int32_t rk__vocab_add(rk__vocab *v, const char *text, size_t n)
{
    int32_t code = rk__vocab_find(v, text, n);
    if (code >= 0)
        return code;
    if (v->n == v->cap && !grow(v))
        return -1;
    v->text[v->n] = strndup(text, n);
    if (!v->text[v->n])
        return -1;
    *find_slot(v, text, n) = v->n + 1;
    return v->n++;
}

typedef struct entry {
    const char *text;
    int64_t value;
    int32_t code;
} entry;

static int by_value(const void *a, const void *b)
{
    int64_t x = ((const entry *)a)->value, y = ((const entry *)b)->value;
    return x != y ? (x > y) - (x < y) : strcmp(((const entry *)a)->text, ((const entry *)b)->text);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->text, ((const entry *)b)->text);
}

bool rk__vocab_sort(rk__vocab *v)
{
    size_t n = (size_t)v->n;
    entry *all = calloc(n + 1, sizeof *all);
    int32_t *rank = calloc(n + 1, sizeof *rank);
    bool numbers = true;
    if (!all || !rank) {
        free(all);
        free(rank);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        all[i] = (entry){ .text = v->text[i], .code = (int32_t)i };
        numbers = numbers && rk__parse_int(v->text[i], strlen(v->text[i]), &all[i].value);
    }
    qsort(all, n, sizeof *all, numbers ? by_value : by_text);
    for (size_t i = 0; i < n; i++)
        rank[all[i].code] = (int32_t)i;
    free(all);
    free(v->rank);
    v->rank = rank;
    return true;
}

void rk__vocab_free(rk__vocab *v)
{
    for (int32_t i = 0; i < v->n; i++)
        free(v->text[i]);
    free(v->text);
    free(v->rank);
    free(v->slot);
    *v = (rk__vocab){ 0 };
}
