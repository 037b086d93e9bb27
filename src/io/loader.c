#include "io/loader.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/tape.h"
#include "io/doc.h"
#include "io/number.h"

enum { CFG_STRINGS = 9 };

/* What a failed rk_loader_make() returns; every call accepts it, none changes it. */
static rk_loader inert = { .dead = true };

static rk_status bad_cfg(rk_ctx *ctx, const char *why)
{
    return rk_fail(ctx, RK_ECONFIG, "%s", why);
}

static rk_status check_cfg(rk_ctx *ctx, const rk_data_cfg *c)
{
    if (c->batch < 1)
        return bad_cfg(ctx, "data: a batch needs at least one sample");
    if (!(c->split >= 0 && c->split < 1))
        return bad_cfg(ctx, "data.split: must be at least 0 and below 1");
    if (c->validation && !(c->split > 0))
        return bad_cfg(ctx, "data.split: nothing is held out, so there is no validation part to serve");
    if (c->shift < 0 || c->crop_pad < 0 || c->shift > 16383 || c->crop_pad > 16383)
        return bad_cfg(ctx, "data: shift and crop are 0 to 16383 pixels");
    if (!(c->noise >= 0) || isinf(c->noise))
        return bad_cfg(ctx, "data.noise: must be a number of at least 0");
    if (c->threads < 0 || c->threads > 256 || c->prefetch < 0 || c->prefetch > 4096)
        return bad_cfg(ctx, "data: threads are 0 to 256, batches ahead 0 to 4096");
    if (c->epochs < 0 || c->limit < 0)
        return bad_cfg(ctx, "data: epochs and limit must not be negative");
    int ranks = c->ranks ? c->ranks : 1, shards = c->shards ? c->shards : ranks;
    if (shards < 1 || (shards & (shards - 1)) || ranks < 1 || ranks > shards || c->rank < 0 ||
        c->rank >= ranks)
        return bad_cfg(
            ctx, "data: the shards of a batch must be a power of two, and the ranks that share them not more "
                 "than the shards");
    return RK_OK;
}

/* ---- the recipe ---- */

static rk_status divide(rk_ctx *ctx, rk__recipe *r, const rk_data_cfg *c)
{
    r->all = c->limit && c->limit < r->in.samples ? c->limit : r->in.samples;
    r->split = c->split > 0;
    r->validation = c->validation;
    r->held_out = llround((double)r->all * c->split);
    if (r->split && (r->held_out < 1 || r->held_out >= r->all))
        return rk_fail(ctx, RK_ECONFIG, "data.split: %g of %lld samples leaves a part empty", c->split,
                       (long long)r->all);
    r->part = r->validation ? r->held_out : r->all - r->held_out;
    return RK_OK;
}

static rk_status take_augmentation(rk_ctx *ctx, rk__recipe *r, const rk_data_cfg *c)
{
    if (r->in.shape.ndim == 3) {
        r->c = r->in.shape.dim[0];
        r->h = r->in.shape.dim[1];
        r->w = r->in.shape.dim[2];
    }
    if (c->validation)
        return RK_OK;
    r->shift = c->shift;
    r->crop_pad = c->crop_pad;
    r->flip = c->flip;
    r->noise = c->noise;
    if ((r->shift || r->crop_pad || r->flip) && !r->c)
        return rk_fail(ctx, RK_ECONFIG,
                       "data: shift, crop and flip need images, but a sample of %s has %d axes", c->path,
                       r->in.shape.ndim);
    return RK_OK;
}

static rk_status number_list(rk_ctx *ctx, const rk_doc *list, int64_t n, double *out)
{
    if (!list || list->kind != RK_DOC_LIST || list->n != n)
        return rk_fail(ctx, RK_EDATA, "data.schema: it is for %d channels or columns, this data has %lld",
                       list ? list->n : 0, (long long)n);
    for (const rk_doc *d = list->child; d; d = d->next) {
        if (d->kind != RK_DOC_FLOAT && d->kind != RK_DOC_INT)
            return rk_fail(ctx, RK_EDATA, "data.schema: mean and std must be numbers");
        *out++ = d->f;
    }
    return RK_OK;
}

