/* A growing text. A failed allocation is remembered and told once, by rk__text_take(). Zero-initialise. */
#ifndef RK_IO_TEXT_H
#define RK_IO_TEXT_H

#include <rankine/base.h>

typedef struct rk__text {
    char *p;
    size_t n, cap;
    bool failed;
} rk__text;

void rk__text_put(rk__text *t, const void *p, size_t n);
void rk__text_puts(rk__text *t, const char *s);
void rk__text_printf(rk__text *t, const char *fmt, ...) RK_PRINTF(2, 3); /* at most 511 bytes a call */
void rk__text_quote(rk__text *t,
                    const char *utf8); /* as a JSON string; bytes that are no UTF-8 become U+FFFD */
/* The shortest decimal that reads back as exactly v; null if v is not finite. */
void rk__text_double(rk__text *t, double v);
char *rk__text_take(rk__text *t); /* NUL-terminated, malloc'ed, t is empty again; NULL when memory ran out */
void rk__text_free(rk__text *t);

/* Length of the well-formed UTF-8 sequence at p (1 to 4; no surrogates, no overlong forms), 0 if there is
 * none. */
int rk__utf8_length(const uint8_t *p, size_t n);

#endif
