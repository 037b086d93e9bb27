/* Samples a second of the loader alone: Fashion-MNIST from .gz, shuffled, shifted and flipped. The first
 * epoch is not timed (threads start, caches fill). A checksum over every value of an epoch is compared
 * between runs with different threads and batches, so a wrong result shows as `wrong`. */
#include <rankine/io.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Order of the samples does not matter, their bits do. */
static uint64_t checksum(const rk_batch *b, size_t elems, float *host)
{
    uint64_t sum = 0;
    rk_tensor_read(b->x, host, (size_t)b->n * elems * 4);
    for (int64_t i = 0; i < b->n; i++) {
        uint64_t h = 1469598103934665603u + (uint64_t)b->sample[i];
        for (size_t k = 0; k < elems; k++) {
            uint32_t w;
            memcpy(&w, &host[(size_t)i * elems + k], 4);
            h = (h ^ w) * 1099511628211u;
        }
        sum += h;
    }
    return sum;
}

static void measure(const char *path, int64_t batch, int threads, int epochs, uint64_t *expected)
{
    double *rate = malloc((size_t)epochs * sizeof *rate), cpu = 0;
    float *host = malloc((size_t)batch * 784 * 4);
    uint64_t sum = 0;
    rk_ctx *ctx;
    rk_open(NULL, &ctx);
    double t0 = now(CLOCK_MONOTONIC);
    rk_loader *l = rk_loader_make(ctx, &(rk_data_cfg){ .path = path,
                                                       .batch = batch,
                                                       .shuffle = true,
                                                       .seed = 1,
                                                       .shift = 2,
                                                       .flip = true,
                                                       .threads = threads });
    double opened = now(CLOCK_MONOTONIC) - t0;
    int64_t samples = rk_loader_samples(l);
    for (int e = -1; e < epochs; e++) {
        double begin = now(CLOCK_MONOTONIC), cpu0 = now(CLOCK_PROCESS_CPUTIME_ID);
        for (rk_batch b; rk_loader_next(l, &b);) {
            if (e < 0)
                sum += checksum(&b, 784, host);
            rk_step_end(ctx);
            if (b.epoch_end)
                break;
        }
        if (e >= 0) {
            rate[e] = (double)samples / (now(CLOCK_MONOTONIC) - begin);
            cpu += now(CLOCK_PROCESS_CPUTIME_ID) - cpu0;
        }
    }
    if (rk_failed(ctx)) {
        fprintf(stderr, "bench_loader: %s\n", rk_error(ctx));
        exit(1);
    }
    *expected = *expected ? *expected : sum;
    qsort(rate, (size_t)epochs, sizeof *rate, by_value);
    printf("batch %5lld threads %d  open %.3f s  median %9.0f samples/s  (%.0f .. %.0f)  cpu %.3f us/sample  "
           "wrong %d\n",
           (long long)batch, threads, opened, rate[epochs / 2], rate[0], rate[epochs - 1],
           1e6 * cpu / ((double)samples * epochs), sum != *expected);
    free(rate);
    free(host);
    rk_close(ctx);
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "/usr/share/datasets/fashion-mnist/train";
    uint64_t expected = 0;
    for (int threads = 1; threads <= 2; threads++)
        for (int64_t batch = 64; batch <= 1024; batch *= 4)
            measure(path, batch, threads, 9, &expected);
    return 0;
}
