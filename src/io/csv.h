/* CSV records as a stream (RFC 4180): quotes, doubled quotes, line breaks in quotes; CRLF or LF; gzip or
 * plain. */
#ifndef RK_IO_CSV_H
#define RK_IO_CSV_H

#include <rankine/base.h>

enum { RK__CSV_FIELDS = 16384, RK__CSV_FIELD_BYTES = 1 << 20 };

typedef struct rk__csv_field {
    const char *text; /* NUL-terminated UTF-8, unquoted; blanks around an unquoted field are gone */
    size_t n;
} rk__csv_field;

typedef struct rk__csv rk__csv;

rk_status rk__csv_open(rk_ctx *ctx, const char *path, char delimiter, rk__csv **out);
/* The next record; its fields live until the next call. *more is false at the end. RK_EDATA with file and
 * line. */
rk_status rk__csv_next(rk__csv *c, bool *more);
int rk__csv_count(const rk__csv *c);
rk__csv_field rk__csv_field_at(const rk__csv *c, int i);
int64_t rk__csv_line(const rk__csv *c); /* where the record begins, from 1 */
void rk__csv_close(rk__csv *c);

#endif
