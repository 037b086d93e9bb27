#include "io/csv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/ctx.h"
#include "io/file.h"
#include "io/text.h"

enum { BUFFER = 1 << 16, RECORD_BYTES = 1 << 24, END = -1, FAILED = -2 };

typedef struct span {
    size_t at, n;
} span;

struct rk__csv {
    rk_ctx *ctx;
    char *path;
    char delimiter;
    int fd;
    rk__gz *gz;
    int64_t line, record_line, blank_line;
    size_t n, i;   /* of buf */
    rk__text text; /* the record's fields, each with a NUL */
    span *field;
    int n_fields, cap_fields;
    bool stops[256]; /* bytes that end a run of plain text */
    uint8_t buf[BUFFER];
};

static rk_status refill(rk__csv *c)
{
    size_t got = 0;
    if (c->gz) {
        RK_TRY(rk__gz_read(c->gz, c->buf, BUFFER, &got));
    } else {
        ssize_t r;
        do
            r = read(c->fd, c->buf, BUFFER);
        while (r < 0 && errno == EINTR);
        if (r < 0)
            return rk_fail(c->ctx, RK_ENOINPUT, "%s: %s", c->path, strerror(errno));
        got = (size_t)r;
    }
    c->n = got;
    c->i = 0;
    return RK_OK;
}

rk_status rk__csv_open(rk_ctx *ctx, const char *path, char delimiter, rk__csv **out)
{
    rk__csv *c = calloc(1, sizeof *c);
    int64_t size;
    *out = NULL;
    if (!c || !(c->path = strdup(path))) {
        free(c);
        return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", path);
    }
    c->ctx = ctx;
    c->delimiter = delimiter;
    c->line = 1;
    c->stops[(uint8_t)delimiter] = c->stops['\n'] = c->stops['\r'] = c->stops['"'] = c->stops[0] = true;
    rk_status st = rk__file_open(ctx, path, &c->fd, &size);
    if (st == RK_OK)
        st = refill(c);
    if (st == RK_OK && c->n >= 2 && c->buf[0] == 0x1f && c->buf[1] == 0x8b) {
        st = rk__gz_open(ctx, path, &c->gz);
        if (st == RK_OK)
            st = refill(c);
    }
    if (st == RK_OK && c->n >= 3 && !memcmp(c->buf, "\xef\xbb\xbf", 3))
        c->i = 3; /* a byte order mark */
    if (st != RK_OK) {
        rk__csv_close(c);
        return st;
    }
    *out = c;
    return RK_OK;
}

static rk_status fail(rk__csv *c, const char *why)
{
    return rk_fail(c->ctx, RK_EDATA, "%s:%lld: column %d: %s", c->path, (long long)c->line, c->n_fields + 1,
                   why);
}

/* The next byte without taking it; END at the end of the file, FAILED after a failure. */
static int peek(rk__csv *c)
{
    if (c->i == c->n && (refill(c) != RK_OK || c->n == 0))
        return rk_failed(c->ctx) ? FAILED : END;
    return c->buf[c->i];
}

static rk_status check_length(rk__csv *c, size_t start)
{
    if (c->text.n - start > RK__CSV_FIELD_BYTES)
        return fail(c, "a field of more than 1 MiB (a quote that is never closed?)");
    if (c->text.n > RECORD_BYTES)
        return fail(c, "a record of more than 16 MiB");
    return RK_OK;
}

/* A run of bytes that mean nothing special; `until`: the only byte that does (in quotes), 0: those of stops.
 */
static void take_run(rk__csv *c, int until)
{
    size_t from = c->i, end = c->i;
    if (until)
        while (end < c->n && c->buf[end] != until && c->buf[end] != '\n' && c->buf[end])
            end++;
    else
        while (end < c->n && !c->stops[c->buf[end]])
            end++;
    rk__text_put(&c->text, c->buf + from, end - from);
    c->i = end;
}

/* After the opening quote, to behind the closing one. */
static rk_status quoted(rk__csv *c)
{
    int64_t opened = c->line;
    for (size_t start = c->text.n;;) {
        take_run(c, '"');
        RK_TRY(check_length(c, start));
        int ch = peek(c);
        if (ch == FAILED)
            return rk_failed(c->ctx);
        if (ch == END)
            return rk_fail(c->ctx, RK_EDATA, "%s:%lld: column %d: a quote that is never closed", c->path,
                           (long long)opened, c->n_fields + 1);
        if (ch == 0)
            return fail(c, "a NUL byte: not a text file");
        if (ch == '"') {
            c->i++;
            if (peek(c) != '"')
                return RK_OK;
        }
        c->line += ch == '\n';
        if (ch == '"' || ch == '\n') {
            rk__text_put(&c->text, &(char){ (char)ch }, 1);
            c->i++;
        }
    }
}

