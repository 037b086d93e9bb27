/* Every CPU device that this machine can open: each instruction set with 1, 2 and 3 threads. What a test
 * computes on one of them must have the same bits on all.
 *
 *   for (cpu_iter it = { 0 }; cpu_next(&it);)
 *       it.k->gemm(it.dev, ..);                   it.isa and it.threads say where
 */
#ifndef RK_TEST_CPU_DEVICES_H
#define RK_TEST_CPU_DEVICES_H

#include "core/kernels.h"
#include "test.h"

typedef struct cpu_iter {
    int at;
    const char *isa;
    int threads;
    rk_dev *dev;
    const rk_kernels *k; /* f32 */
} cpu_iter;

static const char *const cpu_isas[] = { "portable", "avx2", "avx512" };
enum { CPU_ISAS = sizeof cpu_isas / sizeof *cpu_isas, CPU_MOST_THREADS = 3 };

/* A device, or NULL if this machine has not got it. */
static inline rk_dev *cpu_open(const char *isa, int threads)
{
    rk_dev *dev = NULL;
    char msg[200] = "";
    rk_open_cfg cfg = { .isa = isa, .threads = threads };
    return rk_device_cpu.open(&cfg, &dev, msg, sizeof msg) == RK_OK ? dev : NULL;
}

/* Closes the last device and opens the next one; false after the last. */
static inline bool cpu_next(cpu_iter *it)
{
    if (it->dev)
        rk_device_cpu.close(it->dev);
    it->dev = NULL;
    while (it->at < CPU_ISAS * CPU_MOST_THREADS) {
        it->isa = cpu_isas[it->at / CPU_MOST_THREADS];
        it->threads = 1 + it->at % CPU_MOST_THREADS;
        it->at++;
        it->dev = cpu_open(it->isa, it->threads);
        if (it->dev) {
            it->k = rk_device_cpu.kernels(it->dev, RK_F32);
            return true;
        }
    }
    return false;
}

#endif
