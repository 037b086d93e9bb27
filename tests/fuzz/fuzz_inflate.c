#include "fuzz.h"

#include <zlib.h>

#include "io/inflate.h"

/* Whatever is taken, zlib takes too, and says the same. The checksum is mended first, or nothing would pass.
 */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    enum { MOST = 1 << 16 };
    static uint8_t want[MOST + 1];
    z_stream z = { 0 };
    if (n < 18 || n > 1 << 16)
        return 0;
    uint8_t *in = calloc(n + RK__INFLATE_PAD, 1), *out = malloc(MOST + RK__INFLATE_SLACK);
    FUZZ_CHECK(in && out);
    memcpy(in, p, n);
    FUZZ_CHECK(inflateInit2(&z, -15) == Z_OK); /* the raw stream behind a plain header */
    memcpy(in, "\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
    z.next_in = in + 10;
    z.avail_in = (uInt)(n - 18);
    z.next_out = want;
    z.avail_out = MOST;
    bool good = inflate(&z, Z_FINISH) == Z_STREAM_END && z.avail_in == 0;
    size_t size = good ? z.total_out : in[n - 4] | (size_t)in[n - 3] << 8;
    inflateEnd(&z);
    uint32_t crc = good ? (uint32_t)crc32(0, want, (uInt)size) : 0;
    for (int i = 0; i < 4; i++) {
        in[n - 8 + (size_t)i] = (uint8_t)(crc >> (8 * i));
        in[n - 4 + (size_t)i] = (uint8_t)(size >> (8 * i));
    }
    uint8_t *exact = realloc(out, size + RK__INFLATE_SLACK);
    FUZZ_CHECK(exact);
    bool done = rk__inflate_gzip(in, n, exact, size);
    FUZZ_CHECK(!done || (good && !memcmp(exact, want, size)));
    free(exact);
    free(in);
    return 0;
}
