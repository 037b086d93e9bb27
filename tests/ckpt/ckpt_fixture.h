/* A small state, a folder of its own, and what the tests of snapshots ask again and again. */
#ifndef CKPT_FIXTURE_H
#define CKPT_FIXTURE_H

#include "test.h"

#include "ckpt/run.h"
#include "core/ctx.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct fixture {
    rk_ctx *ctx;
    rk_state st;
    int64_t cursor, counter;
    char dir[256], run[300];
} fixture;

static inline void remove_folder(const char *path)
{
    rk__io_remove_tree(&rk__io_system, AT_FDCWD, path);
}

static inline void make_folder(char *dir, size_t n)
{
    const char *base = getenv("TMPDIR");
    struct stat s;
    if (!base)
        base = !stat("/dev/shm", &s) ? "/dev/shm" : "/tmp";
    snprintf(dir, n, "%s/rk-ckpt-XXXXXX", base);
    if (!mkdtemp(dir))
        abort();
}

/* Values that tell tensor, element and version apart. */
static inline void fill(rk_tensor *t, int version, int salt)
{
    size_t bytes = (size_t)rk_tensor_size(t) * rk_dtype_size(rk_tensor_dtype(t));
    unsigned char *p = malloc(bytes + 1);
    uint64_t x = 0x9e3779b97f4a7c15ull * (uint64_t)(version + 1) + (uint64_t)salt * 977;
    for (size_t i = 0; i < bytes; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        p[i] = (unsigned char)(x >> 32);
    }
    if (bytes)
        rk_tensor_write(t, p, bytes);
    free(p);
}

static inline void set_version(fixture *x, int version)
{
    for (int i = 0; i < x->st.n; i++)
        if (x->st.entries[i].tensor)
            fill(x->st.entries[i].tensor, version,
                 (int)strlen(x->st.entries[i].name) + x->st.entries[i].name[0]);
    x->cursor = 1000 + version;
    x->counter = -version;
}

/* big: elements of the largest tensor. */
static inline void setup_sized(fixture *x, int64_t big)
{
    memset(x, 0, sizeof *x);
    rk_open(&(rk_open_cfg){ .threads = 1 }, &x->ctx);
    rk__state_init(&x->st, x->ctx);
    rk_ctx *c = x->ctx;
    rk__state_add(&x->st, RK_STATE_PARAM, "fc1.weight", rk_tensor_make(c, RK_F32, RK_SHAPE(big / 32, 32)));
    rk__state_add(&x->st, RK_STATE_PARAM, "fc1.bias", rk_tensor_make(c, RK_F32, RK_SHAPE(7)));
    rk__state_add(&x->st, RK_STATE_PARAM, "a.half", rk_tensor_make(c, RK_F16, RK_SHAPE(3, 5)));
    rk__state_add(&x->st, RK_STATE_PARAM, "a.brain", rk_tensor_make(c, RK_BF16, RK_SHAPE(2, 3, 4)));
    rk__state_add(&x->st, RK_STATE_PARAM, "scalar", rk_tensor_make(c, RK_F64, RK_SCALAR));
    rk__state_add(&x->st, RK_STATE_PARAM, "empty", rk_tensor_make(c, RK_F32, RK_SHAPE(0, 4)));
    rk__state_add(&x->st, RK_STATE_BUFFER, "bn.count", rk_tensor_make(c, RK_I64, RK_SHAPE(1)));
    rk__state_add(&x->st, RK_STATE_BUFFER, "bn.mask", rk_tensor_make(c, RK_U8, RK_SHAPE(9)));
    rk__state_add(&x->st, RK_STATE_BUFFER, "bn.index", rk_tensor_make(c, RK_I32, RK_SHAPE(2, 1, 2)));
    rk__state_add(&x->st, RK_STATE_EMA, "ema/fc1.bias", rk_tensor_make(c, RK_F32, RK_SHAPE(7)));
    rk__state_add(&x->st, RK_STATE_OPTIM, "optim/fc1.weight/m",
                  rk_tensor_make(c, RK_F32, RK_SHAPE(big / 32, 32)));
    rk__state_add(&x->st, RK_STATE_OPTIM, "optim/fc1.weight/v",
                  rk_tensor_make(c, RK_F32, RK_SHAPE(big / 32, 32)));
    rk__state_add_cursor(&x->st, "loader/cursor", &x->cursor);
    rk__state_add_cursor(&x->st, "train/step", &x->counter);
    make_folder(x->dir, sizeof x->dir);
    snprintf(x->run, sizeof x->run, "%s/run", x->dir);
}

static inline void setup(fixture *x)
{
    setup_sized(x, 32 * 33);
}

static inline void teardown(fixture *x)
{
    rk__state_free(&x->st);
    rk_close(x->ctx);
    remove_folder(x->dir);
}

static inline bool hash_of(fixture *x, char *hex)
{
    return rk__state_sha256(&x->st, RK_STATE_HASHED, hex) == RK_OK;
}

/* Saves version `step` as step `step` in a run opened and closed for it. */
static inline rk_status save_step(fixture *x, int64_t step, const rk_run_cfg *cfg)
{
    rk_run *run;
    rk_run_cfg c = cfg ? *cfg : (rk_run_cfg){ .sync_write = true };
    c.dir = x->run;
    set_version(x, (int)step);
    rk_status st = rk__run_open(x->ctx, &c, &run);
    if (st)
        return st;
    st = rk__run_save(run, &x->st, &(rk_snap_info){ .step = step });
    if (!st)
        st = rk__run_wait(run, NULL, NULL, 0);
    rk__run_close(run);
    return st;
}

/* Loads into the state; returns the step, or minus the status. */
static inline int64_t load_step(fixture *x, int64_t step, rk_warn_fn *warn, void *user)
{
    rk_run *run;
    rk_snap_info info = { 0 };
    rk_status st = rk__run_open(x->ctx, &(rk_run_cfg){ .dir = x->run, .read_only = true }, &run);
    if (!st)
        st = rk__run_load(run, step, &x->st, 0, false, &info, warn, user);
    int64_t got = st ? -(int64_t)st : info.step;
    if (!st)
        rk__snap_info_free(&info);
    rk__run_close(run);
    return got;
}

/* Whether the state is exactly version `version`. */
static inline bool is_version(fixture *x, int version)
{
    char got[65], want[65];
    int64_t cursor = x->cursor, counter = x->counter;
    if (!hash_of(x, got))
        return false;
    set_version(x, version);
    return hash_of(x, want) && !strcmp(got, want) && cursor == x->cursor && counter == x->counter;
}

static inline void snap_path(const fixture *x, int64_t step, const char *file, char *path, size_t n)
{
    char name[RK__SNAP_NAME];
    rk__snap_name(step, name);
    snprintf(path, n, "%s/snap/%s%s%s", x->run, name, file ? "/" : "", file ? file : "");
}

static inline unsigned char *read_all(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    unsigned char *p = malloc(*n + 1);
    if (fread(p, 1, *n, f) != *n)
        abort();
    fclose(f);
    p[*n] = 0;
    return p;
}

static inline void write_all(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f))
        abort();
}

typedef struct lines {
    char text[8192];
    int n;
} lines;

static inline void add_line(void *user, const char *line)
{
    lines *l = user;
    size_t at = strlen(l->text);
    snprintf(l->text + at, sizeof l->text - at, "%s\n", line);
    l->n++;
}

#endif
