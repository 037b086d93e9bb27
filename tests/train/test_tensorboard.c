/* RUN/tb/: what TensorBoard reads there is what metrics.jsonl says, also of a run that lost some of its
 * steps. */
#include "tiny.h"

#include <dirent.h>

#include "core/ctx.h"
#include "io/doc.h"

#define MLP                                                                        \
    "model: {layers: [flatten, {linear: 8}, relu, linear]}\nbatch: {global: 20}\n" \
    "log: {every: 2, tensorboard: true}\nckpt: {every: 4, keep: 9}\neval: {every: 3}\n"

enum { MOST = 512 };

typedef struct point {
    char tag[32];
    int64_t step;
    float value;
} point;

typedef struct board {
    point p[MOST];
    int n, starts, versions;
    int64_t start; /* of the last session */
} board;

typedef struct span {
    const uint8_t *p, *end;
} span;

static uint32_t crc32c(const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;
    while (n--) {
        c ^= *p++;
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
    }
    return ~c;
}

static uint64_t little_endian(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static bool checked(const uint8_t *p, size_t n)
{
    uint32_t c = crc32c(p, n);
    return little_endian(p + n, 4) == (uint32_t)((c >> 15 | c << 17) + 0xa282ead8u);
}

static uint64_t varint(span *s)
{
    uint64_t v = 0;
    for (int shift = 0; s->p < s->end && shift < 64; shift += 7) {
        v |= (uint64_t)(*s->p & 127) << shift;
        if (!(*s->p++ & 128))
            return v;
    }
    abort();
}

/* The next field of a message: its number, its value in *v or *bytes. 0: the end. */
static int field(span *s, uint64_t *v, span *bytes)
{
    if (s->p == s->end)
        return 0;
    uint64_t key = varint(s);
    int wire = (int)(key & 7);
    size_t n = wire == 1 ? 8 : wire == 5 ? 4 : wire == 2 ? varint(s) : 0;
    if (n > (size_t)(s->end - s->p) || wire == 3 || wire == 4 || wire > 5)
        abort();
    if (wire == 0)
        *v = varint(s);
    else if (wire == 2)
        *bytes = (span){ s->p, s->p + n };
    else
        *v = little_endian(s->p, (int)n);
    s->p += n;
    return (int)(key >> 3);
}

/* As TensorBoard does: the start of a session drops its first step and all later ones. */
static void session(board *b, int64_t step)
{
    int kept = 0;
    for (int i = 0; i < b->n; i++)
        if (b->p[i].step < step)
            b->p[kept++] = b->p[i];
    b->n = kept;
    b->start = step;
    b->starts++;
}

static void value(board *b, span s, int64_t step)
{
    uint64_t v = 0;
    span bytes = { 0 };
    CHECK(b->n < MOST);
    point *p = &b->p[b->n++];
    *p = (point){ .step = step };
    for (int f; (f = field(&s, &v, &bytes));) {
        if (f == 1)
            snprintf(p->tag, sizeof p->tag, "%.*s", (int)(bytes.end - bytes.p), (const char *)bytes.p);
        if (f == 2)
            memcpy(&p->value, &(uint32_t){ (uint32_t)v }, 4);
    }
}

static void event(board *b, span s)
{
    uint64_t v = 0, when = 0;
    int64_t step = 0;
    span bytes = { 0 }, inner;
    for (int f; (f = field(&s, &v, &bytes));) {
        if (f == 1)
            when = v;
        if (f == 2)
            step = (int64_t)v;
        if (f == 3)
            b->versions += bytes.end - bytes.p == 13 && !memcmp(bytes.p, "brain.Event:2", 13);
        for (inner = bytes; f == 5 && field(&inner, &v, &bytes) == 1;)
            value(b, bytes, step);
        if (f == 7 && field(&inner, &v, &bytes) == 1 && v == 1)
            session(b, step);
    }
    double seconds;
    memcpy(&seconds, &when, 8);
    CHECK(seconds > 1.7e9);
}

static uint8_t *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    uint8_t *p = calloc(1, 1 << 18);
    if (!f || !p)
        abort();
    *n = fread(p, 1, (1 << 18) - 1, f);
    fclose(f);
    return p;
}

static void read_file(board *b, const char *path)
{
    size_t n, at = 0;
    uint8_t *p = slurp(path, &n);
    while (at < n) {
        CHECK(n - at >= 16);
        CHECK(checked(p + at, 8));
        size_t length = little_endian(p + at, 8);
        CHECK(length <= n - at - 16);
        CHECK(checked(p + at + 12, length));
        event(b, (span){ p + at + 12, p + at + 12 + length });
        at += 16 + length;
    }
    free(p);
}

/* All files, in the order of their names; returns their number. */
static int read_board(board *b)
{
    struct dirent **list;
    *b = (board){ 0 };
    int n = scandir(tiny_path("run/tb"), &list, NULL, alphasort), files = 0;
    for (int i = 0; i < n; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", tiny_path("run/tb"), list[i]->d_name);
        if (strstr(list[i]->d_name, "tfevents")) {
            read_file(b, path);
            files++;
        }
        free(list[i]);
    }
    if (n >= 0)
        free(list);
    return files;
}

