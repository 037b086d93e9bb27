#include "ckpt/snapshot.h"

#include "ckpt/hash.h"
#include "core/ctx.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

struct rk__sha256 {
    EVP_MD_CTX *md;
    bool ok;
};

rk__sha256 *rk__sha256_begin(void)
{
    rk__sha256 *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->md = EVP_MD_CTX_new();
    h->ok = h->md && EVP_DigestInit_ex(h->md, EVP_sha256(), NULL);
    return h;
}

void rk__sha256_add(rk__sha256 *h, const void *p, size_t n)
{
    h->ok = h->ok && EVP_DigestUpdate(h->md, p, n);
}

static void add_i64(rk__sha256 *h, int64_t v)
{
    unsigned char b[8];
    for (int i = 0; i < 8; i++)
        b[i] = (unsigned char)((uint64_t)v >> (8 * i));
    rk__sha256_add(h, b, sizeof b);
}

void rk__sha256_add_header(rk__sha256 *h, const char *name, rk_dtype t, const rk_shape *shape)
{
    rk__sha256_add(h, name, strlen(name) + 1);
    rk__sha256_add(h, rk_dtype_name(t), strlen(rk_dtype_name(t)) + 1);
    add_i64(h, shape->ndim);
    for (int i = 0; i < shape->ndim; i++)
        add_i64(h, shape->dim[i]);
}

bool rk__sha256_end(rk__sha256 *h, char *hex)
{
    unsigned char d[32] = { 0 };
    bool ok = h->ok && EVP_DigestFinal_ex(h->md, d, NULL);
    rk__hex(d, sizeof d, hex);
    EVP_MD_CTX_free(h->md);
    free(h);
    return ok;
}

void rk__hex(const unsigned char *p, size_t n, char *hex)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digit[p[i] >> 4];
        hex[2 * i + 1] = digit[p[i] & 15];
    }
    hex[2 * n] = '\0';
}

bool rk__sha256_text(const char *text, char *hex)
{
    rk__sha256 *h = rk__sha256_begin();
    if (!h)
        return false;
    rk__sha256_add(h, text, strlen(text));
    return rk__sha256_end(h, hex);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(rk_state_entry *const *)a)->name, (*(rk_state_entry *const *)b)->name);
}

static rk_status add_tensor(rk_ctx *ctx, rk__sha256 *h, const rk_state_entry *e)
{
    size_t bytes;
    if (!rk__piece_is_whole(&e->piece))
        return rk_fail(ctx, RK_EINTERNAL, "sha256: this rank holds only a piece of %s", e->name);
    RK_TRY(rk__mul_size(ctx, (size_t)rk_tensor_size(e->tensor), rk_dtype_size(rk_tensor_dtype(e->tensor)),
                        &bytes));
    void *host = malloc(bytes ? bytes : 1);
    if (!host)
        return rk_fail(ctx, RK_ENOMEM, "sha256: no memory for the %zu bytes of %s", bytes, e->name);
    rk_status st = rk_tensor_read(e->tensor, host, bytes);
    rk__sha256_add_header(h, e->name, rk_tensor_dtype(e->tensor), &e->piece.whole);
    rk__sha256_add(h, host, bytes);
    free(host);
    return st;
}

rk_status rk__state_sha256(const rk_state *st, unsigned kinds, char *hex)
{
    RK_TRY(rk_failed(st->ctx));
    rk_state_entry **order = rk__calloc(st->ctx, (size_t)st->n + 1, sizeof *order);
    rk__sha256 *h = order ? rk__sha256_begin() : NULL;
    rk_status status = h ? RK_OK : rk_fail(st->ctx, RK_ENOMEM, "sha256: no memory");
    int n = 0;
    for (int i = 0; order && i < st->n; i++)
        if (st->entries[i].kind != RK_STATE_CURSOR && (kinds >> st->entries[i].kind & 1))
            order[n++] = &st->entries[i];
    if (n > 1)
        qsort(order, (size_t)n, sizeof *order, by_name);
    for (int i = 0; i < n && status == RK_OK; i++)
        status = add_tensor(st->ctx, h, order[i]);
    if (h && !rk__sha256_end(h, hex))
        status = rk_fail(st->ctx, RK_EINTERNAL, "sha256: libcrypto failed");
    free(order);
    return status;
}
