/* gzip files: at once and as a stream, against zlib's own packing; damage is refused by both. */
#include "files.h"

#include "core/ctx.h"
#include "io/file.h"

enum { MOST = 200000 };

static uint8_t data[MOST], packed[MOST * 2 + 1024], out[MOST];

static size_t pack(const uint8_t *p, size_t n, int level, int strategy)
{
    z_stream z = { 0 };
    if (deflateInit2(&z, level, Z_DEFLATED, 31, 8, strategy) != Z_OK)
        abort();
    z.next_in = (uint8_t *)p;
    z.avail_in = (uInt)n;
    z.next_out = packed;
    z.avail_out = sizeof packed;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END)
        abort();
    size_t size = z.total_out;
    deflateEnd(&z);
    return size;
}

/* Kinds of data that exercise literals, short and long matches, all distances, and what does not compress. */
static void make(int kind, size_t n)
{
    uint32_t x = 12345 + (uint32_t)kind;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        uint32_t r = x >> 8;
        switch (kind) {
        case 0:
            data[i] = (uint8_t)r;
            break;
        case 1:
            data[i] = (uint8_t)(r % 4 ? 0 : r >> 8);
            break;
        case 2:
            data[i] = i > 40 && r % 64 ? data[i - 1 - r % 7] : (uint8_t)r;
            break;
        case 3:
            data[i] = i > 33000 ? data[i - 32768 + r % 3] : (uint8_t)(r & 15);
            break;
        case 4:
            data[i] = "the quick brown fox "[(i + (r % 50 == 0)) % 20];
            break;
        default: /* very uneven: codes of up to 15 bits */
            data[i] = (uint8_t)__builtin_clz(r | 1);
            break;
        }
    }
}

/* Reads p[0, n) as a file; the status, and in *got how many bytes came. */
static rk_status stream(rk_ctx *ctx, const uint8_t *p, size_t n, size_t *got)
{
    rk__gz *z;
    *got = 0;
    RK_TRY(rk__gz_open(ctx, file_write("s.gz", p, n), &z));
    rk_status st = rk__gz_read(z, out, sizeof out, got);
    uint8_t more;
    size_t rest = 0;
    if (!st)
        st = rk__gz_read(z, &more, 1, &rest); /* the end, and its checksum */
    *got += rest;
    rk__gz_close(z);
    return st;
}

TEST(all_that_zlib_writes)
{
    static const size_t sizes[] = { 0, 1, 2, 3, 7, 8, 257, 258, 259, 4096, 65535, 65536, MOST };
    static const int strategies[] = { Z_DEFAULT_STRATEGY, Z_HUFFMAN_ONLY, Z_RLE, Z_FIXED, Z_FILTERED };
    for (int kind = 0; kind < 6; kind++) {
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            make(kind, sizes[k]);
            for (int level = 0; level <= 9; level += 3) {
                for (size_t s = 0; s < sizeof strategies / sizeof *strategies; s++) {
                    size_t n = pack(data, sizes[k], level, strategies[s]);
                    memset(out, 0xee, sizes[k]);
                    CHECK(rk__gz_whole(packed, n, out, sizes[k]));
                    CHECK(!memcmp(out, data, sizes[k]));
                }
            }
        }
    }
}

TEST(the_stream_agrees)
{
    for (int kind = 0; kind < 6; kind++) {
        rk_ctx ctx = { 0 };
        size_t got;
        make(kind, MOST);
        size_t n = pack(data, MOST, 6, Z_DEFAULT_STRATEGY);
        CHECK_OK(&ctx, stream(&ctx, packed, n, &got));
        CHECK_INT(got, MOST);
        CHECK(!memcmp(out, data, MOST));
    }
}

TEST(sizes_are_exact)
{
    make(2, 5000);
    size_t n = pack(data, 5000, 9, Z_DEFAULT_STRATEGY);
    CHECK(rk__gz_whole(packed, n, out, 5000));
    CHECK(!rk__gz_whole(packed, n, out, 4999));
    CHECK(!rk__gz_whole(packed, n, out, 5001));
    CHECK(!rk__gz_whole(packed, n, out, 0));
    CHECK(!rk__gz_whole(packed, 0, out, 0));
}

TEST(members_follow_each_other)
{
    static uint8_t both[16384];
    rk_ctx ctx = { 0 };
    size_t got;
    make(2, 5000);
    size_t a = pack(data, 3000, 9, Z_DEFAULT_STRATEGY);
    memcpy(both, packed, a);
    size_t b = pack(data + 3000, 2000, 1, Z_DEFAULT_STRATEGY);
    CHECK(a + b + 1 < sizeof both);
    memcpy(both + a, packed, b);
    CHECK(rk__gz_whole(both, a + b, out, 5000));
    CHECK(!memcmp(out, data, 5000));
    CHECK(!rk__gz_whole(both, a + b, out, 3000)); /* not the first alone */
    CHECK_OK(&ctx, stream(&ctx, both, a + b, &got));
    CHECK_INT(got, 5000);
    CHECK(!memcmp(out, data, 5000));
    both[a + b] = 'x'; /* neither a member nor the end */
    CHECK(!rk__gz_whole(both, a + b + 1, out, 5000));
    CHECK_INT(stream(&ctx, both, a + b + 1, &got), RK_EDATA);
    CHECK(strstr(rk_error(&ctx), "s.gz: offset "));
}

/* Damage is never taken for data: the checksum would have to agree. Buffers are of the exact size, so that a
 * sanitizer sees a step beyond them. */
TEST(damage_is_refused)
{
    make(2, 3000);
    size_t n = pack(data, 3000, 9, Z_DEFAULT_STRATEGY);
    uint8_t *exact = malloc(3000);
    CHECK(exact);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *bad = malloc(cut + 1);
        CHECK(bad);
        memcpy(bad + 1, packed, cut);
        CHECK(!rk__gz_whole(bad + 1, cut, exact, 3000));
        free(bad);
    }
    uint8_t *bad = malloc(n);
    int same = 0;
    for (size_t bit = 0; bit < 8 * n; bit++) {
        memcpy(bad, packed, n);
        bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (rk__gz_whole(bad, n, exact, 3000)) {
            CHECK(!memcmp(exact, data, 3000)); /* time stamp and the like */
            same++;
        }
    }
    CHECK(same <= 8 * 10);
    free(bad);
    free(exact);
}

TEST(the_stream_says_what_is_wrong)
{
    static const struct {
        size_t cut, flip; /* bytes from the end; 0: none */
        const char *want;
    } rows[] = { { 1, 0, "the compressed data ends too early" },
                 { 300, 0, "the compressed data ends too early" },
                 { 0, 8, "incorrect data check" },
                 { 0, 4, "incorrect length check" } };
    make(2, 3000);
    size_t n = pack(data, 3000, 9, Z_DEFAULT_STRATEGY), got;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rk_ctx ctx = { 0 };
        packed[n - rows[i].flip] ^= rows[i].flip ? 1 : 0;
        CHECK_INT(stream(&ctx, packed, n - rows[i].cut, &got), RK_EDATA);
        packed[n - rows[i].flip] ^= rows[i].flip ? 1 : 0;
        if (!strstr(rk_error(&ctx), rows[i].want) || !strstr(rk_error(&ctx), "s.gz: offset "))
            TEST_FAIL("\"%s\", expected \"%s\"", rk_error(&ctx), rows[i].want);
    }
}

TEST_MAIN