static rk_status check_stats(rk_ctx *ctx, int64_t n, const double *mean, const double *std)
{
    for (int64_t g = 0; g < n; g++)
        if (!isfinite(mean[g]) || !isfinite(std[g]) || !(std[g] > 0))
            return rk_fail(ctx, RK_EDATA,
                           "data: mean %g and standard deviation %g of channel or column %lld: "
                           "they must be finite, the deviation above 0",
                           mean[g], std[g], (long long)g);
    return RK_OK;
}

static rk_status stats_from_schema(rk_ctx *ctx, rk__recipe *r, const char *schema)
{
    rk_doc *d;
    RK_TRY(rk__json_parse(ctx, "data.schema", (const uint8_t *)schema, strlen(schema), RK_EDATA, &d));
    rk_status st = number_list(ctx, rk__doc_get(d, "mean"), r->in.groups, r->mean);
    if (st == RK_OK)
        st = number_list(ctx, rk__doc_get(d, "std"), r->in.groups, r->std);
    if (st == RK_OK)
        st = check_stats(ctx, r->in.groups, r->mean, r->std);
    rk__doc_free(d);
    return st;
}

static rk_status make_recipe(rk_ctx *ctx, rk__recipe *r, const rk_data_cfg *c)
{
    if (c->share && c->share->r.ds) {
        r->ds = c->share->r.ds;
        r->ds->users++;
    } else {
        RK_TRY(rk__ds_open(ctx, c, &r->ds));
    }
    r->in = *r->ds->ops->info(r->ds);
    r->shuffle = c->shuffle;
    r->seed = c->seed;
    r->shuffle_key = rk_rng_key(c->seed, RK_RNG_SHUFFLE, 0);
    r->split_key = rk_rng_key(c->seed, RK_RNG_SPLIT, 0);
    r->elems = r->in.groups * r->in.inner;
    RK_TRY(divide(ctx, r, c));
    RK_TRY(take_augmentation(ctx, r, c));
    r->mean = rk__calloc(ctx, (size_t)r->in.groups, sizeof *r->mean);
    r->std = rk__calloc(ctx, (size_t)r->in.groups, sizeof *r->std);
    if (!r->mean || !r->std)
        return rk_failed(ctx);
    if (c->schema)
        RK_TRY(stats_from_schema(ctx, r, c->schema));
    else
        RK_TRY(rk__loader_measure(ctx, r, c->normalize ? c->normalize : "standard"));
    return rk__loader_scales(ctx, r);
}

/* ---- making, closing ---- */

void rk_loader_close(rk_loader *l)
{
    if (l == &inert || !l->r.ds)
        return;
    rk__prefetch_stop(l);
    rk__ds_leave(l->r.ds);
    l->r.ds = NULL;
    l->r.in.class_names = NULL;
    l->dead = true;
}

/* The strings of a cfg that say what is read and how. */
static void cfg_strings(rk_data_cfg *c, const char **out[CFG_STRINGS])
{
    const char **all[CFG_STRINGS] = { &c->path,   &c->format, &c->labels,      &c->label_column, &c->task,
                                      &c->x_name, &c->y_name, &c->categorical, &c->normalize };
    memcpy(out, all, sizeof all);
}

static rk_status keep_cfg(rk_loader *l, const rk_data_cfg *cfg)
{
    const char **mine[CFG_STRINGS];
    l->cfg = *cfg;
    if (cfg->share) {
        const rk_data_cfg *s = &cfg->share->cfg;
        l->cfg.path = s->path;
        l->cfg.format = s->format;
        l->cfg.labels = s->labels;
        l->cfg.label_column = s->label_column;
        l->cfg.task = s->task;
        l->cfg.x_name = s->x_name;
        l->cfg.y_name = s->y_name;
        l->cfg.categorical = s->categorical;
        l->cfg.no_header = s->no_header;
        l->cfg.delimiter = s->delimiter;
    }
    l->cfg.schema = NULL;
    l->cfg.share = NULL;
    cfg_strings(&l->cfg, mine);
    for (int i = 0; i < CFG_STRINGS; i++)
        *mine[i] = *mine[i] ? rk__strdup(l->ctx, *mine[i]) : NULL;
    return rk_failed(l->ctx);
}

