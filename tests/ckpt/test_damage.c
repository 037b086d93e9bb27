/* Whatever happens to a snapshot's files: it is noticed and named, the older snapshot is used, nothing is
 * half loaded. */
#include "ckpt_fixture.h"

#include <xxhash.h>

static const char *const file[] = { RK__MANIFEST, "r0000.h5", "opt-r0000.h5" };

/* Steps 1 and 2 on disk; then file f of step 2 gets these bytes, and the loader must take step 1 and name the
 * file. */
static bool falls_back(fixture *x, int f, const unsigned char *p, size_t n)
{
    char path[512];
    lines l = { .n = 0 };
    snap_path(x, 2, file[f], path, sizeof path);
    write_all(path, p, n);
    set_version(x, 9);
    int64_t got = load_step(x, -1, add_line, &l);
    if (got == 1 && l.n == 1 && strstr(l.text, file[f]) && strstr(l.text, "step-000000000002") &&
        is_version(x, 1))
        return true;
    fprintf(stderr, "%s: loaded %lld, said: %s\n", file[f], (long long)got, l.text);
    return false;
}

static void two_snapshots(fixture *x, bool compress)
{
    setup(x);
    if (save_step(x, 1, &(rk_run_cfg){ .sync_write = true, .compress = compress }) ||
        save_step(x, 2, &(rk_run_cfg){ .sync_write = true, .compress = compress }))
        fprintf(stderr, "%s\n", rk_error(x->ctx));
}

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13, *seed ^= *seed >> 7, *seed ^= *seed << 17;
    return *seed * 0x2545F4914F6CDD1Dull >> 11;
}

static void flip_many(bool compress, int flips, int cuts)
{
    fixture x;
    uint64_t seed = compress ? 77 : 5;
    two_snapshots(&x, compress);
    for (int f = 0; f < 3; f++) {
        char path[512];
        size_t n = 0;
        snap_path(&x, 2, file[f], path, sizeof path);
        unsigned char *good = read_all(path, &n), *p = malloc(n + 8);
        for (int i = 0; i < flips; i++) {
            size_t at = next(&seed) % n;
            memcpy(p, good, n);
            p[at] ^= (unsigned char)(1u << next(&seed) % 8);
            CHECK(falls_back(&x, f, p, n));
        }
        for (int i = 0; i < cuts; i++)
            CHECK(falls_back(&x, f, good, i ? next(&seed) % n : 0));
        memcpy(p, good, n);
        memcpy(p + n, "tail", 4);
        CHECK(falls_back(&x, f, p, n + 4));
        write_all(path, good, n);
        CHECK_INT(load_step(&x, -1, NULL, NULL), 2); /* and whole again */
        CHECK(is_version(&x, 2));
        free(good);
        free(p);
    }
    teardown(&x);
}

TEST(flipped_bits_and_cut_files)
{
    flip_many(false, 80, 12);
}

TEST(flipped_bits_and_cut_files_compressed)
{
    flip_many(true, 25, 5);
}

TEST(the_message_says_where)
{
    fixture x;
    lines l = { .n = 0 };
    char path[512];
    size_t n = 0;
    setup_sized(&x, 1 << 20);
    CHECK_OK(x.ctx, save_step(&x, 1, NULL));
    CHECK_OK(x.ctx, save_step(&x, 2, NULL));
    snap_path(&x, 2, "opt-r0000.h5", path, sizeof path);
    unsigned char *p = read_all(path, &n);
    p[(5 << 20) + 17] ^= 4;
    write_all(path, p, n);
    CHECK_INT(load_step(&x, -1, add_line, &l), 1);
    CHECK(strstr(l.text, "step-000000000002/opt-r0000.h5: chunk 5 (bytes 5242880 to 6291455): expected "));
    CHECK(strstr(l.text, ", got "));
    lines v = { .n = 0 };
    CHECK_INT(rk_run_verify(x.ctx, x.run, add_line, &v), RK_EDATA);
    CHECK_INT(v.n, 2);
    CHECK(strstr(v.text, "good  step-000000000001") &&
          strstr(v.text, "bad   step-000000000002/opt-r0000.h5: chunk 5"));
    rk_error_clear(x.ctx);
    CHECK_INT(-load_step(&x, 2, NULL, NULL), RK_EDATA); /* asked for by number: no other will do */
    rk_error_clear(x.ctx);
    free(p);
    teardown(&x);
}

