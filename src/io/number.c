#include "io/number.h"

#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;
static locale_t c_locale; /* constant once made; (locale_t)0: none to be had */

static void make_c_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

/* For texts that the exact path below cannot do: strtod in the C locale, as the host's may write a comma. */
static bool by_strtod(const char *p, size_t n, double *out)
{
    char small[128], *text = n < sizeof small ? small : malloc(n + 1), *end;
    if (!text)
        return false;
    memcpy(text, p, n);
    text[n] = '\0';
    pthread_once(&c_locale_once, make_c_locale);
    *out = c_locale ? strtod_l(text, &end, c_locale) : strtod(text, &end);
    bool whole = end == text + n;
    if (text != small)
        free(text);
    return whole && isfinite(*out);
}

bool rk__parse_double(const char *p, size_t n, double *out)
{
    static const double ten[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
    size_t i = 0, digits = 0;
    uint64_t m = 0;
    int scale = 0, e = 0;
    bool minus = n && p[0] == '-', exact = true;
    if (n && (p[0] == '-' || p[0] == '+'))
        i++;
    for (bool point = false; i < n && (digit(p[i]) || (p[i] == '.' && !point)); i++) {
        if (p[i] == '.') {
            point = true;
            continue;
        }
        digits++;
        if (m < (UINT64_C(1) << 53) / 10 - 1)
            m = m * 10 + (uint64_t)(p[i] - '0');
        else
            exact = false;
        scale -= point && exact;
    }
    if (!digits)
        return false;
    if (i < n && (p[i] == 'e' || p[i] == 'E')) {
        bool eminus = ++i < n && p[i] == '-';
        if (i < n && (p[i] == '-' || p[i] == '+'))
            i++;
        if (i == n)
            return false;
        for (; i < n && digit(p[i]); i++)
            e = e < 100000 ? e * 10 + (p[i] - '0') : e;
        e = eminus ? -e : e;
    }
    if (i != n)
        return false;
    e += scale;
    if (!exact || e < -22 || e > 22)
        return by_strtod(p, n, out);
    double v = (double)m; /* both factors are exact, so one rounding: Clinger 1990 */
    v = e < 0 ? v / ten[-e] : v * ten[e];
    *out = minus ? -v : v;
    return true;
}

bool rk__parse_int(const char *p, size_t n, int64_t *out)
{
    bool minus = n && p[0] == '-';
    size_t i = n && (p[0] == '-' || p[0] == '+');
    if (i == n)
        return false;
    int64_t v = 0; /* runs negative: INT64_MIN has no positive twin */
    for (; i < n; i++)
        if (!digit(p[i]) || __builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, p[i] - '0', &v))
            return false;
    if (!minus && v == INT64_MIN)
        return false;
    *out = minus ? v : -v;
    return true;
}

static void print(char *buf, const char *fmt, int digits, double v)
{
    snprintf(buf, 32, fmt, digits, v);
    for (char *c = buf; *c; c++)
        *c = *c == ',' ? '.' : *c; /* a locale's decimal comma */
}

void rk__format_double(double v, char *buf)
{
    int digits = 0;
    double back;
    do /* 17 digits always read back */
        print(buf, "%.*e", digits, v);
    while (digits++ < 16 && !(rk__parse_double(buf, strlen(buf), &back) && back == v));
    int exponent = (int)strtol(strchr(buf, 'e') + 1, NULL, 10);
    if (exponent < -5 || exponent >= 16)
        return;
    print(buf, "%.*f", digits - 1 > exponent ? digits - 1 - exponent : 1, v);
}
