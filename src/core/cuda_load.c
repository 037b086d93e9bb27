#include "core/cuda_module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "librankine_cuda.so"

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

/* The library beside `file`, in ../lib of its folder too. */
static const rk_cuda_library *load_beside(const char *file, char *msg, size_t msg_size)
{
    static const char *const where[] = { "", "../lib/" };
    char path[PATH + 64];
    const char *slash = strrchr(file, '/');
    int folder = slash ? (int)(slash - file) + 1 : 0;
    const rk_cuda_library *m = NULL;
    *msg = '\0';
    for (size_t i = 0; folder && !m && !*msg && i < sizeof where / sizeof *where; i++) {
        snprintf(path, sizeof path, "%.*s%s" LIBRARY, folder, file, where[i]);
        m = load(path, msg, msg_size);
    }
    return m;
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
    if (named && *named)
        return load_named(named, msg, msg_size);
    char self[PATH];
    Dl_info here;
    const rk_cuda_library *m = NULL;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    *msg = '\0';
    if (n > 0) {
        self[n] = '\0';
        m = load_beside(self, msg, msg_size);
    }
    if (!m && !*msg && dladdr((const void *)(uintptr_t)rk__cuda_load, &here) && here.dli_fname)
        m = load_beside(here.dli_fname, msg, msg_size);
    if (!m && !*msg)
        m = load(LIBRARY, msg, msg_size);
    if (!m && !*msg)
        snprintf(msg, msg_size,
                 "there is no " LIBRARY " beside the program or where the system looks; build Rankine where "
                 "nvcc is, or name the library in RANKINE_CUDA");
    return m;
}
