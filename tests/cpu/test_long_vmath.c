/* All 2^32 floats. */
#include "vmath_check.h"

TEST(every_float_within_two_ulp)
{
    for (int f = 0; f < VMATH_FNS; f++)
        CHECK(vmath_worst(&vmath_fns[f], 1, 16) <= 2);
}

TEST_MAIN
