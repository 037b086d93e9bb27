/* What goes in comes out: every type and shape, both kinds of files, both ways of writing. */
#include "ckpt_fixture.h"

static const char CONFIG[] =
    "{\"optim\": {\"lr\": 0.001}, \"text\": \"a \\\"quoted\\\" \\\\ line\\nand \xc3\xa9\"}";

static void round_trip(bool compress, bool sync, int64_t big)
{
    fixture x;
    rk_run *run;
    rk_snap_info info = { .step = 42,
                          .config_json = (char *)CONFIG,
                          .extra_json = (char *)"{\"best\": 0.5}" };
    int64_t saved = -1;
    setup_sized(&x, big);
    set_version(&x, 42);
    CHECK_OK(
        x.ctx,
        rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run, .compress = compress, .sync_write = sync }, &run));
    CHECK_OK(x.ctx, rk__run_save(run, &x.st, &info));
    CHECK_OK(x.ctx, rk__run_wait(run, &saved, NULL, 0));
    CHECK_INT(saved, 42);
    set_version(&x, 7);
    info = (rk_snap_info){ 0 };
    CHECK_OK(x.ctx, rk__run_load(run, -1, &x.st, 0, false, &info, NULL, NULL));
    CHECK_INT(info.step, 42);
    CHECK_STR(info.config_json, CONFIG);
    CHECK_STR(info.extra_json, "{\"best\": 0.5}");
    CHECK(!info.best);
    rk__snap_info_free(&info);
    CHECK(is_version(&x, 42));
    rk__run_close(run);
    teardown(&x);
}

TEST(round_trip_plain)
{
    round_trip(false, true, 32 * 33);
}

TEST(round_trip_written_behind)
{
    round_trip(false, false, 1 << 20); /* more than one chunk of sums */
}

TEST(round_trip_compressed)
{
    round_trip(true, true, 1 << 20);
    round_trip(true, false, 32 * 33);
}

TEST(compressed_is_smaller)
{
    size_t bytes[2];
    for (int compress = 0; compress < 2; compress++) {
        fixture x;
        rk_run *run;
        double s, stall;
        setup_sized(&x, 1 << 20); /* zeros */
        CHECK_OK(x.ctx,
                 rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run, .compress = compress, .sync_write = true },
                              &run));
        CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = 1 }));
        rk__run_save_cost(run, &bytes[compress], &s, &stall);
        CHECK(s > 0 && stall > 0);
        rk__run_close(run);
        teardown(&x);
    }
    CHECK(bytes[0] > 12u << 20);
    CHECK(bytes[1] < bytes[0] / 20);
}

TEST(same_state_same_bytes)
{
    static const char *const file[] = { "r0000.h5", "opt-r0000.h5" };
    fixture a, b;
    setup(&a);
    setup(&b);
    CHECK_OK(a.ctx, save_step(&a, 3, NULL));
    sleep(1); /* a time stamp inside would differ */
    rk_state_entry first = b.st.entries[0];
    b.st.entries[0] = b.st.entries[1]; /* nor does the order of registration matter */
    b.st.entries[1] = first;
    CHECK_OK(b.ctx, save_step(&b, 3, NULL));
    for (int i = 0; i < 2; i++) {
        char pa[512], pb[512];
        size_t na = 0, nb = 0;
        snap_path(&a, 3, file[i], pa, sizeof pa);
        snap_path(&b, 3, file[i], pb, sizeof pb);
        unsigned char *da = read_all(pa, &na), *db = read_all(pb, &nb);
        CHECK(da && db);
        CHECK_INT(na, nb);
        CHECK(!memcmp(da, db, na));
        free(da);
        free(db);
    }
    teardown(&a);
    teardown(&b);
}

