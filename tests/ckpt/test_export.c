/* Exports, as h5py and the safetensors Python package read them. */
#include "ckpt_fixture.h"

#include "io/safetensors.h"

#include <sys/wait.h>

/* Exit status of python3 with this program; -1: not to be had. Arguments: FILE, then a folder of raw tensors.
 */
static int python(const char *program, const char *file, const char *raw)
{
    static const char *const candidate[] = { "/usr/bin/python3", "python3" };
    for (size_t i = 0; i < sizeof candidate / sizeof *candidate; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            unsetenv("LD_PRELOAD");
            execlp(candidate[i], candidate[i], "-c", program, file, raw, (char *)NULL);
            _exit(127);
        }
        int status;
        waitpid(pid, &status, 0);
        if (WIFEXITED(status) && WEXITSTATUS(status) != 127 && WEXITSTATUS(status) != 77)
            return WEXITSTATUS(status);
    }
    return -1;
}

/* Each tensor that is exported as one raw file, and a list of name, type and shape. */
static void write_raw(fixture *x, const char *dir, bool ema)
{
    char path[600];
    mkdir(dir, 0700);
    snprintf(path, sizeof path, "%s/list", dir);
    FILE *list = fopen(path, "w");
    for (int i = 0; i < x->st.n; i++) {
        rk_state_entry *e = &x->st.entries[i], *from = e;
        if (e->kind != RK_STATE_PARAM && e->kind != RK_STATE_BUFFER)
            continue;
        if (ema && !strcmp(e->name, "fc1.bias"))
            from = rk__state_find(&x->st, "ema/fc1.bias");
        size_t bytes = (size_t)rk_tensor_size(e->tensor) * rk_dtype_size(rk_tensor_dtype(e->tensor));
        unsigned char *p = malloc(bytes + 1);
        rk_shape s = rk_tensor_shape(e->tensor);
        if (bytes)
            rk_tensor_read(from->tensor, p, bytes);
        snprintf(path, sizeof path, "%s/%s", dir, e->name);
        write_all(path, p, bytes);
        free(p);
        fprintf(list, "%s %s", e->name, rk_dtype_name(rk_tensor_dtype(e->tensor)));
        for (int k = 0; k < s.ndim; k++)
            fprintf(list, " %lld", (long long)s.dim[k]);
        fputc('\n', list);
    }
    fclose(list);
}

static const char H5PY[] =
    "import sys\n"
    "try:\n"
    "    import h5py, numpy as np\n"
    "except ImportError:\n"
    "    sys.exit(77)\n"
    "kinds = dict(f32='<f4', f64='<f8', f16='<f2', bf16='<u2', i32='<i4', i64='<i8', u8='|u1')\n"
    "f = h5py.File(sys.argv[1], 'r')\n"
    "names = []\n"
    "for line in open(sys.argv[2] + '/list'):\n"
    "    name, kind, *shape = line.split()\n"
    "    d = f[name]\n"
    "    assert d.shape == tuple(map(int, shape)), (name, d.shape)\n"
    "    assert d.dtype.str == kinds[kind], (name, d.dtype.str)\n"
    "    assert np.asarray(d).tobytes() == open(sys.argv[2] + '/' + name, 'rb').read(), name\n"
    "    if kind == 'bf16':\n"
    "        assert d.attrs['rankine_dtype'] in (b'bf16', 'bf16')\n"
    "    names.append(name)\n"
    "assert sorted(f.keys()) == sorted(names), list(f.keys())\n";

static const char SAFETENSORS[] =
    "import sys\n"
    "try:\n"
    "    from safetensors import safe_open, deserialize\n"
    "except ImportError:\n"
    "    sys.exit(77)\n"
    "got = dict(deserialize(open(sys.argv[1], 'rb').read()))\n"
    "for line in open(sys.argv[2] + '/list'):\n"
    "    name, kind, *shape = line.split()\n"
    "    t = got.pop(name)\n"
    "    assert list(t['shape']) == list(map(int, shape)), name\n"
    "    assert t['dtype'].lower() == kind, (name, t['dtype'])\n"
    "    assert bytes(t['data']) == open(sys.argv[2] + '/' + name, 'rb').read(), name\n"
    "assert not got, got.keys()\n";