static void free_loader(void *arg)
{
    rk_loader *l = arg;
    rk_loader_close(l);
    for (int i = 0; i < l->n_slots && l->slot; i++) {
        free(l->slot[i].id);
        if (!l->slot[i].tx) {
            free(l->slot[i].x);
            free(l->slot[i].y);
        }
    }
    if (l->locks) {
        pthread_cond_destroy(&l->ready);
        pthread_cond_destroy(&l->work);
        pthread_mutex_destroy(&l->lock);
    }
    const char **kept[CFG_STRINGS];
    cfg_strings(&l->cfg, kept);
    for (int i = 0; i < CFG_STRINGS; i++)
        free((char *)*kept[i]);
    free(l->slot);
    free(l->ids);
    free(l->thread);
    free(l->r.mean);
    free(l->r.std);
    free(l->r.scale);
    free(l);
}

static void take_part(rk_loader *l, const rk_data_cfg *cfg)
{
    bool named = cfg->ranks > 0;
    int rank = named ? cfg->rank : l->ctx->rank, ranks = named ? cfg->ranks : l->ctx->ranks;
    l->shards = !named ? l->ctx->data_shards : cfg->shards ? cfg->shards : ranks;
    l->first_shard = (int)((int64_t)l->shards * rank / ranks);
    l->own_shards = (int)((int64_t)l->shards * (rank + 1) / ranks) - l->first_shard;
}

rk_loader *rk_loader_make(rk_ctx *ctx, const rk_data_cfg *cfg)
{
    if (rk_failed(ctx) || check_cfg(ctx, cfg) != RK_OK)
        return &inert;
    rk_loader *l = rk__calloc(ctx, 1, sizeof *l);
    if (!l)
        return &inert;
    l->ctx = ctx;
    if (keep_cfg(l, cfg) != RK_OK || make_recipe(ctx, &l->r, cfg) != RK_OK ||
        rk__at_close(ctx, free_loader, l) != RK_OK) {
        free_loader(l);
        return &inert;
    }
    l->batch = cfg->batch;
    l->drop_last = cfg->drop_last;
    l->usable = cfg->drop_last ? l->r.part / l->batch * l->batch : l->r.part;
    l->epochs = cfg->epochs;
    take_part(l, cfg);
    l->n_threads = cfg->threads ? cfg->threads : 1;
    l->prefetch = cfg->prefetch ? cfg->prefetch : 4;
    l->reconstruction = cfg->task && !strcmp(cfg->task, "reconstruction");
    l->locks = true;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->ready, NULL);
    if (l->usable < 1) {
        rk_fail(ctx, RK_ECONFIG, "%s: %lld samples make no whole batch of %lld, and drop_last leaves none",
                cfg->path, (long long)l->r.part, (long long)l->batch);
        l->dead = true;
    }
    return l;
}

/* ---- batches ---- */

/* A tensor of the step: a view of the slot's memory, or a copy where that must be free again at once. */
static rk_tensor *hand_out(rk_loader *l, rk_tensor *from, const void *data, rk_dtype dtype, rk_shape shape,
                           bool copy)
{
    if (copy || !from)
        return rk_from_host(l->ctx, dtype, shape, data);
    rk_tensor *t = rk__view(from, shape, NULL, 0);
    if (!rk__is_inert(t))
        t->kept = true; /* until the step ends, even if a backward pass is done with it */
    return t;
}

static bool give(rk_loader *l, rk__slot *s, bool copy, rk_batch *b)
{
    const rk__ds_info *in = &l->r.in;
    const rk__plan *p = &s->plan;
    rk_shape x = { in->shape.ndim + 1, { p->n } },
             y = in->classes ? RK_SHAPE(p->n) : RK_SHAPE(p->n, in->targets);
    for (int i = 0; i < in->shape.ndim; i++)
        x.dim[i + 1] = in->shape.dim[i];
    *b = (rk_batch){ .n = p->n,
                     .global = p->global,
                     .first = p->lo,
                     .index = p->index,
                     .epoch = p->epoch,
                     .epoch_end = p->epoch_end,
                     .sample = l->ids };
    if (p->n)
        memcpy(l->ids, s->id, (size_t)p->n * sizeof *l->ids);
    b->x = hand_out(l, s->tx, s->x, RK_F32, x, copy);
    if (l->reconstruction)
        b->y = b->x;
    else if (s->y)
        b->y = hand_out(l, s->ty, s->y, in->classes ? RK_I64 : RK_F32, y, copy);
    if (copy || !s->tx)
        rk__prefetch_release(l, s);
    return rk_failed(l->ctx) == RK_OK;
}

