/* Numbers in text, read alike by every parser and in any locale. */
#ifndef RK_IO_NUMBER_H
#define RK_IO_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* [+-] digits [. digits] [e [+-] digits], correctly rounded; a leading or trailing point is allowed (".5",
 * "5."). False if p[0..n) is anything else, or too large for a double. */
bool rk__parse_double(const char *p, size_t n, double *out);

/* [+-] digits. False if p[0..n) is anything else or does not fit. */
bool rk__parse_int(const char *p, size_t n, int64_t *out);

/* The shortest decimal text that reads back as v, with a point or an exponent so that it stays a float.
 * Needs 32 bytes. v must be finite. */
void rk__format_double(double v, char *buf);

#endif
