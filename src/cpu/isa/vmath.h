/* Elementary functions on vectors, our own: fixed sequences of IEEE operations, so that no value depends on
 * libm, the compiler or the vector width.
 *
 * Errors measured over all floats against double precision (tests/cpu/test_long_vmath.c) are below 2 ulp for
 * exp, log, tanh, erf and sigmoid, subnormal results included. Infinities and NaN go where C's libm sends
 * them. The polynomials are minimax fits (Remez exchange in 40 digits) on the reduced interval named at each.
 */
#ifndef RK_CPU_VMATH_H
#define RK_CPU_VMATH_H

#include "cpu/isa/vec.h"

#define V_LN2_HI 0x1.62e4p-1f /* 15 bits: n * V_LN2_HI is exact for the n of v_exp */
#define V_LN2_LO 0x1.7f7d1cp-20f
#define V_LN2    0x1.62e430p-1f
#define V_LN2_D  -0x1.05c610p-29f /* ln 2 - V_LN2 */

/* Horner's rule: the highest coefficient first. */
RK_INLINE vf v_poly(vf x, const float *c, int n)
{
    vf p = v_set1(c[0]);
    for (int i = 1; i < n; i++)
        p = v_fma(p, x, v_set1(c[i]));
    return p;
}
#define V_POLY(x, ...) \
    v_poly(x, (const float[]){ __VA_ARGS__ }, (int)(sizeof((const float[]){ __VA_ARGS__ }) / sizeof(float)))

RK_INLINE vf v_exp(vf x)
{
    /* Beyond these e^x is +inf or rounds to 0. The order of the operands lets a NaN pass. */
    x = v_max(v_set1(-104.0f), v_min(v_set1(89.0f), x));
    vf t = v_fma(x, v_set1(0x1.715476p0f), v_set1(V_ROUND_MAGIC));
    vi n = vi_sub(v_bits(t), v_bits(v_set1(V_ROUND_MAGIC)));
    vf nf = v_sub(t, v_set1(V_ROUND_MAGIC));
    vf r = v_fma(nf, v_set1(-V_LN2_HI), x);
    r = v_fma(nf, v_set1(-V_LN2_LO), r);
    /* (e^r - 1 - r) / r^2 on [-ln2/2, ln2/2] */
    vf q = V_POLY(r, 0x1.6a23d0p-10f, 0x1.123a20p-7f, 0x1.5558f2p-5f, 0x1.555492p-3f, 0x1.fffffcp-2f);
    vf p = v_add(v_set1(1.0f), v_fma(v_mul(r, r), q, r));
    /* 2^n in two factors, of which only the second rounds: n reaches 128 and -150. */
    vi half = vi_sar(n, 1);
    return v_mul(v_mul(p, v_pow2i(half)), v_pow2i(vi_sub(n, half)));
}

/* log x = e ln 2 + log(1 + f), 1 + f in [sqrt(1/2), sqrt(2)]; for normal x > 0. shift is added to e. */
RK_INLINE vf v__log_normal(vf x, vf shift)
{
    vi base = vi_set1(0x3f3504f3); /* sqrt(1/2) */
    vi ix = vi_sub(v_bits(x), base);
    vf e = v_add(v_fromint(vi_sar(ix, 23)), shift);
    vf f = v_sub(v_float(vi_add(vi_and(ix, vi_set1(0x7fffff)), base)), v_set1(1.0f));
    vf s = v_mul(f, f);
    /* (log(1 + f) - f + f^2/2) / f^3 */
    vf q = V_POLY(f, 0x1.1457bcp-4f, -0x1.de3c1ep-4f, 0x1.e6f066p-4f, -0x1.fc2206p-4f, 0x1.233768p-3f,
                  -0x1.555c4ep-3f, 0x1.99a4b6p-3f, -0x1.000006p-2f, 0x1.555548p-2f);
    vf r = v_fma(v_mul(s, f), q, v_mul(e, v_set1(V_LN2_D)));
    r = v_add(f, v_fma(v_set1(-0.5f), s, r));
    return v_fma(e, v_set1(V_LN2), r);
}

