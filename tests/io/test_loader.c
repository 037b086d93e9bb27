#include "files.h"

#include <rankine/io.h>

enum { N = 53, H = 4, W = 5, E = H * W };

static uint8_t image[N][H][W];

/* A data set of N small images with distinct pixels, and labels n % 7. */
static const char *images(void)
{
    static char path[256];
    if (path[0])
        return path;
    uint8_t buf[16 + N * E] = { 0, 0, 8, 3, 0, 0, 0, N, 0, 0, 0, H, 0, 0, 0, W },
                         labels[8 + N] = { 0, 0, 8, 1, 0, 0, 0, N };
    for (int n = 0; n < N; n++)
        for (int i = 0; i < E; i++)
            image[n][i / W][i % W] = (uint8_t)(1 + (n * 31 + i * 7) % 255);
    memcpy(buf + 16, image, sizeof image);
    for (int n = 0; n < N; n++)
        labels[8 + n] = (uint8_t)(n % 7);
    file_write("p-images-idx3-ubyte", buf, sizeof buf);
    file_write("p-labels-idx1-ubyte", labels, sizeof labels);
    snprintf(path, sizeof path, "%s", file_path("p"));
    return path;
}

static rk_ctx *context(void)
{
    rk_ctx *ctx;
    if (rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx) != RK_OK)
        abort();
    return ctx;
}

typedef struct record {
    int64_t sample, label, epoch;
    float x[E];
} record;

/* Serves up to `max` samples into out; checks what every batch promises. Returns how many. */
static int serve(rk_ctx *ctx, rk_loader *l, record *out, int max)
{
    int n = 0;
    for (rk_batch b; n < max && rk_loader_next(l, &b); rk_step_end(ctx)) {
        float x[64 * E];
        int64_t y[64];
        if (b.n > 64 || rk_tensor_read(b.x, x, (size_t)b.n * E * 4) ||
            rk_tensor_read(b.y, y, (size_t)b.n * 8))
            abort();
        for (int64_t i = 0; i < b.n && n < max; i++, n++) {
            out[n] = (record){ b.sample[i], y[i], b.epoch, { 0 } };
            memcpy(out[n].x, x + i * E, sizeof out[n].x);
        }
    }
    return n;
}

static int run(const rk_data_cfg *cfg, int64_t cursor, record *out, int max)
{
    rk_ctx *ctx = context();
    rk_loader *l = rk_loader_make(ctx, cfg);
    if (cursor && rk_loader_seek(l, cursor))
        abort();
    int n = serve(ctx, l, out, max);
    if (rk_failed(ctx)) {
        fprintf(stderr, "%s\n", rk_error(ctx));
        abort();
    }
    rk_close(ctx);
    return n;
}

static rk_data_cfg full(void)
{
    return (rk_data_cfg){ .path = images(),
                          .batch = 8,
                          .shuffle = true,
                          .seed = 5,
                          .shift = 1,
                          .crop_pad = 1,
                          .flip = true,
                          .noise = 0.1,
                          .epochs = 3 };
}

TEST(plain_order_and_values)
{
    static record r[N + 1];
    rk_data_cfg c = { .path = images(), .batch = 8, .normalize = "scale", .epochs = 1 };
    CHECK_INT(run(&c, 0, r, N + 1), N);
    for (int n = 0; n < N; n++) {
        CHECK_INT(r[n].sample, n);
        CHECK_INT(r[n].label, n % 7);
        for (int i = 0; i < E; i++)
            CHECK_CLOSE(r[n].x[i], image[n][i / W][i % W] / 255.0, 1e-7, 0);
    }
}

TEST(each_epoch_serves_every_sample_once)
{
    static record r[3 * N + 1];
    rk_data_cfg c = full();
    CHECK_INT(run(&c, 0, r, 3 * N + 1), 3 * N);
    int differ = 0;
    for (int e = 0; e < 3; e++) {
        bool seen[N] = { false };
        for (int i = 0; i < N; i++) {
            record *q = &r[e * N + i];
            CHECK_INT(q->epoch, e);
            CHECK(!seen[q->sample]);
            seen[q->sample] = true;
            CHECK_INT(q->label, q->sample % 7);
            differ += q->sample != r[i].sample;
        }
    }
    CHECK(differ > N); /* epochs have orders of their own */
}

