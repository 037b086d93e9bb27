/* Devices, errors, launches, and what is counted. */
#include "cuda/host/runtime.h"
#include "cuda/host/rk_emu_device.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <map>
#include <memory>
#include <mutex>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vector>

rk_emu_counts rk_emu_counted;

namespace {

enum : size_t { SHARED_USUAL = 48u << 10, SHARED_MOST = 163u << 10 };
enum { PROCESSORS = 4, L2_BYTES = 256 << 10, NO_DRIVER = -1, OLD_DRIVER = -2 };

struct registered {
    std::string name;
    void (*run)(void *args);
    std::vector<size_t> sizes; /* of its arguments */
    rk_emu_tally *tally;
};

struct {
    std::map<const void *, registered> *kernels; /* never freed, as the next */
    std::map<const void *, size_t> *shared; /* dynamic shared memory that was asked for, by kernel */
    std::recursive_mutex lock;
    int depth; /* calls within calls */
    cudaError_t error;
    bool made_to_fail;   /* the call at hand */
    bool told;           /* of the first call that fails */
    uint64_t random = 88172645463325252ull;
    std::map<std::string, rk_emu_tally> *tallies; /* by kernel; never freed: the end is told of them */
} rt;

thread_local int device_now; /* each thread begins with GPU 0 */

long setting(const char *name, long usual)
{
    const char *text = getenv(name);
    return text && *text ? strtol(text, nullptr, 10) : usual;
}

std::map<std::string, rk_emu_tally> &tallies(void)
{
    if (!rt.tallies)
        rt.tallies = new std::map<std::string, rk_emu_tally>;
    return *rt.tallies;
}

size_t asked_shared(const void *kernel)
{
    auto at = rt.shared ? rt.shared->find(kernel) : std::map<const void *, size_t>::iterator();
    return rt.shared && at != rt.shared->end() ? at->second : (size_t)SHARED_USUAL;
}

const registered *find(const void *kernel)
{
    auto at = rt.kernels ? rt.kernels->find(kernel) : std::map<const void *, registered>::iterator();
    if (!rt.kernels || at == rt.kernels->end())
        rk_emu_report("launch", "%p is no kernel", kernel);
    return &at->second;
}

void write_tallies(void)
{
    const char *path = getenv("RK_EMU_STATS");
    FILE *f = path && *path ? fopen(path, "a") : nullptr;
    if (!f)
        return;
#define RK_EMU_COUNT(name, text) \
    fprintf(f, "%-16s %14llu  %s\n", #name, (unsigned long long)rk_emu_counted.name, text);
    RK_EMU_COUNTS(RK_EMU_COUNT)
#undef RK_EMU_COUNT
    fprintf(f, "%10s %12s %14s %14s %14s %14s  kernel\n", "launches", "threads", "read", "written", "reads", "writes");
    for (auto &t : tallies())
        fprintf(f, "%10llu %12llu %14llu %14llu %14llu %14llu  %s\n", (unsigned long long)t.second.launches,
                (unsigned long long)t.second.threads, (unsigned long long)t.second.moved[0],
                (unsigned long long)t.second.moved[1], (unsigned long long)t.second.accessed[0],
                (unsigned long long)t.second.accessed[1], t.first.c_str());
    fclose(f);
}

/* Device memory that is still allocated when the process ends is a leak of the code under test. */
__attribute__((destructor)) void report_leaks(void)
{
    write_tallies();
    const char *off = getenv("RK_EMU_LEAKS");
    if (rk_emu_counted.blocks_live == 0 || (off && !strcmp(off, "off")))
        return;
    char where[1024];
    fprintf(stderr, "rk_emu: leak: %llu blocks of device memory, %llu bytes, are still allocated at the end; one by %s\n",
            (unsigned long long)rk_emu_counted.blocks_live, (unsigned long long)rk_emu_counted.bytes_live,
            rk_emu_place_of(rk_emu_find_leak()->pc, where, sizeof where));
    fflush(nullptr);
    _exit(86);
}

} // namespace

int rk_emu_device_now(void)
{
    return device_now;
}

rk_emu_guard::rk_emu_guard()
{
    rt.lock.lock();
    rt.depth++;
}

rk_emu_guard::~rk_emu_guard()
{
    if (--rt.depth == 0)
        rk_emu_settle_memory();
    rt.lock.unlock();
}

/* RK_EMU_FAIL=N: the N-th call fails; N+: all from there on, as where a GPU is lost. */
bool rk_emu_fails(const char *call)
{
    static const char *text = getenv("RK_EMU_FAIL");
    static const uint64_t wanted = text ? strtoull(text, nullptr, 10) : 0;
    static const bool all = text && strchr(text, '+');
    const uint64_t n = ++rk_emu_counted.calls;
    rt.made_to_fail = wanted && (all ? n >= wanted : n == wanted);
    if (rt.made_to_fail && !rt.told)
        fprintf(stderr, "rk_emu: call %llu, %s, is made to fail%s\n", (unsigned long long)n, call, all ? ", and all later ones" : "");
    rt.told |= rt.made_to_fail;
    return rt.made_to_fail;
}

void rk_emu_report(const char *kind, const char *format, ...)
{
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "rk_emu: %s: %s%s\n", kind, text, rk_emu_where());
    fflush(nullptr);
    _exit(86);
}

