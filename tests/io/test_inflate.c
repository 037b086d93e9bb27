#include "test.h"

#include <zlib.h>

#include "io/inflate.h"

enum { MOST = 200000 };

static uint8_t data[MOST], packed[MOST * 2 + 1024 + RK__INFLATE_PAD], out[MOST + RK__INFLATE_SLACK];

static size_t pack(const uint8_t *p, size_t n, int level, int strategy)
{
    z_stream z = { 0 };
    if (deflateInit2(&z, level, Z_DEFLATED, 31, 8, strategy) != Z_OK)
        abort();
    z.next_in = (uint8_t *)p;
    z.avail_in = (uInt)n;
    z.next_out = packed;
    z.avail_out = MOST * 2 + 1024;
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

TEST(equals_zlib)
{
    static const size_t sizes[] = { 0, 1, 2, 3, 7, 8, 257, 258, 259, 4096, 65535, 65536, MOST };
    static const int strategies[] = { Z_DEFAULT_STRATEGY, Z_HUFFMAN_ONLY, Z_RLE, Z_FIXED, Z_FILTERED };
    int fast = 0, all = 0;
    for (int kind = 0; kind < 6; kind++) {
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            make(kind, sizes[k]);
            for (int level = 0; level <= 9; level += 3) {
                for (size_t s = 0; s < sizeof strategies / sizeof *strategies; s++) {
                    size_t n = pack(data, sizes[k], level, strategies[s]);
                    memset(out, 0xee, sizes[k]);
                    bool done = rk__inflate_gzip(packed, n, out, sizes[k]);
                    all++;
                    fast += done;
                    if (done && sizes[k])
                        CHECK(!memcmp(out, data, sizes[k]));
                }
            }
        }
    }
    /* what is left to zlib: codes of a single distance, or none, which are not complete */
    CHECK(fast > all * 6 / 10);
}

TEST(usual_files_are_done)
{
    for (int kind = 0; kind < 6; kind++) {
        make(kind, MOST);
        size_t n = pack(data, MOST, 9, Z_DEFAULT_STRATEGY);
        CHECK(rk__inflate_gzip(packed, n, out, MOST));
        CHECK(!memcmp(out, data, MOST));
        CHECK(!rk__inflate_gzip(packed, n, out, MOST - 1));
        CHECK(!rk__inflate_gzip(packed, n, out, MOST + 1 > MOST ? MOST - 5 : 0));
    }
}

/* Damage is never taken for data: the checksum would have to agree. */
TEST(damage_is_refused)
{
    static uint8_t bad[8192 + RK__INFLATE_PAD];
    make(2, 3000);
    size_t n = pack(data, 3000, 9, Z_DEFAULT_STRATEGY);
    CHECK(n < 8192);
    for (size_t cut = 0; cut < n; cut++) {
        memcpy(bad, packed, n);
        CHECK(!rk__inflate_gzip(bad, cut, out, 3000));
    }
    int same = 0;
    for (size_t bit = 0; bit < 8 * n; bit++) {
        memcpy(bad, packed, n);
        bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (rk__inflate_gzip(bad, n, out, 3000)) {
            CHECK(!memcmp(out, data, 3000)); /* time stamp and the like */
            same++;
        }
    }
    CHECK(same <= 8 * 10);
}

TEST_MAIN
