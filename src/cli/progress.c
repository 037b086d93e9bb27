/* The terminal's line: what fits, the most telling parts first. */
#include "cli/cli.h"

#include <math.h>
#include <string.h>

enum { PARTS = 12, PART_SIZE = 80 };

/* Parts in the order in which they stand; `need` says in which order they leave (the largest first). */
typedef struct part {
    int need;
    char text[PART_SIZE];
} part;

static void part_step(part *q, const rk_progress *p)
{
    q->need = 0;
    if (p->steps > 0)
        snprintf(q->text, PART_SIZE, "step %lld/%lld %d%%", (long long)p->step, (long long)p->steps,
                 (int)(100.0 * (double)p->step / (double)p->steps));
    else
        snprintf(q->text, PART_SIZE, "step %lld", (long long)p->step);
}

static void part_speed(part *q, const rk_progress *p, double peak)
{
    char rate[16];
    q->need = 6;
    if (!(p->flops_per_s > 0))
        return;
    cli_count(rate, sizeof rate, p->flops_per_s / 1e9);
    if (peak > 0)
        snprintf(q->text, PART_SIZE, "%s GFLOP/s %.0f%%", rate, 100 * p->flops_per_s / peak);
    else
        snprintf(q->text, PART_SIZE, "%s GFLOP/s", rate);
}

static int make_parts(part *q, const rk_progress *p, double peak)
{
    char buf[32];
    int n = 0;
    memset(q, 0, PARTS * sizeof *q);
    part_step(&q[n++], p);
    q[n].need = 1;
    if (isfinite(p->loss)) /* else nobody has read of one yet */
        snprintf(q[n].text, PART_SIZE, "loss %.4g", p->loss);
    n++;
    q[n].need = 4;
    if (isfinite(p->accuracy))
        snprintf(q[n].text, PART_SIZE, "val acc %.3f", p->accuracy);
    n++;
    q[n].need = 5;
    snprintf(q[n++].text, PART_SIZE, "lr %.2e", p->lr);
    q[n].need = 3;
    if (p->samples_per_s > 0)
        snprintf(q[n].text, PART_SIZE, "%s samples/s", cli_count(buf, sizeof buf, p->samples_per_s));
    n++;
    part_speed(&q[n++], p, peak);
    q[n].need = 7;
    if (p->memory_bytes)
        snprintf(q[n].text, PART_SIZE, "%s", cli_bytes(buf, sizeof buf, (double)p->memory_bytes));
    n++;
    q[n].need = 8;
    if (p->since_ckpt_s >= 0)
        snprintf(q[n].text, PART_SIZE, "saved %s ago", cli_seconds(buf, sizeof buf, p->since_ckpt_s));
    n++;
    q[n].need = 9;
    if (p->ranks > 1 && p->step_s > 0)
        snprintf(q[n].text, PART_SIZE, "exchange %.0f%%", 100 * p->exchange_s / p->step_s);
    n++;
    q[n].need = 10;
    if (p->slow_rank >= 0)
        snprintf(q[n].text, PART_SIZE, "rank %d on %.20s %.1fx slower", p->slow_rank, p->slow_host,
                 p->slow_by);
    n++;
    q[n].need = 2;
    if (p->steps > 0 && (p->step_s > 0 || p->step == p->steps))
        snprintf(q[n].text, PART_SIZE, "eta %s", cli_seconds(buf, sizeof buf, p->eta_s));
    n++;
    return n;
}

static size_t join(char *buf, size_t size, const part *q, int n)
{
    size_t used = 0;
    for (int i = 0; i < n; i++)
        if (*q[i].text) {
            int k = snprintf(buf + used, size - used, "%s%s", used ? " | " : "", q[i].text);
            used = (size_t)k < size - used ? used + (size_t)k : size - 1;
        }
    return used;
}

void cli_progress_line(char *buf, size_t size, int columns, const rk_progress *p, double peak)
{
    part q[PARTS];
    int n = make_parts(q, p, peak);
    size_t limit = columns > 0 ? (size_t)columns : 80;
    *buf = 0;
    for (int need = PARTS; need >= 0 && join(buf, size, q, n) > limit; need--)
        for (int i = 1; i < n; i++)
            if (q[i].need == need)
                *q[i].text = 0;
    if (limit < size && strlen(buf) > limit)
        buf[limit] = 0;
}