TEST(missing_files_links_and_folders)
{
    for (int f = 0; f < 3; f++) {
        for (int how = 0; how < 3; how++) {
            fixture x;
            char path[512], away[600];
            two_snapshots(&x, false);
            snap_path(&x, 2, file[f], path, sizeof path);
            snprintf(away, sizeof away, "%s/away", x.dir);
            CHECK(!rename(path, away));
            CHECK(how == 0 || (how == 1 ? symlink(away, path) : mkdir(path, 0700)) == 0);
            CHECK_INT(load_step(&x, -1, NULL, NULL), 1);
            CHECK(is_version(&x, 1));
            teardown(&x);
        }
    }
}

TEST(all_bad_is_said)
{
    fixture x;
    char path[512];
    two_snapshots(&x, false);
    for (int s = 1; s <= 2; s++) {
        snap_path(&x, s, "r0000.h5", path, sizeof path);
        CHECK(!truncate(path, 100));
    }
    CHECK_INT(-load_step(&x, -1, NULL, NULL), RK_EDATA);
    CHECK(strstr(rk_error(x.ctx), "none of its 2 snapshots is whole") && strstr(rk_error(x.ctx), "got 100"));
    teardown(&x);
}

TEST(a_bad_one_is_replaced_and_never_counted_as_kept)
{
    fixture x;
    rk_run *run;
    char path[512];
    const int64_t *step;
    int n;
    two_snapshots(&x, false);
    CHECK_OK(x.ctx, save_step(&x, 4, NULL)); /* 2 and 4 are kept */
    snap_path(&x, 4, "r0000.h5", path, sizeof path);
    CHECK(!truncate(path, 100));
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run, .sync_write = true }, &run));
    CHECK_OK(x.ctx, rk__run_load(run, -1, &x.st, 0, false, NULL, NULL, NULL));
    CHECK(is_version(&x, 2));
    set_version(&x, 3);
    CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = 3 }));
    CHECK_OK(x.ctx, rk_run_steps(x.ctx, x.run, &step, &n));
    CHECK_INT(n, 2); /* 2 and 3: the bad 4 is gone, the good 2 is not */
    CHECK_INT(step[0], 2);
    CHECK_INT(step[1], 3);
    rk__run_close(run);
    teardown(&x);
}

/* ---- manifests that are whole but wrong ---- */

/* Replaces the first `from` by `to` in step 2's manifest and closes it with the right sum. */
static bool edit(fixture *x, const char *from, const char *to)
{
    char path[512], hex[33];
    size_t n = 0;
    snap_path(x, 2, RK__MANIFEST, path, sizeof path);
    char *text = (char *)read_all(path, &n), *at = strstr(text, from);
    if (!at)
        return false;
    size_t cap = n + strlen(to) + 1, k = (size_t)(at - text);
    char *out = malloc(cap);
    k += (size_t)snprintf(out + k, cap - k, "%s", to);
    memcpy(out, text, (size_t)(at - text));
    memcpy(out + k, at + strlen(from), n - (size_t)(at - text) - strlen(from));
    n = n - strlen(from) + strlen(to);
    char *line = out + n - 1;
    while (line[-1] != '\n')
        line--;
    rk__manifest_sum((unsigned char *)out, (size_t)(line - out), hex);
    memcpy(strstr(line, ": \"") + 3, hex, 32);
    write_all(path, out, n);
    free(out);
    free(text);
    return true;
}