TEST(layout_follows_the_state)
{
    fixture x;
    rk_run *run;
    setup(&x);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run));
    for (int v = 1; v <= 3; v++) { /* the second save reuses the layout, the third has one tensor more */
        if (v == 3)
            CHECK_OK(x.ctx, rk__state_add(&x.st, RK_STATE_PARAM, "late.weight",
                                          rk_tensor_make(x.ctx, RK_F32, RK_SHAPE(5))));
        set_version(&x, v);
        CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = v }));
    }
    CHECK_OK(x.ctx, rk__run_wait(run, NULL, NULL, 0));
    rk__run_close(run);
    set_version(&x, 9);
    CHECK_INT(load_step(&x, -1, NULL, NULL), 3);
    CHECK(is_version(&x, 3));
    rk_status st = -load_step(&x, 2, NULL, NULL); /* that one has no late.weight */
    CHECK_INT(st, RK_ECONFIG);
    CHECK(strstr(rk_error(x.ctx), "late.weight"));
    teardown(&x);
}

TEST(the_copy_is_what_counts)
{
    fixture x;
    rk_run *run;
    setup_sized(&x, 1 << 20);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run));
    set_version(&x, 1);
    CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = 1 }));
    set_version(&x, 2); /* training goes on while the writer writes */
    CHECK_OK(x.ctx, rk__run_wait(run, NULL, NULL, 0));
    CHECK_OK(x.ctx, rk__run_load(run, -1, &x.st, 0, false, NULL, NULL, NULL));
    CHECK(is_version(&x, 1));
    rk__run_close(run);
    teardown(&x);
}

TEST(outcomes_are_told_once)
{
    fixture x;
    rk_run *run;
    rk_status st = RK_EINTERNAL;
    int64_t step = -1;
    char msg[256];
    setup(&x);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run));
    CHECK(!rk__run_poll(run, &st, &step, msg, sizeof msg));
    CHECK_OK(x.ctx, rk__run_save(run, &x.st, &(rk_snap_info){ .step = 5 }));
    while (!rk__run_poll(run, &st, &step, msg, sizeof msg))
        usleep(1000);
    CHECK_INT(st, RK_OK);
    CHECK_INT(step, 5);
    CHECK(!rk__run_poll(run, &st, &step, msg, sizeof msg));
    CHECK_INT(rk__run_save(run, &x.st, &(rk_snap_info){ .step = -1 }), RK_EUSAGE);
    CHECK(rk__run_poll(run, &st, &step, msg, sizeof msg));
    CHECK_INT(st, RK_EUSAGE);
    CHECK(strstr(msg, "step -1"));
    rk__run_close(run);
    teardown(&x);
}

TEST(partial_and_surplus)
{
    fixture x, y;
    rk_run *run;
    setup(&x);
    CHECK_OK(x.ctx, save_step(&x, 1, NULL));
    setup(&y);
    rk__state_free(&y.st);
    rk_tensor *w = rk_tensor_make(y.ctx, RK_F32, RK_SHAPE(7)),
              *other = rk_tensor_make(y.ctx, RK_F32, RK_SHAPE(2));
    CHECK_OK(y.ctx, rk__state_add(&y.st, RK_STATE_PARAM, "fc1.bias", w));
    CHECK_OK(y.ctx, rk__state_add(&y.st, RK_STATE_PARAM, "new.head", other));
    CHECK_OK(y.ctx, rk__run_open(y.ctx, &(rk_run_cfg){ .dir = x.run, .read_only = true }, &run));
    CHECK_INT(rk__run_load(run, -1, &y.st, ~0u, false, NULL, NULL, NULL), RK_ECONFIG);
    CHECK(strstr(rk_error(y.ctx), "new.head"));
    rk_error_clear(y.ctx);
    CHECK_INT(rk__run_load(run, -1, &y.st, 0, true, NULL, NULL, NULL), RK_ECONFIG);
    CHECK(strstr(rk_error(y.ctx), "a.brain")); /* in the snapshot, not here */
    rk_error_clear(y.ctx);
    CHECK_OK(y.ctx, rk__run_load(run, -1, &y.st, ~0u, true, NULL, NULL, NULL));
    float got[7], want[7];
    set_version(&x, 1);
    CHECK_OK(y.ctx, rk_tensor_read(w, got, sizeof got));
    CHECK_OK(x.ctx, rk_tensor_read(rk__state_find(&x.st, "fc1.bias")->tensor, want, sizeof want));
    CHECK(!memcmp(got, want, sizeof got));
    rk__state_free(&y.st);
    CHECK_OK(y.ctx, rk__state_add(&y.st, RK_STATE_PARAM, "fc1.bias", other)); /* of another shape */
    CHECK_INT(rk__run_load(run, -1, &y.st, ~0u, false, NULL, NULL, NULL), RK_ECONFIG);
    CHECK(strstr(rk_error(y.ctx), "fc1.bias is f32 (7) there and f32 (2) in this model"));
    rk__run_close(run);
    teardown(&x);
    teardown(&y);
}

