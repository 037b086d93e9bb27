#include "train/scale.h"

#include "core/watch.h"

#include <math.h>

bool rk__scale_fits(double scale)
{
    int exponent;
    return scale >= 0x1p-24 && scale <= 0x1p40 && frexp(scale, &exponent) == 0.5;
}

rk_status rk__scale_init(rk__scale *s, rk_ctx *ctx, double fixed, bool moves)
{
    *s = (rk__scale){ .moves = moves, .fixed = fixed > 0 ? fixed : 1, .power = RK_SCALING_START };
    if (fixed != 0 && !rk__scale_fits(fixed))
        return rk_fail(ctx, RK_EUSAGE, "optimiser: loss_scale %g is no power of two from 2^-24 to 2^40",
                       fixed);
    return RK_OK;
}

double rk__scale_value(const rk__scale *s)
{
    return s->moves ? rk_scaling_value(s->power) : s->fixed;
}

rk_status rk__scale_state(rk__scale *s, rk_state *st)
{
    const struct {
        const char *name;
        int64_t *value;
    } cursor[] = { { "optim/loss_scale", &s->power },
                   { "optim/loss_scale_good", &s->good },
                   { "optim/loss_scale_skipped", &s->skipped } };
    for (int i = 0; i < 3 && s->moves; i++) {
        RK_TRY(rk__state_add_cursor(st, cursor[i].name, cursor[i].value));
        rk__state_find(st, cursor[i].name)->optional = true; /* a run may have begun in f32 */
    }
    return RK_OK;
}
