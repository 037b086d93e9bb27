/* The clock that durations are measured with. */
#ifndef RK_CORE_CLOCK_H
#define RK_CORE_CLOCK_H

#include <time.h>

/* Seconds since some moment in the past; never set back. */
static inline double rk__seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