static const struct {
    const char *from, *to, *why;
} hostile[] = {
    { "\"name\": \"r0000.h5\"", "\"name\": \"../r0000.h5\"", "not a name for a file" },
    { "\"name\": \"r0000.h5\"", "\"name\": \"/etc/passwd\"", "not a name for a file" },
    { "\"name\": \"r0000.h5\"", "\"name\": \".hidden\"", "not a name for a file" },
    { "\"name\": \"r0000.h5\"", "\"name\": \"opt-r0000.h5\"", "file listed twice" },
    { "\"name\": \"fc1.bias\"", "\"name\": \"fc1..//bias\"", "not a name for a tensor" },
    { "\"name\": \"fc1.bias\"", "\"name\": \"a.brain\"", "sorted" },
    { "\"kind\": \"param\"", "\"kind\": \"cursor\"", "unknown kind" },
    { "\"dtype\": \"bf16\"", "\"dtype\": \"f8\"", "unknown kind or type" },
    { "\"dtype\": \"bf16\"", "\"dtype\": \"f16\"", "another type" },
    { "\"shape\": [2, 3, 4]", "\"shape\": [2, 3, 5]", "leave a part" },
    { "\"shape\": [2, 3, 4]", "\"shape\": [2, 3]", "numbers of axes" },
    { "\"shape\": [2, 3, 4]", "\"shape\": [2, 3, -4]", "axis out of range" },
    { "\"shape\": [2, 3, 4]", "\"shape\": [1125899906842624, 1125899906842624, 1125899906842624]",
      "too large" },
    { "\"shape\": [2, 3, 4]", "\"shape\": [1,1,1,1,1,1,1,1,1]", "too many axes" },
    { "\"extent\": [2, 3, 4]", "\"extent\": [2, 3, 3]", "leave a part" },
    { "\"extent\": [2, 3, 4]", "\"extent\": [9223372036854775807, 3, 4]", "out of range" },
    { "\"offset\": [0, 0, 0], \"extent\": [2, 3, 4]", "\"offset\": [1, 0, 0], \"extent\": [2, 3, 4]",
      "edge" },
    { "\"data_set\": \"a.brain\"", "\"data_set\": \"a.half\"", "another" },
    { "\"data_set\": \"a.brain\"", "\"data_set\": \"nowhere\"", "no data set" },
    { "\"data_set\": \"a.brain\"", "\"data_set\": \"../a\"", "not a name for a data set" },
    { "{\"file\": 0, \"data_set\": \"a.brain\"", "{\"file\": 2, \"data_set\": \"a.brain\"", "out of range" },
    { "\"step\": 2", "\"step\": 3", "step 3" },
    { "\"step\": 2", "\"step\": -2", "out of range" },
    { "\"step\": 2", "\"step\": 2.0", "wrong type" },
    { "\"best\": false", "\"best\": false, \"best\": true", "" },
    { "\"files\": [", "\"files\": {}, \"x\": [", "wrong type" },
    { "\"sum_bytes\": 1048576", "\"sum_bytes\": 1", "out of range" },
    { "\"schema\": 1", "\"schema\": 0", "unknown format" },
    { "\"config_sha256\": \"\"", "\"config_sha256\": \"00\"", "not the sum" },
    { "\"xxh3_64\": [\"", "\"xxh3_64\": [\"0000000000000000\", \"", "does not fit the size" },
    { "\"loader/cursor\": ", "\"loader/cursor\": 0.", "a name and a number" },
};

TEST(hostile_manifests)
{
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        fixture x;
        lines l = { .n = 0 };
        two_snapshots(&x, false);
        if (!edit(&x, hostile[i].from, hostile[i].to))
            TEST_FAIL("the manifest has no %s", hostile[i].from);
        set_version(&x, 9);
        int64_t got = load_step(&x, -1, add_line, &l);
        if (got != 1 || l.n != 1 || !strstr(l.text, hostile[i].why) || !is_version(&x, 1))
            TEST_FAIL("%s: loaded %lld, said: %s", hostile[i].to, (long long)got, l.text);
        teardown(&x);
    }
}

