#include "io/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(rk__text *t, size_t n)
{
    if (t->failed)
        return false;
    if (t->cap - t->n > n)
        return true;
    size_t cap = t->cap ? t->cap : 128;
    while (cap - t->n <= n) {
        if (cap > SIZE_MAX / 2) {
            t->failed = true;
            return false;
        }
        cap *= 2;
    }
    char *p = realloc(t->p, cap);
    if (!p) {
        t->failed = true;
        return false;
    }
    t->p = p;
    t->cap = cap;
    return true;
}

void rk__text_put(rk__text *t, const void *p, size_t n)
{
    if (!reserve(t, n))
        return;
    if (n)
        memcpy(t->p + t->n, p, n);
    t->n += n;
}

void rk__text_puts(rk__text *t, const char *s)
{
    rk__text_put(t, s, strlen(s));
}

void rk__text_printf(rk__text *t, const char *fmt, ...)
{
    char buf[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf, sizeof buf, fmt, ap);
    va_end(ap);
    rk__text_put(t, buf, n < 0 ? 0 : (size_t)n < sizeof buf ? (size_t)n : sizeof buf - 1);
}

void rk__text_double(rk__text *t, double v)
{
    char buf[40] = "null";
    for (int digits = 1; isfinite(v) && digits <= 17; digits++) {
        snprintf(buf, sizeof buf, "%.*g", digits, v);
        if (strtod(buf, NULL) == v)
            break;
    }
    rk__text_puts(t, buf);
}

int rk__utf8_length(const uint8_t *p, size_t n)
{
    if (!n)
        return 0;
    if (p[0] < 0x80)
        return 1;
    int len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || (size_t)len > n)
        return 0;
    for (int i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool bad = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
               (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f);
    return bad ? 0 : len;
}

static void quote_ascii(rk__text *t, uint8_t c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *at = c ? strchr(from, c) : NULL;
    if (at) {
        rk__text_put(t, (char[]){ '\\', to[at - from] }, 2);
    } else if (c < 0x20 || c == 0x7f) {
        rk__text_printf(t, "\\u%04x", c);
    } else {
        rk__text_put(t, &c, 1);
    }
}

void rk__text_quote(rk__text *t, const char *utf8)
{
    const uint8_t *p = (const uint8_t *)utf8;
    size_t n = strlen(utf8);
    rk__text_put(t, "\"", 1);
    while (n) {
        int len = rk__utf8_length(p, n);
        if (len == 1)
            quote_ascii(t, *p);
        else if (len)
            rk__text_put(t, p, (size_t)len);
        else
            rk__text_puts(t, "\xef\xbf\xbd");
        p += len ? len : 1;
        n -= len ? (size_t)len : 1;
    }
    rk__text_put(t, "\"", 1);
}

char *rk__text_take(rk__text *t)
{
    rk__text_put(t, "", 1);
    char *p = t->failed ? NULL : t->p;
    if (!p)
        free(t->p);
    *t = (rk__text){ 0 };
    return p;
}

void rk__text_free(rk__text *t)
{
    free(t->p);
    *t = (rk__text){ 0 };
}
