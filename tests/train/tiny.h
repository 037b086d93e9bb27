/* Small runs for tests: a made-up IDX data set in a folder of its own, trained from configuration text. */
#ifndef RK_TEST_TINY_H
#define RK_TEST_TINY_H

#include "test.h"

#include <rankine/train.h>

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

static char tiny_dir[128];

static inline int tiny_remove_one(const char *path, const struct stat *s, int flag, struct FTW *f)
{
    (void)s;
    (void)flag;
    (void)f;
    return remove(path);
}

static inline void tiny_remove(const char *path)
{
    nftw(path, tiny_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void tiny_cleanup(void)
{
    if (*tiny_dir)
        tiny_remove(tiny_dir);
}

static inline const char *tiny_path(const char *name)
{
    static char buf[4][256];
    static int at;
    char *p = buf[at++ % 4];
    snprintf(p, sizeof buf[0], "%s/%s", tiny_dir, name);
    return p;
}

/* n images of 8 x 8 in 4 classes: a bright quarter of the image, and noise. */
static inline void tiny_idx(const char *prefix, int n, unsigned seed)
{
    char path[300];
    unsigned char head[16] = { 0, 0, 8, 3, 0, 0, (unsigned char)(n >> 8), (unsigned char)n, 0, 0,
                               0, 8, 0, 0, 0, 8 };
    snprintf(path, sizeof path, "%s/%s-images-idx3-ubyte", tiny_dir, prefix);
    FILE *x = fopen(path, "wb");
    snprintf(path, sizeof path, "%s/%s-labels-idx1-ubyte", tiny_dir, prefix);
    FILE *y = fopen(path, "wb");
    fwrite(head, 1, 16, x);
    head[3] = 1;
    fwrite(head, 1, 8, y);
    uint32_t r = seed * 2654435761u + 1;
    for (int i = 0; i < n; i++) {
        int label = i % 4;
        for (int p = 0; p < 64; p++) {
            r = r * 1664525u + 1013904223u;
            int quarter = (p / 32) * 2 + (p % 8) / 4;
            fputc((int)(r >> 25) + (quarter == label ? 100 : 0), x);
        }
        fputc(label, y);
    }
    fclose(x);
    fclose(y);
}

static inline void tiny_begin(void)
{
    if (*tiny_dir)
        return;
    snprintf(tiny_dir, sizeof tiny_dir, "tiny-%d", (int)getpid());
    mkdir(tiny_dir, 0700);
    tiny_idx("train", 100, 1);
    tiny_idx("eval", 60, 2);
    atexit(tiny_cleanup);
}

enum { TINY_LOSSES = 256 };

typedef struct tiny_run {
    rk_status status;
    char error[1024], hash[65], start[128], end[256], warn[256];
    double loss[TINY_LOSSES]; /* by step, from 1 */
    double eval_loss, eval_accuracy;
    int evals, saves, warns;
    int64_t first, last, allocs; /* steps seen; allocations of step memory in the last step */
    int64_t stop_at;             /* set before: ask to stop after this step; 0: never */
    volatile int stop;
    rk_event_fn *also; /* set before, may be NULL: told every event, with the tiny_run as its user */
    void *also_arg;
    rk_ctx *ctx;
} tiny_run;

static inline void tiny_event(void *user, const rk_event *e)
{
    tiny_run *t = user;
    if (e->kind == RK_EVENT_STEP) {
        if (!t->first)
            t->first = e->step;
        t->last = e->step;
        t->allocs = rk_memory_step_allocs(t->ctx);
        if (e->step < TINY_LOSSES)
            t->loss[e->step] = e->progress->loss;
        if (e->step == t->stop_at)
            t->stop = 1;
    } else if (e->kind == RK_EVENT_EVAL) {
        t->evals++;
        for (int i = 0; i < e->n_metrics; i++) {
            if (!strcmp(e->metrics[i].name, "val_loss"))
                t->eval_loss = e->metrics[i].value;
            if (!strcmp(e->metrics[i].name, "val_accuracy"))
                t->eval_accuracy = e->metrics[i].value;
        }
    } else if (e->kind == RK_EVENT_SAVED) {
        t->saves++;
    } else if (e->kind == RK_EVENT_START) {
        snprintf(t->start, sizeof t->start, "%s", e->text);
    } else if (e->kind == RK_EVENT_END) {
        snprintf(t->end, sizeof t->end, "%s", e->text);
    } else if (e->kind == RK_EVENT_WARN) {
        snprintf(t->warn, sizeof t->warn, "%s", e->text);
        t->warns++;
    }
    if (t->also)
        t->also(t, e);
}

/* Trains `model` (YAML of the layers) with overrides, NULL-terminated. isa may be NULL. */
static inline void tiny_train_with(tiny_run *t, const char *text, const char *isa, const rk_train_opts *how,
                                   const char *const *over)
{
    int n = 0;
    rk_ctx *small = NULL;
    tiny_begin();
    const char *path = tiny_path("config.yaml");
    FILE *f = fopen(path, "w");
    fprintf(f, "data: {path: %s/train}\nrun: {dir: %s/run}\n%s", tiny_dir, tiny_dir, text);
    fclose(f);
    while (over && over[n])
        n++;
    rk_open(&(rk_open_cfg){ .threads = 1 }, &small);
    rk_config *cfg = rk_config_load(small, path, over, n);
    if (!cfg) {
        t->status = rk_failed(small);
        snprintf(t->error, sizeof t->error, "%s", rk_error(small));
        rk_close(small);
        return;
    }
    rk_open_cfg open;
    rk_config_open_cfg(cfg, &open);
    open.isa = isa;
    rk_open(&open, &t->ctx);
    rk_train_opts o = how ? *how : (rk_train_opts){ 0 };
    o.on_event = tiny_event;
    o.user = t;
    o.stop = &t->stop;
    t->status = rk_train(t->ctx, cfg, &o);
    snprintf(t->error, sizeof t->error, "%s", rk_error(t->ctx));
    if (!t->status)
        rk_snapshot_hash(t->ctx, rk_config_run_dir(cfg), -1, t->hash);
    rk_close(t->ctx);
    rk_close(small);
}

/* One override string "a=b c=d", for tests that have few. */
static inline tiny_run tiny_train(const char *text, const char *overrides)
{
    static char words[512];
    const char *over[32] = { NULL };
    int n = 0;
    snprintf(words, sizeof words, "%s", overrides ? overrides : "");
    for (char *save, *p = strtok_r(words, " ", &save); p && n < 31; p = strtok_r(NULL, " ", &save))
        over[n++] = p;
    tiny_run t = { 0 };
    tiny_train_with(&t, text, NULL, NULL, over);
    return t;
}

static inline void tiny_fresh(void)
{
    tiny_begin();
    tiny_remove(tiny_path("run"));
}

#endif
