/* What a safetensors file holds, for those who look at it. HDF5 files have tools of their own, and only files
 * that this program hashed before are opened with the HDF5 library. */
#include <rankine/ckpt.h>

#include <stdlib.h>
#include <string.h>

#include "ckpt/snapshot.h"
#include "core/ctx.h"
#include "core/state.h"
#include "io/safetensors.h"

static rk_status open_file(rk_ctx *ctx, const char *path, rk__safetensors *out)
{
    size_t n = path ? strlen(path) : 0;
    if (!path || n < 12 || strcmp(path + n - 12, ".safetensors"))
        return rk_fail(ctx, RK_EDATA,
                       "%s: neither a run folder nor a .safetensors file; h5dump and h5py read HDF5",
                       path ? path : "(none)");
    return rk__st_open(ctx, path, out);
}

typedef struct listing {
    rk__safetensors file;
    rk_snapshot_entry *entries;
} listing;

static void free_listing(void *arg)
{
    listing *l = arg;
    rk__st_close(&l->file);
    free(l->entries);
    free(l);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const rk_snapshot_entry *)a)->name, ((const rk_snapshot_entry *)b)->name);
}

static rk_status list_tensors(rk_ctx *ctx, const char *path, listing *l, rk_snapshot_info *out)
{
    l->entries = rk__calloc(ctx, (size_t)l->file.n + 1, sizeof *l->entries);
    if (!l->entries)
        return RK_ENOMEM;
    for (int i = 0; i < l->file.n; i++) {
        const rk__st_tensor *t = &l->file.t[i];
        rk_dtype type;
        if (!rk__st_dtype(t, &type))
            return rk_fail(ctx, RK_EDATA, "%s: %s is of type %s, which is not ours", path, t->name, t->dtype);
        l->entries[i] = (rk_snapshot_entry){ t->name, "param", type, t->shape, (size_t)t->bytes };
        out->bytes += (size_t)t->bytes;
    }
    qsort(l->entries, (size_t)l->file.n, sizeof *l->entries, by_name);
    out->entries = l->entries;
    out->n_entries = l->file.n;
    return RK_OK;
}

rk_status rk_file_describe(rk_ctx *ctx, const char *path, rk_snapshot_info *out)
{
    *out = (rk_snapshot_info){ .step = -1 };
    RK_TRY(rk_failed(ctx));
    listing *l = rk__calloc(ctx, 1, sizeof *l);
    if (!l)
        return RK_ENOMEM;
    rk_status st = open_file(ctx, path, &l->file);
    if (st || (st = rk__at_close(ctx, free_listing, l))) {
        free(l);
        return st;
    }
    return list_tensors(ctx, path, l, out);
}

static rk_status read_tensor(rk_ctx *ctx, const rk__safetensors *file, const rk__st_tensor *t,
                             rk_state *state)
{
    rk_dtype type;
    if (!rk__st_dtype(t, &type))
        return rk_fail(ctx, RK_EDATA, "%s: %s is of type %s, which is not ours", file->path, t->name,
                       t->dtype);
    void *host = malloc(t->bytes ? (size_t)t->bytes : 1);
    if (!host)
        return rk_fail(ctx, RK_ENOMEM, "%s: no memory for %s", file->path, t->name);
    rk_tensor *tensor = rk_tensor_make(ctx, type, t->shape);
    rk_status st = rk__st_read(ctx, file, t, host, (size_t)t->bytes);
    if (!st)
        st = rk_tensor_write(tensor, host, (size_t)t->bytes);
    if (!st)
        st = rk__state_add(state, RK_STATE_PARAM, t->name, tensor);
    free(host);
    return st;
}

rk_status rk_file_hash(rk_ctx *ctx, const char *path, char *hex)
{
    rk__safetensors file = { 0 };
    rk_state state;
    RK_TRY(rk_failed(ctx));
    RK_TRY(open_file(ctx, path, &file));
    rk__state_init(&state, ctx);
    rk_status st = RK_OK;
    for (int i = 0; !st && i < file.n; i++)
        st = read_tensor(ctx, &file, &file.t[i], &state);
    if (!st)
        st = rk__state_sha256(&state, ~0u, hex);
    rk__state_free(&state);
    rk__st_close(&file);
    return st;
}
