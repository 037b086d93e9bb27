/* A disk that is really full: a small tmpfs. Mounting needs root; skipped otherwise. */
#include "../ckpt/ckpt_fixture.h"

#include <sched.h>
#include <sys/mount.h>

/* In a mount namespace of our own, so that it goes with us however the test ends. */
static bool mount_small(const fixture *x)
{
    static bool own;
    if (!own && (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)))
        return false;
    own = true;
    mkdir(x->run, 0700);
    return !mount("none", x->run, "tmpfs", MS_NOSUID | MS_NODEV, "size=16m,mode=0700");
}

static int always_room(void *user, int fd, uint64_t *bytes)
{
    (void)user, (void)fd;
    *bytes = UINT64_MAX;
    return 0;
}

/* Steps 1 and 2 (6 MB each) fit; step 3 does not. */
static void fill_it_up(bool warned)
{
    fixture x;
    rk_run *run;
    rk__io_ops io = rk__io_system;
    char msg[512], path[512];
    rk_snapshot_info info;
    setup_sized(&x, 1 << 19);
    if (!mount_small(&x)) {
        printf("skipped: mounting a small disk needs root\n");
        exit(77);
    }
    if (!warned)
        io.free_bytes = always_room;
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run, .io = &io }, &run));
    for (int step = 1; step <= 3; step++) {
        set_version(&x, step);
        CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = step }));
        rk_status st = rk__run_wait(run, NULL, msg, sizeof msg);
        CHECK_INT(st, step < 3 ? RK_OK : RK_EIO);
    }
    CHECK(strstr(msg, warned ? "MB free" : "No space left on device"));
    CHECK_INT(rk_failed(x.ctx), RK_OK); /* training can go on */
    snprintf(path, sizeof path, "%s/snap/.tmp-000000000003-1", x.run);
    struct stat s;
    CHECK(stat(path, &s)); /* what was written of it has been given back */
    CHECK_OK(x.ctx, rk_snapshot_describe(x.ctx, x.run, -1, &info));
    CHECK_INT(info.step, 2);
    CHECK_OK(x.ctx, rk__run_load(run, -1, &x.st, 0, false, NULL, NULL, NULL));
    CHECK(is_version(&x, 2));
    remove_folder(x.run); /* fails half way: it is busy; the snapshots go */
    rk__run_close(run);
    set_version(&x, 4);
    CHECK_OK(x.ctx, save_step(&x, 4, NULL)); /* room again */
    CHECK_INT(load_step(&x, -1, NULL, NULL), 4);
    umount2(x.run, MNT_DETACH);
    teardown(&x);
}

TEST(told_before)
{
    fill_it_up(true);
}

TEST(told_by_the_writes)
{
    fill_it_up(false);
}

TEST_MAIN
