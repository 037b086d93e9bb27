#include "core/memory.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_PLANS = 8, ALIGN = 64, RECORD_CHUNK = 64 << 10 };

/* One request of a step: what was asked for, when it lived (event numbers), where the plan put it. */
typedef struct slot {
    size_t bytes;
    int64_t born, died; /* died: -1 while alive */
    size_t offset;      /* in the arena */
    void *own;          /* from the system allocator instead; NULL: in the arena */
} slot;

typedef struct slots {
    slot *at;
    int64_t n, cap;
} slots;

typedef struct plan {
    bool used, recording_grads;
    size_t first_bytes;
    size_t peak;
    uint64_t last_used;
    slots s;
} plan;

typedef struct chunk {
    struct chunk *next;
    size_t used, size;
    _Alignas(16) unsigned char data[];
} chunk;

struct rk__memory {
    void *arena;
    size_t arena_bytes;
    plan plans[MAX_PLANS];
    plan *current;  /* the plan this step follows; NULL: none */
    bool following; /* no event has differed so far */
    slots now;      /* the record of this step */
    int64_t events;
    bool grads;
    int64_t allocs, last_allocs;
    uint64_t step;
    size_t peak;
    chunk *chunks, *chunk; /* records; the chunk in use */
};

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

rk_status rk__memory_open(rk_ctx *ctx)
{
    ctx->memory = rk__calloc(ctx, 1, sizeof *ctx->memory);
    return ctx->status;
}

static void release_own(rk_ctx *ctx, slot *s)
{
    if (s->own)
        ctx->device->release(ctx->dev, s->own, s->bytes);
    s->own = NULL;
}

void rk__memory_close(rk_ctx *ctx)
{
    rk__memory *m = ctx->memory;
    if (!m)
        return;
    for (int64_t i = 0; i < m->now.n; i++)
        release_own(ctx, &m->now.at[i]);
    free(m->now.at);
    for (int i = 0; i < MAX_PLANS; i++)
        free(m->plans[i].s.at);
    if (m->arena)
        ctx->device->release(ctx->dev, m->arena, m->arena_bytes);
    for (chunk *c = m->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(m);
    ctx->memory = NULL;
}

/* A device that tells its memory gets advice with figures. */
static const char *what_for(const rk_ctx *ctx, bool arena)
{
    static const char *const what[][2] = {
        { "a tensor of this step; a smaller batch.micro needs less", "a tensor of this step" },
        { "the arena of the step; a smaller batch.micro needs less", "the arena of the step" }
    };
    return what[arena][ctx->device->memory != NULL];
}

/* ---- following a plan ---- */

static void choose_plan(rk_ctx *ctx, size_t bytes)
{
    rk__memory *m = ctx->memory;
    m->grads = ctx->no_grad == 0;
    m->current = NULL;
    for (int i = 0; i < MAX_PLANS; i++) {
        plan *p = &m->plans[i];
        if (p->used && p->first_bytes == bytes && p->recording_grads == m->grads)
            m->current = p;
    }
    m->following = m->current != NULL;
    if (m->current)
        m->current->last_used = m->step;
}

static slot *append(rk_ctx *ctx)
{
    slots *s = &ctx->memory->now;
    if (s->n == s->cap) {
        int64_t cap = s->cap ? 2 * s->cap : 256;
        slot *at = realloc(s->at, (size_t)cap * sizeof *at);
        if (!at)
            return NULL;
        s->at = at;
        s->cap = cap;
    }
    return &s->at[s->n++];
}

void *rk__memory_take(rk_ctx *ctx, size_t bytes, int64_t *number)
{
    rk__memory *m = ctx->memory;
    if (m->now.n == 0)
        choose_plan(ctx, bytes);
    int64_t i = m->now.n, event = m->events++;
    slot *s = append(ctx);
    if (!s) {
        rk_fail(ctx, RK_ENOMEM, "out of memory: the record of a step of %lld tensors", (long long)i);
        return NULL;
    }
    *s = (slot){ .bytes = bytes, .born = event, .died = -1 };
    *number = i;
    const slots *planned = m->following ? &m->current->s : NULL;
    if (planned && i < planned->n && planned->at[i].bytes == bytes && planned->at[i].born == event) {
        s->offset = planned->at[i].offset;
        return (char *)m->arena + s->offset;
    }
    m->following = false;
    m->allocs++;
    rk__device_alloc(ctx, bytes, what_for(ctx, false), &s->own);
    return s->own;
}

void rk__memory_give_back(rk_ctx *ctx, int64_t number)
{
    rk__memory *m = ctx->memory;
    slot *s = &m->now.at[number];
    int64_t event = m->events++;
    s->died = event;
    if (m->following && m->current->s.at[number].died != event)
        m->following = false;
    release_own(ctx, s);
}

/* ---- making a plan ---- */

typedef struct slot_ref {
    slot *s;
} slot_ref;

static int larger_first(const void *a, const void *b)
{
    const slot *x = ((const slot_ref *)a)->s, *y = ((const slot_ref *)b)->s;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    return x->born < y->born ? -1 : x->born > y->born;
}

static int64_t death(const slot *s)
{
    return s->died < 0 ? INT64_MAX : s->died;
}

static bool lifetimes_overlap(const slot *a, const slot *b)
{
    return a->born < death(b) && b->born < death(a);
}

static int lower_first(const void *a, const void *b)
{
    size_t x = ((const slot_ref *)a)->s->offset, y = ((const slot_ref *)b)->s->offset;
    return x < y ? -1 : x > y;
}

/* The lowest gap between slots placed already that live at the same time. near: scratch for those. */
static size_t place(const slot *s, const slot_ref *placed, int64_t n, slot_ref *near)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        if (placed[i].s->bytes && lifetimes_overlap(s, placed[i].s))
            near[count++] = placed[i];
    qsort(near, (size_t)count, sizeof *near, lower_first);
    size_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        const slot *o = near[i].s;
        if (o->offset >= at && o->offset - at >= aligned(s->bytes))
            break;
        size_t end = o->offset + aligned(o->bytes);
        if (end > at)
            at = end;
    }
    return at;
}

