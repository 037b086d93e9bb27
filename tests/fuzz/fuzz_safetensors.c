#include "fuzz.h"

#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    rk_ctx ctx = { 0 };
    rk__safetensors st;
    rk_status got = rk__st_parse(&ctx, "fuzz", p, n, (int64_t)n, &st);
    if (got != RK_OK) {
        fuzz_refused(&ctx, got);
        return 0;
    }
    int64_t at = 0;
    for (int i = 0; i < st.n; i++) {
        FUZZ_CHECK(st.t[i].begin == at && st.t[i].bytes >= 0);
        at += st.t[i].bytes;
        FUZZ_CHECK(rk__st_find(&st, st.t[i].name));
    }
    FUZZ_CHECK(st.data + at == (int64_t)n);
    rk__st_metadata(&st, "format");
    rk__st_close(&st);
    return 0;
}
