/* The run folder: who holds it, what is kept, what is swept. */
#include "ckpt_fixture.h"

#include <signal.h>
#include <sys/wait.h>

static int list(fixture *x, int64_t *out)
{
    const int64_t *step;
    int n;
    if (rk_run_steps(x->ctx, x->run, &step, &n))
        return -1;
    for (int i = 0; i < n && i < 16; i++)
        out[i] = step[i];
    return n;
}

static bool exists(const char *fmt, const char *dir)
{
    char path[512];
    struct stat s;
    snprintf(path, sizeof path, fmt, dir);
    return !lstat(path, &s);
}

TEST(newest_multiples_and_best_are_kept)
{
    fixture x;
    rk_run *run;
    int64_t step[16];
    setup(&x);
    rk_run_cfg cfg = { .dir = x.run, .keep = 2, .keep_every = 40, .sync_write = true };
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &cfg, &run));
    for (int64_t s = 10; s <= 100; s += 10)
        CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = s, .best = s == 30 || s == 50 }));
    CHECK_INT(list(&x, step), 5);
    const int64_t want[] = { 40, 50, 80, 90, 100 };
    CHECK(!memcmp(step, want, sizeof want));
    rk__run_close(run);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &cfg, &run)); /* the best is known again after a restart */
    CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = 110 }));
    CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = 130 }));
    CHECK_INT(list(&x, step), 5);
    const int64_t then[] = { 40, 50, 80, 110, 130 };
    CHECK(!memcmp(step, then, sizeof then));
    CHECK_OK(x.ctx, rk__run_clear(run));
    CHECK_INT(list(&x, step), 0);
    rk__run_close(run);
    teardown(&x);
}

TEST(two_are_the_least)
{
    fixture x;
    rk_run *run;
    int64_t step[16];
    setup(&x);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run, .keep = 1, .sync_write = true }, &run));
    for (int64_t s = 1; s <= 4; s++)
        CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = s }));
    CHECK_INT(list(&x, step), 2);
    CHECK_INT(step[0], 3);
    rk__run_close(run);
    teardown(&x);
}

TEST(the_same_step_again)
{
    fixture x;
    rk_run *run;
    int64_t step[16];
    setup(&x);
    CHECK_OK(x.ctx, save_step(&x, 7, NULL));
    set_version(&x, 8);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run, .sync_write = true }, &run));
    CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = 7 }));
    rk__run_close(run);
    CHECK_INT(list(&x, step), 1);
    CHECK_INT(load_step(&x, -1, NULL, NULL), 7);
    CHECK(is_version(&x, 8));
    CHECK(!exists("%s/snap/.tmp-000000000007-2", x.run));
    teardown(&x);
}

TEST(a_second_owner_is_refused_and_told_the_first)
{
    fixture x;
    rk_run *run, *other;
    char want[64];
    setup(&x);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run));
    CHECK_INT(rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &other), RK_ELOCKED);
    CHECK(!other);
    snprintf(want, sizeof want, "process %ld", (long)getpid());
    CHECK(strstr(rk_error(x.ctx), want));
    rk_error_clear(x.ctx);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run, .read_only = true },
                                 &other)); /* looking is free */
    rk__run_close(other);
    rk__run_close(run);
    CHECK(!exists("%s/lease.json", x.run));
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run));
    rk__run_close(run);
    teardown(&x);
}

TEST(a_killed_owner_is_followed_at_once)
{
    fixture x;
    rk_run *run;
    int status;
    setup(&x);
    CHECK_OK(x.ctx, save_step(&x, 1, NULL));
    pid_t pid = fork();
    if (pid == 0) {
        if (rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run))
            _exit(1);
        mkdirat(run->snap_dir, ".tmp-000000000002-2", 0700);
        raise(SIGKILL);
    }
    waitpid(pid, &status, 0);
    CHECK(WIFSIGNALED(status) && exists("%s/lease.json", x.run));
    double t = rk__seconds();
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run));
    CHECK(rk__seconds() - t < 1);
    CHECK_INT(run->lock.epoch, 3);
    CHECK(!exists("%s/snap/.tmp-000000000002-2", x.run)); /* swept */
    rk__run_close(run);
    teardown(&x);
}

