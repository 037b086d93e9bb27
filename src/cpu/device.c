/* The CPU as a device: which instruction set, memory, copies. */
#include "cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

extern const rk_kernels rk__cpu_f64;
extern const rk_kernels rk__cpu_f32_portable;
#if defined(__x86_64__)
extern const rk_kernels rk__cpu_f32_avx2, rk__cpu_f32_avx512;
#endif

typedef struct isa {
    const char *name;
    const rk_kernels *f32;
    bool (*present)(void);
} isa;

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
#endif

/* Best first. */
static const isa isas[] = {
#if defined(__x86_64__)
    { "avx512", &rk__cpu_f32_avx512, has_avx512 },
    { "avx2", &rk__cpu_f32_avx2, has_avx2 },
#endif
    { "portable", &rk__cpu_f32_portable, always },
};
enum { ISAS = sizeof isas / sizeof *isas };

static const isa *find_isa(const char *name, char *msg, size_t msg_size)
{
    for (int i = 0; i < ISAS; i++) {
        if (name && strcmp(name, isas[i].name))
            continue;
        if (isas[i].present())
            return &isas[i];
        if (name) {
            snprintf(msg, msg_size,
                     "this processor has no %s; leave RANKINE_ISA unset to take the best it has", name);
            return NULL;
        }
    }
    snprintf(msg, msg_size, "no instruction set \"%s\" is built in; there are avx512, avx2 and portable",
             name);
    return NULL;
}

static rk_status open_cpu(const rk_open_cfg *cfg, rk_dev **out, char *msg, size_t msg_size)
{
    const char *name = cfg->isa ? cfg->isa : getenv("RANKINE_ISA");
    const isa *i = find_isa(name && *name ? name : NULL, msg, msg_size);
    if (!i)
        return RK_ECONFIG;
    rk_dev *dev = calloc(1, sizeof *dev);
    if (!dev)
        return RK_ENOMEM;
    dev->isa = i->name;
    dev->f32 = i->f32;
    dev->f64 = &rk__cpu_f64;
    int threads = cfg->threads > 0 ? cfg->threads : rk__cores();
    rk_status st = rk__pool_start(&dev->pool, threads);
    if (st) {
        snprintf(msg, msg_size, "cannot start %d threads", threads);
        rk__pool_stop(&dev->pool);
        free(dev);
        return st;
    }
    snprintf(dev->description, sizeof dev->description, "cpu %s, %d thread%s", i->name, threads,
             threads == 1 ? "" : "s");
    *out = dev;
    return RK_OK;
}

static void close_cpu(rk_dev *dev)
{
    if (!dev)
        return;
    rk__pool_stop(&dev->pool);
    free(dev);
}

static const rk_kernels *kernels_cpu(rk_dev *dev, rk_dtype t)
{
    return t == RK_F32 ? dev->f32 : t == RK_F64 ? dev->f64 : NULL;
}

/* From here on memory is the system's: what is released goes back to it, instead of lying about in a heap.
 * AddressSanitizer guards what is in its heap. */
#if defined(__SANITIZE_ADDRESS__)
#define OWN_PAGES SIZE_MAX
#else
#define OWN_PAGES ((size_t)128 << 10)
#endif

static rk_status alloc_cpu(rk_dev *dev, size_t bytes, void **p)
{
    (void)dev;
    size_t rounded = (bytes + 63) / 64 * 64;
    if (rounded < bytes)
        return RK_ENOMEM;
    if (bytes >= OWN_PAGES) {
        *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return *p != MAP_FAILED ? RK_OK : RK_ENOMEM;
    }
    *p = aligned_alloc(64, rounded ? rounded : 64);
    return *p ? RK_OK : RK_ENOMEM;
}

static void release_cpu(rk_dev *dev, void *p, size_t bytes)
{
    (void)dev;
    if (bytes >= OWN_PAGES && p)
        munmap(p, bytes);
    else
        free(p);
}

static rk_status copy_cpu(rk_dev *dev, void *dst, const void *src, size_t bytes)
{
    (void)dev;
    if (bytes)
        memcpy(dst, src, bytes);
    return RK_OK;
}

static rk_status zero_cpu(rk_dev *dev, void *p, size_t bytes)
{
    (void)dev;
    if (bytes)
        memset(p, 0, bytes);
    return RK_OK;
}

static const char *describe_cpu(rk_dev *dev)
{
    return dev->description;
}

static int threads_cpu(rk_dev *dev)
{
    return dev->pool.threads;
}

static void on_work_cpu(rk_dev *dev, void (*fn)(void *arg), void *arg)
{
    dev->pool.tick = fn;
    dev->pool.tick_arg = arg;
}

extern __typeof__(*rk_device_cpu.peak_flops) rk__peak_flops_cpu;
extern __typeof__(*rk_device_cpu.copy_strided) rk__copy_strided_cpu;
extern __typeof__(*rk_device_cpu.cast) rk__cast_cpu;

const rk_device rk_device_cpu = {
    .name = "cpu",
    .open = open_cpu,
    .close = close_cpu,
    .kernels = kernels_cpu,
    .alloc = alloc_cpu,
    .release = release_cpu,
    .zero = zero_cpu,
    .copy_in = copy_cpu,
    .copy_out = copy_cpu,
    .copy_strided = rk__copy_strided_cpu,
    .cast = rk__cast_cpu,
    .describe = describe_cpu,
    .threads = threads_cpu,
    .on_work = on_work_cpu,
    .peak_flops = rk__peak_flops_cpu,
};
