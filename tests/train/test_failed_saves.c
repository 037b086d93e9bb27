/* Storage that takes no more snapshots: a run goes on for a while, then ends with 74, and loses nothing. */
#include "tiny.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#define MLP                                                    \
    "model: {layers: [flatten, {linear: 32}, relu, linear]}\n" \
    "batch: {global: 20}\nckpt: {every: 2}\nlog: {every: 1000}\n"

/* Begins when a step from `from` on has been saved, before `until`; ends after each `mend_after` warnings. */
typedef struct trouble {
    void (*set)(bool on);
    int64_t from, until;
    int mend_after; /* 0: never */
    bool on;
} trouble;

static void watch(void *user, const rk_event *e)
{
    tiny_run *t = user;
    trouble *w = t->also_arg;
    bool want = w->on;
    if (e->kind == RK_EVENT_SAVED && e->step >= w->from && e->step < w->until)
        want = true;
    if (e->kind == RK_EVENT_WARN && w->mend_after && t->warns % w->mend_after == 0)
        want = false;
    if (want != w->on)
        w->set(want);
    w->on = want;
}

static tiny_run train_in(trouble *w, const char *most)
{
    const char *over[] = { "run.steps=40", most, NULL };
    tiny_run t = { .also = watch, .also_arg = w };
    tiny_train_with(&t, MLP, NULL, NULL, over);
    if (w->on)
        w->set(w->on = false);
    return t;
}

static tiny_run train_straight(void)
{
    tiny_fresh();
    tiny_run t = tiny_train(MLP, "run.steps=40");
    tiny_fresh();
    return t;
}

static bool has_step(int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "run/snap/step-%012lld/MANIFEST.json", (long long)step);
    return !access(tiny_path(name), F_OK);
}

/* ---- files that may not grow (EFBIG): whoever runs this ---- */

static void no_growth(bool on)
{
    struct rlimit r;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &r);
    r.rlim_cur = on ? 0 : r.rlim_max;
    setrlimit(RLIMIT_FSIZE, &r);
}

/* Snapshots of steps 2 and 4, none of 6, 8 and 10: the end comes with the third failure. */
TEST(the_third_failure_ends_the_run)
{
    trouble w = { no_growth, 4, 40, 0, false };
    tiny_run straight = train_straight(), t = train_in(&w, NULL);
    CHECK_INT(t.status, RK_EIO);
    CHECK_INT(rk_exit_code(t.status), 74);
    CHECK_INT(t.saves, 2);
    CHECK_INT(t.warns, 2);
    CHECK(t.last >= 10 && t.last <= 12); /* the writer's news comes at the next save at the latest */
    CHECK(strstr(t.error, "/run: 3 snapshots in a row could not be saved (ckpt.max_failures 3)"));
    CHECK(strstr(t.error, "File too large") && strstr(t.error, "the last good one is of step 4"));
    CHECK(strstr(t.error, "Make room or mend the storage") && strstr(t.error, "goes on from there"));
    CHECK(strstr(t.warn, "training goes on"));
    CHECK(has_step(2) && has_step(4) && !has_step(6));
    tiny_run rest = tiny_train(MLP, "run.steps=40"); /* mended: nothing is lost */
    CHECK_INT(rest.status, RK_OK);
    CHECK_STR(rest.start, "resumed from step 4");
    CHECK_STR(rest.hash, straight.hash);
}

TEST(the_number_is_an_option)
{
    trouble one = { no_growth, 4, 40, 0, false }, never = one;
    tiny_fresh();
    tiny_run t = train_in(&one, "ckpt.max_failures=1");
    CHECK_INT(t.status, RK_EIO);
    CHECK_INT(t.warns, 0);
    CHECK(t.last >= 6 && t.last <= 8);
    CHECK(strstr(t.error, "a snapshot could not be saved (ckpt.max_failures 1)"));
    tiny_fresh();
    t = train_in(&never, "ckpt.max_failures=0");
    CHECK_INT(t.status, RK_EIO); /* at the end, where nothing is left to hope for */
    CHECK_INT(t.last, 40);
    CHECK(t.warns > 10);
    CHECK(strstr(t.error, "step 40: the snapshot cannot be saved"));
}

/* Two failures, a success, two failures, a success, ... */
TEST(a_success_starts_the_count_anew)
{
    trouble w = { no_growth, 4, 30, 2, false }; /* the last ones must go well */
    tiny_run straight = train_straight(), t = train_in(&w, NULL);
    if (t.status)
        TEST_FAIL("training failed: %s", t.error);
    CHECK(t.warns >= 10);
    CHECK_STR(t.hash, straight.hash);
}

/* ---- a disk that is really full: a small tmpfs ---- */

static void fill_disk(bool on)
{
    static char block[4096];
    const char *path = tiny_path("run/filler");
    unlink(path);
    FILE *f = on ? fopen(path, "w") : NULL;
    if (!f)
        return;
    setvbuf(f, NULL, _IONBF, 0);
    while (fwrite(block, sizeof block, 1, f) == 1)
        ;
    fclose(f);
}

TEST(a_full_disk)
{
    trouble w = { fill_disk, 4, 40, 0, false };
    tiny_run straight = train_straight();
    mkdir(tiny_path("run"), 0700);
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("none", tiny_path("run"), "tmpfs", MS_NOSUID | MS_NODEV, "size=2m,mode=0700")) {
        printf("a_full_disk: skipped: mounting a small disk needs root\n");
        return;
    }
    tiny_run t = train_in(&w, NULL);
    tiny_run rest = tiny_train(MLP, "run.steps=40");
    umount2(tiny_path("run"), MNT_DETACH);
    CHECK_INT(t.status, RK_EIO);
    CHECK(strstr(t.error, "the disk has 0.0 MB free") && strstr(t.error, "the last good one is of step 4"));
    CHECK_INT(rest.status, RK_OK);
    CHECK_STR(rest.start, "resumed from step 4");
    CHECK_STR(rest.hash, straight.hash);
}

TEST_MAIN
