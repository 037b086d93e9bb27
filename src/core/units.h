/* Sizes of memory as people read them. */
#ifndef RK_CORE_UNITS_H
#define RK_CORE_UNITS_H

#include <stddef.h>
#include <stdio.h>

enum { RK__SIZE_TEXT = 24 };

/* "9.41 GiB", "512 KiB", "12 bytes" into buf; returns buf. */
static inline const char *rk__size_text(size_t bytes, char buf[RK__SIZE_TEXT])
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    double x = (double)bytes;
    int i = 0;
    for (; x >= 1024 && i < 4; i++)
        x /= 1024;
    snprintf(buf, RK__SIZE_TEXT, "%.*f %s", i == 0 || x >= 100 ? 0 : x >= 10 ? 1 : 2, x, units[i]);
    return buf;
}

#endif