static bool plan_offsets(slots *s, size_t *peak)
{
    slot_ref *order = calloc(2 * (size_t)s->n + 1, sizeof *order);
    if (!order)
        return false;
    for (int64_t i = 0; i < s->n; i++)
        order[i].s = &s->at[i];
    qsort(order, (size_t)s->n, sizeof *order, larger_first);
    *peak = 0;
    for (int64_t i = 0; i < s->n; i++) {
        slot *it = order[i].s;
        it->offset = place(it, order, i, order + s->n);
        size_t end = it->offset + aligned(it->bytes);
        if (end > *peak)
            *peak = end;
    }
    free(order);
    return true;
}

static plan *oldest_plan(rk__memory *m)
{
    plan *oldest = &m->plans[0];
    for (int i = 0; i < MAX_PLANS; i++) {
        if (!m->plans[i].used)
            return &m->plans[i];
        if (m->plans[i].last_used < oldest->last_used)
            oldest = &m->plans[i];
    }
    return oldest;
}

static rk_status grow_arena(rk_ctx *ctx, size_t bytes)
{
    rk__memory *m = ctx->memory;
    if (bytes <= m->arena_bytes)
        return RK_OK;
    if (m->arena)
        ctx->device->release(ctx->dev, m->arena, m->arena_bytes);
    m->arena = NULL;
    m->arena_bytes = 0;
    const rk_status st = rk__device_alloc(ctx, bytes, what_for(ctx, true), &m->arena);
    for (int i = 0; st && i < MAX_PLANS; i++)
        m->plans[i].used = false;
    m->arena_bytes = st ? 0 : bytes;
    return st;
}

/* The record of this step becomes a plan. Without memory for it the next step is simply recorded again. */
static rk_status make_plan(rk_ctx *ctx)
{
    rk__memory *m = ctx->memory;
    plan *p = m->current ? m->current : oldest_plan(m);
    slots old = p->s;
    *p = (plan){
        .recording_grads = m->grads, .first_bytes = m->now.at[0].bytes, .last_used = m->step, .s = m->now
    };
    m->now = old;
    if (!plan_offsets(&p->s, &p->peak))
        return RK_OK;
    if (p->peak > m->peak)
        m->peak = p->peak;
    RK_TRY(grow_arena(ctx, p->peak));
    p->used = true;
    return RK_OK;
}

rk_status rk__memory_step_end(rk_ctx *ctx)
{
    rk__memory *m = ctx->memory;
    rk_status st = RK_OK;
    for (int64_t i = 0; i < m->now.n; i++)
        release_own(ctx, &m->now.at[i]);
    bool as_planned = m->following && m->now.n == m->current->s.n;
    if (m->now.n > 0 && !as_planned)
        st = make_plan(ctx);
    m->now.n = 0;
    m->events = 0;
    m->last_allocs = m->allocs;
    m->allocs = 0;
    m->step++;
    for (chunk *c = m->chunks; c; c = c->next)
        c->used = 0;
    m->chunk = m->chunks;
    return st;
}

size_t rk_memory_peak(const rk_ctx *ctx)
{
    return ctx && ctx->memory ? ctx->memory->peak : 0;
}

int64_t rk_memory_step_allocs(const rk_ctx *ctx)
{
    return ctx && ctx->memory ? ctx->memory->last_allocs : 0;
}

/* ---- records ---- */

static chunk *next_chunk(rk__memory *m, size_t bytes)
{
    chunk *c = m->chunk;
    while (c && c->size - c->used < bytes)
        c = c->next;
    if (c)
        return m->chunk = c;
    size_t size = bytes > RECORD_CHUNK ? bytes : RECORD_CHUNK;
    c = malloc(sizeof *c + size);
    if (!c)
        return NULL;
    m->allocs++;
    *c = (chunk){ .size = size };
    chunk **end = &m->chunks;
    while (*end)
        end = &(*end)->next;
    *end = c;
    return m->chunk = c;
}

void *rk__step_record(rk_ctx *ctx, size_t bytes)
{
    bytes = (bytes + 15) / 16 * 16;
    chunk *c = next_chunk(ctx->memory, bytes);
    if (!c) {
        rk_fail(ctx, RK_ENOMEM, "out of memory: %zu bytes for the tape", bytes);
        return NULL;
    }
    void *p = c->data + c->used;
    c->used += bytes;
    return memset(p, 0, bytes);
}
