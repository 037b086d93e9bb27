/* rankine VERB ...: one file a verb. */
#include "cli/cli.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>

const cli_verb *const cli_verbs[] = {
    &cli_train,  &cli_eval,  &cli_predict, &cli_inspect, &cli_verify, &cli_export, &cli_average,
    &cli_config, &cli_bench, &cli_doctor,  &cli_version, &cli_help,   NULL,
};

const cli_verb *cli_find_verb(const char *name)
{
    if (!strcmp(name, "--version") || !strcmp(name, "-V"))
        return &cli_version;
    if (!strcmp(name, "--help") || !strcmp(name, "-h"))
        return &cli_help;
    for (int i = 0; cli_verbs[i]; i++)
        if (!strcmp(cli_verbs[i]->name, name))
            return cli_verbs[i];
    return NULL;
}

int cli_unknown_verb(const char *name)
{
    const char *names[32];
    int n = 0;
    while (cli_verbs[n]) {
        names[n] = cli_verbs[n]->name;
        n++;
    }
    const char *near = rk_nearest(name, names, n);
    if (near)
        return cli_fail(RK_EUSAGE, "there is no verb \"%s\"; did you mean \"%s\"?", name, near);
    return cli_fail(RK_EUSAGE, "there is no verb \"%s\"; rankine help lists them", name);
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return true;
    return false;
}

/* Where 0, 1 or 2 is closed the next file that is opened would get its number, and our own words. Opened the
 * wrong way round, so that using them fails as it would have. */
static bool keep_standard_files(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_RDONLY : O_WRONLY) != fd)
            return false;
    return true;
}

int main(int argc, char **argv)
{
    if (!keep_standard_files())
        return rk_exit_code(RK_EIO);
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is a failed write, with a reason, not a death */
    if (argc < 2)
        return cli_fail(RK_EUSAGE, "what to do? rankine help lists the verbs");
    const cli_verb *verb = cli_find_verb(argv[1]);
    if (!verb)
        return cli_unknown_verb(argv[1]);
    if (wants_help(argc - 2, argv + 2)) {
        if (rk_launch_rank() == 0)
            cli_help_verb(stdout, verb);
        return 0;
    }
    if (!verb->ranks && rk_launch_rank() > 0)
        return 0;
    cli_args a;
    int code = cli_args_parse(&a, verb, argc - 2, argv + 2);
    if (!code)
        code = verb->run(&a);
    cli_args_free(&a);
    return code;
}