RK_INLINE vf v_log(vf x)
{
    vm tiny = v_lt(x, v_set1(0x1p-126f));
    vf y = v_sel(tiny, v_mul(x, v_set1(0x1p25f)), x);
    vf r = v__log_normal(y, v_keep(tiny, v_set1(-25.0f)));
    vf odd = v_sel(v_lt(x, v_zero()), v_set1(NAN), x); /* +inf, NaN */
    odd = v_sel(v_eq(x, v_zero()), v_set1(-INFINITY), odd);
    return v_sel(vm_and(v_gt(x, v_zero()), v_lt(x, v_set1(INFINITY))), r, odd);
}

/* log(1 + t) for t in [0, 1]: the rounding error of 1 + t is exact, and put back. */
RK_INLINE vf v__log1p_unit(vf t)
{
    vf u = v_add(v_set1(1.0f), t);
    vf lost = v_sub(t, v_sub(u, v_set1(1.0f)));
    return v_add(v__log_normal(u, v_zero()), v_div(lost, u));
}

RK_INLINE vf v_tanh(vf x)
{
    vf a = v_abs(x), s = v_mul(x, x);
    /* (tanh x - x) / x^3 on [0, 0.625] in x^2 */
    vf q = V_POLY(s, 0x1.197b7ep-9f, -0x1.0c2146p-7f, 0x1.6394dap-6f, -0x1.b9ef7cp-5f, 0x1.11106cp-3f,
                  -0x1.555554p-2f);
    vf low = v_fma(v_mul(x, s), q, x);
    vf e = v_exp(v_add(a, a));
    vf high = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(e, v_set1(1.0f))));
    return v_sel(v_lt(a, v_set1(0.625f)), low, v_copysign(high, x));
}

RK_INLINE vf v_erf(vf x)
{
    vf s = v_mul(x, x), t = v_min(v_set1(4.0f), v_abs(x));
    /* erf(x) / x - 1 on [0, 0.9277] in x^2 */
    vf low = V_POLY(s, -0x1.39e53ep-11f, 0x1.4737d6p-8f, -0x1.b68c74p-6f, 0x1.ce1aa6p-4f, -0x1.8126e8p-2f,
                    0x1.06eba6p-3f);
    low = v_fma(low, x, x);
    /* log(erfc t) / t + 1 on [0.9277, 4]; erf is 1 beyond */
    vf q = V_POLY(t, -0x1.42618ep-18f, 0x1.7095d8p-15f, 0x1.e66df0p-15f, -0x1.831ddcp-9f, 0x1.741d36p-6f,
                  -0x1.af4dd8p-4f, -0x1.456e38p-1f, -0x1.074846p-3f);
    vf high = v_sub(v_set1(1.0f), v_exp(v_fma(q, t, v_neg(t))));
    return v_sel(v_lt(t, v_set1(0.9277344f)), low, v_copysign(high, x));
}

/* 1 / (1 + e^-x), by e^-|x|, which cannot overflow and keeps the small results of negative x. */
RK_INLINE vf v_sigmoid(vf x)
{
    vf t = v_exp(v_neg(v_abs(x)));
    vf one = v_set1(1.0f), u = v_add(one, t), top = v_sel(v_lt(x, v_zero()), t, one);
    vf y = v_div(top, u);
    /* What 1 + t lost makes y too large by y * lost / u; 1 / u is y or 1 - y. */
    vf lost = v_sub(t, v_sub(u, one));
    vf inverse = v_sel(v_lt(x, v_zero()), v_sub(one, y), y);
    return v_fnma(v_mul(y, inverse), lost, y);
}

/* s = sigmoid(x) and s (1 - s), without the cancellation of 1 - s. */
RK_INLINE vf v_sigmoid_slope(vf x, vf *s)
{
    vf t = v_exp(v_neg(v_abs(x))), inverse = v_div(v_set1(1.0f), v_add(v_set1(1.0f), t)),
       low = v_mul(t, inverse);
    *s = v_sel(v_lt(x, v_zero()), low, inverse);
    return v_mul(low, inverse);
}

/* log(1 + e^x) */
RK_INLINE vf v_softplus(vf x)
{
    return v_add(v_max(v_zero(), x), v__log1p_unit(v_exp(v_neg(v_abs(x)))));
}