bool rk_loader_next(rk_loader *l, rk_batch *b)
{
    *b = (rk_batch){ 0 };
    if (l->dead || rk_failed(l->ctx))
        return false;
    if (!l->started && rk__prefetch_start(l) != RK_OK)
        return false;
    int held = rk__prefetch_reclaim(l);
    rk__slot *s = rk__prefetch_take(l);
    if (!s)
        return false;
    if (s->err.status) {
        rk_fail(l->ctx, s->err.status, "%s", s->err.message);
        rk__prefetch_release(l, s);
        rk__prefetch_reset(l); /* so that it is tried again if the caller clears the failure */
        return false;
    }
    l->cursor = s->plan.next;
    if (l->ctx->on_batch.fn)
        l->ctx->on_batch.fn(l->ctx->on_batch.arg, s->plan.global);
    return give(l, s, held + 2 > l->n_slots, b); /* one slot at least stays with the workers */
}

int64_t rk_loader_cursor(const rk_loader *l)
{
    return l->cursor;
}

rk_status rk_loader_seek(rk_loader *l, int64_t cursor)
{
    if (l->dead)
        return l->ctx ? rk_failed(l->ctx) : RK_ECONFIG;
    if (cursor < 0)
        return rk_fail(l->ctx, RK_ECONFIG, "loader: a cursor of %lld samples", (long long)cursor);
    l->cursor = cursor;
    rk__prefetch_reset(l);
    return RK_OK;
}

/* ---- what it is ---- */

int64_t rk_loader_samples(const rk_loader *l)
{
    return l->r.part;
}

int64_t rk_loader_batches(const rk_loader *l)
{
    return l->dead ? 0 : (l->usable + l->batch - 1) / l->batch;
}

rk_shape rk_loader_sample_shape(const rk_loader *l)
{
    return l->r.in.shape;
}

int64_t rk_loader_classes(const rk_loader *l)
{
    return l->r.in.classes;
}

const char *rk_loader_class_name(const rk_loader *l, int64_t c)
{
    return l->r.in.class_names && c >= 0 && c < l->r.in.classes ? l->r.in.class_names[c] : NULL;
}

int64_t rk_loader_targets(const rk_loader *l)
{
    return l->reconstruction ? l->r.elems : l->r.in.targets;
}

int rk_loader_stats(const rk_loader *l, const double **mean, const double **std)
{
    *mean = l->r.mean;
    *std = l->r.std;
    return (int)l->r.in.groups;
}

rk_status rk_loader_set_stats(rk_loader *l, int n, const double *mean, const double *std)
{
    if (l->dead)
        return l->ctx ? rk_failed(l->ctx) : RK_ECONFIG;
    if (n != l->r.in.groups)
        return rk_fail(l->ctx, RK_ECONFIG, "loader: %d pairs of statistics for %lld channels or columns", n,
                       (long long)l->r.in.groups);
    RK_TRY(check_stats(l->ctx, n, mean, std));
    bool was_running = l->started;
    if (was_running) /* workers read the scales: stop them, then fill anew */
        rk__prefetch_stop(l);
    memcpy(l->r.mean, mean, (size_t)n * sizeof *mean);
    memcpy(l->r.std, std, (size_t)n * sizeof *std);
    RK_TRY(rk__loader_scales(l->ctx, &l->r));
    return was_running ? rk__prefetch_restart(l) : RK_OK;
}

static void put_numbers(rk__text *t, const char *name, const double *v, int64_t n)
{
    rk__text_printf(t, "\"%s\":[", name);
    for (int64_t i = 0; i < n; i++) {
        char buf[32];
        rk__format_double(v[i], buf);
        rk__text_printf(t, "%s%s", i ? "," : "", buf);
    }
    rk__text_puts(t, "]");
}

char *rk_loader_schema(const rk_loader *l)
{
    rk__text t = { 0 };
    if (l->dead)
        return NULL;
    rk__text_puts(&t, "{");
    if (l->r.ds->ops->schema) {
        l->r.ds->ops->schema(l->r.ds, &t);
        rk__text_puts(&t, ",");
    }
    put_numbers(&t, "mean", l->r.mean, l->r.in.groups);
    rk__text_puts(&t, ",");
    put_numbers(&t, "std", l->r.std, l->r.in.groups);
    rk__text_puts(&t, "}");
    return rk__text_take(&t);
}