TEST(a_newer_format_is_refused_not_passed_over)
{
    fixture x;
    two_snapshots(&x, false);
    CHECK(edit(&x, "\"schema\": 1", "\"schema\": 2"));
    CHECK_INT(-load_step(&x, -1, NULL, NULL), RK_EDATA);
    CHECK(strstr(rk_error(x.ctx), "format 2"));
    teardown(&x);
}

/* ---- pieces ---- */

/* Cuts rows or columns of a tensor into `cut` pieces, each in a file of its own writer. */
static void sharded(int axis, int cut)
{
    fixture x;
    rk__manifest m = { .step = 5, .epoch = 1, .ranks = cut, .grid_data = 8, .grid_tensor = 1 };
    rk__image image[4] = { { 0 } };
    rk__fault f = { 0 };
    int64_t rows = 6, cols = 10, from = 0;
    int32_t value[60], got[60];
    setup(&x);
    for (int i = 0; i < 60; i++)
        value[i] = i * i;
    m.version = strdup("0");
    m.files = calloc(4, sizeof *m.files);
    m.tensors = calloc(1, sizeof *m.tensors);
    rk__m_tensor *t = m.tensors;
    *t = (rk__m_tensor){
        strdup("w"), RK_STATE_PARAM, RK_I32, RK_SHAPE(rows, cols), calloc(4, sizeof(rk__m_piece)), cut
    };
    m.n_tensors = 1;
    m.n_files = cut;
    for (int i = 0; i < cut; i++) {
        int64_t whole = axis ? cols : rows, to = whole * (i + 1) / cut;
        rk_shape e = axis ? RK_SHAPE(rows, to - from) : RK_SHAPE(to - from, cols);
        rk__slab slab = { "w", RK_I32, e, (size_t)(e.dim[0] * e.dim[1] * 4), 0 };
        CHECK_INT(rk__h5_layout(&image[i], &slab, 1, &f), RK_OK);
        int32_t *p = (int32_t *)(void *)(image[i].p + slab.offset);
        for (int64_t r = 0; r < e.dim[0]; r++)
            for (int64_t c = 0; c < e.dim[1]; c++)
                *p++ = value[(r + (axis ? 0 : from)) * cols + c + (axis ? from : 0)];
        char name[32];
        snprintf(name, sizeof name, "r%04d.h5", i);
        m.files[i].name = strdup(name);
        t->pieces[i] = (rk__m_piece){ .file = i, .data_set = strdup("w") };
        t->pieces[i].extent = e;
        t->pieces[i].lo[axis] = from;
        from = to;
    }
    CHECK(!mkdir(x.run, 0700));
    char path[400];
    snprintf(path, sizeof path, "%s/snap", x.run);
    CHECK(!mkdir(path, 0700));
    int dir = open(path, O_RDONLY | O_DIRECTORY);
    rk__commit c = { .io = &rk__io_system, .snap_dir = dir, .m = &m, .images = image, .n = cut };
    CHECK_INT(rk__snap_commit(&c, &f), RK_OK);
    close(dir);
    rk__state_free(&x.st);
    rk_tensor *w = rk_tensor_make(x.ctx, RK_I32, RK_SHAPE(rows, cols));
    CHECK_OK(x.ctx, rk__state_add(&x.st, RK_STATE_PARAM, "w", w));
    CHECK_INT(load_step(&x, -1, NULL, NULL), 5);
    CHECK_OK(x.ctx, rk_tensor_read(w, got, sizeof got));
    CHECK(!memcmp(got, value, sizeof got));
    for (int i = 0; i < cut; i++)
        rk__image_free(&image[i]);
    rk__manifest_free(&m);
    teardown(&x);
}

TEST(pieces_of_several_writers)
{
    for (int axis = 0; axis < 2; axis++)
        for (int cut = 1; cut <= 4; cut++)
            sharded(axis, cut);
}

TEST_MAIN
