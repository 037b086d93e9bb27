/* JSON as RFC 8259 has it, and no looser: UTF-8 validated, no trailing bytes, no duplicate keys, no NaN. */
#include <stdlib.h>
#include <string.h>

#include "core/ctx.h"
#include "io/doc_build.h"
#include "io/number.h"
#include "io/text.h"

typedef struct json {
    rk__doc_builder b;
    const uint8_t *p;
    size_t n, i;
    int line;
    size_t line_start,
        counted; /* column = characters in [line_start, i); `columns` of them up to `counted` */
    int columns;
    rk__text s; /* the string being unescaped */
} json;

static int column(json *j)
{
    for (; j->counted < j->i; j->counted++)
        j->columns += (j->p[j->counted] & 0xc0) != 0x80;
    return j->columns + 1;
}

static rk_status fail(json *j, const char *what)
{
    return rk__build_fail(&j->b, j->line, column(j), "%s", j->i >= j->n ? "the text ends too early" : what);
}

static void skip_space(json *j)
{
    for (; j->i < j->n; j->i++) {
        uint8_t c = j->p[j->i];
        if (c == '\n') {
            j->line++;
            j->line_start = j->counted = j->i + 1;
            j->columns = 0;
        } else if (c != ' ' && c != '\t' && c != '\r') {
            return;
        }
    }
}

static int peek(const json *j)
{
    return j->i < j->n ? j->p[j->i] : -1;
}

/* ---- strings ---- */

static bool hex4(json *j, uint32_t *out)
{
    if (j->n - j->i < 4)
        return false;
    uint32_t v = 0;
    for (int k = 0; k < 4; k++) {
        int c = j->p[j->i + (size_t)k], low = c | 32;
        int d = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : 16;
        if (d > 15)
            return false;
        v = v * 16 + (uint32_t)d;
    }
    j->i += 4;
    *out = v;
    return true;
}

static void put_code_point(rk__text *t, uint32_t c)
{
    uint8_t u[4];
    size_t n;
    if (c < 0x80) {
        u[0] = (uint8_t)c;
        n = 1;
    } else if (c < 0x800) {
        u[0] = (uint8_t)(0xc0 | c >> 6);
        n = 2;
    } else if (c < 0x10000) {
        u[0] = (uint8_t)(0xe0 | c >> 12);
        n = 3;
    } else {
        u[0] = (uint8_t)(0xf0 | c >> 18);
        n = 4;
    }
    for (size_t k = 1; k < n; k++)
        u[k] = (uint8_t)(0x80 | (c >> (6 * (n - 1 - k)) & 0x3f));
    rk__text_put(t, u, n);
}

/* After "\u". */
static rk_status unicode_escape(json *j)
{
    uint32_t c, low;
    if (!hex4(j, &c))
        return fail(j, "\\u needs four hexadecimal digits");
    if (c >= 0xd800 && c < 0xdc00) {
        if (j->n - j->i < 6 || j->p[j->i] != '\\' || j->p[j->i + 1] != 'u')
            return fail(j, "half of a surrogate pair");
        j->i += 2;
        if (!hex4(j, &low) || low < 0xdc00 || low > 0xdfff)
            return fail(j, "half of a surrogate pair");
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    } else if (c >= 0xdc00 && c < 0xe000) {
        return fail(j, "half of a surrogate pair");
    } else if (c == 0) {
        return fail(j, "\\u0000 is not allowed");
    }
    put_code_point(&j->s, c);
    return RK_OK;
}

static rk_status escape(json *j)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(j);
    const char *at = c > 0 ? strchr(from, c) : NULL;
    if (at) {
        j->i++;
        rk__text_put(&j->s, &to[at - from], 1);
        return RK_OK;
    }
    if (c != 'u')
        return fail(j, "unknown escape in a string");
    j->i++;
    return unicode_escape(j);
}

/* At the opening quote; the text is left in j->s. */
static rk_status string(json *j)
{
    j->s.n = 0;
    for (j->i++;;) {
        size_t start = j->i;
        while (j->i < j->n && j->p[j->i] >= 0x20 && j->p[j->i] < 0x80 && j->p[j->i] != '"' &&
               j->p[j->i] != '\\')
            j->i++;
        rk__text_put(&j->s, j->p + start, j->i - start);
        int c = peek(j);
        if (c == '"') {
            j->i++;
            rk__text_put(&j->s, "", 1);
            if (j->s.failed)
                return rk_fail(j->b.ctx, RK_ENOMEM, "%s: out of memory", j->b.file);
            j->s.n--;
            return RK_OK;
        }
        if (c == '\\') {
            j->i++;
            RK_TRY(escape(j));
            continue;
        }
        int len = c < 0x20 ? 0 : rk__utf8_length(j->p + j->i, j->n - j->i);
        if (!len)
            return fail(j,
                        c >= 0x20 ? "not UTF-8" : "a control character in a string: write it as an escape");
        rk__text_put(&j->s, j->p + j->i, (size_t)len);
        j->i += (size_t)len;
    }
}

