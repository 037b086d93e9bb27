/* YAML through libyaml's events, with the scalars of the YAML 1.2 core schema. Anchors, aliases, merge keys
 * and tags are refused: a configuration reads the same to everybody, and no text grows when it is read. */
#include <string.h>

#include <yaml.h>

#include "core/ctx.h"
#include "io/doc_build.h"
#include "io/number.h"

static bool one_of(const char *s, size_t n, const char *const *words)
{
    for (; *words; words++)
        if (strlen(*words) == n && !memcmp(s, *words, n))
            return true;
    return false;
}

/* 0x1f or 0o17. */
static bool based_int(const char *s, size_t n, int64_t *out)
{
    if (n < 3 || s[0] != '0' || (s[1] != 'x' && s[1] != 'o'))
        return false;
    int base = s[1] == 'x' ? 16 : 8;
    int64_t v = 0;
    for (size_t i = 2; i < n; i++) {
        int c = s[i] | 32, d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
        if (d >= base || __builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, d, &v))
            return false;
    }
    *out = v;
    return true;
}

/* A text of this form is a number or an error, never a string. */
static bool looks_like_float(const char *s, size_t n)
{
    size_t i = n && (s[0] == '-' || s[0] == '+'), digits = 0;
    for (; i < n && ((s[i] >= '0' && s[i] <= '9') || s[i] == '.'); i++)
        digits += s[i] != '.';
    if (!digits)
        return false;
    if (i < n && (s[i] == 'e' || s[i] == 'E')) {
        i++;
        i += i < n && (s[i] == '-' || s[i] == '+');
        size_t first = i;
        while (i < n && s[i] >= '0' && s[i] <= '9')
            i++;
        if (i == first)
            return false;
    }
    return i == n && memchr(s, '.', n) == memrchr(s, '.', n);
}

static rk_status plain(rk__doc_builder *b, const char *s, size_t n, int line, int col)
{
    static const char *const nulls[] = { "", "~", "null", "Null", "NULL", NULL };
    static const char *const trues[] = { "true", "True", "TRUE", NULL };
    static const char *const falses[] = { "false", "False", "FALSE", NULL };
    static const char *const unbounded[] = { ".inf",  ".Inf",  ".INF", "-.inf", "-.Inf", "-.INF", "+.inf",
                                             "+.Inf", "+.INF", ".nan", ".NaN",  ".NAN",  NULL };
    int64_t i = 0;
    double f;
    if (one_of(s, n, nulls))
        return rk__build_scalar(b, RK_DOC_NULL, s, n, 0, 0, line, col);
    if (one_of(s, n, trues) || one_of(s, n, falses))
        return rk__build_scalar(b, RK_DOC_BOOL, s, n, one_of(s, n, trues), 0, line, col);
    if (rk__parse_int(s, n, &i) || based_int(s, n, &i))
        return rk__build_scalar(b, RK_DOC_INT, s, n, i, (double)i, line, col);
    if (one_of(s, n, unbounded))
        return rk__build_fail(b, line, col, "%.*s: numbers must be finite", (int)n, s);
    if (looks_like_float(s, n)) {
        if (!rk__parse_double(s, n, &f))
            return rk__build_fail(b, line, col, "the number is too large");
        return rk__build_scalar(b, RK_DOC_FLOAT, s, n, 0, f, line, col);
    }
    return rk__build_scalar(b, RK_DOC_STRING, s, n, 0, 0, line, col);
}

static rk_status refuse_extras(rk__doc_builder *b, const yaml_char_t *anchor, const yaml_char_t *tag,
                               int line, int col)
{
    if (anchor)
        return rk__build_fail(b, line, col, "anchors (&%.64s) are not allowed: write the value out",
                              (const char *)anchor);
    if (tag && strcmp((const char *)tag, "!") != 0)
        return rk__build_fail(b, line, col, "tags (%.64s) are not allowed: quote the value to make it a text",
                              (const char *)tag);
    return RK_OK;
}