static bool blank(char ch)
{
    return ch == ' ' || ch == '\t';
}

static rk_status unquoted(rk__csv *c)
{
    size_t start = c->text.n;
    int ch;
    do {
        take_run(c, 0);
        RK_TRY(check_length(c, start));
        ch = peek(c);
    } while (ch >= 0 && !c->stops[ch]);
    if (ch == 0)
        return fail(c, "a NUL byte: not a text file");
    if (ch == '"')
        return fail(c, "a quote inside an unquoted field");
    if (c->text.failed)
        return RK_OK; /* told at the end of the record */
    char *p = c->text.p;
    size_t lead = start;
    while (c->text.n > start && blank(p[c->text.n - 1]))
        c->text.n--;
    while (lead < c->text.n && blank(p[lead]))
        lead++;
    if (lead > start) {
        memmove(p + start, p + lead, c->text.n - lead);
        c->text.n -= lead - start;
    }
    return RK_OK;
}

static rk_status check_utf8(rk__csv *c, size_t start)
{
    const uint8_t *p = (const uint8_t *)c->text.p;
    for (size_t i = start; !c->text.failed && i < c->text.n;) {
        int len = p[i] < 0x80 ? 1 : rk__utf8_length(p + i, c->text.n - i);
        if (!len)
            return fail(c, "not UTF-8: convert the file first (iconv -f latin1 -t utf8)");
        i += (size_t)len;
    }
    return RK_OK;
}

static rk_status add_field(rk__csv *c, size_t start)
{
    RK_TRY(check_utf8(c, start));
    if (c->n_fields == RK__CSV_FIELDS)
        return fail(c, "more than 16384 columns");
    if (c->n_fields == c->cap_fields) {
        int cap = c->cap_fields ? c->cap_fields * 2 : 64;
        span *f = realloc(c->field, (size_t)cap * sizeof *f);
        if (!f)
            return rk_fail(c->ctx, RK_ENOMEM, "%s: out of memory", c->path);
        c->field = f;
        c->cap_fields = cap;
    }
    c->field[c->n_fields++] = (span){ start, c->text.n - start };
    rk__text_put(&c->text, "", 1);
    return RK_OK;
}

/* One field and what follows it; *last if that is the end of the record. */
static rk_status field(rk__csv *c, bool *last)
{
    size_t start = c->text.n;
    if (peek(c) == '"') {
        c->i++;
        RK_TRY(quoted(c));
    } else {
        RK_TRY(unquoted(c));
    }
    int ch = peek(c);
    if (ch == FAILED)
        return rk_failed(c->ctx);
    if (ch == '\r') {
        c->i++;
        ch = peek(c);
        if (ch != '\n')
            return fail(c, "a carriage return that is not the end of a line");
    }
    *last = ch == '\n' || ch == END;
    if (!*last && ch != (uint8_t)c->delimiter)
        return fail(c, "text after a closing quote");
    RK_TRY(add_field(c, start));
    c->i += ch != END;
    c->line += ch == '\n';
    return RK_OK;
}

static rk_status record(rk__csv *c)
{
    c->text.n = 0;
    c->n_fields = 0;
    c->record_line = c->line;
    for (bool last = false; !last;)
        RK_TRY(field(c, &last));
    return c->text.failed ? rk_fail(c->ctx, RK_ENOMEM, "%s: out of memory", c->path) : RK_OK;
}

rk_status rk__csv_next(rk__csv *c, bool *more)
{
    *more = false;
    for (;;) {
        int ch = peek(c);
        if (ch < 0)
            return ch == FAILED ? rk_failed(c->ctx) : RK_OK;
        bool may_be_blank = ch == '\n' || ch == '\r';
        RK_TRY(record(c));
        if (may_be_blank) { /* empty lines may end a file, nothing else */
            c->blank_line = c->blank_line ? c->blank_line : c->record_line;
            continue;
        }
        if (c->blank_line)
            return rk_fail(c->ctx, RK_EDATA, "%s:%lld: an empty line", c->path, (long long)c->blank_line);
        *more = true;
        return RK_OK;
    }
}

int rk__csv_count(const rk__csv *c)
{
    return c->n_fields;
}

rk__csv_field rk__csv_field_at(const rk__csv *c, int i)
{
    return (rk__csv_field){ c->text.p + c->field[i].at, c->field[i].n };
}

int64_t rk__csv_line(const rk__csv *c)
{
    return c->record_line;
}

void rk__csv_close(rk__csv *c)
{
    if (!c)
        return;
    rk__gz_close(c->gz);
    if (c->fd >= 0)
        close(c->fd);
    rk__text_free(&c->text);
    free(c->field);
    free(c->path);
    free(c);
}
