/* Data sets larger than the memory the process may have: the limit is on its address space, above what
 * it uses already, and is below the data. The sizes are of the contents; sparse files and compression keep
 * the disk's share small. */
#include "files.h"

#include <hdf5.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <rankine/io.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { ROOM_MIB = 96, DATA_MIB = 128, SIDE = 64, PIXELS = SIDE * SIDE };

/* A sanitizer reserves terabytes of address space: no limit can be set. */
static bool skipped(const char *test)
{
    if (SANITIZED)
        printf("skipped: %s: under a sanitizer the address space cannot be limited\n", test);
    return SANITIZED;
}

static int64_t address_space(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld", &pages) != 1)
        abort();
    fclose(f);
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

/* In a child with little memory: serves the data once, and says whether every sample came as it was written:
 * all its values equal to its number modulo 251. */
static int serve_all(const char *path, int64_t samples, bool labels)
{
    rk_ctx *ctx;
    mallopt(M_ARENA_MAX, 1); /* each thread's arena would reserve 64 MiB of address space */
    if (rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx) != RK_OK)
        return 2;
    struct rlimit limit = { (rlim_t)(address_space() + ((int64_t)ROOM_MIB << 20)), RLIM_INFINITY };
    limit.rlim_max = limit.rlim_cur;
    if (setrlimit(RLIMIT_AS, &limit))
        return 3;
    if (malloc((size_t)DATA_MIB << 20)) /* the limit holds: the data would not fit */
        return 4;
    rk_loader *l = rk_loader_make(ctx, &(rk_data_cfg){ .path = path,
                                                       .batch = 64,
                                                       .shuffle = true,
                                                       .seed = 1,
                                                       .epochs = 1,
                                                       .normalize = "none",
                                                       .no_labels = !labels });
    float *x = malloc(64 * PIXELS * sizeof *x);
    int64_t served = 0, wrong = 0;
    for (rk_batch b; rk_loader_next(l, &b); rk_step_end(ctx)) {
        rk_shape s = rk_loader_sample_shape(l);
        int64_t elems = s.dim[0] * (s.ndim > 1 ? s.dim[1] * s.dim[2] : 1);
        if (rk_tensor_read(b.x, x, (size_t)(b.n * elems) * 4))
            break;
        for (int64_t i = 0; i < b.n; i++)
            for (int64_t k = 0; k < elems; k += elems - 1)
                wrong += x[i * elems + k] != (float)(b.sample[i] % 251);
        served += b.n;
    }
    if (rk_failed(ctx))
        fprintf(stderr, "%s\n", rk_error(ctx));
    int bad = rk_failed(ctx) || wrong || served != samples;
    if (bad)
        fprintf(stderr, "%lld of %lld samples, %lld wrong values\n", (long long)served, (long long)samples,
                (long long)wrong);
    rk_close(ctx);
    return bad;
}

static int in_child(const char *path, int64_t samples, bool labels)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        _exit(serve_all(path, samples, labels));
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void header(uint8_t *h, uint32_t n)
{
    memcpy(h,
           (uint8_t[]){ 0, 0, 8, 3, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n, 0,
                        0, 0, SIDE, 0, 0, 0, SIDE },
           16);
}

static const int64_t images = ((int64_t)DATA_MIB << 20) / PIXELS;

TEST(idx_in_place)
{
    if (skipped(__func__))
        return;
    uint8_t h[16], row[PIXELS];
    const char *path = file_path("big.idx");
    FILE *f = fopen(path, "wb");
    header(h, (uint32_t)images);
    fwrite(h, 1, 16, f);
    for (int64_t i = 0; i < images; i++) {
        memset(row, (int)(i % 251), sizeof row);
        fwrite(row, 1, sizeof row, f);
    }
    CHECK_INT(fclose(f), 0);
    int rc = in_child(path, images, false);
    unlink(path);
    CHECK_INT(rc, 0);
}

TEST(idx_compressed)
{
    if (skipped(__func__))
        return;
    uint8_t h[16], row[PIXELS];
    const char *path = file_path("big.idx.gz");
    gzFile f = gzopen(path, "wb1");
    header(h, (uint32_t)images);
    gzwrite(f, h, 16);
    for (int64_t i = 0; i < images; i++) {
        memset(row, (int)(i % 251), sizeof row);
        gzwrite(f, row, sizeof row);
    }
    CHECK_INT(gzclose(f), Z_OK);
    int rc = in_child(path, images, false);
    unlink(path);
    CHECK_INT(rc, 0);
}

TEST(csv_streamed)
{
    if (skipped(__func__))
        return;
    enum { COLUMNS = 256 };
    int64_t rows = ((int64_t)DATA_MIB << 20) / (COLUMNS * 4);
    char line[COLUMNS * 8];
    const char *path = file_path("big.csv.gz");
    gzFile f = gzopen(path, "wb1");
    for (int64_t i = -1; i < rows; i++) {
        int n = 0;
        for (int k = 0; k < COLUMNS; k++)
            n += i < 0 ? snprintf(line + n, sizeof line - (size_t)n, "c%d,", k % 1000)
                       : snprintf(line + n, sizeof line - (size_t)n, "%d,", (int)(i % 251));
        n += snprintf(line + n, sizeof line - (size_t)n, "%s\n", i < 0 ? "y" : i % 2 ? "a" : "b");
        gzwrite(f, line, (unsigned)n);
    }
    CHECK_INT(gzclose(f), Z_OK);
    int rc = in_child(path, rows, true);
    unlink(path);
    CHECK_INT(rc, 0);
}

TEST(hdf5_chunked_and_in_place)
{
    if (skipped(__func__))
        return;
    enum { CHUNK = 256 };
    for (int compressed = 0; compressed < 2; compressed++) {
        static uint8_t block[CHUNK * PIXELS];
        const char *path = file_path("big.h5");
        hsize_t dims[3] = { (hsize_t)images, SIDE, SIDE }, chunk[3] = { CHUNK, SIDE, SIDE };
        hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT),
              space = H5Screate_simple(3, dims, NULL);
        hid_t p = H5Pcreate(H5P_DATASET_CREATE), mem = H5Screate_simple(3, chunk, NULL);
        if (compressed) {
            H5Pset_chunk(p, 3, chunk);
            H5Pset_deflate(p, 1);
        }
        hid_t set = H5Dcreate2(f, "x", H5T_STD_U8LE, space, H5P_DEFAULT, p, H5P_DEFAULT);
        for (int64_t at = 0; at < images; at += CHUNK) {
            hsize_t start[3] = { (hsize_t)at, 0, 0 };
            for (int64_t i = 0; i < CHUNK; i++)
                memset(block + i * PIXELS, (int)((at + i) % 251), PIXELS);
            H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, chunk, NULL);
            H5Dwrite(set, H5T_NATIVE_UINT8, mem, space, H5P_DEFAULT, block);
        }
        H5Dclose(set);
        H5Sclose(mem);
        H5Pclose(p);
        H5Sclose(space);
        H5Fclose(f);
        int rc = in_child(path, images, false);
        unlink(path);
        CHECK_INT(rc, 0);
    }
}

TEST_MAIN
