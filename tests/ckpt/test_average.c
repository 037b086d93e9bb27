/* rk_average(): the mean in double precision, and what cannot be averaged. */
#include "ckpt_fixture.h"

static const int64_t steps[3] = { 4, 9, 2 };

/* Three runs of one model; 0, 1 and 2 of them, then the mean. */
static void three_runs(fixture *x, char path[4][400], const char **list)
{
    setup(x);
    for (int i = 0; i < 4; i++)
        snprintf(path[i], 400, "%s/%s", x->dir, (const char *[]){ "a", "b", "c", "mean" }[i]);
    for (int i = 0; i < 3; i++) {
        snprintf(x->run, sizeof x->run, "%s/%c", x->dir, 'a' + i);
        for (int k = 0; k < x->st.n; k++) /* bytes of fill() may be no numbers */
            if (x->st.entries[k].tensor) {
                rk_tensor *t = x->st.entries[k].tensor;
                int64_t n = rk_tensor_size(t);
                double *v = malloc(((size_t)n + 1) * sizeof *v);
                char *raw = malloc(((size_t)n + 1) * sizeof *v);
                for (int64_t e = 0; e < n; e++)
                    v[e] = (double)((e * 37 + k * 11 + i * i * 101) % 253) *
                           (rk_tensor_dtype(t) == RK_F32 ? 1.0 / 3 : 1);
                x->ctx->device->cast(x->ctx->dev, n, RK_F64, v, rk_tensor_dtype(t), raw);
                if (n)
                    rk_tensor_write(t, raw, (size_t)n * rk_dtype_size(rk_tensor_dtype(t)));
                free(v);
                free(raw);
            }
        rk_run *run;
        rk__run_open(x->ctx, &(rk_run_cfg){ .dir = x->run, .sync_write = true }, &run);
        rk__run_save(run, &x->st, &(rk_snap_info){ .step = steps[i], .config_json = i ? NULL : "{}" });
        rk__run_close(run);
        list[i] = path[i];
    }
}

static rk_status read_run(fixture *x, const char *path, rk_state *st, rk_snap_info *info)
{
    rk_run *run;
    rk__state_init(st, x->ctx);
    rk_status r = rk__run_open(x->ctx, &(rk_run_cfg){ .dir = path, .read_only = true }, &run);
    if (!r)
        r = rk__run_read(run, -1, 1u << RK_STATE_PARAM | 1u << RK_STATE_BUFFER, st, info);
    rk__run_close(run);
    return r;
}

TEST(the_mean_of_three_runs)
{
    fixture x;
    char path[4][400];
    const char *list[3];
    rk_state st[4];
    rk_snap_info info = { 0 };
    rk_snapshot_info said;
    three_runs(&x, path, list);
    CHECK_OK(x.ctx, rk_average(x.ctx, list, 3, path[3]));
    for (int i = 0; i < 4; i++) {
        CHECK_OK(x.ctx, read_run(&x, path[i], &st[i], &info));
        if (i < 3)
            rk__snap_info_free(&info);
    }
    CHECK_INT(info.step, 9);
    CHECK_STR(info.config_json, "{}");
    CHECK_INT(st[3].n, st[0].n);
    int differing = 0;
    for (int k = 0; k < st[3].n; k++) {
        rk_tensor *t = st[3].entries[k].tensor;
        rk_dtype type = rk_tensor_dtype(t);
        int64_t n = rk_tensor_size(t);
        size_t bytes = (size_t)n * rk_dtype_size(type);
        char *raw = malloc(bytes + 1), *want = malloc(bytes + 1);
        double *sum = calloc((size_t)n + 1, sizeof *sum), *one = malloc(((size_t)n + 1) * sizeof *one);
        for (int i = 0; i < 3 && n; i++) {
            CHECK_OK(x.ctx,
                     rk_tensor_read(rk__state_find(&st[i], st[3].entries[k].name)->tensor, raw, bytes));
            x.ctx->device->cast(x.ctx->dev, n, type, raw, RK_F64, one);
            for (int64_t e = 0; e < n; e++)
                sum[e] += one[e];
        }
        for (int64_t e = 0; e < n; e++)
            sum[e] = type == RK_I32 || type == RK_I64 || type == RK_U8 ? rint(sum[e] / 3) : sum[e] / 3;
        x.ctx->device->cast(x.ctx->dev, n, RK_F64, sum, type, want);
        if (n)
            CHECK_OK(x.ctx, rk_tensor_read(t, raw, bytes));
        CHECK(!memcmp(raw, want, bytes));
        free(raw);
        free(want);
        free(sum);
        free(one);
        differing++;
    }
    CHECK(differing > 5);
    CHECK_OK(x.ctx, rk_snapshot_describe(x.ctx, path[3], -1, &said));
    for (int i = 0; i < said.n_entries; i++)
        CHECK(!strcmp(said.entries[i].kind, "param") || !strcmp(said.entries[i].kind, "buffer"));
    for (int i = 0; i < 4; i++)
        rk__state_free(&st[i]);
    rk__snap_info_free(&info);
    teardown(&x);
}