TEST(read_without_a_model)
{
    fixture x;
    rk_run *run;
    rk_state st;
    char want[65], got[65], disk[65];
    setup(&x);
    CHECK_OK(x.ctx, save_step(&x, 1, NULL));
    CHECK(hash_of(&x, want));
    rk__state_init(&st, x.ctx);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run, .read_only = true }, &run));
    CHECK_OK(x.ctx, rk__run_read(run, -1, ~0u, &st, NULL));
    CHECK_INT(st.n, x.st.n - 2);
    CHECK_OK(x.ctx, rk__state_sha256(&st, RK_STATE_HASHED, got));
    CHECK_STR(got, want);
    CHECK_OK(x.ctx, rk_snapshot_hash(x.ctx, x.run, -1, disk));
    CHECK_STR(disk, want);
    CHECK_OK(x.ctx, rk__state_sha256(&st, 1u << RK_STATE_PARAM, got));
    CHECK(strcmp(got, want));
    rk__state_free(&st);
    rk__run_close(run);
    teardown(&x);
}

TEST(describe_and_steps)
{
    fixture x;
    const int64_t *step;
    int n;
    rk_snapshot_info info;
    setup(&x);
    CHECK_INT(rk_run_steps(x.ctx, x.run, &step, &n), RK_ENOINPUT);
    rk_error_clear(x.ctx);
    CHECK_OK(x.ctx, save_step(&x, 10, NULL));
    CHECK_OK(x.ctx, save_step(&x, 9, NULL));
    CHECK_OK(x.ctx, rk_run_steps(x.ctx, x.run, &step, &n));
    CHECK_INT(n, 2);
    CHECK_INT(step[0], 9);
    CHECK_INT(step[1], 10);
    CHECK_OK(x.ctx, rk_snapshot_describe(x.ctx, x.run, -1, &info));
    CHECK_INT(info.step, 10);
    CHECK_INT(info.n_entries, x.st.n);
    CHECK_STR(info.version, rk_version());
    CHECK(!info.config_json && info.bytes > 3 * 4 * 32 * 33);
    for (int i = 1; i < info.n_entries; i++)
        CHECK(strcmp(info.entries[i - 1].name, info.entries[i].name) < 0);
    for (int i = 0; i < info.n_entries; i++)
        if (!strcmp(info.entries[i].name, "a.brain")) {
            CHECK_INT(info.entries[i].dtype, RK_BF16);
            CHECK_INT(info.entries[i].bytes, 48);
            CHECK_STR(info.entries[i].kind, "param");
        }
    CHECK_INT(rk_snapshot_describe(x.ctx, x.run, 11, &info), RK_ENOINPUT);
    teardown(&x);
}

TEST(nothing_there)
{
    fixture x;
    rk_run *run;
    setup(&x);
    CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = x.run }, &run));
    CHECK_INT(rk__run_load(run, -1, &x.st, 0, false, NULL, NULL, NULL), RK_ENOINPUT);
    rk_error_clear(x.ctx);
    CHECK_INT(rk__run_load(run, 3, &x.st, 0, false, NULL, NULL, NULL), RK_ENOINPUT);
    rk_error_clear(x.ctx);
    rk__run_close(run);
    teardown(&x);
}

TEST_MAIN
