/* The command line: words, flags of the verb, and overrides of the option table. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const cli_alias cli_aliases[] = {
    { "lr", "optim.lr" },
    { "batch-size", "batch.global" },
    { "num-epochs", "run.epochs" },
    { NULL, NULL },
};

static int flag_index(const cli_verb *v, const char *name, size_t length)
{
    for (int i = 0; v->flags && v->flags[i].name; i++)
        if (strlen(v->flags[i].name) == length && !strncmp(v->flags[i].name, name, length))
            return i;
    return -1;
}

/* The key of the option table that --name means: "lr" is "optim.lr"; anything with a dot is a key as it is.
 */
static const char *option_key(const char *name, size_t length, char *buf, size_t size)
{
    for (int i = 0; cli_aliases[i].name; i++)
        if (strlen(cli_aliases[i].name) == length && !strncmp(cli_aliases[i].name, name, length))
            return cli_aliases[i].key;
    rk_option_info o;
    bool known = memchr(name, '.', length) != NULL;
    for (int i = 0; !known && rk_config_option(i, &o); i++)
        known = strlen(o.key) == length && !strncmp(o.key, name, length);
    if (!known || length >= size)
        return NULL;
    memcpy(buf, name, length);
    buf[length] = 0;
    return buf;
}

static int unknown_flag(const cli_verb *v, const char *name, size_t length)
{
    enum { MAX = 1024 };
    const char *names[MAX];
    int n = 0;
    char word[128];
    snprintf(word, sizeof word, "%.*s", (int)length, name);
    for (int i = 0; v->flags && v->flags[i].name && n < MAX; i++)
        names[n++] = v->flags[i].name;
    rk_option_info o;
    if (v->overrides) {
        for (int i = 0; cli_aliases[i].name && n < MAX; i++)
            names[n++] = cli_aliases[i].name;
        for (int i = 0; n < MAX && rk_config_option(i, &o); i++)
            names[n++] = o.key;
    }
    const char *near = rk_nearest(word, names, n);
    if (near)
        return cli_fail(RK_EUSAGE, "%s: there is no flag --%s; did you mean --%s?", v->name, word, near);
    return cli_fail(RK_EUSAGE, "%s: there is no flag --%s; rankine help %s lists them", v->name, word,
                    v->name);
}

static int add_override(cli_args *a, const char *key, const char *value)
{
    size_t size = strlen(key) + strlen(value) + 2;
    char *text = malloc(size);
    if (!text)
        return cli_fail(RK_ENOMEM, "out of memory");
    snprintf(text, size, "%s=%s", key, value);
    a->made[a->n_made++] = text;
    a->overrides[a->n_overrides++] = text;
    return 0;
}

/* One "--name", "--name=value" or "--name value". *used: 1 if the next argument was the value. */
static int parse_flag(cli_args *a, const char *arg, const char *next, int *used)
{
    const char *name = arg + 2, *equals = strchr(name, '='), *value = equals ? equals + 1 : next;
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    char buf[128];
    const char *key = NULL;
    int f = flag_index(a->verb, name, length);
    if (f < 0 && a->verb->overrides)
        key = option_key(name, length, buf, sizeof buf);
    if (f < 0 && !key)
        return unknown_flag(a->verb, name, length);
    if (f >= 0 && !a->verb->flags[f].value) {
        if (equals)
            return cli_fail(RK_EUSAGE, "%s: --%s takes no value", a->verb->name, a->verb->flags[f].name);
        a->values[f] = "";
        return 0;
    }
    if (!value)
        return cli_fail(RK_EUSAGE, "%s: --%.*s needs a value", a->verb->name, (int)length, name);
    *used = !equals;
    if (key)
        return add_override(a, key, value);
    a->values[f] = value;
    return 0;
}

/* "a.b=value": the part before '=' looks like a key. A file name with '=' can be given as ./name. */
static bool is_override(const char *arg)
{
    const char *equals = strchr(arg, '=');
    if (!equals || equals == arg || *arg == '.')
        return false;
    size_t n = strspn(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return arg + n == equals;
}

static int check_words(const cli_args *a)
{
    const cli_verb *v = a->verb;
    if (a->n_words < v->min_words)
        return cli_fail(RK_EUSAGE, "%s: something is missing: rankine %s %s", v->name, v->name, v->synopsis);
    if (a->n_words > v->max_words)
        return cli_fail(RK_EUSAGE, "%s: what is \"%s\"? rankine %s %s", v->name, a->words[v->max_words],
                        v->name, v->synopsis);
    return 0;
}

static int parse_all(cli_args *a, int argc, char **argv)
{
    bool only_words = false;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        int used = 0, code = 0;
        if (only_words)
            a->words[a->n_words++] = arg;
        else if (!strcmp(arg, "--"))
            only_words = true;
        else if (!strncmp(arg, "--", 2))
            code = parse_flag(a, arg, i + 1 < argc ? argv[i + 1] : NULL, &used);
        else if (*arg == '-' && arg[1])
            code = cli_fail(RK_EUSAGE, "%s: there is no flag %s; flags have two dashes", a->verb->name, arg);
        else if (a->verb->overrides && is_override(arg))
            a->overrides[a->n_overrides++] = arg;
        else
            a->words[a->n_words++] = arg;
        if (code)
            return code;
        i += used;
    }
    return check_words(a);
}

int cli_args_parse(cli_args *a, const cli_verb *verb, int argc, char **argv)
{
    size_t flags = 0, n = (size_t)argc + 1;
    while (verb->flags && verb->flags[flags].name)
        flags++;
    *a = (cli_args){ .verb = verb };
    a->words = calloc(n, sizeof *a->words);
    a->overrides = calloc(n, sizeof *a->overrides);
    a->made = calloc(n, sizeof *a->made);
    a->values = calloc(flags + 1, sizeof *a->values);
    if (!a->words || !a->overrides || !a->made || !a->values)
        return cli_fail(RK_ENOMEM, "out of memory");
    return parse_all(a, argc, argv);
}

void cli_args_free(cli_args *a)
{
    for (int i = 0; i < a->n_made; i++)
        free(a->made[i]);
    free(a->made);
    free(a->words);
    free(a->overrides);
    free(a->values);
}

const char *cli_value(const cli_args *a, const char *flag)
{
    int i = flag_index(a->verb, flag, strlen(flag));
    return i < 0 ? NULL : a->values[i];
}

bool cli_has(const cli_args *a, const char *flag)
{
    return cli_value(a, flag) != NULL;
}

bool cli_int(const cli_args *a, const char *flag, int64_t absent, int64_t min, int64_t *out)
{
    const char *text = cli_value(a, flag);
    char *end = NULL;
    *out = absent;
    if (!text)
        return true;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < min) {
        cli_fail(RK_EUSAGE, "%s: --%s is \"%s\", it should be a whole number from %lld on", a->verb->name,
                 flag, text, (long long)min);
        return false;
    }
    *out = v;
    return true;
}
