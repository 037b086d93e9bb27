#include "parallel/comm_check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const op_names[] = {
    [RK__EXCHANGE] = "exchange", [RK__ALL_GATHER] = "all-gather", [RK__BROADCAST] = "broadcast",
    [RK__BARRIER] = "barrier",   [RK__ALLOC] = "shared memory",   [RK__RELEASE] = "release of shared memory",
    [RK__SPLIT] = "split",
};

/* Text that grows in a buffer and is cut at its end. */
typedef struct text {
    char *buf;
    size_t size, length;
} text;

static void say(text *t, const char *fmt, ...) RK_PRINTF(2, 3);

static void say(text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->buf + t->length, t->size - t->length, fmt, ap);
    va_end(ap);
    if (n > 0)
        t->length += (size_t)n < t->size - t->length ? (size_t)n : t->size - t->length - 1;
}

void rk__call_set(rk__call *call, uint64_t seq, rk__op op, const char *name, int root, uint64_t bytes)
{
    memset(call, 0, sizeof *call); /* its bytes are hashed and compared */
    call->seq = seq;
    call->op = (int32_t)op;
    call->root = root;
    call->bytes = bytes;
    snprintf(call->name, sizeof call->name, "%s", name ? name : "");
}

static uint64_t mix(uint64_t h, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u; /* FNV-1a */
    return h;
}

/* Sizes of an exchange and of shared memory may differ between ranks. */
static bool same_bytes(int32_t op)
{
    return op != RK__EXCHANGE && op != RK__ALLOC;
}

uint64_t rk__call_chain(uint64_t before, const rk__call *call)
{
    uint64_t h = before ? before : 0xcbf29ce484222325u;
    h = mix(h, &call->op, sizeof call->op);
    h = mix(h, &call->root, sizeof call->root);
    h = mix(h, call->name, strlen(call->name) + 1);
    return same_bytes(call->op) ? mix(h, &call->bytes, sizeof call->bytes) : h;
}

bool rk__calls_agree(const rk__call *a, const rk__call *b)
{
    return a->op == b->op && a->root == b->root && a->chain == b->chain && a->waited == b->waited &&
           (a->bytes == b->bytes || !same_bytes(a->op)) && !strncmp(a->name, b->name, sizeof a->name);
}

/* 65536: "65,536" */
static void say_number(text *t, uint64_t n)
{
    if (n >= 1000) {
        say_number(t, n / 1000);
        say(t, ",%03" PRIu64, n % 1000);
    } else {
        say(t, "%" PRIu64, n);
    }
}

static void say_call(text *t, const rk__call *call)
{
    bool known = call->op >= 0 && (size_t)call->op < sizeof op_names / sizeof *op_names;
    say(t, "%s", known ? op_names[call->op] : "?");
    if (call->name[0])
        say(t, " %.47s", call->name);
    if (call->op == RK__BROADCAST)
        say(t, " from rank %d", call->root);
    if (call->op == RK__BARRIER || call->op == RK__SPLIT || call->op == RK__RELEASE)
        return;
    say(t, " (");
    say_number(t, call->bytes);
    say(t, call->bytes == 1 ? " byte)" : " bytes)");
}

void rk__call_describe(const rk__call *call, char *buf, size_t size)
{
    text t = { buf, size, 0 };
    buf[0] = '\0';
    say_call(&t, call);
}

/* Would two calls read alike? An unknown one is like another unknown one. */
static bool alike(const rk__call *a, const rk__call *b)
{
    if (!a->seq || !b->seq)
        return a->seq == b->seq;
    return a->op == b->op && a->root == b->root && (a->bytes == b->bytes || !same_bytes(a->op)) &&
           !strncmp(a->name, b->name, sizeof a->name);
}

static int count_alike(const rk__call *call, int ranks, int r)
{
    int n = 0;
    for (int i = 0; i < ranks; i++)
        n += alike(&call[i], &call[r]);
    return n;
}

static bool first_of_its_kind(const rk__call *call, int r)
{
    for (int i = 0; i < r; i++)
        if (alike(&call[i], &call[r]))
            return false;
    return true;
}

/* "ranks 0-2, 5": those that called what rank r did. */
static void say_ranks(text *t, const rk__call *call, int ranks, int r)
{
    const char *before = count_alike(call, ranks, r) > 1 ? "ranks " : "rank ";
    for (int i = 0; i < ranks; i++) {
        int end = i;
        if (!alike(&call[i], &call[r]))
            continue;
        while (end + 1 < ranks && alike(&call[end + 1], &call[r]))
            end++;
        say(t, end > i ? "%s%d-%d" : "%s%d", before, i, end);
        before = ", ";
        i = end;
    }
}

void rk__calls_describe(const rk__call *call, int ranks, char *buf, size_t size)
{
    text t = { buf, size, 0 };
    bool first = true;
    buf[0] = '\0';
    for (int few = 1; few <= ranks; few++) /* the odd ones out come first */
        for (int r = 0; r < ranks; r++) {
            if (!first_of_its_kind(call, r) || count_alike(call, ranks, r) != few)
                continue;
            say(&t, first ? "" : ", ");
            say_ranks(&t, call, ranks, r);
            say(&t, first ? " called " : " ");
            if (call[r].seq)
                say_call(&t, &call[r]);
            else
                say(&t, "nothing yet");
            first = false;
        }
}
