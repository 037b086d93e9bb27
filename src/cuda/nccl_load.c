#include "cuda/nccl_calls.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIBRARY "libnccl.so.2"

static const struct {
    const char *name;
    size_t at;
} calls[] = {
#define CALL(name) { #name, offsetof(rk__nccl_calls, name) },
    RK__NCCL_CALLS(CALL)
#undef CALL
};

/* Found once a process. */
static struct {
    pthread_once_t once;
    bool there;
    rk__nccl_calls calls;
    char why[256];
} found = { .once = PTHREAD_ONCE_INIT };

static bool take_calls(void *library, const char *path)
{
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        void *p = dlsym(library, calls[i].name);
        if (!p) {
            snprintf(found.why, sizeof found.why, "%s is too old: it has no %s; NCCL 2.14 or newer is needed",
                     path, calls[i].name);
            return false;
        }
        memcpy((char *)&found.calls + calls[i].at, &p, sizeof p);
    }
    return true;
}

static void find(void)
{
    const char *named = getenv("RANKINE_NCCL_LIBRARY"), *path = named && *named ? named : LIBRARY;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        snprintf(found.why, sizeof found.why, "NCCL cannot be loaded: %s", why ? why : path);
        return;
    }
    found.there = take_calls(library, path);
    if (!found.there)
        dlclose(library);
}

const rk__nccl_calls *rk__nccl_find(char *why, size_t size)
{
    pthread_once(&found.once, find);
    snprintf(why, size, "%s", found.why);
    return found.there ? &found.calls : NULL;
}
