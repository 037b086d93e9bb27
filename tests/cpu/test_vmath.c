/* A dense sample of all floats (the long tier takes every one), and v_fma against the definition. */
#include "vmath_check.h"

TEST(sampled_floats_within_two_ulp)
{
    for (int f = 0; f < VMATH_FNS; f++)
        CHECK(vmath_worst(&vmath_fns[f], 4099, 4) <= 2);
}

/* fmaf of the C library rounds once. Operands near each other in size, so that sums fall on half-ways, cancel, and
 * reach the subnormals; and any bits at all. */
static float random_operand(uint64_t *state, int kind)
{
    uint32_t bits = (uint32_t)ref_next(state);
    if (kind == 1)
        bits = (bits & 0x80000fffu) | 0x3f000000u | (bits & 0x01000000u); /* few bits, near 1 */
    if (kind == 2)
        bits = (bits & 0x80ffffffu) | 0x1f000000u; /* products near 2^-128 */
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

TEST(portable_fma_rounds_once)
{
    uint64_t state = 7;
    for (int kind = 0; kind < 4; kind++)
        for (int i = 0; i < 300000; i++) {
            float a[VL], b[VL], c[VL], r[VL], want[VL];
            for (int l = 0; l < VL; l++) {
                a[l] = random_operand(&state, kind);
                b[l] = random_operand(&state, kind);
                c[l] = random_operand(&state, kind == 2 ? 0 : kind);
                if (kind == 2)
                    c[l] *= 0x1p-126f;
                if (kind == 3) { /* a half-way of a * b + c, and a last bit of the product beyond a double's sum */
                    a[l] = 1 + (float)(ref_next(&state) % 4096) * 0x1p-12f;
                    b[l] = 0x1p-24f + (float)(ref_next(&state) % 3) * 0x1p-47f;
                    c[l] = 1 + (float)(ref_next(&state) % 8) * 0x1p-23f;
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
