/* What the CUDA device holds back and stages, run on the host: results are those of the order of the calls,
 * whatever is launched when, as a graph or not. */
#include "host_run.h"
#include "test.h"

#include <rankine/rankine.h>

#include <string.h>

static const rk_device *device;

static rk_dev *open_one(int graph)
{
    char msg[512] = "";
    rk_dev *dev = NULL;
    if (!device)
        device = rk__cuda_load(msg, sizeof msg)->device;
    if (device->open(&(rk_open_cfg){ .graph = graph }, &dev, msg, sizeof msg)) {
        fprintf(stderr, "%s\n", msg);
        exit(1);
    }
    return dev;
}

static void *give(rk_dev *dev, size_t bytes)
{
    void *p = NULL;
    if (device->alloc(dev, bytes, &p))
        abort();
    return p;
}

static bool all_are(rk_dev *dev, const void *p, int64_t n, float value)
{
    float *x = malloc((size_t)n * sizeof *x);
    bool same = device->copy_out(dev, x, p, (size_t)n * sizeof *x) == RK_OK;
    for (int64_t i = 0; i < n; i++)
        same &= x[i] == value;
    free(x);
    return same;
}

enum { N = 3000, STEPS = 8 };

/* A step of six operations whose values, sizes and addresses change from step to step: x = ((s + k) * 2 + s)
 * .. */
static void take_step(rk_dev *dev, int step, void *const *p)
{
    const rk_kernels *k = device->kernels(dev, RK_F32);
    const int64_t n = step % 3 ? N : N / 2;
    void *x = p[step % 2], *y = p[1 - step % 2];
    CHECK(device->zero(dev, x, N * sizeof(float)) == RK_OK);
    CHECK(k->fill(dev, n, step, y) == RK_OK);
    CHECK(k->add_scalar(dev, n, y, 1, x) == RK_OK);
    CHECK(k->mul_scalar(dev, n, x, 2, x) == RK_OK);
    CHECK(k->add(dev, n, x, y, 0, x) == RK_OK);
    CHECK(k->add(dev, n, x, x, 0, y) == RK_OK);
    CHECK(device->flush(dev) == RK_OK);
}

TEST(values_of_every_step_are_its_own)
{
    for (int graph = -1; graph <= 1; graph++) {
        rk_dev *dev = open_one(graph);
        void *p[2] = { give(dev, N * sizeof(float)), give(dev, N * sizeof(float)) };
        for (int s = 0; s < STEPS; s++) {
            take_step(dev, s, p);
            if (s % 2) /* and steps that nobody waits for */
                continue;
            CHECK(all_are(dev, p[s % 2], N / 2, (float)(3 * s + 2)));
            CHECK(all_are(dev, p[1 - s % 2], N / 2, (float)(6 * s + 4)));
        }
        CHECK(all_are(dev, p[0], N / 2, (float)(6 * (STEPS - 1) + 4)));
        for (int i = 0; i < 2; i++)
            device->release(dev, p[i], N * sizeof(float));
        device->close(dev);
    }
}

/* More operations than one graph takes. */
TEST(long_lists_are_cut)
{
    rk_dev *dev = open_one(0);
    const rk_kernels *k = device->kernels(dev, RK_F32);
    void *p = give(dev, 40);
    for (int round = 0; round < 4; round++) {
        CHECK(device->zero(dev, p, 40) == RK_OK);
        for (int i = 0; i < 600; i++)
            CHECK(k->add_scalar(dev, 10, p, 1, p) == RK_OK);
        CHECK(all_are(dev, p, 10, 600));
    }
    device->release(dev, p, 40);
    device->close(dev);
}

/* Through the rings many times round; the caller's memory is its own at once. */
TEST(many_small_copies)
{
    enum { COPIES = 700, EACH = 333 };
    rk_dev *dev = open_one(0);
    void *p = give(dev, COPIES * EACH * sizeof(float));
    for (int i = 0; i < COPIES; i++) {
        float x[EACH];
        for (int j = 0; j < EACH; j++)
            x[j] = (float)i;
        CHECK(device->copy_in(dev, (float *)p + i * EACH, x, sizeof x) == RK_OK);
        memset(x, 0xff, sizeof x);
        if (i % 50 == 0)
            CHECK(device->flush(dev) == RK_OK);
    }
    for (int i = 0; i < COPIES; i += 7)
        CHECK(all_are(dev, (float *)p + i * EACH, EACH, (float)i));
    device->release(dev, p, COPIES * EACH * sizeof(float));
    device->close(dev);
}

TEST(large_copies_go_in_pieces)
{
    const size_t bytes = ((size_t)11 << 20) + 4;
    rk_dev *dev = open_one(0);
    uint32_t *x = malloc(bytes), *y = malloc(bytes);
    void *p = give(dev, bytes);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < bytes / 4; i++)
            x[i] = (uint32_t)i * 2654435761u + (uint32_t)round;
        CHECK(device->copy_in(dev, p, x, bytes) == RK_OK);
        CHECK(device->copy_out(dev, y, p, bytes) == RK_OK);
        CHECK(memcmp(x, y, bytes) == 0);
    }
    device->release(dev, p, bytes);
    device->close(dev);
    free(x);
    free(y);
}

/* What is released is still there for what was asked for before. */
TEST(released_while_held_back)
{
    rk_dev *dev = open_one(0);
    const rk_kernels *k = device->kernels(dev, RK_F32);
    void *sum = give(dev, N * sizeof(float));
    CHECK(device->zero(dev, sum, N * sizeof(float)) == RK_OK);
    for (int i = 1; i <= 20; i++) {
        void *p = give(dev, N * sizeof(float));
        CHECK(k->fill(dev, N, i, p) == RK_OK);
        CHECK(k->add(dev, N, sum, p, 0, sum) == RK_OK);
        device->release(dev, p, N * sizeof(float));
    }
    CHECK(all_are(dev, sum, N, 210));
    device->release(dev, sum, N * sizeof(float));
    device->close(dev);
}

/* Sums over chunks, then a longer one: workspaces grow while the shorter one is held back. */
TEST(workspaces_grow)
{
    rk_dev *dev = open_one(0);
    const rk_kernels *k = device->kernels(dev, RK_F32);
    const int64_t most = 1 << 16;
    void *x = give(dev, (size_t)most * 4), *y = give(dev, 4), *sums = give(dev, 40);
    CHECK(k->fill(dev, most, 1, x) == RK_OK);
    for (int i = 0; i < 6; i++) {
        const rk_order order = { .segments = 8, .unit = 1 };
        const int64_t n = most >> (6 - i);
        CHECK(k->reduce_sum(dev, 1, n, 1, order, x, (float *)sums + i) == RK_OK);
    }
    float got[6];
    CHECK(device->copy_out(dev, got, sums, sizeof got) == RK_OK);
    for (int i = 0; i < 6; i++)
        CHECK(got[i] == (float)(most >> (6 - i)));
    device->release(dev, x, (size_t)most * 4);
    device->release(dev, y, 4);
    device->release(dev, sums, 40);
    device->close(dev);
}

TEST_MAIN