namespace {

/* The place of the call before pc, and of those that it is inlined in, a line each; NULL: unknown. */
FILE *open_places(void *pc, const char *option)
{
    char command[1200];
    Dl_info in;
    if (!dladdr(pc, &in) || !in.dli_fname)
        return nullptr;
    size_t at = (size_t)((char *)pc - 1 - (char *)in.dli_fbase);
    if (in.dli_fbase == (void *)0x400000) /* a program that is not moved is known by its addresses */
        at += 0x400000;
    snprintf(command, sizeof command, "addr2line %s -e '%s' %#zx", option, in.dli_fname, at);
    return popen(command, "r");
}

/* FILE:LINE without folders, in text. */
const char *base_of(char *text)
{
    text[strcspn(text, "\n")] = '\0';
    const char *slash = strrchr(text, '/');
    return slash ? slash + 1 : text;
}

} // namespace

const char *rk_emu_place_of(void *pc, char *text, size_t size)
{
    snprintf(text, size, "%p", pc);
    FILE *f = open_places(pc, "");
    if (!f)
        return text;
    if (!fgets(text, (int)size, f))
        snprintf(text, size, "%p", pc);
    pclose(f);
    return base_of(text);
}

/* Who has called into the runtime: launches go through templates of headers, in which nobody looks for a mistake. */
static const char *caller(char *text, size_t size)
{
    void *pc[24];
    bool within = false; /* before come those of the backtrace itself */
    for (int i = 0, n = backtrace(pc, 24); i < n; i++) {
        FILE *f = open_places(pc[i], "-i");
        while (f && fgets(text, (int)size, f)) {
            const bool ours = strstr(text, "/src/cuda/host/") || strstr(text, "rk_cuda.h");
            if (within && !ours && text[0] != '?') {
                pclose(f);
                return base_of(text);
            }
            within |= ours;
        }
        if (f)
            pclose(f);
    }
    return "a place unknown";
}

uint64_t rk_emu_random(void)
{
    rt.random ^= rt.random << 13;
    rt.random ^= rt.random >> 7;
    rt.random ^= rt.random << 17;
    return rt.random;
}

void rk_emu_seed(uint64_t seed)
{
    rt.random += 0x9E3779B97F4A7C15ull * seed;
    for (int i = 0; i < 20; i++)
        rk_emu_random();
}

void rk_emu_shuffle(unsigned *x, unsigned n)
{
    for (unsigned i = n; i > 1; i--) {
        unsigned j = (unsigned)(rk_emu_random() % i), t = x[i - 1];
        x[i - 1] = x[j];
        x[j] = t;
    }
}

/* RK_EMU_ERROR=NUMBER: what calls that are made to fail say, in place of what is usual for each. */
cudaError_t rk_emu_error(cudaError_t e)
{
    const long named = rt.made_to_fail ? setting("RK_EMU_ERROR", 0) : 0;
    rt.made_to_fail = false;
    if (named)
        e = (cudaError_t)named;
    if (e)
        rt.error = e;
    return e;
}

