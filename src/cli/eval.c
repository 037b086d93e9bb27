/* rankine eval RUN: how good a snapshot is. */
#include "cli/cli.h"

#include <math.h>
#include <string.h>

bool cli_eval_opts(const cli_args *a, rk_eval_opts *o)
{
    *o = (rk_eval_opts){ .run = a->words[0], .data = cli_value(a, "data"), .format = cli_value(a, "format") };
    return cli_int(a, "step", -1, 0, &o->step) && cli_int(a, "batch", 0, 1, &o->batch) &&
           cli_int(a, "limit", 0, 1, &o->limit);
}

static void print_class(const rk_eval_result *r, int64_t c)
{
    if (r->class_names && r->class_names[c])
        printf("%16.16s", r->class_names[c]);
    else
        printf("%16lld", (long long)c);
}

static void print_confusion(const rk_eval_result *r)
{
    printf("\n%16s  recall  confused most with\n", "class");
    for (int64_t i = 0; i < r->classes; i++) {
        const int64_t *row = r->confusion + i * r->classes;
        int64_t all = 0, worst = -1;
        for (int64_t j = 0; j < r->classes; j++) {
            all += row[j];
            if (j != i && row[j] > 0 && (worst < 0 || row[j] > row[worst]))
                worst = j;
        }
        print_class(r, i);
        printf("  %6.3f ", all ? (double)row[i] / (double)all : NAN);
        if (worst >= 0) {
            print_class(r, worst);
            printf(" (%lld of %lld)", (long long)row[worst], (long long)all);
        }
        printf("\n");
    }
}

static void print_json(const rk_eval_result *r)
{
    printf("{\"step\":%lld,\"samples\":%lld", (long long)r->step, (long long)r->samples);
    for (int i = 0; i < r->n_metrics; i++)
        if (isfinite(r->metrics[i].value))
            printf(",\"%s\":%.9g", r->metrics[i].name, r->metrics[i].value);
        else
            printf(",\"%s\":null", r->metrics[i].name);
    if (r->confusion) {
        printf(",\"confusion\":[");
        for (int64_t i = 0; i < r->classes; i++)
            for (int64_t j = 0; j < r->classes; j++)
                printf("%s%lld%s",
                       j   ? ","
                       : i ? ",["
                           : "[",
                       (long long)r->confusion[i * r->classes + j], j + 1 == r->classes ? "]" : "");
        printf("]");
    }
    printf("}\n");
}

static void print_text(const rk_eval_result *r, bool confusion)
{
    printf("step=%lld samples=%lld", (long long)r->step, (long long)r->samples);
    for (int i = 0; i < r->n_metrics; i++)
        if (isfinite(r->metrics[i].value))
            printf(" %s=%.6g", r->metrics[i].name, r->metrics[i].value);
        else
            printf(" %s:nan", r->metrics[i].name);
    printf("\n");
    if (confusion && r->confusion)
        print_confusion(r);
}

static int run_eval(const cli_args *a)
{
    rk_ctx *ctx;
    rk_eval_opts o;
    rk_eval_result r;
    if (!cli_eval_opts(a, &o))
        return rk_exit_code(RK_EUSAGE);
    rk_status st = cli_open_device(a, &ctx);
    if (!ctx)
        return rk_exit_code(st);
    cli_note_cpu(ctx);
    if (!st && !rk_evaluate(ctx, &o, &r)) {
        if (cli_has(a, "json"))
            print_json(&r);
        else
            print_text(&r, cli_has(a, "confusion"));
    }
    return cli_close(ctx);
}

static const cli_flag flags[] = {
    { "data", "PATH",
      "another data set, treated as the training data was (default: data.eval or the held-out part)" },
    { "format", "idx|csv|hdf5", "its format (default: by name and content)" },
    { "step", "N", "snapshot of this step (default: the best, else the newest)" },
    { "batch", "N", "samples a pass (default: as trained)" },
    { "limit", "N", "only the first N samples" },
    { "confusion", NULL, "for each class: how often it is found, and what it is taken for" },
    { "json", NULL, "print one JSON object" },
    { "threads", "N", "compute threads (default: all cores)" },
    { "device", "NAME", "auto, cpu or cuda (default: auto, a GPU if there is one)" },
    { NULL, NULL, NULL },
};

const cli_verb cli_eval = {
    .name = "eval",
    .synopsis = "RUN [--data PATH]",
    .summary = "evaluate a snapshot on its evaluation data or on another data set",
    .flags = flags,
    .min_words = 1,
    .max_words = 1,
    .run = run_eval,
};