/* What is served does not depend on threads, batch size or batches ahead: bit by bit. */
TEST(bits_are_independent_of_layout)
{
    static record a[3 * N], b[3 * N];
    rk_data_cfg c = full();
    CHECK_INT(run(&c, 0, a, 3 * N), 3 * N);
    static const struct {
        int batch, threads, prefetch;
    } layouts[] = { { 1, 1, 1 }, { 8, 3, 7 }, { 64, 2, 1 }, { 5, 4, 2 } };
    for (size_t k = 0; k < sizeof layouts / sizeof *layouts; k++) {
        c.batch = layouts[k].batch;
        c.threads = layouts[k].threads;
        c.prefetch = layouts[k].prefetch;
        CHECK_INT(run(&c, 0, b, 3 * N), 3 * N);
        CHECK(!memcmp(a, b, sizeof a));
    }
}

TEST(seek_continues_with_the_exact_next_sample)
{
    static record a[3 * N], b[3 * N];
    rk_data_cfg c = full();
    CHECK_INT(run(&c, 0, a, 3 * N), 3 * N);
    for (int at = 1; at < 3 * N; at += 13) {
        CHECK_INT(run(&c, at, b, 3 * N), 3 * N - at);
        CHECK(!memcmp(a + at, b, sizeof *a * (size_t)(3 * N - at)));
    }
    CHECK_INT(run(&c, 3 * N, b, 3 * N), 0);
}

TEST(seek_in_a_running_loader)
{
    static record a[3 * N], b[3 * N];
    rk_data_cfg c = full();
    c.threads = 2;
    CHECK_INT(run(&c, 0, a, 3 * N), 3 * N);
    rk_ctx *ctx = context();
    rk_loader *l = rk_loader_make(ctx, &c);
    serve(ctx, l, b, 24);
    CHECK_INT(rk_loader_cursor(l), 24);
    rk_loader_seek(l, 8);
    CHECK_INT(serve(ctx, l, b, 3 * N), 3 * N - 8);
    CHECK(!memcmp(a + 8, b, sizeof *a * (size_t)(3 * N - 8)));
    rk_loader_seek(l, 0); /* after the end, too */
    CHECK_INT(serve(ctx, l, b, 3 * N), 3 * N);
    CHECK(!memcmp(a, b, sizeof a));
    CHECK_INT(rk_close(ctx), 0);
}

TEST(split_parts_do_not_overlap)
{
    static record t[N], v[N], t2[N];
    rk_data_cfg c = { .path = images(), .batch = 8, .split = 0.3, .seed = 9, .epochs = 1, .shuffle = true };
    int nt = run(&c, 0, t, N);
    c.batch = 3;
    CHECK_INT(run(&c, 0, t2, N), nt);
    c.validation = true;
    c.flip = c.shuffle = false;
    int nv = run(&c, 0, v, N);
    CHECK_INT(nv, 16);
    CHECK_INT(nt, N - 16);
    bool seen[N] = { false };
    for (int i = 0; i < nt; i++) {
        CHECK(!seen[t[i].sample]);
        seen[t[i].sample] = true;
    }
    for (int i = 0; i < nv; i++) {
        CHECK(!seen[v[i].sample]);
        seen[v[i].sample] = true;
    }
    CHECK(memcmp(v, t, sizeof *v)); /* not simply the first ones */
    c.seed = 10;
    static record other[N];
    run(&c, 0, other, N);
    int same = 0;
    for (int i = 0; i < nv; i++)
        same += other[i].sample == v[i].sample;
    CHECK(same < nv);
}

