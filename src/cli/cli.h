/* What the verbs share. The program uses the public headers only. */
#ifndef RK_CLI_CLI_H
#define RK_CLI_CLI_H

#include <rankine/ckpt.h>
#include <rankine/io.h>
#include <rankine/train.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* A flag of a verb. */
typedef struct cli_flag {
    const char *name;  /* "step": --step */
    const char *value; /* "N": --step N or --step=N; NULL: a switch */
    const char *help;
} cli_flag;

typedef struct cli_args cli_args;

typedef struct cli_verb {
    const char *name, *synopsis, *summary; /* "train", "CONFIG [KEY=VALUE ...]", "trains ..." */
    const char *text;                      /* further lines of the help; NULL: none */
    const cli_flag *flags;                 /* ends with a NULL name; NULL: none */
    int min_words, max_words;              /* words beside flags and overrides */
    bool ranks;                    /* every rank of a job has a part in it; else the first does it alone */
    bool overrides;                /* takes KEY=VALUE and --KEY=VALUE of the option table */
    int (*run)(const cli_args *a); /* returns the exit code */
} cli_verb;

struct cli_args {
    const cli_verb *verb;
    const char **words;     /* n_words */
    const char **overrides; /* n_overrides, "a.b=value" each */
    const char **values; /* one a flag of the verb: its value, "" for a switch that is set, NULL if absent */
    char **made;         /* texts that overrides point to */
    int n_words, n_overrides, n_made;
};

extern const cli_verb *const cli_verbs[]; /* ends with NULL */
const cli_verb *cli_find_verb(const char *name);
int cli_unknown_verb(const char *name);

/* "--lr" for "optim.lr", ...: the short names that tuners use. Ends with a NULL name. */
typedef struct cli_alias {
    const char *name, *key;
} cli_alias;
extern const cli_alias cli_aliases[];

/* Reads argv (after the verb). 0, or an exit code after having said why. */
int cli_args_parse(cli_args *a, const cli_verb *verb, int argc, char **argv);
void cli_args_free(cli_args *a);
bool cli_has(const cli_args *a, const char *flag);
const char *cli_value(const cli_args *a, const char *flag); /* NULL if absent */
/* The flag's value as an integer of at least min; false after having said why. */
bool cli_int(const cli_args *a, const char *flag, int64_t absent, int64_t min, int64_t *out);

/* Prints "rankine: message" as one line on stderr; returns the exit code. All ranks of a job are given the
 * same command line, so the first speaks for them; another does after a while, if the launcher has not ended
 * it by then. */
int cli_fail(rk_status st, const char *fmt, ...) RK_PRINTF(2, 3);
/* 0 if stdout took everything that was written to it, else the exit code after having said so. */
int cli_flush(void);
/* Closes ctx; says its first failure as cli_fail() does. Returns the exit code; 0 if all went well and stdout
 * took everything that was written to it. */
int cli_close(rk_ctx *ctx);
/* A context that computes nothing: one thread of the CPU. */
rk_status cli_open_small(rk_ctx **ctx);

/* A context that computes, on what --device and --threads ask for. *ctx NULL: said why already. */
rk_status cli_open_device(const cli_args *a, rk_ctx **ctx);

/* Tells why the processor computes where there is a GPU, or a driver, that cannot be used. Of a machine
 * without one nothing is told: scripts read what else comes. */
void cli_note_cpu(const rk_ctx *ctx);
/* The flags that eval and predict share; false after having said why. */
bool cli_eval_opts(const cli_args *a, rk_eval_opts *o);

/* "12.3 MiB" */
const char *cli_bytes(char *buf, size_t size, double bytes);
/* "18.2k", "204G": three digits and a metric prefix */
const char *cli_count(char *buf, size_t size, double n);
/* "4s", "12m30s", "1h12m", "3d4h" */
const char *cli_seconds(char *buf, size_t size, double s);
/* "2026-11-22T01:02:03Z" */
const char *cli_time(char *buf, size_t size);
double cli_now(void); /* CLOCK_MONOTONIC */
/* s as the inside of a JSON string */
void cli_json_text(FILE *f, const char *s);

/* ---- the two faces of a run, see report.c ---- */
typedef struct cli_report cli_report;
/* format: "auto", "kv" or "json" (log.format). NULL when out of memory. */
cli_report *cli_report_open(rk_ctx *ctx, const char *format);
void cli_report_event(void *report, const rk_event *e);
int64_t cli_report_step(const cli_report *r);  /* the last finished step */
int64_t cli_report_saved(const cli_report *r); /* the last durable snapshot; -1: none */
void cli_report_close(cli_report *r);

/* ---- the terminal's line, see progress.c ---- */
/* One line of at most `columns` characters; the least telling parts are left out first. peak: 0 if unknown.
 */
void cli_progress_line(char *buf, size_t size, int columns, const rk_progress *p, double peak);

void cli_help_verb(FILE *f, const cli_verb *v);
void cli_man(FILE *f);

extern const cli_verb cli_train, cli_eval, cli_predict, cli_inspect, cli_verify, cli_export, cli_average,
    cli_config, cli_bench, cli_doctor, cli_version, cli_help;

#endif
