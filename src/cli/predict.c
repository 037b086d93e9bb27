/* rankine predict RUN --data PATH: one line a sample, CSV or JSONL. */
#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <string.h>

typedef struct printer {
    rk_ctx *ctx;
    FILE *f;
    bool json, header;
} printer;

static void csv_text(FILE *f, const char *s)
{
    if (!strpbrk(s, ",\"\r\n")) {
        fputs(s, f);
        return;
    }
    fputc('"', f);
    for (; *s; s++)
        fprintf(f, *s == '"' ? "\"\"" : "%c", *s);
    fputc('"', f);
}

static void csv_header(printer *w, const rk_prediction *p)
{
    fputs(p->best >= 0 ? "sample,class" : "sample", w->f);
    if (p->best >= 0 && p->best_name)
        fputs(",name", w->f);
    for (int64_t i = 0; i < p->n; i++)
        fprintf(w->f, p->best >= 0 ? ",p%lld" : ",y%lld", (long long)i);
    fputc('\n', w->f);
    w->header = true;
}

static void csv_row(printer *w, const rk_prediction *p)
{
    if (!w->header)
        csv_header(w, p);
    fprintf(w->f, "%lld", (long long)p->sample);
    if (p->best >= 0)
        fprintf(w->f, ",%lld", (long long)p->best);
    if (p->best >= 0 && p->best_name) {
        fputc(',', w->f);
        csv_text(w->f, p->best_name);
    }
    for (int64_t i = 0; i < p->n; i++)
        fprintf(w->f, ",%.9g", (double)p->value[i]);
    fputc('\n', w->f);
}

static void json_row(printer *w, const rk_prediction *p)
{
    fprintf(w->f, "{\"sample\":%lld", (long long)p->sample);
    if (p->best >= 0)
        fprintf(w->f, ",\"class\":%lld", (long long)p->best);
    if (p->best >= 0 && p->best_name) {
        fputs(",\"name\":\"", w->f);
        cli_json_text(w->f, p->best_name);
        fputc('"', w->f);
    }
    fprintf(w->f, ",\"%s\":[", p->best >= 0 ? "p" : "y");
    for (int64_t i = 0; i < p->n; i++)
        if (isfinite(p->value[i]))
            fprintf(w->f, "%s%.9g", i ? "," : "", (double)p->value[i]);
        else
            fprintf(w->f, "%snull", i ? "," : "");
    fputs("]}\n", w->f);
}

static rk_status print_row(void *user, const rk_prediction *p)
{
    printer *w = user;
    (w->json ? json_row : csv_row)(w, p);
    if (ferror(w->f))
        return rk_fail(w->ctx, RK_EIO, "cannot write the predictions: %s", strerror(errno));
    return RK_OK;
}

static int predict_to(const cli_args *a, const rk_eval_opts *o, printer *w)
{
    rk_status st = cli_open_device(a, &w->ctx);
    if (!w->ctx)
        return rk_exit_code(st);
    cli_note_cpu(w->ctx);
    if (!st)
        rk_predict(w->ctx, o, print_row, w);
    return cli_close(w->ctx);
}

static int run_predict(const cli_args *a)
{
    const char *path = cli_value(a, "out"), *as = cli_value(a, "as");
    printer w = { .f = stdout };
    rk_eval_opts o;
    if (!cli_eval_opts(a, &o))
        return rk_exit_code(RK_EUSAGE);
    if (as && strcmp(as, "csv") && strcmp(as, "jsonl"))
        return cli_fail(RK_EUSAGE, "predict: --as is \"%s\"; there are csv and jsonl", as);
    size_t n = path ? strlen(path) : 0;
    w.json = as ? !strcmp(as, "jsonl") : n > 6 && !strcmp(path + n - 6, ".jsonl");
    if (path && !(w.f = fopen(path, "w")))
        return cli_fail(RK_EIO, "%s: cannot be made: %s", path, strerror(errno));
    int code = predict_to(a, &o, &w);
    if (path && fclose(w.f) && !code)
        code = cli_fail(RK_EIO, "%s: cannot be written: %s", path, strerror(errno));
    return code;
}

static const cli_flag flags[] = {
    { "data", "PATH",
      "data set, treated as the training data was (default: data.eval or the held-out part)" },
    { "format", "idx|csv|hdf5", "its format (default: by name and content)" },
    { "out", "FILE", "write there (default: standard output)" },
    { "as", "csv|jsonl", "form of the output (default: jsonl for a FILE.jsonl, else csv)" },
    { "step", "N", "snapshot of this step (default: the best, else the newest)" },
    { "batch", "N", "samples a pass (default: as trained)" },
    { "limit", "N", "only the first N samples" },
    { "threads", "N", "compute threads (default: all cores)" },
    { "device", "NAME", "auto, cpu or cuda (default: auto, a GPU if there is one)" },
    { NULL, NULL, NULL },
};

const cli_verb cli_predict = {
    .name = "predict",
    .synopsis = "RUN [--data PATH] [--out FILE]",
    .summary = "print what a snapshot says about each sample, as CSV or JSONL",
    .text = "Classification: the most probable class and the probability of each. Regression: the predicted "
            "targets.",
    .flags = flags,
    .min_words = 1,
    .max_words = 1,
    .run = run_predict,
};
