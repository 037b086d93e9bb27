/* Optimiser steps: against the formulas in double over several steps, and the same bits on every device. */
#include "ref.h"

enum { STEPS = 5 };

typedef struct state {
    float *w, *m, *v;
} state;

static double decay_of(int variant)
{
    return variant & 1 ? 0.1 : 0;
}

static rk_optim_args args_of(int variant, int step)
{
    rk_optim_args o = { .lr = 0.01, .grad_scale = 0.7, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8 };
    o.decoupled = variant & 2;
    o.momentum = 0.9;
    o.nesterov = variant & 4;
    o.dampening = variant & 8 ? 0.5 : 0;
    o.first = step == 0;
    o.bias1 = 1 - pow(o.beta1, step + 1);
    o.bias2 = 1 - pow(o.beta2, step + 1);
    return o;
}

/* Adam as PyTorch documents it. */
static void adam_double(const rk_optim_args *o, double decay, double *w, double g, double *m, double *v)
{
    g *= o->grad_scale;
    if (o->decoupled)
        *w *= 1 - o->lr * decay;
    else
        g += decay * *w;
    *m = o->beta1 * *m + (1 - o->beta1) * g;
    *v = o->beta2 * *v + (1 - o->beta2) * g * g;
    *w -= o->lr * (*m / o->bias1) / (sqrt(*v / o->bias2) + o->eps);
}

static void sgd_double(const rk_optim_args *o, double decay, double *w, double g, double *m)
{
    g *= o->grad_scale;
    if (o->decoupled)
        *w *= 1 - o->lr * decay;
    else
        g += decay * *w;
    if (m) {
        *m = o->first ? g : o->momentum * *m + (1 - o->dampening) * g;
        g = o->nesterov ? g + o->momentum * *m : *m;
    }
    *w -= o->lr * g;
}

typedef enum kind { ADAM, SGD, SGD_PLAIN } kind;

static bool steps_on(const cpu_iter *it, kind k, int variant, int64_t n, float *const *g, state *s)
{
    for (int step = 0; step < STEPS; step++) {
        rk_optim_args o = args_of(variant, step);
        const rk_optim_piece p = { n, s->w, g[step], k == SGD_PLAIN ? NULL : s->m, s->v, decay_of(variant) };
        rk_status st = k == ADAM ? it->k->adam(it->dev, &o, 1, &p) : it->k->sgd(it->dev, &o, 1, &p);
        if (st)
            return false;
    }
    return true;
}

static bool close_to_double(kind k, int variant, int64_t n, const float *w0, float *const *g, const float *w)
{
    for (int64_t i = 0; i < n; i++) {
        double want = (double)w0[i], m = 0, v = 0;
        for (int step = 0; step < STEPS; step++) {
            rk_optim_args o = args_of(variant, step);
            if (k == ADAM)
                adam_double(&o, decay_of(variant), &want, (double)g[step][i], &m, &v);
            else
                sgd_double(&o, decay_of(variant), &want, (double)g[step][i], k == SGD ? &m : NULL);
        }
        if (!(fabs((double)w[i] - want) <= 5e-7)) {
            fprintf(stderr, "kind %d, variant %d, element %lld: %.9g, not %.9g\n", (int)k, variant,
                    (long long)i, (double)w[i], want);
            return false;
        }
    }
    return true;
}

static bool check_optim(kind k, int variant, int64_t n)
{
    float *w0 = ref_random(n, 1, -1, 1), *g[STEPS];
    for (int s = 0; s < STEPS; s++)
        g[s] = ref_random(n, 10 + (uint64_t)s, -1, 1);
    state first = { NULL, NULL, NULL };
    bool ok = true;
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        state s = { ref_copy(w0, n), ref_random(n, 0, 0, 0), ref_random(n, 0, 0, 0) };
        ok &= steps_on(&it, k, variant, n, g, &s);
        if (!first.w)
            ok &= close_to_double(k, variant, n, w0, g, s.w);
        ok &= ref_agree(&first.w, s.w, n) && ref_agree(&first.m, s.m, n) && ref_agree(&first.v, s.v, n);
    }
    for (int s = 0; s < STEPS; s++)
        ok &= ref_free(g[s], n);
    ok &= ref_free(first.w, n);
    ok &= ref_free(first.m, n);
    ok &= ref_free(first.v, n);
    ok &= ref_free(w0, n);
    return ok;
}

