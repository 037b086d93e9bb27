#include "core/state.h"

#include "core/tape.h"

#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 512 };

void rk__state_init(rk_state *st, rk_ctx *ctx)
{
    *st = (rk_state){ .ctx = ctx };
}

void rk__state_free(rk_state *st)
{
    for (int i = 0; i < st->n; i++)
        free(st->entries[i].name);
    free(st->entries);
    *st = (rk_state){ .ctx = st->ctx };
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-' || c == '/';
}

/* No empty part and none that begins with a dot: names become paths inside files. */
bool rk__state_name_ok(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > NAME_MAX_BYTES || name[n - 1] == '/')
        return false;
    bool start = true;
    for (const char *p = name; *p; p++) {
        if (!name_char(*p) || (start && (*p == '.' || *p == '/')))
            return false;
        start = *p == '/';
    }
    return true;
}

static rk_status grow(rk_state *st)
{
    if (st->n < st->cap)
        return RK_OK;
    int cap = st->cap ? 2 * st->cap : 32;
    rk_state_entry *e = realloc(st->entries, (size_t)cap * sizeof *e);
    if (!e)
        return rk_fail(st->ctx, RK_ENOMEM, "state list: no memory for %d entries", cap);
    st->entries = e;
    st->cap = cap;
    return RK_OK;
}

rk_piece rk__piece_whole(const rk_shape *s)
{
    rk_piece p = { .whole = *s, .box = *s, .to = 1 };
    for (int i = 0; i < s->ndim; i++)
        p.to *= s->dim[i];
    return p;
}

bool rk__piece_is_whole(const rk_piece *p)
{
    rk_piece all = rk__piece_whole(&p->whole);
    for (int i = 0; i < p->whole.ndim; i++)
        if (p->box.dim[i] != p->whole.dim[i])
            return false;
    return p->from == 0 && p->to == all.to;
}

static rk_status add(rk_state *st, rk_state_kind kind, const char *name, rk_tensor *t, const rk_piece *piece,
                     int64_t *cursor)
{
    RK_TRY(rk_failed(st->ctx));
    if (!rk__state_name_ok(name))
        return rk_fail(
            st->ctx, RK_ECONFIG,
            "state \"%.80s\": a name is made of letters, digits and . _ - /, and no part begins with a dot",
            name);
    if (rk__state_find(st, name))
        return rk_fail(st->ctx, RK_ECONFIG, "state \"%s\": there are two entries of this name", name);
    RK_TRY(grow(st));
    char *copy = rk__strdup(st->ctx, name);
    if (!copy)
        return rk_failed(st->ctx);
    st->entries[st->n] = (rk_state_entry){ .name = copy, .kind = kind, .tensor = t, .cursor = cursor };
    if (piece)
        st->entries[st->n].piece = *piece;
    st->n++;
    return RK_OK;
}

rk_status rk__state_add(rk_state *st, rk_state_kind kind, const char *name, rk_tensor *t)
{
    RK_ASSERT(kind != RK_STATE_CURSOR && t);
    rk_shape s = rk_tensor_shape(t);
    rk_piece whole = rk__piece_whole(&s);
    return add(st, kind, name, t, &whole, NULL);
}

rk_status rk__state_add_piece(rk_state *st, rk_state_kind kind, const char *name, rk_tensor *t,
                              const rk_piece *piece)
{
    RK_ASSERT(kind != RK_STATE_CURSOR && t && rk_tensor_size(t) == piece->to - piece->from);
    return add(st, kind, name, t, piece, NULL);
}

void rk__state_hold(rk_state_entry *e, int64_t from, int64_t to)
{
    e->piece.from = e->at = from;
    e->piece.to = to;
}

rk_status rk__state_read(const rk_state_entry *e, int64_t from, int64_t n, void *host)
{
    return rk__tensor_read_range(e->tensor, e->at + from, n, host);
}

rk_status rk__state_write(const rk_state_entry *e, int64_t from, int64_t n, const void *host)
{
    return rk__tensor_write_range(e->tensor, e->at + from, n, host);
}

rk_status rk__state_add_cursor(rk_state *st, const char *name, int64_t *cursor)
{
    return add(st, RK_STATE_CURSOR, name, NULL, NULL, cursor);
}

rk_state_entry *rk__state_find(const rk_state *st, const char *name)
{
    for (int i = 0; i < st->n; i++)
        if (!strcmp(st->entries[i].name, name))
            return &st->entries[i];
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const rk_state_entry *)a)->name, ((const rk_state_entry *)b)->name);
}

void rk__state_sort(rk_state *st)
{
    if (st->n > 1)
        qsort(st->entries, (size_t)st->n, sizeof *st->entries, by_name);
}