/* A second loader on the same open data set, in whatever order they close. */
TEST(shared_data_sets)
{
    static record alone[N], shared[N];
    rk_data_cfg c = { .path = images(), .batch = 8, .split = 0.3, .seed = 9, .epochs = 1 };
    for (int order = 0; order < 2; order++) {
        rk_ctx *ctx = context();
        c.validation = false;
        c.share = NULL;
        rk_loader *train = rk_loader_make(ctx, &c);
        c.validation = true;
        int n = run(&c, 0, alone, N);
        c.share = train;
        c.path = "/nowhere"; /* not looked at */
        rk_loader *eval = rk_loader_make(ctx, &c);
        c.path = images();
        if (order)
            rk_loader_close(train);
        CHECK_INT(serve(ctx, eval, shared, N), n);
        CHECK(!memcmp(alone, shared, sizeof *alone * (size_t)n));
        rk_loader_close(eval);
        rk_batch b;
        CHECK_INT(rk_loader_next(train, &b), !order);
        CHECK_INT(rk_close(ctx), 0);
    }
}

TEST(statistics_come_from_the_training_part)
{
    static record t[N];
    rk_data_cfg c = { .path = images(), .batch = 8, .split = 0.3, .seed = 9, .epochs = 1 };
    int n = run(&c, 0, t, N);
    double sum = 0, squares = 0;
    for (int k = 0; k < n; k++)
        for (int i = 0; i < E; i++)
            sum += image[t[k].sample][i / W][i % W];
    for (int k = 0; k < n; k++)
        for (int i = 0; i < E; i++)
            squares += pow(image[t[k].sample][i / W][i % W] - sum / (n * E), 2);
    double want_mean = sum / (n * E), want_std = sqrt(squares / (n * E));
    rk_ctx *ctx = context();
    for (int v = 0; v < 2; v++) { /* the validation part is normalised alike */
        c.validation = v;
        rk_loader *l = rk_loader_make(ctx, &c);
        const double *mean, *std;
        CHECK_INT(rk_loader_stats(l, &mean, &std), 1);
        CHECK_CLOSE(mean[0], want_mean, 1e-12, 0);
        CHECK_CLOSE(std[0], want_std, 1e-12, 0);
    }
    CHECK_INT(rk_close(ctx), 0);
    for (int i = 0; i < E; i++)
        CHECK_CLOSE(t[0].x[i], (image[t[0].sample][i / W][i % W] - want_mean) / want_std, 1e-5, 1e-6);
}

/* Every augmented image is the original moved by at most 2 pixels and perhaps mirrored; all of it occurs. */
TEST(augmentation_moves_and_mirrors)
{
    static record r[40 * N];
    rk_data_cfg c = { .path = images(),
                      .batch = 16,
                      .seed = 3,
                      .shift = 1,
                      .crop_pad = 1,
                      .flip = true,
                      .epochs = 40,
                      .normalize = "none" };
    CHECK_INT(run(&c, 0, r, 40 * N), 40 * N);
    int found[2][5][5] = { { { 0 } } };
    for (int k = 0; k < 40 * N; k++) {
        bool match = false;
        for (int f = 0; f < 2 && !match; f++)
            for (int dy = -2; dy <= 2 && !match; dy++)
                for (int dx = -2; dx <= 2 && !match; dx++) {
                    bool same = true;
                    for (int i = 0; i < E && same; i++) {
                        int y = i / W + dy, x = (f ? W - 1 - i % W : i % W) + dx;
                        float want = y < 0 || y >= H || x < 0 || x >= W ? 0 : image[r[k].sample][y][x];
                        same = r[k].x[i] == want;
                    }
                    if (same) {
                        found[f][dy + 2][dx + 2]++;
                        match = true;
                    }
                }
        CHECK(match);
    }
    for (int i = 0; i < 50; i++)
        CHECK((&found[0][0][0])[i] > 0);
    int flipped = 0;
    for (int i = 25; i < 50; i++)
        flipped += (&found[0][0][0])[i];
    CHECK(flipped > 40 * N * 45 / 100 && flipped < 40 * N * 55 / 100);
}