TEST(adam_follows_its_formula)
{
    static const int64_t sizes[] = { 0, 1, 7, 33, 500, 60001 };
    for (int variant = 0; variant < 4; variant++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            CHECK(check_optim(ADAM, variant, sizes[s]));
}

TEST(sgd_follows_its_formula)
{
    static const int64_t sizes[] = { 0, 1, 7, 33, 500, 60001 };
    for (int variant = 0; variant < 16; variant++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            CHECK(check_optim(SGD, variant, sizes[s]));
            CHECK(check_optim(SGD_PLAIN, variant, sizes[s]));
        }
}

/* Where an array is cut, as a sharded optimiser cuts it, changes no bit. */
TEST(pieces_are_the_whole)
{
    enum { N = 1000, CUT = 333 };
    float *w = ref_random(N, 1, -1, 1), *g = ref_random(N, 2, -1, 1), *m = ref_random(N, 3, -1, 1),
          *v = ref_random(N, 4, 0, 1);
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        float *w1 = ref_copy(w, N), *m1 = ref_copy(m, N), *v1 = ref_copy(v, N);
        float *w2 = ref_copy(w, N), *m2 = ref_copy(m, N), *v2 = ref_copy(v, N);
        const rk_optim_args o = args_of(3, 2);
        const rk_optim_piece whole = { N, w1, g, m1, v1, 0.1 };
        const rk_optim_piece cut[] = { { CUT, w2, g, m2, v2, 0.1 },
                                       { 0, w2, g, m2, v2, 0.1 },
                                       { N - CUT, w2 + CUT, g + CUT, m2 + CUT, v2 + CUT, 0.1 } };
        it.k->adam(it.dev, &o, 1, &whole);
        it.k->adam(it.dev, &o, 3, cut);
        CHECK(ref_same(w1, w2, N) && ref_same(m1, m2, N) && ref_same(v1, v2, N));
        CHECK(ref_free(w1, N) && ref_free(m1, N) && ref_free(v1, N));
        CHECK(ref_free(w2, N) && ref_free(m2, N) && ref_free(v2, N));
    }
    CHECK(ref_free(w, N) && ref_free(g, N) && ref_free(m, N) && ref_free(v, N));
}

/* The verdict on gradients in three pieces, as an optimiser asks for it. */
static rk_status judge_pieces(const rk_kernels *k, rk_dev *dev, const rk_optim_piece *p, rk_judge_args a)
{
    enum { PIECES = 3 };
    double sums[PIECES], part[PIECES];
    const int64_t bound[] = { 0, 1, 2, 3 };
    rk_square_rows rows[PIECES];
    for (int i = 0; i < PIECES; i++)
        rows[i] = (rk_square_rows){
            .x = p[i].g, .n = p[i].n, .rows = 1, .cols = RK_CHUNK, .ld = RK_CHUNK, .first = i, .step = 1
        };
    rk_status st = k->squares(dev, PIECES, rows, sums);
    a.sums = sums;
    a.bound = bound;
    a.part = part;
    a.pieces = PIECES;
    return st ? st : k->judge(dev, &a);
}

/* What clips an update, and what stops all of them from a bad step on. */
TEST(verdicts)
{
    enum { N = 9000, PIECES = 3, STEPS_SEEN = 4 };
    float *w = ref_random(N, 1, -1, 1), *g = ref_random(N, 2, -1, 1);
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        rk_watch watch = { 0 };
        rk_optim_piece p[PIECES];
        double sum = 0, part;
        bool bad;
        float *w1 = ref_copy(w, N), *m = ref_random(N, 0, 0, 0), *v = ref_random(N, 0, 0, 0), loss = 2;
        for (int i = 0; i < PIECES; i++) {
            p[i] = (rk_optim_piece){ N / PIECES, w1 + i * 3000, g + i * 3000, m + i * 3000, v + i * 3000, 0 };
            CHECK_INT(it.k->sum_squares(it.dev, p[i].n, p[i].g, &part, &bad), RK_OK);
            sum += part;
        }
        for (int step = 0; step < STEPS_SEEN; step++) {
            float *before = ref_copy(w1, N), kept = g[8500];
            rk_optim_args o = args_of(0, step);
            o.watch = &watch;
            loss = step == 1 ? NAN : 2;
            g[8500] = step == 2 ? -INFINITY : kept;
            const rk_judge_args a = { .loss = &loss,
                                      .clip_norm = 3,
                                      .loss_scale = 1,
                                      .beta1 = o.beta1,
                                      .beta2 = o.beta2,
                                      .watch = &watch,
                                      .slot = step };
            CHECK_INT(judge_pieces(it.k, it.dev, p, a), RK_OK);
            CHECK_INT(it.k->adam(it.dev, &o, PIECES, p), RK_OK);
            CHECK_INT(it.k->ema(it.dev, 0.5, &watch.still, 1, &(rk_optim_piece){ .n = N, .w = m, .g = v }),
                      RK_OK);
            CHECK(ref_same(before, w1, N) == (step > 0));
            g[8500] = kept;
            ref_free(before, N);
        }
        const rk_verdict *x = watch.verdict;
        CHECK(x[0].loss == 2 && x[0].norm == sqrt(sum) && x[0].bad == RK_VERDICT_GOOD);
        CHECK(x[1].bad == RK_VERDICT_LOSS && x[2].bad == 3 && x[3].bad == RK_VERDICT_GOOD);
        CHECK(watch.halted == 1 && watch.still == 1 && watch.steps == 1 && watch.scale == 3 / sqrt(sum));
        ref_free(w1, N);
        ref_free(m, N);
        ref_free(v, N);
    }
    ref_free(w, N);
    ref_free(g, N);
}

