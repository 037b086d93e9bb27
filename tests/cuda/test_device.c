/* The CUDA device's memory, copies and errors, run on the host. */
#include "host_run.h"
#include "test.h"

#include <rankine/rankine.h>

#include <string.h>
#include <sys/wait.h>

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
    if (getenv("RK_EMU_FAIL")) /* a child: counts its calls from here */
        return;
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

TEST(errors_have_sentences)
{
    char msg[512];
    rk_dev *dev;
    rk_cuda_library const *m = rk__cuda_load(msg, sizeof msg);
    setenv("RK_EMU_DEVICES", "-1", 1);
    CHECK(m->gpus(msg, sizeof msg) == 0 && strstr(msg, "no NVIDIA driver"));
    setenv("RK_EMU_DEVICES", "-2", 1);
    CHECK(m->gpus(msg, sizeof msg) == -1 && strstr(msg, "driver is too old: it goes up to CUDA 11.4"));
    setenv("RK_EMU_DEVICES", "0", 1);
    CHECK(device->open(&(rk_open_cfg){ 0 }, &dev, msg, sizeof msg) == RK_EDEVICE);
    CHECK(strstr(msg, "no GPU is visible"));
    unsetenv("RK_EMU_DEVICES");
    setenv("RK_EMU_ARCH", "75", 1);
    CHECK(device->open(&(rk_open_cfg){ 0 }, &dev, msg, sizeof msg) == RK_EDEVICE);
    CHECK(strstr(msg, "compute capability 7.5; the kernels need 8.0"));
    setenv("RK_EMU_ARCH", "130", 1);
    CHECK(device->open(&(rk_open_cfg){ 0 }, &dev, msg, sizeof msg) == RK_EDEVICE);
    CHECK(strstr(msg, "has no code for it"));
    unsetenv("RK_EMU_ARCH");
}

TEST(ranks_of_a_node_take_turns_at_the_gpus)
{
    setenv("RK_EMU_DEVICES", "2", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3", 1);
    rk_dev *dev = open_one();
    CHECK(strstr(device->describe(dev), "GPU 1"));
    device->close(dev);
    unsetenv("OMPI_COMM_WORLD_LOCAL_RANK");
    setenv("SLURM_LOCALID", "2", 1);
    dev = open_one();
    CHECK(strstr(device->describe(dev), "GPU 0"));
    device->close(dev);
    unsetenv("SLURM_LOCALID");
    unsetenv("RK_EMU_DEVICES");
}

TEST(out_of_memory_is_a_status)
{
    void *p, *q;
    rk_dev *dev = open_one();
    CHECK(device->alloc(dev, (size_t)1 << 40, &p) == RK_ENOMEM && !p);
    CHECK(device->alloc(dev, 1000, &q) == RK_OK); /* and leaves the device usable */
    CHECK(device->zero(dev, q, 1000) == RK_OK);
    device->release(dev, q, 1000);
    device->close(dev);
}

TEST(failures_have_words_and_remedies)
{
    char msg[512];
    void *p;
    rk_dev *dev = open_one();
    device->failure(dev, msg, sizeof msg);
    CHECK(!*msg);
    CHECK(device->alloc(dev, (size_t)1 << 40, &p) == RK_ENOMEM);
    device->failure(dev, msg, sizeof msg);
    CHECK(strstr(
        msg, "GPU 0: out of memory (cudaErrorMemoryAllocation), this process holds 0 bytes of its 8.00 GiB"));
    device->failure(dev, msg, 12);
    CHECK(!strcmp(msg, "GPU 0: out "));
    device->close(dev);
}

TEST(room_is_what_is_held_and_what_is_free)
{
    size_t room, total, again;
    void *p;
    rk_dev *dev = open_one();
    device->memory(dev, &room, &total);
    CHECK(total == (size_t)8 << 30 && room <= total && room > total / 2);
    CHECK(!device->alloc(dev, 1 << 20, &p));
    device->memory(dev, &again, &total);
    CHECK(again + (1 << 16) > room && again <= room);
    device->release(dev, p, 1 << 20);
    device->close(dev);
}

/* What a child does whose n-th call of the runtime fails. */
static rk_status short_work(rk_dev *dev, void *p, void *q)
{
    float x[5000] = { 1, 2, 3 }, y[5000];
    double sum;
    bool bad;
    const rk_kernels *k = device->kernels(dev, RK_F32);
    rk_status st = device->copy_in(dev, p, x, sizeof x);
    if (!st)
        st = device->zero(dev, q, sizeof x);
    if (!st)
        st = k->add(dev, 5000, p, q, 0, q);
    if (!st)
        st = k->sum_squares(dev, 5000, q, &sum, &bad);
    if (!st && (bad || sum != 14))
        return RK_EINTERNAL;
    if (!st)
        st = device->copy_out(dev, y, q, sizeof y);
    return !st && memcmp(x, y, sizeof x) ? RK_EINTERNAL : st;
}

static rk_status work(void)
{
    char msg[512];
    rk_dev *dev;
    void *p = NULL, *q = NULL;
    rk_status st = device->open(&(rk_open_cfg){ 0 }, &dev, msg, sizeof msg);
    if (st)
        return *msg ? st : RK_EINTERNAL;
    st = device->alloc(dev, 20000, &p);
    if (!st)
        st = device->alloc(dev, 20000, &q);
    if (!st)
        st = short_work(dev, p, q);
    if (p)
        device->release(dev, p, 20000);
    if (q)
        device->release(dev, q, 20000);
    device->close(dev);
    return st;
}

static int child(int n)
{
    char number[16];
    snprintf(number, sizeof number, "%d", n);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("RK_EMU_FAIL", number, 1);
        execl("/proc/self/exe", "test_device", "it_is_found", "one_call_fails", (char *)NULL);
        _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Alone, as a child: what came of the work is the exit status. */
TEST(one_call_fails)
{
    if (!getenv("RK_EMU_FAIL"))
        return;
    char msg[512];
    device = rk__cuda_load(msg, sizeof msg)->device;
    exit(work());
}

TEST(every_failing_call_ends_cleanly)
{
    int n = 1, failed = 0;
    if (getenv("RK_EMU_FAIL"))
        return;
    for (;; n++) {
        int code = child(n);
        if (code != RK_OK && code != RK_ENOMEM && code != RK_EDEVICE)
            TEST_FAIL("call %d: exit status %d", n, code);
        failed += code != RK_OK;
        if (n > 60)
            break;
    }
    CHECK(failed >= 14); /* calls that close are told of nobody */
}

TEST_MAIN