/* ---- values ---- */

static size_t digits(json *j)
{
    size_t start = j->i;
    while (j->i < j->n && j->p[j->i] >= '0' && j->p[j->i] <= '9')
        j->i++;
    return j->i - start;
}

static rk_status number(json *j)
{
    size_t start = j->i;
    int col = column(j);
    int64_t i = 0;
    double f;
    bool integer = true;
    j->i += peek(j) == '-';
    size_t lead = j->i;
    if (!digits(j))
        return fail(j, "not a JSON value");
    if (j->p[lead] == '0' && j->i - lead > 1)
        return rk__build_fail(&j->b, j->line, col, "a number with leading zeros");
    if (peek(j) == '.') {
        integer = false;
        j->i++;
        if (!digits(j))
            return fail(j, "digits missing after the point");
    }
    if (peek(j) == 'e' || peek(j) == 'E') {
        integer = false;
        j->i++;
        j->i += peek(j) == '-' || peek(j) == '+';
        if (!digits(j))
            return fail(j, "digits missing in the exponent");
    }
    const char *text = (const char *)j->p + start;
    size_t n = j->i - start;
    if (!rk__parse_double(text, n, &f))
        return rk__build_fail(&j->b, j->line, col, "the number is too large");
    integer = integer && rk__parse_int(text, n, &i);
    return rk__build_scalar(&j->b, integer ? RK_DOC_INT : RK_DOC_FLOAT, text, n, i, f, j->line, col);
}

static rk_status word(json *j)
{
    static const struct {
        const char *text;
        rk_doc_kind kind;
        int64_t i;
    } words[] = { { "true", RK_DOC_BOOL, 1 }, { "false", RK_DOC_BOOL, 0 }, { "null", RK_DOC_NULL, 0 } };
    for (size_t k = 0; k < sizeof words / sizeof *words; k++) {
        size_t n = strlen(words[k].text);
        if (j->n - j->i >= n && !memcmp(j->p + j->i, words[k].text, n)) {
            int col = column(j);
            j->i += n;
            return rk__build_scalar(&j->b, words[k].kind, words[k].text, n, words[k].i, 0, j->line, col);
        }
    }
    return fail(j, "not a JSON value");
}

/* A scalar, or the opening of a container. */
static rk_status value(json *j)
{
    int c = peek(j), col = column(j), line = j->line;
    if (c == '{' || c == '[') {
        RK_TRY(rk__build_open(&j->b, c == '{' ? RK_DOC_MAP : RK_DOC_LIST, line, col));
        j->i++;
        return RK_OK;
    }
    if (c == '"') {
        RK_TRY(string(j));
        return rk__build_scalar(&j->b, RK_DOC_STRING, j->s.p, j->s.n, 0, 0, line, col);
    }
    return c == '-' || (c >= '0' && c <= '9') ? number(j) : word(j);
}

static rk_status member_key(json *j)
{
    int col = column(j), line = j->line;
    if (peek(j) != '"')
        return fail(j, "a key in quotes is missing here");
    RK_TRY(string(j));
    RK_TRY(rk__build_key(&j->b, j->s.p, j->s.n, line, col));
    skip_space(j);
    if (peek(j) != ':')
        return fail(j, "':' is missing after a key");
    j->i++;
    skip_space(j);
    return RK_OK;
}

/* Without recursion: the builder's stack of open containers is the state. */
static rk_status text(json *j)
{
    bool fresh = true; /* at the start of a container: it may close, and no comma is due */
    skip_space(j);
    RK_TRY(value(j));
    while (j->b.depth) {
        const rk_doc *top = j->b.open[j->b.depth - 1].node;
        char end = top->kind == RK_DOC_MAP ? '}' : ']';
        skip_space(j);
        if (peek(j) == end) {
            j->i++;
            rk__build_close(&j->b);
            fresh = false;
            continue;
        }
        if (!fresh || top->n) {
            if (peek(j) != ',')
                return fail(j, end == '}' ? "',' or '}' is missing here" : "',' or ']' is missing here");
            j->i++;
            skip_space(j);
        }
        if (top->kind == RK_DOC_MAP)
            RK_TRY(member_key(j));
        int depth = j->b.depth;
        RK_TRY(value(j));
        fresh = j->b.depth > depth;
    }
    skip_space(j);
    return j->i < j->n ? fail(j, "more text after the value") : RK_OK;
}

rk_status rk__json_parse(rk_ctx *ctx, const char *file, const uint8_t *p, size_t n, rk_status bad,
                         rk_doc **out)
{
    json j = { .p = p, .n = n, .line = 1 };
    *out = NULL;
    if (n >= 3 && !memcmp(p, "\xef\xbb\xbf", 3))
        j.i = j.counted = 3; /* a byte order mark */
    rk_status st = rk__build_begin(&j.b, ctx, file, bad);
    if (st == RK_OK)
        st = text(&j);
    rk__text_free(&j.s);
    return rk__build_end(&j.b, st, out);
}