TEST(noise_is_normal)
{
    static record r[40 * N];
    rk_data_cfg c = {
        .path = images(), .batch = 16, .seed = 3, .noise = 0.5, .epochs = 40, .normalize = "none"
    };
    CHECK_INT(run(&c, 0, r, 40 * N), 40 * N);
    double sum = 0, squares = 0, fourth = 0;
    int n = 40 * N * E, beyond = 0;
    for (int k = 0; k < 40 * N; k++)
        for (int i = 0; i < E; i++) {
            double z = (r[k].x[i] - image[r[k].sample][i / W][i % W]) / 0.5;
            sum += z;
            squares += z * z;
            fourth += z * z * z * z;
            beyond += fabs(z) > 2.5758293035489004;
        }
    CHECK_CLOSE(sum / n, 0, 0, 0.02);
    CHECK_CLOSE(squares / n, 1, 0.02, 0);
    CHECK_CLOSE(fourth / n, 3, 0.08, 0);
    CHECK_CLOSE((double)beyond / n, 0.01, 0.15, 0);
}

TEST(drop_last_limit_and_counts)
{
    static record r[200];
    rk_data_cfg c = { .path = images(), .batch = 8, .drop_last = true, .epochs = 2, .limit = 20 };
    CHECK_INT(run(&c, 0, r, 200), 32);
    for (int i = 0; i < 32; i++)
        CHECK_INT(r[i].sample, i % 16);
    rk_ctx *ctx = context();
    rk_loader *l = rk_loader_make(ctx, &c);
    CHECK_INT(rk_loader_samples(l), 20);
    CHECK_INT(rk_loader_batches(l), 2);
    CHECK_INT(rk_loader_classes(l), 7);
    CHECK_INT(rk_loader_sample_shape(l).ndim, 3);
    rk_batch b;
    for (int i = 0; i < 4; i++) {
        CHECK(rk_loader_next(l, &b));
        CHECK_INT(b.index, i);
        CHECK_INT(b.epoch, i / 2);
        CHECK_INT(b.epoch_end, i % 2);
        CHECK_INT(b.n, 8);
        rk_step_end(ctx);
    }
    CHECK(!rk_loader_next(l, &b));
    CHECK_INT(rk_close(ctx), 0);
}

/* Parts of a batch, put together, are the batch. */
TEST(ranks_serve_parts)
{
    static record whole[N], part[N];
    rk_data_cfg c = full();
    c.epochs = 1;
    c.batch = 12;
    CHECK_INT(run(&c, 0, whole, N), N);
    rk_ctx *ctx = context();
    rk_loader *l[4];
    for (int k = 0; k < 4; k++) {
        c.rank = k;
        c.ranks = 4;
        l[k] = rk_loader_make(ctx, &c);
    }
    for (int64_t at = 0; at < N;) {
        int64_t global = 0, first = 0;
        for (int k = 0; k < 4; k++) {
            rk_batch b;
            float x[E];
            CHECK(rk_loader_next(l[k], &b));
            CHECK_INT(b.first, first);
            for (int64_t i = 0; i < b.n; i++)
                part[at + first + i].sample = b.sample[i];
            if (b.n) {
                CHECK_OK(ctx, rk_tensor_read(rk_slice(b.x, 0, 0, 1), x, sizeof x));
                CHECK(!memcmp(x, whole[at + first].x, sizeof x));
            }
            first += b.n;
            global = b.global;
        }
        CHECK_INT(first, global);
        at += global;
        rk_step_end(ctx);
    }
    for (int i = 0; i < N; i++)
        CHECK_INT(part[i].sample, whole[i].sample);
    CHECK_INT(rk_close(ctx), 0);
}

