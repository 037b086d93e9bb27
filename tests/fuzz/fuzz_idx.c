#include "fuzz.h"

#include "io/ds.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    char path[32];
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    if (n > 1 << 16)
        return 0;
    int fd = fuzz_file(p, n, path);
    rk_status st = rk__ds_open(
        &ctx, &(rk_data_cfg){ .path = path, .format = "idx", .no_labels = n % 2, .labels = path }, &ds);
    if (st != RK_OK) {
        fuzz_refused(&ctx, st);
        FUZZ_CHECK(!ds);
    } else {
        const rk__ds_info *in = ds->ops->info(ds);
        int64_t elems = in->groups * in->inner, last = in->samples - 1, y[1];
        FUZZ_CHECK(in->samples > 0 && elems > 0);
        void *x = malloc((size_t)elems * 4);
        FUZZ_CHECK(x);
        ds->ops->read(ds, &ctx, (int64_t[]){ 0 }, 1, x, in->classes ? y : NULL);
        ds->ops->read(ds, &ctx, &last, 1, x, in->classes ? y : NULL);
        FUZZ_CHECK(!in->classes || rk_failed(&ctx) || y[0] < in->classes);
        free(x);
        ds->ops->close(ds);
    }
    close(fd);
    return 0;
}