static const point *find(const board *b, const char *tag, int64_t step, int *times)
{
    const point *p = NULL;
    *times = 0;
    for (int i = 0; i < b->n; i++)
        if (b->p[i].step == step && !strcmp(b->p[i].tag, tag)) {
            p = &b->p[i];
            ++*times;
        }
    return p;
}

static void check_number(const board *b, const rk_doc *line, const char *name, int *n)
{
    int times;
    const rk_doc *v = rk__doc_get(line, name);
    if (!v)
        return;
    ++*n;
    int64_t step = rk__doc_get(line, "step")->i;
    const point *p = find(b, name, step, &times);
    if (times != 1)
        TEST_FAIL("%s of step %lld is there %d times", name, (long long)step, times);
    double want = v->kind == RK_DOC_INT ? (double)v->i : v->f;
    if (v->kind != RK_DOC_NULL && p->value != (float)want)
        TEST_FAIL("%s of step %lld is %g, metrics.jsonl says %g", name, (long long)step, p->value, want);
}

/* Every number of metrics.jsonl is on the board once, and nothing else is. */
static void check_same(const board *b)
{
    static const char *const names[] = { "epoch",  "loss",   "lr",       "grad_norm",   "samples_per_s",
                                         "step_s", "data_s", "val_loss", "val_accuracy" };
    size_t size;
    int n = 0;
    rk_ctx ctx = { 0 };
    uint8_t *text = slurp(tiny_path("run/metrics.jsonl"), &size);
    for (char *line = (char *)text, *end; (end = strchr(line, '\n')); line = end + 1) {
        rk_doc *d;
        CHECK_OK(&ctx, rk__json_parse(&ctx, "line", (uint8_t *)line, (size_t)(end - line), RK_EDATA, &d));
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            check_number(b, d, names[i], &n);
        rk__doc_free(d);
    }
    free(text);
    CHECK_INT(b->n, n);
}

static tiny_run train(int64_t stop_at, const char *steps)
{
    char eval[300];
    snprintf(eval, sizeof eval, "data.eval=%s/eval", tiny_dir);
    tiny_run t = { .stop_at = stop_at };
    tiny_train_with(&t, MLP, NULL, NULL, (const char *const[]){ eval, steps, NULL });
    return t;
}

TEST(numbers_of_metrics_jsonl)
{
    static board b;
    int times;
    tiny_fresh();
    tiny_run t = train(0, "run.steps=10");
    CHECK_STR(t.error, "");
    CHECK_INT(read_board(&b), 1);
    CHECK_INT(b.versions, 1);
    check_same(&b);
    const point *p = find(&b, "loss", 10, &times);
    CHECK(p && p->value == (float)t.loss[10]);
    p = find(&b, "val_accuracy", 9, &times);
    CHECK(p && p->value > 0);
    find(&b, "loss", 9, &times);
    CHECK_INT(times, 0); /* no log line there */
}

/* Killed after step 8, its snapshots of 5 and later gone: what was told of steps 5 to 8 is dropped, that of 4
 * stays. */
TEST(lost_steps_are_dropped)
{
    static board b;
    int times;
    tiny_fresh();
    tiny_run cut = train(8, "run.steps=14");
    CHECK_INT(cut.status, RK_EPREEMPTED);
    CHECK_INT(read_board(&b), 1);
    find(&b, "loss", 8, &times);
    CHECK_INT(times, 1);
    struct dirent **list;
    int n = scandir(tiny_path("run/snap"), &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", tiny_path("run/snap"), list[i]->d_name);
        const char *digits = list[i]->d_name + strcspn(list[i]->d_name, "0123456789");
        if (*digits && strtoll(digits, NULL, 10) > 4)
            tiny_remove(path);
        free(list[i]);
    }
    free(list);
    tiny_run rest = train(0, "run.steps=14");
    CHECK_STR(rest.error, "");
    CHECK_INT(rest.first, 5);
    CHECK_INT(read_board(&b), 2);
    CHECK_INT(b.versions, 2);
    CHECK_INT(b.start, 5);
    find(&b, "loss", 4, &times);
    CHECK_INT(times, 1);
    check_same(&b);
}

TEST(not_unless_asked)
{
    tiny_fresh();
    tiny_run t = { 0 };
    tiny_train_with(&t, MLP, NULL, NULL,
                    (const char *const[]){ "run.steps=2", "log.tensorboard=false", NULL });
    CHECK_INT(t.status, RK_OK);
    CHECK(access(tiny_path("run/tb"), F_OK));
}

/* No folder can be made: the run goes on, and says so once. */
TEST(a_failure_never_stops_a_run)
{
    tiny_fresh();
    mkdir(tiny_path("run"), 0700);
    FILE *f = fopen(tiny_path("run/tb"), "w");
    CHECK(f);
    fclose(f);
    tiny_run t = train(0, "run.steps=6");
    CHECK_STR(t.error, "");
    CHECK_INT(t.last, 6);
    CHECK(strstr(t.warn, "tb/ cannot be written"));
}

TEST_MAIN
