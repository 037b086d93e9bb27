/* rankine help [VERB|options] */
#include "cli/cli.h"

#include <string.h>

static void print_flags(FILE *f, const cli_flag *flag)
{
    fputs("\nflags:\n", f);
    for (; flag && flag->name; flag++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", flag->name, flag->value ? " " : "",
                 flag->value ? flag->value : "");
        fprintf(f, "  %-24s %s\n", left, flag->help);
    }
    fprintf(f, "  %-24s %s\n", "--help", "this text");
}

void cli_help_verb(FILE *f, const cli_verb *v)
{
    fprintf(f, "rankine %s%s%s\n\n%s\n", v->name, *v->synopsis ? " " : "", v->synopsis, v->summary);
    if (v->text)
        fprintf(f, "\n%s\n", v->text);
    print_flags(f, v->flags);
    if (v->overrides)
        fputs("\nKEY=VALUE overrides an option: rankine help options lists them.\n", f);
}

static void print_option(FILE *f, const rk_option_info *o)
{
    fprintf(f, "  %-22s %-5s", o->key, o->type);
    fprintf(f, " %s", o->help);
    if (o->allowed)
        fprintf(f, "; one of %s", o->allowed);
    if (o->def && *o->def)
        fprintf(f, " [%s]", o->def);
    fputc('\n', f);
}

static void print_options(FILE *f)
{
    rk_option_info o;
    fputs("Options: keys of a configuration, and KEY=VALUE of train. Defaults in brackets.\n\n", f);
    for (int i = 0; rk_config_option(i, &o); i++)
        print_option(f, &o);
    fputc('\n', f);
    for (int i = 0; cli_aliases[i].name; i++)
        fprintf(f, "  --%-20s stands for %s\n", cli_aliases[i].name, cli_aliases[i].key);
}

static void print_overview(FILE *f)
{
    fputs("rankine trains neural networks.\n\n", f);
    for (int i = 0; cli_verbs[i]; i++)
        fprintf(f, "  %-8s  %s\n", cli_verbs[i]->name, cli_verbs[i]->summary);
    fputs("\nrankine help VERB tells more; rankine help options lists the keys of a configuration.\n"
          "\nExit codes:\n",
          f);
    for (int code = 0; code < 256; code++)
        if (rk_exit_meaning(code))
            fprintf(f, "  %-8d  %s\n", code, rk_exit_meaning(code));
}

static int run_help(const cli_args *a)
{
    if (cli_has(a, "man")) {
        cli_man(stdout);
    } else if (!a->n_words) {
        print_overview(stdout);
    } else if (!strcmp(a->words[0], "options")) {
        print_options(stdout);
    } else {
        const cli_verb *v = cli_find_verb(a->words[0]);
        if (!v)
            return cli_unknown_verb(a->words[0]);
        cli_help_verb(stdout, v);
    }
    return cli_flush();
}

static const cli_flag flags[] = {
    { "man", NULL, "print the manual page (roff)" },
    { NULL, NULL, NULL },
};

const cli_verb cli_help = {
    .name = "help",
    .synopsis = "[VERB | options]",
    .summary = "tell what a verb does; list the options of a configuration",
    .flags = flags,
    .max_words = 1,
    .run = run_help,
};
