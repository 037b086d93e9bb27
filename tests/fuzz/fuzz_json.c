#include "fuzz.h"

#include "io/doc.h"

/* What is accepted has a canonical text, which reads back as itself. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    rk_ctx ctx = { 0 };
    rk_doc *d, *again;
    rk_status st = rk__json_parse(&ctx, "fuzz", p, n, RK_EDATA, &d);
    if (st != RK_OK) {
        fuzz_refused(&ctx, st);
        FUZZ_CHECK(!d);
        return 0;
    }
    char *text = rk__doc_json(d, true, 0);
    FUZZ_CHECK(text);
    st = rk__json_parse(&ctx, "again", (const uint8_t *)text, strlen(text), RK_EDATA, &again);
    FUZZ_CHECK(st == RK_OK);
    char *second = rk__doc_json(again, true, 0);
    FUZZ_CHECK(second && !strcmp(text, second));
    rk_doc *copy = rk__doc_copy(&ctx, d);
    FUZZ_CHECK(copy);
    rk__doc_path(copy, "a.0.b");
    free(text);
    free(second);
    rk__doc_free(again);
    rk__doc_free(copy);
    rk__doc_free(d);
    return 0;
}