/* Several batches of one step stay valid until its end, however few slots there are. */
TEST(batches_live_as_long_as_their_step)
{
    static record want[N];
    rk_data_cfg c = full();
    c.batch = 4;
    c.prefetch = 1;
    c.threads = 2;
    CHECK_INT(run(&c, 0, want, N), N);
    rk_ctx *ctx = context();
    rk_loader *l = rk_loader_make(ctx, &c);
    for (int step = 0; step < 3; step++) {
        rk_batch b[3];
        for (int k = 0; k < 3; k++)
            CHECK(rk_loader_next(l, &b[k]));
        for (int k = 0; k < 3; k++) {
            float x[4 * E];
            CHECK_OK(ctx, rk_tensor_read(b[k].x, x, sizeof x));
            for (int i = 0; i < 4; i++)
                CHECK(!memcmp(x + i * E, want[(step * 3 + k) * 4 + i].x, E * 4));
        }
        rk_step_end(ctx);
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST(reconstruction_and_regression)
{
    rk_ctx *ctx = context();
    rk_loader *l =
        rk_loader_make(ctx, &(rk_data_cfg){ .path = images(), .batch = 8, .task = "reconstruction" });
    rk_batch b;
    CHECK(rk_loader_next(l, &b));
    CHECK(b.x == b.y);
    CHECK_INT(rk_loader_classes(l), 0);
    CHECK_INT(rk_loader_targets(l), E);
    const char *csv = file_text("r.csv", "a,b,u,v\n1,2,3,4\n5,6,7,8\n9,10,11,12\n");
    l = rk_loader_make(
        ctx, &(rk_data_cfg){
                 .path = csv, .batch = 2, .task = "regression", .label_column = "u,v", .normalize = "none" });
    CHECK(rk_loader_next(l, &b));
    CHECK_INT(rk_loader_targets(l), 2);
    float y[4], x[4];
    CHECK_OK(ctx, rk_tensor_read(b.y, y, sizeof y));
    CHECK_OK(ctx, rk_tensor_read(b.x, x, sizeof x));
    CHECK(x[0] == 1 && x[1] == 2 && x[3] == 6 && y[0] == 3 && y[1] == 4 && y[2] == 7);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(csv_statistics_leave_one_hot_columns)
{
    rk_ctx *ctx = context();
    const char *csv = file_text("s.csv", "a,k,y\n1,u,0\n3,v,1\n5,u,0\n7,u,1\n");
    rk_loader *l = rk_loader_make(ctx, &(rk_data_cfg){ .path = csv, .batch = 4 });
    const double *mean, *std;
    CHECK_INT(rk_loader_stats(l, &mean, &std), 3);
    CHECK_CLOSE(mean[0], 4, 1e-15, 0);
    CHECK_CLOSE(std[0], sqrt(5), 1e-15, 0);
    CHECK(mean[1] == 0 && std[1] == 1 && mean[2] == 0 && std[2] == 1);
    CHECK_STR(rk_loader_class_name(l, 1), "1");
    /* the schema makes other data alike */
    char *schema = rk_loader_schema(l);
    CHECK(schema);
    const char *other = file_text("o.csv", "y,k,a\n1,v,9\n");
    rk_loader *o = rk_loader_make(ctx, &(rk_data_cfg){ .path = other, .batch = 4, .schema = schema });
    free(schema);
    rk_batch b;
    float x[3];
    CHECK(rk_loader_next(o, &b));
    CHECK_OK(ctx, rk_tensor_read(b.x, x, sizeof x));
    CHECK_CLOSE(x[0], 5 / sqrt(5), 1e-6, 0);
    CHECK(x[1] == 0 && x[2] == 1);
    CHECK_INT(rk_loader_classes(o), 2);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(set_stats_applies_at_once)
{
    rk_ctx *ctx = context();
    rk_loader *l = rk_loader_make(ctx, &(rk_data_cfg){ .path = images(), .batch = 4 });
    rk_batch b;
    float x[4 * E];
    CHECK(rk_loader_next(l, &b)); /* further batches are filled ahead by now */
    rk_step_end(ctx);
    CHECK_OK(ctx, rk_loader_set_stats(l, 1, (double[]){ 100 }, (double[]){ 2 }));
    CHECK(rk_loader_next(l, &b));
    CHECK_OK(ctx, rk_tensor_read(b.x, x, sizeof x));
    CHECK_CLOSE(x[0], (image[4][0][0] - 100) / 2.0, 1e-6, 0);
    CHECK_INT(rk_loader_set_stats(l, 2, (double[]){ 0, 0 }, (double[]){ 1, 1 }), RK_ECONFIG);
    rk_error_clear(ctx);
    CHECK_INT(rk_loader_set_stats(l, 1, (double[]){ 0 }, (double[]){ 0 }), RK_EDATA);
    rk_close(ctx);
}

TEST(bad_configurations)
{
    static const struct {
        rk_data_cfg c;
        rk_status st;
        const char *want;
    } rows[] = {
        { { .batch = 0 }, RK_ECONFIG, "batch" },
        { { .batch = 8, .split = 1 }, RK_ECONFIG, "data.split" },
        { { .batch = 8, .split = 0.001 }, RK_ECONFIG, "leaves a part empty" },
        { { .batch = 8, .validation = true }, RK_ECONFIG, "nothing is held out" },
        { { .batch = 8, .normalize = "log" }, RK_ECONFIG, "none of none, scale, standard" },
        { { .batch = 8, .ranks = 3 }, RK_ECONFIG, "power of two" },
        { { .batch = 8, .ranks = 2, .rank = 2 }, RK_ECONFIG, "power of two" },
        { { .batch = 64, .drop_last = true }, RK_ECONFIG, "no whole batch" },
        { { .batch = 8, .shift = -1 }, RK_ECONFIG, "shift" },
        { { .batch = 8, .format = "parquet" }, RK_ECONFIG, "data.format" },
        { { .batch = 8, .schema = "{}" }, RK_EDATA, "data.schema" },
        { { .batch = 8, .schema = "{\"mean\":[1,2],\"std\":[1,1]}" },
          RK_EDATA,
          "2 channels or columns, this data has 1" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rk_ctx *ctx = context();
        rk_data_cfg c = rows[i].c;
        c.path = images();
        rk_loader *l = rk_loader_make(ctx, &c);
        rk_batch b;
        CHECK(l && !rk_loader_next(l, &b));
        CHECK_INT(rk_loader_seek(l, 0) != RK_OK, 1);
        if (rk_failed(ctx) != rows[i].st || !strstr(rk_error(ctx), rows[i].want))
            TEST_FAIL("row %zu: %s \"%s\"", i, rk_status_name(rk_failed(ctx)), rk_error(ctx));
        rk_close(ctx);
    }
}

/* What a worker finds is told by rk_loader_next, at the batch it belongs to. */
TEST(errors_of_workers_are_reported_in_order)
{
    uint8_t buf[12 + 40 * 4] = { 0, 0, 0x0d, 2, 0, 0, 0, 40, 0, 0, 0, 1 };
    buf[12 + 25 * 4] = 0x7f;
    buf[12 + 25 * 4 + 1] = 0xc0; /* sample 25 is NaN */
    const char *path = file_write("nan.idx", buf, sizeof buf);
    rk_ctx *ctx = context();
    rk_loader *l = rk_loader_make(
        ctx,
        &(rk_data_cfg){ .path = path, .batch = 4, .no_labels = true, .normalize = "none", .threads = 2 });
    rk_batch b;
    for (int i = 0; i < 6; i++, rk_step_end(ctx)) {
        CHECK(rk_loader_next(l, &b));
        CHECK(!b.y);
    }
    for (int tries = 0; tries < 2; tries++) {
        CHECK(!rk_loader_next(l, &b));
        CHECK_INT(rk_failed(ctx), RK_EDATA);
        CHECK(strstr(rk_error(ctx), "sample 25, element 0"));
        CHECK_INT(rk_loader_cursor(l), 24);
        rk_error_clear(ctx);
    }
    rk_close(ctx);
    ctx = context(); /* the statistics see it when the loader is made */
    l = rk_loader_make(ctx, &(rk_data_cfg){ .path = path, .batch = 4, .no_labels = true });
    CHECK_INT(rk_failed(ctx), RK_EDATA);
    CHECK(!rk_loader_next(l, &b));
    rk_close(ctx);
}

TEST(closing_early_is_safe)
{
    rk_ctx *ctx = context();
    rk_data_cfg c = full();
    c.threads = 3;
    rk_loader *l = rk_loader_make(ctx, &c);
    rk_batch b;
    CHECK(rk_loader_next(l, &b));
    rk_loader_close(l);
    CHECK(!rk_loader_next(l, &b));
    rk_loader_close(l);
    for (int i = 0; i < 20; i++) { /* never started, or just started */
        l = rk_loader_make(ctx, &c);
        if (i % 2)
            CHECK(rk_loader_next(l, &b));
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST_MAIN