static void write_lease(const fixture *x, int beat)
{
    char path[512], text[256];
    snprintf(path, sizeof path, "%s/lease.json", x->run);
    snprintf(text, sizeof text,
             "{\"host\": \"far-away\", \"pid\": 4711, \"epoch\": 9, \"heartbeat\": %012d}\n", beat);
    write_all(path, text, strlen(text));
}

/* Where flock does not reach the other host: its lease speaks, as long as it moves. */
TEST(a_lease_of_another_host)
{
    fixture x;
    rk_run *run;
    int status;
    setup(&x);
    CHECK_OK(x.ctx, save_step(&x, 1, NULL));
    write_lease(&x, 1);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 2; i < 100; i++) {
            usleep(300000);
            write_lease(&x, i);
        }
        _exit(0);
    }
    CHECK_INT(rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run), RK_ELOCKED);
    CHECK(strstr(rk_error(x.ctx), "host far-away, process 4711"));
    rk_error_clear(x.ctx);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run)); /* it moves no more */
    CHECK_INT(run->lock.epoch, 10);
    rk__run_close(run);
    teardown(&x);
}

TEST(the_lease_beats)
{
    fixture x;
    rk_run *run;
    char path[512];
    size_t na = 0, nb = 0;
    setup(&x);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run));
    snprintf(path, sizeof path, "%s/lease.json", x.run);
    unsigned char *a = read_all(path, &na);
    usleep(1000000 * RK__BEAT_S + 700000);
    unsigned char *b = read_all(path, &nb);
    CHECK(a && b && na == nb && memcmp(a, b, na));
    free(a);
    free(b);
    rk__run_close(run);
    teardown(&x);
}

/* A zombie that wakes up after its folder was taken over must not publish. */
TEST(an_owner_that_was_replaced_cannot_commit)
{
    fixture x;
    rk_run *run;
    char path[512], msg[512];
    int64_t step[16];
    setup(&x);
    CHECK_OK(x.ctx, save_step(&x, 1, NULL));
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run, .sync_write = true }, &run));
    snprintf(path, sizeof path, "%s/LOCK", x.run);
    unlink(path); /* another host, its flock unseen by us */
    write_all(path, "epoch 00000000000000000099\n", 27);
    write_lease(&x, 5);
    CHECK_INT(rk__run_save(run, &x.st, &(rk_snap_info){ .step = 2 }), RK_ELOCKED);
    CHECK_INT(rk__run_wait(run, NULL, msg, sizeof msg), RK_ELOCKED);
    CHECK(strstr(msg, "far-away"));
    CHECK_INT(list(&x, step), 1);
    CHECK_INT(step[0], 1);
    rk__run_close(run);
    CHECK(exists("%s/lease.json", x.run)); /* theirs */
    teardown(&x);
}

TEST(folders_are_private_and_refused_when_open_to_all)
{
    fixture x;
    rk_run *run;
    struct stat s;
    setup(&x);
    char deep[512], path[600];
    snprintf(deep, sizeof deep, "%s/a/b/run", x.dir);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = deep }, &run));
    CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = 1 }));
    CHECK_OK(x.ctx, rk__run_wait(run, NULL, NULL, 0));
    rk__run_close(run);
    CHECK(!stat(deep, &s) && (s.st_mode & 0777) == 0700);
    snprintf(path, sizeof path, "%s/snap/step-000000000001/" RK__MANIFEST, deep);
    CHECK(!stat(path, &s) && (s.st_mode & 0777) == 0600);
    chmod(deep, 0777);
    CHECK_INT(rk__run_open(x.ctx, &(rk_run_cfg){ .dir = deep }, &run), RK_ECONFIG);
    CHECK(strstr(rk_error(x.ctx), "chmod o-w"));
    rk_error_clear(x.ctx);
    write_all(x.run, "x", 1); /* a file where the folder should be */
    CHECK_INT(rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run), RK_EIO);
    rk_error_clear(x.ctx);
    CHECK_INT(rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run, .read_only = true }, &run), RK_ENOINPUT);
    teardown(&x);
}

TEST_MAIN
