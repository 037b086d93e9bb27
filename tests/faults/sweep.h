/* A saver that is hit by a fault at every call it makes, and what must hold afterwards. */
#ifndef SWEEP_H
#define SWEEP_H

#include "../ckpt/ckpt_fixture.h"
#include "faults.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/wait.h>

static void (*arm)(const char *, int, int);
static void (*also)(int, int);
static int (*count)(void);

static const char *const kind_name[FAULT_KINDS] = {
    "none", "ENOSPC", "EIO", "EINTR", "short", "torn", "kill", "kill after", "disk full", "disk gone"
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* Runs this program again under the injector. */
static inline void preload(char **argv)
{
    char lib[512], *options = getenv("ASAN_OPTIONS");
    snprintf(lib, sizeof lib, "%s/tests/preload_faults.so", RK_BUILD_DIR);
    if (!getenv("RK_FAULTS_LOADED")) {
        char more[512];
        snprintf(more, sizeof more, "%s%sverify_asan_link_order=0", options ? options : "",
                 options ? ":" : "");
        setenv("ASAN_OPTIONS", more, 1);
        setenv("LD_PRELOAD", lib, 1);
        setenv("RK_FAULTS_LOADED", "1", 1);
        execv("/proc/self/exe", argv);
        perror("exec");
        exit(1);
    }
    unsetenv("LD_PRELOAD");
    *(void **)&arm = dlsym(RTLD_DEFAULT, "rk_fault_arm");
    *(void **)&also = dlsym(RTLD_DEFAULT, "rk_fault_also");
    *(void **)&count = dlsym(RTLD_DEFAULT, "rk_fault_count");
    if (!arm || !also || !count) {
        fprintf(stderr, "%s was not loaded\n", lib);
        exit(1);
    }
}

static inline void copy_tree(const char *from, const char *to)
{
    mkdir(to, 0700);
    DIR *d = opendir(from);
    for (struct dirent *e; d && (e = readdir(d));) {
        char a[600], b[600];
        struct stat s;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(a, sizeof a, "%.300s/%.255s", from, e->d_name);
        snprintf(b, sizeof b, "%.300s/%.255s", to, e->d_name);
        if (!stat(a, &s) && S_ISDIR(s.st_mode)) {
            copy_tree(a, b);
        } else {
            size_t n = 0;
            unsigned char *p = read_all(a, &n);
            write_all(b, p, n);
            free(p);
        }
    }
    if (d)
        closedir(d);
}

typedef struct sweep {
    fixture x;
    rk_run_cfg cfg;
    char base[300];
    int64_t steps;    /* snapshots on disk before; the child saves the next */
    char want[2][65]; /* SHA-256 of the last one there and of the one being saved */
    int runs, violations, saved, killed, failed;
} sweep;

/* What the child says through its exit code. */
enum { SAID_SAVED = 10, SAID_FAILED = 11, SAID_LOCKED = 12 };

static inline int child(sweep *s)
{
    rk_run *run;
    rk_run_cfg cfg = s->cfg;
    int64_t saved = -1;
    cfg.dir = s->x.run;
    if (rk__run_open(s->x.ctx, &cfg, &run))
        return rk_failed(s->x.ctx) == RK_EIO ? SAID_FAILED : SAID_LOCKED;
    rk_status st = rk__run_save(run, &s->x.st, &(rk_snap_info){ .step = s->steps + 1 });
    if (!st)
        st = rk__run_wait(run, &saved, NULL, 0);
    if (!st && saved != s->steps + 1)
        return SAID_LOCKED;
    int said = st == RK_OK ? SAID_SAVED : st == RK_EIO ? SAID_FAILED : SAID_LOCKED;
    rk__run_close(run);
    return said;
}

static inline void violation(sweep *s, const char *what, const char *where, const char *more)
{
    s->violations++;
    if (s->violations <= 10)
        fprintf(stderr, "%s: %s %s\n", what, where, more);
}

/* What a crash or a failure may leave: the previous snapshot or the new one, whole; the new one if it was
 * claimed. */
static inline void judge(sweep *s, int status, const char *where, bool transparent, bool for_good)
{
    lines l = { .n = 0 };
    char got[65];
    set_version(&s->x, 99);
    int64_t step = load_step(&s->x, -1, add_line, &l);
    if (step < 0) {
        violation(s, "LOST PREVIOUS", where, rk_error(s->x.ctx));
        rk_error_clear(s->x.ctx);
        return;
    }
    hash_of(&s->x, got);
    if (l.n)
        violation(s, "COMMITTED BUT BAD", where, l.text);
    if (step != s->steps && step != s->steps + 1)
        violation(s, "LOST PREVIOUS", where, "an older one was loaded");
    else if (strcmp(got, s->want[step - s->steps]))
        violation(s, "WRONG VALUES", where, "");
    int said = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (said == SAID_SAVED && step != s->steps + 1)
        violation(s, "FALSE SAVED", where, "");
    if (said == SAID_FAILED && step != s->steps && !for_good) /* a dead disk does not let us take it back */
        violation(s, "REPORTED AS FAILED BUT THERE", where, "");
    if (said != SAID_SAVED && said != SAID_FAILED && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
        violation(s, "UNEXPECTED END", where, rk_error(s->x.ctx));
    if (transparent && said != SAID_SAVED)
        violation(s, "NOT TAKEN CARE OF", where, "");
    s->saved += said == SAID_SAVED;
    s->failed += said == SAID_FAILED;
    s->killed += said < 0;
}

/* One run; the number of calls it made (0 when it was killed). */
static inline int strike(sweep *s, int at, int kind, int at2, int kind2)
{
    char where[128];
    int pipes[2], status, calls = 0;
    snprintf(where, sizeof where, "%s%s at %d: %s%s%s", s->cfg.compress ? "compressed " : "",
             s->cfg.sync_write ? "in place" : "behind", at, kind_name[kind], at2 ? ", then " : "",
             at2 ? kind_name[kind2] : "");
    remove_folder(s->x.run);
    copy_tree(s->base, s->x.run);
    set_version(&s->x, (int)s->steps + 1);
    if (pipe(pipes))
        abort();
    pid_t pid = fork();
    if (pid == 0) {
        arm(s->x.run, at, kind);
        also(at2, kind2);
        int said = child(s);
        calls = count();
        arm(NULL, 0, FAULT_NONE);
        if (write(pipes[1], &calls, sizeof calls) != sizeof calls)
            said = SAID_LOCKED;
        _exit(said);
    }
    close(pipes[1]);
    waitpid(pid, &status, 0);
    if (read(pipes[0], &calls, sizeof calls) != sizeof calls)
        calls = 0;
    close(pipes[0]);
    s->runs++;
    judge(s, status, where, !at2 && (kind == FAULT_EINTR || kind == FAULT_SHORT || kind == FAULT_NONE),
          at2 || kind == FAULT_ENOSPC_STICKY || kind == FAULT_EIO_STICKY);
    return calls;
}

static inline void sweep_open(sweep *s, const rk_run_cfg *cfg, int64_t steps, int64_t elements)
{
    memset(s, 0, sizeof *s);
    setup_sized(&s->x, elements);
    s->cfg = *cfg;
    s->steps = steps;
    for (int64_t i = 1; i <= steps; i++)
        if (save_step(&s->x, i, NULL))
            fprintf(stderr, "%s\n", rk_error(s->x.ctx));
    hash_of(&s->x, s->want[0]);
    set_version(&s->x, (int)steps + 1);
    hash_of(&s->x, s->want[1]);
    snprintf(s->base, sizeof s->base, "%s/base", s->x.dir);
    if (rename(s->x.run, s->base))
        abort();
}

/* Every call x every kind of fault in the mask; under a sanitizer, where a fork is slow, every third. */
static inline int sweep_all(sweep *s, unsigned kinds)
{
    int calls = strike(s, 0, FAULT_NONE, 0, 0);
    for (int kind = FAULT_ENOSPC; kind < FAULT_KINDS; kind++)
        for (int at = 1; at <= calls && (kinds >> kind & 1); at++)
            if (!SANITIZED || (at + kind) % 3 == 0)
                strike(s, at, kind, 0, 0);
    return calls;
}

static inline void sweep_report(const sweep *s, const char *what, int calls)
{
    printf("%s: %d calls, %d runs: %d saved, %d reported as failed, %d killed; %d violations\n", what, calls,
           s->runs, s->saved, s->failed, s->killed, s->violations);
}

/* Some sanitizers catch the calls before the injector sees them. */
static inline void skip_if_blind(void)
{
    fixture x;
    setup(&x);
    arm(x.run, 0, FAULT_NONE);
    rk_status st = save_step(&x, 1, NULL);
    int calls = count();
    arm(NULL, 0, FAULT_NONE);
    teardown(&x);
    if (st == RK_OK && calls == 0 && SANITIZED) {
        printf("skipped: this sanitizer hides the calls from the injector\n");
        exit(77);
    }
}

/* TEST_MAIN under the injector. */
#define main run_tests
TEST_MAIN
#undef main

#define SWEEP_MAIN                    \
    int main(int argc, char **argv)   \
    {                                 \
        preload(argv);                \
        skip_if_blind();              \
        return run_tests(argc, argv); \
    }

#endif