namespace {

#define RK_EMU_ERROR_WORDS(e, words) \
    {                                \
        e, #e, words                 \
    }

const struct {
    cudaError_t e;
    const char *name, *words;
} errors[] = {
    RK_EMU_ERROR_WORDS(cudaSuccess, "no error"),
    RK_EMU_ERROR_WORDS(cudaErrorMemoryAllocation, "out of memory"),
    RK_EMU_ERROR_WORDS(cudaErrorInvalidValue, "invalid argument"),
    RK_EMU_ERROR_WORDS(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    RK_EMU_ERROR_WORDS(cudaErrorLaunchFailure, "unspecified launch failure"),
    RK_EMU_ERROR_WORDS(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    RK_EMU_ERROR_WORDS(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered"),
    RK_EMU_ERROR_WORDS(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    RK_EMU_ERROR_WORDS(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    RK_EMU_ERROR_WORDS(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    RK_EMU_ERROR_WORDS(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    RK_EMU_ERROR_WORDS(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    RK_EMU_ERROR_WORDS(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences"),
    RK_EMU_ERROR_WORDS(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    RK_EMU_ERROR_WORDS(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    RK_EMU_ERROR_WORDS(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    RK_EMU_ERROR_WORDS(cudaErrorCapturedEvent,
                       "the graph update was not performed because it included changes which violated "
                       "constraints specific to instantiated graph update"),
    RK_EMU_ERROR_WORDS(cudaErrorStreamCaptureWrongThread,
                       "the graph update was not performed because it included changes which violated "
                       "constraints specific to instantiated graph update"),
    RK_EMU_ERROR_WORDS(cudaErrorGraphExecUpdateFailure,
                       "the graph update was not performed because it included changes which violated "
                       "constraints specific to instantiated graph update"),
    RK_EMU_ERROR_WORDS(cudaErrorUnknown, "unknown error"),
};

size_t words_of(cudaError_t e)
{
    size_t i = 0, last = sizeof errors / sizeof *errors - 1;
    while (i < last && errors[i].e != e)
        i++;
    return i;
}

} // namespace

extern "C" {

cudaError_t cudaGetLastError(void)
{
    rk_emu_guard guard;
    cudaError_t e = rt.error;
    rt.error = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return rt.error;
}

const char *cudaGetErrorName(cudaError_t e)
{
    return errors[words_of(e)].name;
}

const char *cudaGetErrorString(cudaError_t e)
{
    return errors[words_of(e)].words;
}

/* RK_EMU_DEVICES: how many there are; -1: as where no driver is, -2: an old one; they leave *n unset. */
cudaError_t cudaGetDeviceCount(int *n)
{
    RK_EMU_CALL("cudaGetDeviceCount", cudaErrorUnknown);
    long devices = setting("RK_EMU_DEVICES", 1);
    if (devices == NO_DRIVER || devices == OLD_DRIVER)
        return rk_emu_error(cudaErrorInsufficientDriver);
    *n = (int)devices;
    return devices ? cudaSuccess : rk_emu_error(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    RK_EMU_CALL("cudaSetDevice", cudaErrorUnknown);
    if (device < 0 || device >= setting("RK_EMU_DEVICES", 1))
        return rk_emu_error(cudaErrorInvalidDevice);
    device_now = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    RK_EMU_CALL("cudaGetDevice", cudaErrorUnknown);
    *device = device_now;
    return cudaSuccess;
}

/* RK_EMU_SLICES: devices in one place, as slices (MIG) of a GPU are. */
cudaError_t cudaDeviceGetPCIBusId(char *name, int size, int device)
{
    RK_EMU_CALL("cudaDeviceGetPCIBusId", cudaErrorInvalidDevice);
    long slices = setting("RK_EMU_SLICES", 1);
    snprintf(name, (size_t)size, "0000:%02x:00.0", (unsigned)(device / (slices > 0 ? slices : 1)) & 0xff);
    return cudaSuccess;
}

/* A device's id: nodes that tests make up have devices of their own. */
static void name_device(char id[16], int device)
{
    const char *node = getenv("RANKINE_NODE");
    uint32_t hash = 2166136261u;
    for (const char *c = node ? node : ""; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    memcpy(id + 8, &hash, sizeof hash);
    memcpy(id + 12, &device, sizeof device);
}

/* As small as grids may meet, so that grid-stride loops go round more than once; RK_EMU_ARCH: compute capability
 * times ten. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    RK_EMU_CALL("cudaGetDeviceProperties", cudaErrorUnknown);
    long arch = setting("RK_EMU_ARCH", 80);
    size_t available, total;
    memset(p, 0, sizeof *p);
    cudaError_t e = cudaMemGetInfo(&available, &total);
    if (e)
        return e;
    snprintf(p->name, sizeof p->name, "run on the host");
    name_device(p->uuid.bytes, device);
    p->major = (int)arch / 10;
    p->minor = (int)arch % 10;
    p->totalGlobalMem = total;
    p->multiProcessorCount = PROCESSORS;
    p->l2CacheSize = L2_BYTES;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->sharedMemPerBlock = SHARED_USUAL;
    p->sharedMemPerBlockOptin = SHARED_MOST;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    const long devices = setting("RK_EMU_DEVICES", 1);
    *version = devices == NO_DRIVER ? 0 : devices == OLD_DRIVER ? 11040 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute what, int bytes)
{
    RK_EMU_CALL("cudaFuncSetAttribute", cudaErrorUnknown);
    if (what != cudaFuncAttributeMaxDynamicSharedMemorySize || bytes < 0 || (size_t)bytes > SHARED_MOST)
        return rk_emu_error(cudaErrorInvalidValue);
    if (!rt.shared)
        rt.shared = new std::map<const void *, size_t>;
    (*rt.shared)[kernel] = (size_t)bytes;
    return cudaSuccess;
}

void rk_emu_register(const void *kernel, const char *name, void (*run)(void *), const size_t *sizes, int n)
{
    rk_emu_guard guard;
    if (!rt.kernels)
        rt.kernels = new std::map<const void *, registered>;
    rt.kernels->emplace(kernel, registered{ name, run, std::vector<size_t>(sizes, sizes + n), &tallies()[name] });
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **args, size_t smem, cudaStream_t s)
{
    rk_emu_guard guard;
    rk_emu_work w = {};
    const registered *r = find(kernel);
    if (rk_emu_fails(r->name.c_str()))
        return rk_emu_error(cudaErrorLaunchFailure);
    cudaError_t e = rk_emu_kernel_work(&w, kernel, grid, block, smem, args);
    rk_emu_check_stream(s, r->name.c_str(), __builtin_return_address(0));
    return rk_emu_error(e ? e : rk_emu_submit(s, w));
}
}

static void want_shared(const char *name, size_t wanted, size_t asked)
{
    char where[400];
    rk_emu_report("launch",
                  "%s at %s wants %zu bytes of dynamic shared memory; without cudaFuncSetAttribute() it has %zu", name,
                  caller(where, sizeof where), wanted, asked);
}

/* What the arguments are now. */
cudaError_t rk_emu_kernel_work(rk_emu_work *w, const void *kernel, dim3 grid, dim3 block, size_t smem, void **args)
{
    const registered *r = find(kernel);
    size_t threads = (size_t)block.x * block.y * block.z;
    if (setting("RK_EMU_ARCH", 80) > 120)
        return cudaErrorNoKernelImageForDevice;
    if (!threads || threads > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu ||
        grid.y > 65535 || grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (smem > SHARED_MOST)
        return cudaErrorInvalidValue;
    if (smem > SHARED_USUAL && smem > asked_shared(kernel))
        want_shared(r->name.c_str(), smem, asked_shared(kernel));
    w->type = cudaGraphNodeTypeKernel;
    w->name = r->name;
    w->func = kernel;
    w->grid = grid;
    w->block = block;
    w->smem = smem;
    w->args.assign((const char *)&kernel, (const char *)(&kernel + 1));
    for (size_t i = 0; i < r->sizes.size(); i++) {
        w->args.resize((w->args.size() + 15) / 16 * 16);
        w->args.insert(w->args.end(), (const char *)args[i], (const char *)args[i] + r->sizes[i]);
    }
    return cudaSuccess;
}

void rk_emu_run_work(const rk_emu_work &w)
{
    const registered *r = find(w.func);
    std::vector<char> args = w.args; /* a kernel may write to its own */
    r->tally->launches++;
    rk_emu_run(rk_emu_kernel{ w.name, w.grid, w.block, w.smem, r->run, args.data(), args.size(), r->tally });
}