/* One run is its own mean; a snapshot can be named; the order counts in the last bit only. */
TEST(one_run_and_one_snapshot)
{
    fixture x;
    char path[4][400], snap[500], hash[65], again[65];
    const char *list[3];
    rk_state st;
    rk_snap_info info;
    three_runs(&x, path, list);
    snprintf(snap, sizeof snap, "%s/snap/step-000000000009/", path[1]);
    CHECK_OK(x.ctx, rk_average(x.ctx, (const char *[]){ snap, snap }, 2, path[3]));
    const char *two[] = { path[1], path[3] };
    for (int i = 0; i < 2; i++) {
        CHECK_OK(x.ctx, read_run(&x, two[i], &st, &info));
        CHECK_OK(x.ctx, rk__state_sha256(&st, RK_STATE_HASHED, i ? again : hash));
        CHECK_INT(info.step, 9);
        rk__state_free(&st);
        rk__snap_info_free(&info);
    }
    CHECK_STR(again, hash);
    teardown(&x);
}

TEST(what_cannot_be_averaged)
{
    fixture x;
    char path[4][400];
    const char *list[3];
    rk_state st;
    rk_run *run;
    three_runs(&x, path, list);
    CHECK_INT(rk_average(x.ctx, list, 3, path[1]), RK_ECONFIG); /* it holds a run */
    CHECK(strstr(rk_error(x.ctx), "holds a run already"));
    rk_error_clear(x.ctx);
    list[1] = x.dir;
    CHECK_INT(rk_average(x.ctx, list, 3, path[3]), RK_ENOINPUT);
    rk_error_clear(x.ctx);
    char missing[500];
    snprintf(missing, sizeof missing, "%s/snap/step-000000000005", path[1]);
    list[1] = missing;
    CHECK_INT(rk_average(x.ctx, list, 3, path[3]), RK_ENOINPUT);
    CHECK(strstr(rk_error(x.ctx), "no snapshot of step 5"));
    rk_error_clear(x.ctx);
    snprintf(missing, sizeof missing, "%s/other", x.dir);
    static const char *const why[] = { "fc1.bias is f32 (8) in", "has extra, which" };
    for (int i = 0; i < 2; i++) {
        remove_folder(missing);
        rk__state_init(&st, x.ctx);
        for (int k = 0; k < x.st.n; k++) {
            const rk_state_entry *e = &x.st.entries[k];
            bool bias = !strcmp(e->name, "fc1.bias");
            if (e->kind == RK_STATE_PARAM || e->kind == RK_STATE_BUFFER)
                rk__state_add(&st, e->kind, e->name,
                              bias && i == 0 ? rk_tensor_make(x.ctx, RK_F32, RK_SHAPE(8)) : e->tensor);
        }
        if (i == 1)
            rk__state_add(&st, RK_STATE_PARAM, "extra", rk_tensor_make(x.ctx, RK_F32, RK_SHAPE(2)));
        CHECK_OK(x.ctx, rk__run_open(x.ctx, &(rk_run_cfg){ .dir = missing, .sync_write = true }, &run));
        CHECK_OK(x.ctx, rk__run_save(run, &st, &(rk_snap_info){ .step = 1 }));
        rk__run_close(run);
        rk__state_free(&st);
        CHECK_INT(rk_average(x.ctx, list, 3, path[3]) ? RK_ECONFIG : RK_OK, RK_ECONFIG);
        CHECK(strstr(rk_error(x.ctx), why[i]));
        rk_error_clear(x.ctx);
        CHECK(access(path[3], F_OK)); /* nothing was begun */
    }
    teardown(&x);
}

TEST_MAIN
