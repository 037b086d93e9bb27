/* Record: u64 length, masked CRC-32C of it, data, masked CRC-32C of the data; data: a protobuf message
 * tensorboard.Event. Field numbers: tensorboard/compat/proto/{event,summary,tensor}.proto. */
#include "io/tfevents.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/ctx.h"
#include "io/text.h"

enum { WIRE_VARINT = 0, WIRE_DOUBLE = 1, WIRE_BYTES = 2, WIRE_FLOAT = 5 };
enum {
    EVENT_WALL_TIME = 1,
    EVENT_STEP = 2,
    EVENT_VERSION = 3,
    EVENT_SUMMARY = 5,
    EVENT_SESSION = 7,
    EVENT_SOURCE = 10
};
enum { VALUE_TAG = 1, VALUE_SIMPLE = 2, VALUE_TENSOR = 8, VALUE_METADATA = 9 };
enum { DATA_CLASS_SCALAR = 1, DATA_CLASS_TENSOR = 2, DT_STRING = 7, SESSION_START = 1 };

struct rk__tfevents {
    rk_ctx *ctx;
    FILE *file;
    char *path;
    bool failed;
};

uint32_t rk__crc32c(const void *p, size_t n)
{
    static const uint32_t nibble[16] = { 0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
                                         0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
                                         0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                         0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75 };
    const uint8_t *b = p;
    uint32_t c = ~0u;
    while (n--) {
        c ^= *b++;
        c = nibble[c & 15] ^ c >> 4;
        c = nibble[c & 15] ^ c >> 4;
    }
    return ~c;
}

static uint32_t masked(const void *p, size_t n)
{
    uint32_t c = rk__crc32c(p, n);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

/* ---- protobuf ---- */

static void little_endian(rk__text *t, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        rk__text_put(t, &(uint8_t){ (uint8_t)(v >> (8 * i)) }, 1);
}

static void varint(rk__text *t, uint64_t v)
{
    for (; v > 127; v >>= 7)
        rk__text_put(t, &(uint8_t){ (uint8_t)(v | 128) }, 1);
    rk__text_put(t, &(uint8_t){ (uint8_t)v }, 1);
}

static void put_int(rk__text *t, int field, int64_t v)
{
    varint(t, (uint64_t)field << 3 | WIRE_VARINT);
    varint(t, (uint64_t)v);
}

static void put_double(rk__text *t, int field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, 8);
    varint(t, (uint64_t)field << 3 | WIRE_DOUBLE);
    little_endian(t, bits, 8);
}

static void put_float(rk__text *t, int field, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    varint(t, (uint64_t)field << 3 | WIRE_FLOAT);
    little_endian(t, bits, 4);
}

static void put_bytes(rk__text *t, int field, const void *p, size_t n)
{
    varint(t, (uint64_t)field << 3 | WIRE_BYTES);
    varint(t, n);
    rk__text_put(t, p, n);
}

static void put_string(rk__text *t, int field, const char *s)
{
    put_bytes(t, field, s, strlen(s));
}

/* Takes the message over. */
static void put_message(rk__text *t, int field, rk__text *m)
{
    put_bytes(t, field, m->p, m->n);
    t->failed |= m->failed;
    rk__text_free(m);
}

/* ---- records ---- */

static rk_status failed(rk__tfevents *t)
{
    t->failed = true;
    return rk_fail(t->ctx, RK_EIO, "%s: cannot write: %s", t->path, strerror(errno));
}

static rk_status put_record(rk__tfevents *t, rk__text *event)
{
    rk__text r = { 0 };
    little_endian(&r, event->n, 8);
    little_endian(&r, r.failed ? 0 : masked(r.p, 8), 4);
    rk__text_put(&r, event->p, event->n);
    little_endian(&r, masked(event->p, event->n), 4);
    bool memory = event->failed || r.failed;
    bool ok = !memory && fwrite(r.p, 1, r.n, t->file) == r.n && fflush(t->file) == 0;
    rk__text_free(&r);
    rk__text_free(event);
    if (memory)
        return rk_fail(t->ctx, RK_ENOMEM, "%s: out of memory", t->path);
    return ok ? RK_OK : failed(t);
}

