/* A dense sample of all floats (the long tier takes every one), and v_fma against the definition. */
#include "vmath_check.h"

TEST(sampled_floats_within_two_ulp)
{
    for (int f = 0; f < VMATH_FNS; f++)
        CHECK(vmath_worst(&vmath_fns[f], 4099, 4) <= 2);
}

/* fmaf of the C library rounds once. Operands near each other in size, so that sums fall on half-ways,
 * cancel, and reach the subnormals; and any bits at all. */
static float random_operand(uint64_t *state, int kind)
{
    uint32_t bits = (uint32_t)ref_next(state);
    if (kind == 1)
        bits = (bits & 0x80000fffu) | 0x3f000000u | (bits & 0x01000000u); /* few bits, near 1 */
    if (kind == 2)
        bits = (bits & 0x80ffffffu) | 0x1f000000u; /* products near 2^-130 */
    if (kind == 9)
        bits &= 0x807fffffu; /* subnormal */
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

TEST(portable_fma_rounds_once)
{
    uint64_t state = 7;
    for (int kind = 0; kind < 5; kind++)
        for (int i = 0; i < 300000; i++) {
            float a[VL], b[VL], c[VL], r[VL], want[VL];
            for (int l = 0; l < VL; l++) {
                a[l] = random_operand(&state, kind);
                b[l] = random_operand(&state, kind);
                c[l] = random_operand(&state, kind == 2 ? 9 : kind);
                if (kind >= 3) { /* c + h (1 - u^2): half-ways, but for a bit that no double sum holds */
                    float u = (float)((int)(ref_next(&state) % 9) - 4) * 0x1p-23f,
                          sign = ref_next(&state) % 2 ? 1 : -1;
                    a[l] = (1 + u) * (kind == 3 ? 1 : 0x1p-75f);
                    b[l] = (1 - u) * (kind == 3 ? 0x1p-24f : 0x1p-75f) * sign;
                    c[l] = kind == 3 ? 1 + (float)(ref_next(&state) % 8) * 0x1p-23f
                                     : (float)(0x400000 + (int)(ref_next(&state) % 64)) * 0x1p-149f;
                }
                want[l] = fmaf(a[l], b[l], c[l]);
            }
            v_store(r, v_fma(v_load(a), v_load(b), v_load(c)));
            CHECK(ref_same(r, want, VL));
        }
}

TEST(partial_loads_and_stores_touch_nothing_else)
{
    float *x = ref_random(VL, 1, 1, 2);
    for (int n = 0; n <= VL; n++) {
        float *part = ref_copy(x, n), *y = ref_buffer(n), all[VL];
        v_store(all, v_loadn(part, n));
        for (int l = 0; l < VL; l++)
            CHECK(all[l] == (l < n ? x[l] : 0));
        v_storen(y, n, v_load(x));
        CHECK(ref_same(x, y, n));
        CHECK(ref_free(y, n) && ref_free(part, n));
    }
    CHECK(ref_free(x, VL));
}

TEST_MAIN
