/* The device that only counts, and what the plan of a run makes of it. */
#include "core/ctx.h"
#include "core/dry.h"
#include "test.h"

#include <rankine/rankine.h>

#include <string.h>

TEST(every_entry_of_the_tables_is_filled)
{
    rk_ctx *ctx;
    CHECK(!rk__open_on(NULL, &rk__device_dry, &ctx));
    const rk_dtype types[] = { RK_F32, RK_F64 };
    for (int t = 0; t < 2; t++) {
        const rk_kernels *k = rk__kernels(ctx, types[t]);
        CHECK(k && k->dtype == types[t]);
        for (const char *p = (const char *)&k->gemm; p < (const char *)(k + 1); p += sizeof(void *)) {
            void *entry;
            memcpy(&entry, p, sizeof entry);
            CHECK(entry != NULL);
        }
    }
    CHECK(rk__kernels(ctx, RK_I64) == NULL);
    rk_close(ctx);
}

TEST(it_counts_what_is_held)
{
    rk_ctx *ctx;
    CHECK(!rk__open_on(NULL, &rk__device_dry, &ctx));
    rk_tensor *a = rk_tensor_make(ctx, RK_F32, RK_SHAPE(1000, 1000));
    CHECK(!rk_failed(ctx) && rk__dry_peak(ctx->dev) == 4000000);
    rk_tensor *big = rk_tensor_make(ctx, RK_F32, RK_SHAPE((int64_t)1 << 40)); /* more than any machine has */
    CHECK(!rk_failed(ctx) && rk__dry_peak(ctx->dev) == 4000000 + ((size_t)4 << 40));
    rk_tensor *sum = rk_sum(rk_add(a, a), 0, false);
    CHECK(rk_item(sum) == 0);
    (void)big;
    CHECK(rk_close(ctx) == 0);
}

TEST_MAIN
