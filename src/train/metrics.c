#include "train/metrics.h"

#include "core/tape.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFUSION_CLASSES = 1024 };

rk_status rk__metrics_init(rk__metrics *m, rk_ctx *ctx, int64_t classes, int64_t topk)
{
    *m = (rk__metrics){ .classes = classes, .topk = topk };
    if (classes > 0 && classes <= MAX_CONFUSION_CLASSES) {
        m->confusion = rk__calloc(ctx, (size_t)(classes * classes), sizeof *m->confusion);
        if (!m->confusion)
            return RK_ENOMEM;
    }
    return RK_OK;
}

void rk__metrics_free(rk__metrics *m)
{
    free(m->confusion);
    free(m->errors);
    free(m->out);
    free(m->want);
    free(m->label);
    *m = (rk__metrics){ 0 };
}

static rk_status reserve(rk__metrics *m, rk_ctx *ctx, int64_t n)
{
    if (n <= m->cap)
        return RK_OK;
    free(m->out);
    free(m->want);
    free(m->label);
    m->out = rk__calloc(ctx, (size_t)n, sizeof *m->out);
    m->want = rk__calloc(ctx, (size_t)n, sizeof *m->want);
    m->label = rk__calloc(ctx, (size_t)n, sizeof *m->label);
    m->cap = m->out && m->want && m->label ? n : 0;
    return m->cap ? RK_OK : RK_ENOMEM;
}

/* Among equal values the first class wins. */
static void count_sample(rk__metrics *m, const float *logit, int64_t truth)
{
    int64_t best = 0, above = 0;
    for (int64_t c = 0; c < m->classes; c++) {
        if (logit[c] > logit[best])
            best = c;
        above += logit[c] > logit[truth] || (logit[c] == logit[truth] && c < truth);
    }
    m->correct += best == truth;
    m->in_topk += above < m->topk;
    if (m->confusion)
        m->confusion[truth * m->classes + best]++;
}

/* The errors of each data shard of this rank; those of the others come from them. [C] */
static rk_status add_errors(rk__metrics *m, rk__job *job, int64_t samples, int64_t width)
{
    rk_ctx *ctx = job->ctx;
    const int64_t shards = ctx->data_shards;
    if (!m->errors)
        m->errors = rk__calloc(ctx, (size_t)(2 * shards * (job->ranks + 1)), sizeof *m->errors);
    if (!m->errors)
        return RK_ENOMEM;
    memset(m->errors, 0, (size_t)(2 * shards) * sizeof *m->errors);
    int64_t begin = 0;
    for (int p = 0; p < rk__job_parts(job); p++) {
        const rk_subtree *part = rk__job_part(job, p);
        int64_t end = ctx->grid.parts > 1 ? ctx->grid.end[p] : samples;
        for (int leaf = 0; leaf < part->leaves; leaf++) {
            int64_t lo, hi;
            rk_order_leaf(end - begin, part->leaves, leaf, &lo, &hi);
            double *abs = &m->errors[part->first + leaf], *square = abs + shards;
            for (int64_t i = (begin + lo) * width; i < (begin + hi) * width; i++) {
                double d = (double)m->out[i] - (double)m->want[i];
                *abs += fabs(d);
                *square += d * d;
            }
        }
        begin = end;
    }
    if (job->ranks > 1) {
        double *all = m->errors + 2 * shards;
        RK_TRY(rk__comm_all_values(job->comm, "errors", m->errors, (size_t)(2 * shards) * sizeof *all, all));
        for (int64_t i = 0; i < 2 * shards * job->ranks; i++)
            m->errors[i % (2 * shards)] = i < 2 * shards ? all[i] : m->errors[i % (2 * shards)] + all[i];
    }
    m->abs_error += rk_order_tree(m->errors, 0, shards);
    m->square_error += rk_order_tree(m->errors, shards, 2 * shards);
    return RK_OK;
}

rk_status rk__metrics_add(rk__metrics *m, rk__job *job, rk_tensor *out, rk_tensor *target, int64_t global,
                          double loss)
{
    rk_ctx *ctx = rk_tensor_ctx(out);
    RK_TRY(rk_failed(ctx));
    int64_t n = rk_tensor_size(out), samples = rk_tensor_shape(out).dim[0];
    RK_TRY(reserve(m, ctx, n > samples ? n : samples));
    RK_TRY(rk_tensor_read(out, m->out, (size_t)n * sizeof *m->out));
    m->samples += global;
    m->loss += loss * (double)global;
    if (m->classes > 0) {
        RK_TRY(rk_tensor_read(target, m->label, (size_t)samples * sizeof *m->label));
        for (int64_t i = 0; i < samples; i++)
            count_sample(m, m->out + i * m->classes, m->label[i]);
        return RK_OK;
    }
    RK_TRY(rk_tensor_read(target, m->want, (size_t)n * sizeof *m->want));
    m->elements += n;
    return add_errors(m, job, samples, samples ? n / samples : 0);
}

rk_status rk__metrics_meet(rk__metrics *m, rk__job *job)
{
    int64_t counts[] = { m->correct, m->in_topk, m->elements };
    RK_TRY(rk__job_add_counts(job, "metrics", 3, counts));
    m->correct = counts[0];
    m->in_topk = counts[1];
    m->elements = counts[2];
    return m->confusion ? rk__job_add_counts(job, "confusion", m->classes * m->classes, m->confusion) : RK_OK;
}

/* Is name one of "a,b c"? */
static bool in_list(const char *list, const char *name)
{
    size_t n = strlen(name);
    if (!list)
        return true;
    for (const char *p = list; *p;) {
        size_t k = strcspn(p, ", ");
        if (k == n && !strncmp(p, name, n))
            return true;
        p += k + (p[k] != '\0');
    }
    return false;
}

static void put(rk_metric_value *v, int *n, const char *wanted, const char *name, double value)
{
    if (in_list(wanted, name))
        v[(*n)++] = (rk_metric_value){ name, value };
}

int rk__metrics_values(const rk__metrics *m, const char *wanted, rk_metric_value v[RK__MAX_METRICS])
{
    int n = 0;
    double samples = m->samples ? (double)m->samples : NAN, loss = m->loss / samples;
    put(v, &n, wanted, "loss", loss);
    if (m->classes > 0) {
        put(v, &n, wanted, "accuracy", (double)m->correct / samples);
        if (m->classes > m->topk || wanted)
            put(v, &n, wanted, "topk", (double)m->in_topk / samples);
        if (wanted)
            put(v, &n, wanted, "perplexity", exp(loss));
    } else {
        double elements = m->elements ? (double)m->elements : NAN;
        put(v, &n, wanted, "mae", m->abs_error / elements);
        put(v, &n, wanted, "rmse", sqrt(m->square_error / elements));
    }
    return n;
}

bool rk__metric_smaller(const char *name)
{
    return strcmp(name, "accuracy") && strcmp(name, "topk");
}
