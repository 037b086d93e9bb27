/* Power loss at every operation of a save: the older snapshot loads, no committed one is bad, and one that
 * was reported as saved is never forgotten. Bugs planted in the protocol are found. */
#include "powerloss.h"

static void copy_file(const char *from, const char *to)
{
    size_t n = 0;
    unsigned char *p = read_all(from, &n);
    write_all(to, p, n);
    free(p);
}

static void copy_snapshot(const char *from, const char *to)
{
    static const char *const file[] = { RK__MANIFEST, "r0000.h5", "opt-r0000.h5" };
    mkdir(to, 0700);
    for (int i = 0; i < 3; i++) {
        char a[600], b[600];
        snprintf(a, sizeof a, "%s/%s", from, file[i]);
        snprintf(b, sizeof b, "%s/%s", to, file[i]);
        copy_file(a, b);
    }
}

/* Saves steps 1 and 2 in x->run, step 2 recorded. *saved: operations until "saved" (pruning comes after). */
static rk_status record_save(fixture *x, recorder *r, int *saved)
{
    rk__io_ops io = recording(r);
    rk_status st = save_step(x, 1, NULL);
    if (st)
        return st;
    snprintf(r->snap, sizeof r->snap, "%s/snap", x->run);
    st = save_step(x, 2, &(rk_run_cfg){ .sync_write = true, .io = &io });
    *saved = r->n;
    return st;
}

static void all_states(fixture *x, recorder *r, int saved, int random, uint64_t seed, verdict *v)
{
    char one[500], keep[500];
    snprintf(one, sizeof one, "%s/snap/step-000000000001", x->run);
    snprintf(keep, sizeof keep, "%s/one", x->dir);
    rename(one, keep);
    for (int ext4 = 0; ext4 < 2; ext4++)
        for (int prefix = 0; prefix <= r->n; prefix++)
            for (int i = 0; i < 2 + random; i++) {
                crash c = { r, prefix, i == 0 ? DROP : i == 1 ? KEEP : CHANCE, ext4 != 0, seed, "" };
                seed = seed * 6364136223846793005ull + 1442695040888963407ull;
                snprintf(c.dir, sizeof c.dir, "%s/snap", x->run);
                remove_folder(c.dir);
                mkdir(c.dir, 0700);
                copy_snapshot(keep, one);
                build_state(&c);
                judge_state(x, &c, saved, v);
            }
}

static verdict try_bug(planted bug, int random, int64_t elements)
{
    fixture x;
    recorder *r = calloc(1, sizeof *r);
    verdict v = { 0 };
    int saved;
    setup_sized(&x, elements);
    if (record_save(&x, r, &saved)) {
        fprintf(stderr, "%s\n", rk_error(x.ctx));
        v.lost = 1;
    } else {
        int before = r->n;
        plant(r, bug);
        all_states(&x, r, saved - (before - r->n), random, 88172645463325252ull + bug, &v);
    }
    printf("planted bug %d: %d operations, %d states: %d lost the older one, %d committed but bad, %d forgot "
           "a saved one\n",
           bug, r->n, v.states, v.lost, v.bad, v.forgotten);
    for (int i = 0; i < r->n; i++)
        free(r->op[i].data);
    free(r);
    teardown(&x);
    return v;
}

TEST(the_protocol_survives)
{
    verdict v = try_bug(PLANTED_NONE, 420, 32 * 33);
    CHECK(v.states > 10000);
    CHECK_INT(v.lost + v.bad + v.forgotten, 0);
}

TEST(a_missing_fsync_of_files_is_found)
{
    verdict v = try_bug(PLANTED_NO_FILE_SYNC, 20, 32 * 33);
    CHECK(v.bad > 0 && v.forgotten > 0);
    CHECK_INT(v.lost, 0);
}

TEST(a_missing_fsync_of_folders_is_found)
{
    verdict v = try_bug(PLANTED_NO_DIR_SYNC, 20, 32 * 33);
    CHECK(v.forgotten > 0);
    CHECK_INT(v.lost, 0);
}

TEST(an_early_rename_is_found)
{
    verdict v = try_bug(PLANTED_EARLY_RENAME, 20, 32 * 33);
    CHECK(v.bad > 0);
    CHECK_INT(v.lost, 0);
}

TEST_MAIN
