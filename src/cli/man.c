/* The manual page, made from the tables that the program itself uses. */
#include "cli/cli.h"

#include <string.h>

/* Text as roff: a hyphen that is a minus, no request at the start of a line, no escapes. */
static void roff(FILE *f, const char *s)
{
    bool line_start = true;
    for (; *s; s++) {
        if (line_start && (*s == '.' || *s == '\''))
            fputs("\\&", f);
        if (*s == '\\')
            fputs("\\e", f);
        else if (*s == '-')
            fputs("\\-", f);
        else
            fputc(*s, f);
        line_start = *s == '\n';
    }
}

static void man_verb(FILE *f, const cli_verb *v)
{
    fputs(".TP\n.B rankine ", f);
    roff(f, v->name);
    fputs(" \\fR", f);
    roff(f, v->synopsis);
    fputs("\n", f);
    roff(f, v->summary);
    fputs(".\n", f);
    if (v->text) {
        fputs(".br\n", f);
        roff(f, v->text);
        fputc('\n', f);
    }
    if (!v->flags)
        return;
    fputs(".RS\n", f);
    for (const cli_flag *flag = v->flags; flag->name; flag++) {
        fputs(".TP\n.B \\-\\-", f);
        roff(f, flag->name);
        if (flag->value) {
            fputs(" \\fI", f);
            roff(f, flag->value);
            fputs("\\fR", f);
        }
        fputc('\n', f);
        roff(f, flag->help);
        fputs(".\n", f);
    }
    fputs(".RE\n", f);
}

static void man_option(FILE *f, const rk_option_info *o)
{
    fputs(".TP\n.B ", f);
    roff(f, o->key);
    fputs(" \\fR(", f);
    roff(f, o->type);
    if (o->def && *o->def) {
        fputs(", default ", f);
        roff(f, o->def);
    }
    fputs(")\n", f);
    roff(f, o->help);
    if (o->allowed) {
        fputs(". One of: ", f);
        for (const char *s = o->allowed; *s; s++)
            fputs(*s == '|' ? ", " : (char[]){ *s, 0 }, f);
    }
    fputs(".\n", f);
}

static void man_exit_codes(FILE *f)
{
    for (int code = 0; code < 256; code++)
        if (rk_exit_meaning(code))
            fprintf(f, ".TP\n.B %d\n%s.\n", code, rk_exit_meaning(code));
}

void cli_man(FILE *f)
{
    rk_option_info o;
    fprintf(f, ".TH RANKINE 1 \"\" \"rankine %s\" \"User Commands\"\n", rk_version());
    fputs(".SH NAME\nrankine \\- trains neural networks\n", f);
    fputs(".SH SYNOPSIS\n.B rankine\n.I verb\n[\\fIarguments\\fR]\n", f);
    fputs(".SH DESCRIPTION\nTrains networks described in a YAML file, on the processor's cores or on NVIDIA "
          "GPUs. The trained "
          "weights do not "
          "depend on the number of ranks and threads, on the instruction set, or on how often the run was "
          "stopped "
          "and started "
          "again.\n.PP\nStarted by \\fBmpirun\\fR, train, verify and bench share their work among the ranks; "
          "the "
          "first "
          "speaks.\n",
          f);
    fputs(".SH VERBS\n", f);
    for (int i = 0; cli_verbs[i]; i++)
        man_verb(f, cli_verbs[i]);
    fputs(".SH OPTIONS\nKeys of a configuration, and of KEY=VALUE arguments.\n", f);
    for (int i = 0; rk_config_option(i, &o); i++)
        man_option(f, &o);
    fputs(".SH EXIT STATUS\n", f);
    man_exit_codes(f);
    fputs(".SH ENVIRONMENT\n.TP\n.B RANKINE_ISA\navx512, avx2 or portable: the instruction set to use.\n"
          ".TP\n.B RANKINE_TRACE\nfile: train writes there what every rank did when, as a Chrome trace.\n"
          ".TP\n.B RANKINE_CUDA\nthe library of the CUDA device, instead of the one beside the program.\n"
          ".TP\n.B RANKINE_NCCL\n0 or 1: never by NCCL, or by NCCL alone; comes before device.nccl.\n"
          ".TP\n.BR CI \", \" NO_COLOR \", \" TERM=dumb\nno rewritten progress line.\n",
          f);
    fputs(".SH FILES\n.TP\n.I RUN/snap/\nsnapshots.\n.TP\n.I RUN/metrics.jsonl\none JSON object a log step.\n"
          ".TP\n.I RUN/rank-N.log\nwhat rank N of several has to say.\n"
          ".TP\n.I RUN/DONE\nthe run has reached its end.\n",
          f);
}
