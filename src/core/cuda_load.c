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
        snprintf(msg, msg_size, "%s cannot be loaded: %s", path, why ? why : "unknown reason");
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

bool rk_cuda_describe(char *text, size_t size)
{
    char why[512], path[PATH], nccl[320] = "no NCCL: nccl.h was not there when it was built";
    const rk_cuda_library *m = rk__cuda_load(why, sizeof why);
    int gpus = m ? m->gpus(why, sizeof why) : 0;
    if (m && m->nccl)
        m->nccl->there(nccl, sizeof nccl);
    const char *host =
        find(HOST_RUN, path) ? "; " HOST_RUN " beside it runs kernels on the host, for tests" : "";
    if (!m)
        snprintf(text, size, "absent: %s%s", why, host);
    else if (m->host_run)
        snprintf(text, size,
                 "host-run: RANKINE_CUDA names a library that runs kernels on the host, for tests, as %d "
                 "GPU%s; %s",
                 gpus, gpus == 1 ? "" : "s", nccl);
    else if (gpus == 0)
        snprintf(text, size, "built in (%s), but %s%s; %s", m->built, why, host, nccl);
    else
        snprintf(text, size, "built in (%s), %d GPU%s; %s", m->built, gpus, gpus == 1 ? "" : "s", nccl);
    return gpus > 0;
}
