#include "fuzz.h"

#include "io/doc.h"

/* The first line, if it has a '=', is an override; the rest is the file. What is accepted is JSON too. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    rk_ctx ctx = { 0 };
    rk_doc *d, *again;
    char key[64] = "", value[128] = "";
    const uint8_t *end = memchr(p, '\n', n), *eq = end ? memchr(p, '=', (size_t)(end - p)) : NULL;
    if (eq && (size_t)(eq - p) < sizeof key && (size_t)(end - eq) < sizeof value) {
        memcpy(key, p, (size_t)(eq - p));
        memcpy(value, eq + 1, (size_t)(end - eq - 1));
        n -= (size_t)(end - p) + 1;
        p = end + 1;
    }
    rk_status st = rk__yaml_parse(&ctx, "fuzz", p, n, RK_ECONFIG, &d);
    if (st == RK_OK && key[0])
        st = rk__doc_set(&ctx, d, key, value, "override");
    if (st != RK_OK) {
        fuzz_refused(&ctx, st);
        rk__doc_free(d);
        return 0;
    }
    char *text = rk__doc_json(d, true, 0);
    FUZZ_CHECK(text);
    st = rk__json_parse(&ctx, "again", (const uint8_t *)text, strlen(text), RK_EDATA, &again);
    FUZZ_CHECK(st == RK_OK || strstr(rk_error(&ctx), "nested deeper")); /* an override may nest further */
    if (st == RK_OK) {
        char *second = rk__doc_json(again, true, 0);
        FUZZ_CHECK(second && !strcmp(text, second));
        free(second);
    }
    free(text);
    rk__doc_free(again);
    rk__doc_free(d);
    return 0;
}
