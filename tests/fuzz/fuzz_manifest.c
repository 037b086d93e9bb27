#include "fuzz.h"

#include "ckpt/manifest.h"

/* The input with the sum it ought to have: or nothing behind the sum would ever be reached. */
static uint8_t *mend(const uint8_t *p, size_t n, size_t *out)
{
    static const char head[] = "\"xxh3_128\": \"";
    char hex[33];
    size_t body = n;
    while (body > 0 && p[body - 1] == '\n')
        body--;
    while (body > 0 && p[body - 1] != '\n')
        body--;
    if (n - body < sizeof head - 1 || memcmp(p + body, head, sizeof head - 1))
        body = n; /* no such line: add one */
    uint8_t *q = malloc(body + sizeof head + 64);
    FUZZ_CHECK(q);
    memcpy(q, p, body);
    rk__manifest_sum(q, body, hex);
    *out = body + (size_t)snprintf((char *)q + body, sizeof head + 64, "%s%s\"}\n", head, hex);
    return q;
}

/* What is accepted is sorted and covered, and its text reads back as itself. */
static void check_good(rk_ctx *ctx, rk__manifest *m)
{
    rk__fault f = { 0 };
    rk__manifest again;
    size_t n, k;
    for (int i = 0; i < m->n_tensors; i++) {
        FUZZ_CHECK(rk__m_find(m, m->tensors[i].name) == &m->tensors[i]);
        FUZZ_CHECK(rk__m_tensor_bytes(&m->tensors[i]) <= (size_t)8 << 50);
        for (int j = 0; j < m->tensors[i].n_pieces; j++)
            FUZZ_CHECK(m->tensors[i].pieces[j].file < m->n_files);
    }
    for (int i = 0; i < m->n_files; i++)
        FUZZ_CHECK(rk__file_name_ok(m->files[i].name));
    char *text = rk__manifest_text(m, &n);
    FUZZ_CHECK(text);
    rk_status st = rk__manifest_parse(ctx, "again", (uint8_t *)text, n, &again, &f);
    FUZZ_CHECK(st == RK_OK);
    char *second = rk__manifest_text(&again, &k);
    FUZZ_CHECK(second && n == k && !memcmp(text, second, n));
    free(text);
    free(second);
    rk__manifest_free(&again);
}

static void try_one(const uint8_t *p, size_t n)
{
    rk_ctx ctx = { 0 };
    rk__fault f = { 0 };
    rk__manifest m;
    rk_status st = rk__manifest_parse(&ctx, "fuzz", p, n, &m, &f);
    FUZZ_CHECK(ctx.status == RK_OK); /* what is wrong with a file is no failure of the context */
    if (st == RK_OK) {
        check_good(&ctx, &m);
        rk__manifest_free(&m);
        return;
    }
    FUZZ_CHECK(st == f.st && f.msg[0] && (st == RK_EDATA || st == RK_ENOMEM));
    FUZZ_CHECK(!m.tensors && !m.files && !m.cursors);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    size_t k;
    try_one(p, n);
    uint8_t *q = mend(p, n, &k);
    try_one(q, k);
    free(q);
    return 0;
}
