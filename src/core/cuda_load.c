#include "core/cuda_module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY  "librankine_cuda.so"
#define HOST_RUN "librankine_cuda_host.so"

enum { PATH = 4096 };

static const rk_cuda_library *check(const char *path, void *library, char *msg, size_t msg_size)
{
    const rk_cuda_library *m = dlsym(library, "rk_cuda_module");
    if (!m)
        snprintf(msg, msg_size, "%s is no CUDA module of Rankine: it has no rk_cuda_module", path);
    else if (m->version != RK_CUDA_MODULE_VERSION || m->kernels_bytes != sizeof(rk_kernels) ||
             m->device_bytes != sizeof(rk_device))
        snprintf(msg, msg_size, "%s was built from other sources than this program: build both again", path);
    else
        return m;
    dlclose(library);
    return NULL;
}

/* dlerror() begins with the path, or names another library that is needed. */
static const char *without(const char *path, const char *why)
{
    const size_t n = strlen(path);
    return !strncmp(why, path, n) && !strncmp(why + n, ": ", 2) ? why + n + 2 : why;
}

/* NULL with an empty msg: there is no such file. */
static const rk_cuda_library *load(const char *path, char *msg, size_t msg_size)
{
    *msg = '\0';
    if (strchr(path, '/') && access(path, F_OK))
        return NULL;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library)
        return check(path, library, msg, msg_size);
    const char *why = dlerror();
    if (strchr(path, '/'))
        snprintf(msg, msg_size, "%s cannot be loaded: %s", path, why ? without(path, why) : "unknown reason");
    return NULL;
}

/* Where a library of that name lies: beside `file`, or in the library folder of its installation; NULL if
 * nowhere. */
static const char *find_beside(const char *file, const char *name, char path[PATH])
{
    static const char *const where[] = { "", "../" RK_LIBDIR "/" };
    const char *slash = strrchr(file, '/');
    for (size_t i = 0; slash && i < sizeof where / sizeof *where; i++) {
        int n = snprintf(path, PATH, "%.*s%s%s", (int)(slash - file) + 1, file, where[i], name);
        if (n < PATH && !access(path, F_OK))
            return path;
    }
    return NULL;
}

/* Beside the program, or beside the library that this is in. */
static const char *find(const char *name, char path[PATH])
{
    char self[PATH];
    Dl_info here;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    if (find_beside(self, name, path))
        return path;
    if (dladdr((const void *)(uintptr_t)rk__cuda_load, &here) && here.dli_fname)
        return find_beside(here.dli_fname, name, path);
    return NULL;
}

static const rk_cuda_library *load_named(const char *path, char *msg, size_t msg_size)
{
    const rk_cuda_library *m = load(path, msg, msg_size);
    if (!m && !*msg)
        snprintf(msg, msg_size, "RANKINE_CUDA is %s: there is no such library", path);
    return m;
}

const rk_cuda_library *rk__cuda_load(char *msg, size_t msg_size)
{
    const char *named = getenv("RANKINE_CUDA");
    char path[PATH];
    if (named && *named)
        return load_named(named, msg, msg_size);
    const rk_cuda_library *m = load(find(LIBRARY, path) ? path : LIBRARY, msg, msg_size);
    if (!m && !*msg)
        snprintf(msg, msg_size,
                 "there is no " LIBRARY " beside the program or where the system looks; build Rankine where "
                 "nvcc is, or name the library in RANKINE_CUDA");
    return m;
}

/* The reason of a failure goes to why; else it is empty. */
static bool opens(const rk_device *device, char *why, size_t size)
{
    rk_dev *dev;
    *why = '\0';
    if (device->open(&(rk_open_cfg){ 0 }, &dev, why, size)) {
        if (!*why)
            snprintf(why, size, "out of memory");
        return false;
    }
    device->close(dev);
    return true;
}

/* ", 2 GPUs", ", 1 GPU, but GPU 0 ...", ", but no GPU is visible" */
static rk_cuda_state describe_gpus(const rk_cuda_library *m, const char *before, char *text, size_t size)
{
    char why[512];
    const int gpus = m->gpus(why, sizeof why);
    if (gpus <= 0) {
        snprintf(text, size, ", but %s", why);
        return gpus < 0 ? RK_CUDA_FAULTY : RK_CUDA_ABSENT;
    }
    const bool good = opens(m->device, why, sizeof why);
    snprintf(text, size, ",%s %d GPU%s%s%s", before, gpus, gpus == 1 ? "" : "s", good ? "" : ", but ", why);
    return good ? RK_CUDA_READY : RK_CUDA_FAULTY;
}

rk_cuda_state rk_cuda_describe(char *text, size_t size)
{
    char why[512], path[PATH], gpus[640], nccl[320] = "no NCCL: nccl.h was not there when it was built";
    const rk_cuda_library *m = rk__cuda_load(why, sizeof why);
    const char *host =
        find(HOST_RUN, path) ? "; " HOST_RUN " beside it runs kernels on the host, for tests" : "";
    if (!m) {
        snprintf(text, size, "absent: %s%s", why, host);
        return RK_CUDA_ABSENT;
    }
    const rk_cuda_state state = describe_gpus(m, m->host_run ? " as" : "", gpus, sizeof gpus);
    if (m->nccl)
        m->nccl->there(nccl, sizeof nccl);
    if (m->host_run)
        snprintf(text, size,
                 "host-run: RANKINE_CUDA names a library that runs kernels on the host, for tests%s; %s",
                 gpus, nccl);
    else
        snprintf(text, size, "built in (%s)%s%s; %s", m->built, gpus, state == RK_CUDA_READY ? "" : host,
                 nccl);
    return state;
}