/* A scale that moves: a step whose gradients are too large is left out and halves it, until it is 1. */
TEST(verdicts_with_a_scale_that_moves)
{
    enum { N = 3000, PIECES = 3 };
    float *w = ref_random(N, 1, -1, 1), *g = ref_random(N, 2, -1, 1), kept = g[1500];
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        rk_watch watch = { .power = 2 };
        rk_optim_piece p[PIECES];
        float *w1 = ref_copy(w, N), loss = 2;
        for (int i = 0; i < PIECES; i++)
            p[i] = (rk_optim_piece){ N / PIECES, w1 + i * 1000, g + i * 1000, NULL, NULL, 0 };
        for (int step = 0; step < 6; step++) {
            float *before = ref_copy(w1, N);
            rk_optim_args o = args_of(0, step);
            o.momentum = 0;
            o.watch = &watch;
            g[1500] = step == 1 || step >= 3 ? NAN : kept;
            const rk_judge_args a = { .loss = &loss, .moves = true, .watch = &watch, .slot = step };
            CHECK_INT(judge_pieces(it.k, it.dev, p, a), RK_OK);
            CHECK_INT(it.k->sgd(it.dev, &o, PIECES, p), RK_OK);
            CHECK(ref_same(before, w1, N) == (step == 1 || step >= 3));
            CHECK(watch.steps == (step < 2 ? 1 : 2));
            ref_free(before, N);
        }
        const rk_verdict *x = watch.verdict;
        static const double scale[] = { 4, 4, 2, 2, 1, 1 };
        static const int64_t out[] = { 0, 1, 0, 1, 0, 0 };
        for (int i = 0; i < 6; i++)
            CHECK(x[i].loss_scale == scale[i] && x[i].left_out == out[i]);
        CHECK(x[0].norm == x[2].norm * scale[2] / scale[0]);
        CHECK(x[3].bad == 2 && x[4].bad == 2 && watch.halted == 1 && watch.skipped == 2 && watch.power == 0);
        ref_free(w1, N);
    }
    ref_free(w, N);
    ref_free(g, N);
}

TEST(averaged_weights)
{
    for (int64_t n = 0; n < 80; n += 11) {
        float *w = ref_random(n, 1, -1, 1), *old = ref_random(n, 2, -1, 1), *first = NULL;
        for (cpu_iter it = { 0 }; cpu_next(&it);) {
            float *avg = ref_copy(old, n);
            CHECK_INT(it.k->ema(it.dev, 0.99, NULL, 1, &(rk_optim_piece){ .n = n, .w = avg, .g = w }), RK_OK);
            for (int64_t i = 0; i < n; i++)
                CHECK_CLOSE((double)avg[i], 0.99 * (double)old[i] + 0.01 * (double)w[i], 0, 1e-7);
            CHECK(ref_agree(&first, avg, n));
        }
        CHECK(ref_free(first, n) && ref_free(w, n) && ref_free(old, n));
    }
}

TEST(sums_of_pieces)
{
    enum { N = 1000 };
    float *a = ref_random(N, 1, -1, 1), *b = ref_random(N, 2, -1, 1);
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        float *w = ref_copy(b, N);
        const rk_optim_piece p[] = { { .n = 333, .w = w, .g = a },
                                     { .n = 0 },
                                     { .n = N - 340, .w = w + 340, .g = a + 340 } };
        CHECK_INT(it.k->collect(it.dev, true, 3, p), RK_OK);
        for (int i = 0; i < N; i++)
            CHECK(w[i] == (i >= 333 && i < 340 ? b[i] : a[i] + b[i]));
        CHECK_INT(it.k->collect(it.dev, false, 3, p), RK_OK);
        for (int i = 0; i < N; i++)
            CHECK(w[i] == (i >= 333 && i < 340 ? b[i] : a[i]));
        ref_free(w, N);
    }
    CHECK(ref_free(a, N) && ref_free(b, N));
}

TEST_MAIN
