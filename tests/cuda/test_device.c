/* The CUDA device's memory, copies and errors, run on the host. */
#include "host_run.h"
#include "test.h"

#include <rankine/rankine.h>

#include <string.h>

static const rk_device *device;

static rk_dev *open_one(void)
{
    char msg[512] = "";
    rk_dev *dev = NULL;
    if (device->open(&(rk_open_cfg){ 0 }, &dev, msg, sizeof msg)) {
        fprintf(stderr, "%s\n", msg);
        exit(1);
    }
    return dev;
}

TEST(it_is_found)
{
    char msg[512];
    const rk_cuda_library *m = rk__cuda_load(msg, sizeof msg);
    CHECK(m != NULL);
    CHECK(m->gpus(msg, sizeof msg) == 1);
    device = m->device;
    CHECK(!strcmp(device->name, "cuda"));
}

TEST(memory_comes_back_as_it_went)
{
    float in[100], out[100] = { 0 };
    void *p;
    rk_dev *dev = open_one();
    for (int i = 0; i < 100; i++)
        in[i] = (float)i;
    CHECK(device->alloc(dev, sizeof in, &p) == RK_OK);
    CHECK(device->copy_in(dev, p, in, sizeof in) == RK_OK);
    memset(in, 0, 50 * sizeof *in); /* the call has read it */
    CHECK(device->copy_out(dev, out, p, sizeof out) == RK_OK);
    for (int i = 0; i < 100; i++)
        CHECK(out[i] == (float)i);
    CHECK(device->zero(dev, p, sizeof in) == RK_OK);
    CHECK(device->copy_out(dev, out, p, sizeof out) == RK_OK);
    for (int i = 0; i < 100; i++)
        CHECK(out[i] == 0);
    device->release(dev, p, sizeof in);
    device->close(dev);
}

TEST(a_kernel_adds)
{
    enum { N = 70001 };
    static float a[N], y[N];
    void *p;
    rk_dev *dev = open_one();
    for (int i = 0; i < N; i++)
        a[i] = (float)i;
    CHECK(device->alloc(dev, sizeof a, &p) == RK_OK);
    CHECK(device->copy_in(dev, p, a, sizeof a) == RK_OK);
    CHECK(device->kernels(dev, RK_F32)->add(dev, N, p, p, 0, p) == RK_OK);
    CHECK(device->copy_out(dev, y, p, sizeof y) == RK_OK);
    int wrong = 0;
    for (int i = 0; i < N; i++)
        wrong += y[i] != 2 * a[i];
    CHECK(wrong == 0);
    device->release(dev, p, sizeof a);
    device->close(dev);
}

TEST(a_context_takes_it_by_name)
{
    rk_ctx *ctx;
    CHECK(rk_open(&(rk_open_cfg){ .device = "cuda", .alone = true }, &ctx) == RK_OK);
    CHECK(!strncmp(rk_device_describe(ctx), "cuda ", 5));
    rk_close(ctx);
    CHECK(rk_open(&(rk_open_cfg){ .device = "cpu", .alone = true, .threads = 1 }, &ctx) == RK_OK);
    CHECK(!strncmp(rk_device_describe(ctx), "cpu ", 4));
    rk_close(ctx);
}

TEST_MAIN
