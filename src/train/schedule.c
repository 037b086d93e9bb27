#include "train/schedule.h"

#include <string.h>

/* cos(pi x) for x in [0, 1], by its series about 1/2: libm's cos differs between machines in the last bit. */
static double cos_pi(double x)
{
    double z = (0.5 - x) * 3.14159265358979323846, z2 = z * z, term = z, sum = z;
    for (int k = 1; k < 12; k++) { /* sin(z), |z| <= pi/2: the 12th term is below 1e-18 */
        term *= -z2 / (double)((2 * k) * (2 * k + 1));
        sum += term;
    }
    return sum;
}

static double between(double from, double to, double t)
{
    return from + (to - from) * t;
}

static double constant(const rk__schedule *s, int64_t t, int64_t n)
{
    (void)s;
    (void)t;
    (void)n;
    return 1;
}

static double step(const rk__schedule *s, int64_t t, int64_t n)
{
    int64_t every = s->decay_steps > 0 ? s->decay_steps : n / 3 > 0 ? n / 3 : 1;
    double y = 1;
    for (int64_t i = t / every; i > 0 && y > 0; i--)
        y *= s->gamma;
    return y;
}

static double linear(const rk__schedule *s, int64_t t, int64_t n)
{
    return between(1, s->min_scale, (double)t / (double)n);
}

static double cosine(const rk__schedule *s, int64_t t, int64_t n)
{
    return between(s->min_scale, 1, 0.5 * (1 + cos_pi((double)t / (double)n)));
}

static double wsd(const rk__schedule *s, int64_t t, int64_t n)
{
    int64_t decay = s->decay_steps > 0 ? s->decay_steps : n / 5 > 0 ? n / 5 : 1;
    if (decay > n)
        decay = n;
    int64_t into = t - (n - decay);
    return into <= 0 ? 1 : between(1, s->min_scale, (double)into / (double)decay);
}

static const struct {
    const char *name;
    double (*scale)(const rk__schedule *s, int64_t t, int64_t n);
} schedules[] = {
    [RK__CONSTANT] = { "constant", constant },
    [RK__STEP] = { "step", step },
    [RK__LINEAR] = { "linear", linear },
    [RK__COSINE] = { "cosine", cosine },
    [RK__WSD] = { "wsd", wsd },
};

bool rk__schedule_find(const char *name, rk__schedule_kind *kind)
{
    for (int i = 0; i < (int)(sizeof schedules / sizeof *schedules); i++)
        if (!strcmp(schedules[i].name, name)) {
            *kind = (rk__schedule_kind)i;
            return true;
        }
    return false;
}

double rk__schedule_scale(const rk__schedule *s, int64_t at)
{
    if (at < s->warmup)
        return (double)(at + 1) / (double)s->warmup;
    int64_t n = s->total - s->warmup, t = at - s->warmup;
    if (n < 1)
        n = 1;
    if (t > n)
        t = n;
    return schedules[s->kind].scale(s, t, n);
}