static rk__text event_at(int64_t step)
{
    rk__text e = { 0 };
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    put_double(&e, EVENT_WALL_TIME, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    if (step)
        put_int(&e, EVENT_STEP, step);
    return e;
}

static rk_status put_value(rk__tfevents *t, int64_t step, rk__text *value, const char *plugin, int data_class)
{
    rk__text meta = { 0 }, plugin_data = { 0 }, summary = { 0 }, e = event_at(step);
    put_string(&plugin_data, 1, plugin);
    put_message(&meta, 1, &plugin_data);
    put_int(&meta, 4, data_class);
    put_message(value, VALUE_METADATA, &meta);
    put_message(&summary, 1, value);
    put_message(&e, EVENT_SUMMARY, &summary);
    return put_record(t, &e);
}

rk_status rk__tfevents_scalar(rk__tfevents *t, const char *tag, int64_t step, double value)
{
    rk__text v = { 0 };
    if (t->failed)
        return RK_EIO;
    put_string(&v, VALUE_TAG, tag);
    put_float(&v, VALUE_SIMPLE, (float)value);
    return put_value(t, step, &v, "scalars", DATA_CLASS_SCALAR);
}

rk_status rk__tfevents_text(rk__tfevents *t, const char *tag, int64_t step, const char *markdown)
{
    rk__text v = { 0 }, tensor = { 0 }, shape = { 0 };
    if (t->failed)
        return RK_EIO;
    put_string(&v, VALUE_TAG, tag);
    put_int(&tensor, 1, DT_STRING);
    put_message(&tensor, 2, &shape);
    put_string(&tensor, 8, markdown);
    put_message(&v, VALUE_TENSOR, &tensor);
    return put_value(t, step, &v, "text", DATA_CLASS_TENSOR);
}

static rk_status put_start(rk__tfevents *t, int64_t start_step)
{
    rk__text e = event_at(0), source = { 0 }, session = { 0 };
    put_string(&e, EVENT_VERSION, "brain.Event:2");
    put_string(&source, 1, "rankine");
    put_message(&e, EVENT_SOURCE, &source);
    RK_TRY(put_record(t, &e));
    if (start_step <= 0)
        return RK_OK;
    e = event_at(start_step);
    put_int(&session, 1, SESSION_START);
    put_message(&e, EVENT_SESSION, &session);
    return put_record(t, &e);
}

rk_status rk__tfevents_open(rk_ctx *ctx, const char *dir, int64_t start_step, rk__tfevents **out)
{
    char host[256] = "localhost";
    *out = NULL;
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return rk_fail(ctx, RK_EIO, "%s: cannot be made: %s", dir, strerror(errno));
    rk__tfevents *t = calloc(1, sizeof *t);
    if (!t)
        return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", dir);
    t->ctx = ctx;
    gethostname(host, sizeof host - 1);
    for (int n = 0; !t->file && n < 1000; n++) { /* several in one second and process get numbers */
        free(t->path);
        if (asprintf(&t->path, "%s/events.out.tfevents.%010lld.%s.%d.%d", dir, (long long)time(NULL), host,
                     (int)getpid(), n) < 0)
            t->path = NULL;
        t->file = t->path ? fopen(t->path, "wbxe") : NULL;
        if (!t->file && errno != EEXIST)
            break;
    }
    rk_status st =
        t->file ? put_start(t, start_step)
                : rk_fail(ctx, RK_EIO, "%s: cannot be made: %s", t->path ? t->path : dir, strerror(errno));
    if (st != RK_OK) {
        rk__tfevents_close(t);
        return st;
    }
    *out = t;
    return RK_OK;
}

void rk__tfevents_close(rk__tfevents *t)
{
    if (!t)
        return;
    if (t->file)
        fclose(t->file);
    free(t->path);
    free(t);
}