static rk_status scalar(rk__doc_builder *b, const yaml_event_t *e, int line, int col)
{
    const char *s = (const char *)e->data.scalar.value;
    size_t n = e->data.scalar.length;
    bool is_plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    RK_TRY(refuse_extras(b, e->data.scalar.anchor, e->data.scalar.tag, line, col));
    if (rk__build_wants_key(b)) {
        if (is_plain && n == 2 && !memcmp(s, "<<", 2))
            return rk__build_fail(b, line, col, "merge keys (<<) are not allowed: write the members out");
        return rk__build_key(b, s, n, line, col);
    }
    if (is_plain && !e->data.scalar.tag)
        return plain(b, s, n, line, col);
    return rk__build_scalar(b, RK_DOC_STRING, s, n, 0, 0, line, col);
}

static rk_status container(rk__doc_builder *b, const yaml_event_t *e, int line, int col)
{
    bool map = e->type == YAML_MAPPING_START_EVENT;
    RK_TRY(refuse_extras(b, map ? e->data.mapping_start.anchor : e->data.sequence_start.anchor,
                         map ? e->data.mapping_start.tag : e->data.sequence_start.tag, line, col));
    if (rk__build_wants_key(b))
        return rk__build_fail(b, line, col, "a key must be a plain text, not a %s", map ? "map" : "list");
    return rk__build_open(b, map ? RK_DOC_MAP : RK_DOC_LIST, line, col);
}

static rk_status event(rk__doc_builder *b, const yaml_event_t *e, int *documents)
{
    int line = (int)e->start_mark.line + 1, col = (int)e->start_mark.column + 1;
    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        if ((*documents)++)
            return rk__build_fail(b, line, col, "a second document (---) begins here: only one is allowed");
        return RK_OK;
    case YAML_ALIAS_EVENT:
        return rk__build_fail(b, line, col,
                              "aliases (*%.64s) are not allowed: write the value out, or quote the text",
                              (const char *)e->data.alias.anchor);
    case YAML_SCALAR_EVENT:
        return scalar(b, e, line, col);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        return container(b, e, line, col);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        rk__build_close(b);
        return RK_OK;
    default:
        return RK_OK;
    }
}

static rk_status syntax_error(rk__doc_builder *b, const yaml_parser_t *p)
{
    if (p->error == YAML_MEMORY_ERROR)
        return rk_fail(b->ctx, RK_ENOMEM, "%s: out of memory", b->file);
    const char *what = p->problem ? p->problem : "not YAML";
    if (p->error == YAML_READER_ERROR)
        return rk_fail(b->ctx, b->bad, "%s: byte %zu: %s", b->file, p->problem_offset, what);
    bool tab = strstr(what, "cannot start any token") && p->buffer.pointer < p->buffer.last &&
               *p->buffer.pointer == '\t';
    return rk__build_fail(b, (int)p->problem_mark.line + 1, (int)p->problem_mark.column + 1, "%s%s%s%s", what,
                          p->context ? " " : "", p->context ? p->context : "",
                          tab ? ": a tab; indent with spaces" : "");
}

static rk_status stream(rk__doc_builder *b, yaml_parser_t *p)
{
    int documents = 0;
    for (bool more = true; more;) {
        yaml_event_t e;
        if (!yaml_parser_parse(p, &e))
            return syntax_error(b, p);
        more = e.type != YAML_STREAM_END_EVENT;
        rk_status st = event(b, &e, &documents);
        yaml_event_delete(&e);
        RK_TRY(st);
    }
    return RK_OK;
}

rk_status rk__yaml_parse(rk_ctx *ctx, const char *file, const uint8_t *p, size_t n, rk_status bad,
                         rk_doc **out)
{
    rk__doc_builder b;
    yaml_parser_t parser;
    *out = NULL;
    rk_status st = rk__build_begin(&b, ctx, file, bad);
    if (st == RK_OK && !yaml_parser_initialize(&parser))
        st = rk_fail(ctx, RK_ENOMEM, "%s: out of memory", file);
    else if (st == RK_OK) {
        yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
        yaml_parser_set_input_string(&parser, p, n);
        st = stream(&b, &parser);
        yaml_parser_delete(&parser);
    }
    return rk__build_end(&b, st, out);
}
