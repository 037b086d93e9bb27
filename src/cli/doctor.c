/* rankine doctor: is this machine ready to train, and with what? Each line is "ok", "note" or "BAD"; the exit
 * code is that of the first that is BAD. */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FASHION "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"

enum { LOOK_UP_SECONDS = 2 };

static void say(const char *mark, const char *what, const char *text)
{
    printf("%-5s %-10s %s\n", mark, what, text);
}

static void check_device(rk_ctx *ctx)
{
    char text[320];
    double peak = rk_peak_flops(ctx);
    int n = snprintf(text, sizeof text, "%s", rk_device_describe(ctx));
    if (peak > 0 && n < (int)sizeof text)
        snprintf(text + n, sizeof text - (size_t)n, "; measured peak %.1f GFLOP/s (f32)", peak / 1e9);
    say("ok", "device", text);
}

/* A GPU that cannot be used is no fault of a machine that is asked for its processor alone. */
static bool check_cuda(bool wanted)
{
    char text[1600];
    const rk_cuda_state state = rk_cuda_describe(text, sizeof text);
    const bool bad = wanted && state == RK_CUDA_FAULTY;
    say(state == RK_CUDA_READY ? "ok" : bad ? "BAD" : "note", "cuda", text);
    return !bad;
}

static void check_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), available = sysconf(_SC_AVPHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    char all[32], some[32], text[96];
    snprintf(text, sizeof text, "%s, %s free", cli_bytes(all, sizeof all, (double)pages * (double)size),
             cli_bytes(some, sizeof some, (double)available * (double)size));
    say("ok", "memory", text);
}

/* Launchers look up the machine that they start on; where no name server answers, each start waits for it. */
static void check_name(void)
{
    static char name[256]; /* a look-up that takes longer than we wait goes on with it */
    static struct gaicb one = { .ar_name = name };
    struct gaicb *all[] = { &one };
    const struct timespec limit = { .tv_sec = LOOK_UP_SECONDS };
    char text[512];
    if (gethostname(name, sizeof name - 1) || getaddrinfo_a(GAI_NOWAIT, all, 1, NULL))
        return;
    gai_suspend((const struct gaicb *const *)all, 1, &limit);
    if (gai_error(&one) != EAI_INPROGRESS) {
        say("ok", "host", name);
        return;
    }
    snprintf(
        text, sizeof text,
        "the name of this machine, %s, is not found within %d s, for which mpirun may wait at each start: "
        "/etc/hosts should have it",
        name, LOOK_UP_SECONDS);
    say("note", "host", text);
}

static void check_libraries(void)
{
    const char *name, *version;
    char text[256];
    size_t used = 0;
    for (int i = 0; rk_library(i, &name, &version) && used < sizeof text - 40; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %s", i ? ", " : "", name, version);
    say("ok", "libraries", text);
}

static void check_data(void)
{
    if (!access(FASHION, R_OK))
        say("ok", "data", "Fashion-MNIST in /usr/share/datasets/fashion-mnist");
    else
        say("note", "data", "no Fashion-MNIST for the examples: apt-get install dataset-fashion-mnist");
}

/* A snapshot needs a folder that takes files, fsync and a rename: tries them in `dir`. */
static bool check_disk(const char *dir)
{
    char path[4096], text[4300], space[32];
    static const char bytes[4096];
    const char *step = "open";
    struct statvfs v;
    snprintf(path, sizeof path, "%s/.rankine-doctor-XXXXXX", dir);
    int fd = mkstemp(path);
    bool good = fd >= 0;
    if (good && (step = "write", write(fd, bytes, sizeof bytes) != (ssize_t)sizeof bytes))
        good = false;
    if (good && (step = "fsync", fsync(fd)))
        good = false;
    int why = errno;
    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    if (!good)
        snprintf(text, sizeof text, "%s: %s: %s; snapshots cannot be written there", dir, step,
                 strerror(why));
    else if (!statvfs(dir, &v))
        snprintf(text, sizeof text, "%s takes files, %s free", dir,
                 cli_bytes(space, sizeof space, (double)v.f_bavail * (double)v.f_frsize));
    else
        snprintf(text, sizeof text, "%s takes files", dir);
    say(good ? "ok" : "BAD", "disk", text);
    return good;
}

static int run_doctor(const cli_args *a)
{
    rk_ctx *ctx;
    char text[64];
    snprintf(text, sizeof text, "rankine %s", rk_version());
    say("ok", "version", text);
    rk_status st = cli_open_device(a, &ctx);
    if (!ctx)
        return rk_exit_code(st);
    if (!st)
        check_device(ctx);
    else
        say("BAD", "device", rk_error(ctx));
    const char *device = cli_value(a, "device");
    if (!check_cuda(!device || strcmp(device, "cpu")) && !st)
        st = RK_EDEVICE;
    check_memory();
    check_name();
    check_libraries();
    check_data();
    if (!check_disk(a->n_words ? a->words[0] : ".") && !st)
        st = RK_EIO;
    rk_error_clear(ctx); /* its row has told it */
    int code = cli_close(ctx);
    return code ? code : rk_exit_code(st);
}

static const cli_flag flags[] = {
    { "threads", "N", "compute threads (default: all cores)" },
    { "device", "NAME", "auto, cpu or cuda (default: auto, a GPU if there is one)" },
    { NULL, NULL, NULL },
};

const cli_verb cli_doctor = {
    .name = "doctor",
    .synopsis = "[FOLDER]",
    .summary = "tell what this machine has, and whether FOLDER (default: here) can take snapshots",
    .flags = flags,
    .max_words = 1,
    .run = run_doctor,
};