static void export_both(bool ema, bool compress)
{
    fixture x;
    char h5[400], safe[400], raw[400];
    setup(&x);
    CHECK_OK(x.ctx, save_step(&x, 3, &(rk_run_cfg){ .sync_write = true, .compress = compress }));
    snprintf(h5, sizeof h5, "%s/out.h5", x.dir);
    snprintf(safe, sizeof safe, "%s/out.safetensors", x.dir);
    snprintf(raw, sizeof raw, "%s/raw", x.dir);
    write_all(h5, "an older file", 13);
    write_all(safe, "an older file", 13);
    write_raw(&x, raw, ema);
    CHECK_OK(x.ctx, rk_export_h5(x.ctx, x.run, -1, ema, h5));
    CHECK_OK(x.ctx, rk_export_safetensors(x.ctx, x.run, 3, ema, safe));
    int a = python(H5PY, h5, raw), b = python(SAFETENSORS, safe, raw);
    if (a < 0)
        printf("h5py is not installed: the HDF5 file was not read by it\n");
    if (b < 0)
        printf("the safetensors package is not installed: the file was not read by it\n");
    CHECK(a <= 0);
    CHECK(b <= 0);
    rk__safetensors st;
    CHECK_OK(x.ctx, rk__st_open(x.ctx, safe, &st));
    CHECK_INT(st.n, 9);
    CHECK(rk__st_find(&st, "fc1.weight") && !rk__st_find(&st, "optim/fc1.weight/m"));
    rk__st_close(&st);
    struct stat s;
    CHECK(!stat(h5, &s) && s.st_size > 4 * 32 * 33);
    mode_t mode = s.st_mode, mask = umask(0);
    umask(mask);
    CHECK_INT(mode & 0777, 0666 & ~mask);
    CHECK(!stat(safe, &s) && s.st_mode == mode);
    teardown(&x);
}

TEST(weights)
{
    export_both(false, false);
}

TEST(averaged_weights)
{
    export_both(true, false);
}

TEST(from_a_compressed_snapshot)
{
    export_both(false, true);
}

TEST(refusals)
{
    fixture x;
    char path[400];
    setup(&x);
    snprintf(path, sizeof path, "%s/out", x.dir);
    CHECK_INT(rk_export(x.ctx, x.run, -1, "h5", path), RK_ENOINPUT);
    rk_error_clear(x.ctx);
    rk__state_free(&x.st);
    CHECK_OK(x.ctx, rk__state_add(&x.st, RK_STATE_PARAM, "w", rk_tensor_make(x.ctx, RK_F32, RK_SHAPE(2))));
    CHECK_OK(x.ctx, save_step(&x, 1, NULL));
    CHECK_INT(rk_export(x.ctx, x.run, -1, "pickle", path), RK_EUSAGE);
    rk_error_clear(x.ctx);
    CHECK_INT(rk_export_h5(x.ctx, x.run, -1, true, path), RK_ECONFIG);
    CHECK(strstr(rk_error(x.ctx), "averaged"));
    rk_error_clear(x.ctx);
    snprintf(path, sizeof path, "%s/nowhere/out", x.dir);
    CHECK_INT(rk_export(x.ctx, x.run, -1, "h5", path), RK_EIO);
    rk_error_clear(x.ctx);
    CHECK_INT(rk_export(x.ctx, x.run, -1, "safetensors", path), RK_EIO);
    CHECK(strstr(rk_error(x.ctx), "nowhere"));
    rk_error_clear(x.ctx);
    CHECK_INT(rk_export(x.ctx, x.run, 9, "safetensors", path), RK_ENOINPUT);
    teardown(&x);
}

TEST_MAIN