RK_INLINE vf v_rsqrt(vf x)
{
    return v_div(v_set1(1.0f), v_sqrt(x));
}

/* sin and cos of 2 pi u, u in [0, 1]. */
RK_INLINE void v_sincos2pi(vf u, vf *sin_out, vf *cos_out)
{
    vf t = v_add(v_mul(u, v_set1(4.0f)), v_set1(V_ROUND_MAGIC));
    vi quadrant = v_bits(t);
    vf r = v_sub(u, v_mul(v_sub(t, v_set1(V_ROUND_MAGIC)), v_set1(0.25f))); /* exact, |r| <= 1/8 */
    vf s = v_mul(r, r);
    vf sn = v_mul(r, V_POLY(s, 0x1.4bc89ap5f, -0x1.32ca9ep6f, 0x1.466bbap6f, -0x1.4abbcep5f, 0x1.921fb6p2f));
    vf cs = V_POLY(s, -0x1.a1084cp4f, 0x1.e1e85cp5f, -0x1.55d3bcp6f, 0x1.03c1f0p6f, -0x1.3bd3ccp4f, 1.0f);
    vm swap = vi_eq(vi_and(quadrant, vi_set1(1)), vi_set1(1));
    vi sin_sign = vi_shl(vi_and(quadrant, vi_set1(2)), 30);
    vi cos_sign = vi_shl(vi_and(vi_add(quadrant, vi_set1(1)), vi_set1(2)), 30);
    *sin_out = v_float(vi_xor(v_bits(v_sel(swap, cs, sn)), sin_sign));
    *cos_out = v_float(vi_xor(v_bits(v_sel(swap, sn, cs)), cos_sign));
}

/* ---- activations; also the GEMM's epilogues ---- */

/* A NaN stays one. */
RK_INLINE vf v_relu(vf x)
{
    return v_max(v_zero(), x);
}

/* x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2 */
RK_INLINE vf v_gelu(vf x)
{
    vf phi = v_fma(v_set1(0.5f), v_erf(v_mul(x, v_set1(0x1.6a09e6p-1f))), v_set1(0.5f));
    return v_mul(x, phi);
}

/* d gelu / dx = Phi(x) + x phi(x) */
RK_INLINE vf v_gelu_slope(vf x)
{
    vf cdf = v_fma(v_set1(0.5f), v_erf(v_mul(x, v_set1(0x1.6a09e6p-1f))), v_set1(0.5f));
    vf pdf = v_mul(v_set1(0x1.988454p-2f), v_exp(v_mul(v_mul(x, v_set1(-0.5f)), x)));
    return v_sel(v_lt(v_abs(x), v_set1(20.0f)), v_fma(x, pdf, cdf), cdf); /* not inf * 0 */
}

/* x (1 + tanh u) / 2 = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
RK_INLINE vf v_gelu_tanh(vf x)
{
    vf s = v_mul(x, x);
    return v_mul(x, v_sigmoid(v_mul(x, v_fma(s, v_set1(0x1.2444f2p-4f), v_set1(0x1.988454p0f)))));
}

RK_INLINE vf v_gelu_tanh_slope(vf x)
{
    vf s = v_mul(x, x);
    vf g, bend = v_sigmoid_slope(v_mul(x, v_fma(s, v_set1(0x1.2444f2p-4f), v_set1(0x1.988454p0f))), &g);
    vf du = v_fma(s, v_set1(0x1.b6676cp-3f), v_set1(0x1.988454p0f));              /* d 2u / dx */
    return v_sel(v_lt(v_abs(x), v_set1(20.0f)), v_fma(bend, v_mul(x, du), g), g); /* not inf * 0 */
}

RK_INLINE vf v_silu(vf x)
{
    return v_mul(x, v_sigmoid(x));
}

/* s + x s (1 - s) */
RK_INLINE vf v_silu_slope(vf x)
{
    vf s, bend = v_sigmoid_slope(x, &s);
    return v_sel(v_lt(v_abs(x), v_set1(120.0f)), v_fma(x, bend, s), s);
}

#endif
