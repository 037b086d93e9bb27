#include "fuzz.h"

#include "io/ds.h"

/* The first byte chooses the options. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const char *const tasks[] = { "classification", "regression", "reconstruction", "classification" };
    char path[32];
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    if (!n || n > 1 << 16)
        return 0;
    rk_data_cfg cfg = { .path = path,
                        .format = "csv",
                        .no_header = p[0] & 1,
                        .delimiter = p[0] & 2 ? ';' : 0,
                        .task = tasks[p[0] >> 2 & 3],
                        .no_labels = p[0] & 16,
                        .label_column = p[0] & 32 ? "1" : NULL,
                        .categorical = p[0] & 64 ? "2" : NULL };
    int fd = fuzz_file(p + 1, n - 1, path);
    rk_status st = rk__ds_open(&ctx, &cfg, &ds);
    if (st != RK_OK) {
        fuzz_refused(&ctx, st);
        FUZZ_CHECK(!ds);
        close(fd);
        return 0;
    }
    const rk__ds_info *in = ds->ops->info(ds);
    FUZZ_CHECK(in->samples > 0 && in->groups > 0);
    float *x = malloc((size_t)in->groups * 4), *y = malloc((size_t)(in->targets + 2) * 4);
    FUZZ_CHECK(x && y);
    for (int64_t s = 0; s < in->samples; s++) {
        int64_t label = 0;
        FUZZ_CHECK(ds->ops->read(ds, &ctx, &s, 1, x, in->classes ? (void *)&label : (void *)y) == RK_OK);
        FUZZ_CHECK(!in->classes || (label >= 0 && label < in->classes));
    }
    rk__text t = { 0 };
    rk__text_puts(&t, "{");
    ds->ops->schema(ds, &t);
    rk__text_puts(&t, "}");
    ds->ops->close(ds);
    char *schema = rk__text_take(&t);
    FUZZ_CHECK(schema);
    cfg.schema = schema; /* the same file again, as other data: must fit, and look alike */
    st = rk__ds_open(&ctx, &cfg, &ds);
    if (st != RK_OK)
        fprintf(stderr, "%s\n%s\n", schema, rk_error(&ctx));
    FUZZ_CHECK(st == RK_OK);
    ds->ops->close(ds);
    free(schema);
    free(x);
    free(y);
    close(fd);
    return 0;
}
