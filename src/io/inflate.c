/* Deflate (RFC 1951) in gzip (RFC 1952). Codes must be complete; those few that legally are not go to zlib.
 *
 * The bit buffer is 64 bits; a refill reads 8 bytes wherever it is, so at least 56 bits are there after it:
 * enough for three literals, or for one whole match. Every read lies before `in_last + 8`, every write before
 * `out_end + SLACK`: see the checks at the head of the loop in codes(), and in refill(). */
#include "io/inflate.h"

#include <string.h>

#include <zlib.h>

enum { LIT_BITS = 11, DIST_BITS = 8, LIT_SIZE = 4096, DIST_SIZE = 1024, LONGEST = 15 };

/* Table entry: value << 16 | kind | extra << 8 | bits of the code. */
enum {
    KIND_LITERAL = 0x8000,
    KIND_SUBTABLE = 0x4000,
    KIND_END = 0x2000,
    KIND_OTHER = KIND_SUBTABLE | KIND_END
};

typedef struct state {
    const uint8_t *in, *in_last; /* in_last: where the trailer begins */
    uint8_t *out, *out_begin, *out_end;
    uint64_t buf;
    unsigned bits;
    uint32_t lit[LIT_SIZE], dist[DIST_SIZE];
} state;

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v : __builtin_bswap64(v);
}

static bool refill(state *s)
{
    if (s->in > s->in_last + 8) /* the stream has run into the trailer and beyond */
        return false;
    s->buf |= load64(s->in) << s->bits;
    s->in += (63 - s->bits) >> 3;
    s->bits |= 56;
    return true;
}

static uint32_t take(state *s, unsigned n)
{
    uint32_t v = (uint32_t)s->buf & ((1u << n) - 1);
    s->buf >>= n;
    s->bits -= n;
    return v;
}

/* ---- tables ---- */

static uint32_t reversed(uint32_t code, int n)
{
    uint32_t r = 0;
    for (int i = 0; i < n; i++)
        r |= (code >> i & 1) << (n - 1 - i);
    return r;
}

static uint32_t literal_entry(int symbol)
{
    static const uint16_t base[] = { 3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                     31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258 };
    static const uint8_t extra[] = { 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                     2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0 };
    if (symbol < 256)
        return (uint32_t)symbol << 16 | KIND_LITERAL;
    if (symbol == 256)
        return KIND_END;
    if (symbol > 285)
        return KIND_OTHER; /* not a symbol */
    return (uint32_t)base[symbol - 257] << 16 | (uint32_t)extra[symbol - 257] << 8;
}

static uint32_t distance_entry(int symbol)
{
    if (symbol > 29)
        return KIND_OTHER;
    if (symbol < 2)
        return (uint32_t)(symbol + 1) << 16;
    unsigned extra = (unsigned)symbol / 2 - 1;
    return (((2u + (symbol & 1)) << extra) + 1) << 16 | extra << 8;
}

static uint32_t length_entry(int symbol)
{
    return (uint32_t)symbol << 16;
}

/* A table of 2^bits entries and, behind it, subtables for longer codes. False: not a complete code. */
static bool build(const uint8_t *len, int n, int bits, uint32_t (*entry)(int), uint32_t *table, int size)
{
    int count[LONGEST + 1] = { 0 }, used = 1 << bits;
    uint32_t next[LONGEST + 2] = { 0 }, space = 0;
    uint8_t longest[1 << LIT_BITS] = { 0 };
    uint16_t code[288];
    for (int i = 0; i < n; i++)
        count[len[i]]++;
    count[0] = 0;
    for (int l = 1; l <= LONGEST; l++) {
        next[l + 1] = (next[l] + (uint32_t)count[l]) << 1;
        space += (uint32_t)count[l] << (LONGEST - l);
    }
    if (space != 1u << LONGEST)
        return false;
    for (int i = 0; i < n; i++) {
        if (!len[i])
            continue;
        code[i] = (uint16_t)reversed(next[len[i]]++, len[i]);
        uint8_t *most = &longest[code[i] & ((1 << bits) - 1)];
        if (len[i] > bits && len[i] > *most)
            *most = len[i];
    }
    for (int p = 0; p < 1 << bits; p++) {
        if (!longest[p])
            continue;
        table[p] = (uint32_t)used << 16 | KIND_SUBTABLE | (uint32_t)(longest[p] - bits) << 8;
        used += 1 << (longest[p] - bits);
        if (used > size)
            return false;
    }
    for (int i = 0; i < n; i++) {
        if (!len[i])
            continue;
        int l = len[i], prefix = code[i] & ((1 << bits) - 1);
        uint32_t e = entry(i) | (uint32_t)l, *t = table;
        int at = prefix, step = 1 << l, end = 1 << bits;
        if (l > bits) {
            t = table + (table[prefix] >> 16);
            at = code[i] >> bits;
            step = 1 << (l - bits);
            end = 1 << (longest[prefix] - bits);
        }
        for (; at < end; at += step)
            t[at] = e;
    }
    return true;
}

static bool fixed_tables(state *s)
{
    uint8_t len[288];
    for (int i = 0; i < 288; i++)
        len[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    if (!build(len, 288, LIT_BITS, literal_entry, s->lit, LIT_SIZE))
        return false;
    memset(len, 5, 32);
    return build(len, 32, DIST_BITS, distance_entry, s->dist, DIST_SIZE);
}

static bool dynamic_tables(state *s)
{
    static const uint8_t order[19] = { 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15 };
    uint8_t len[288 + 32 + 138], small[19] = { 0 };
    int lits = (int)take(s, 5) + 257, dists = (int)take(s, 5) + 1, smalls = (int)take(s, 4) + 4, n = 0;
    if (lits > 286 || dists > 30)
        return false;
    for (int i = 0; i < smalls; i++) {
        if (!refill(s))
            return false;
        small[order[i]] = (uint8_t)take(s, 3);
    }
    if (!build(small, 19, 7, length_entry, s->lit, LIT_SIZE))
        return false;
    while (n < lits + dists) {
        if (!refill(s))
            return false;
        uint32_t e = s->lit[s->buf & 127];
        int symbol = (int)(e >> 16), repeat = 1;
        uint8_t value = (uint8_t)symbol;
        take(s, e & 255);
        if (symbol == 16) {
            if (!n)
                return false;
            value = len[n - 1];
            repeat = 3 + (int)take(s, 2);
        } else if (symbol > 16) {
            value = 0;
            repeat = symbol == 17 ? 3 + (int)take(s, 3) : 11 + (int)take(s, 7);
        }
        memset(len + n, value, (size_t)repeat); /* at most 138 beyond the end: there is room */
        n += repeat;
    }
    if (n != lits + dists || !len[256])
        return false;
    uint8_t dist_len[32];
    memcpy(dist_len, len + lits, (size_t)dists);
    return build(len, lits, LIT_BITS, literal_entry, s->lit, LIT_SIZE) &&
           build(dist_len, dists, DIST_BITS, distance_entry, s->dist, DIST_SIZE);
}

/* ---- blocks ---- */

static bool stored(state *s)
{
    s->in -= s->bits >> 3;
    s->buf = s->bits = 0;
    if (s->in > s->in_last || s->in_last - s->in < 4 || s->out > s->out_end)
        return false;
    size_t n = s->in[0] | (size_t)s->in[1] << 8, inverse = s->in[2] | (size_t)s->in[3] << 8;
    s->in += 4;
    if ((n ^ inverse) != 0xffff || n > (size_t)(s->in_last - s->in) || n > (size_t)(s->out_end - s->out))
        return false;
    memcpy(s->out, s->in, n);
    s->in += n;
    s->out += n;
    return true;
}

/* May write up to 7 bytes more than n. */
static inline uint8_t *copy_match(uint8_t *out, size_t distance, size_t n)
{
    const uint8_t *from = out - distance;
    uint8_t *end = out + n;
    if (distance >= 8) {
        do {
            memcpy(out, from, 8);
            out += 8;
            from += 8;
        } while (out < end);
    } else if (distance == 1) {
        memset(out, *from, n);
    } else {
        while (out < end)
            *out++ = *from++;
    }
    return end;
}

/* The extra bits of an entry's value, behind its code, which is still in the buffer. */
static inline size_t value_of(uint32_t e, uint64_t buf)
{
    return (e >> 16) + (size_t)(buf >> (e & 255) & ((1u << (e >> 8 & 15)) - 1));
}

/* Bits of an entry's code and of its extra bits. */
static inline unsigned bits_of(uint32_t e)
{
    return (e & 255) + (e >> 8 & 15);
}

/* Literals and matches up to the end of the block. A round writes at most 3 literals, or 2 and a match of 258
 * + 7 bytes, and starts at out_end at the latest: within the slack. The state is in variables of its own, as
 * a store to the output could otherwise change any of it. */
static bool codes(state *s)
{
    const uint32_t *lit = s->lit, *dist = s->dist;
    const uint8_t *in = s->in, *in_stop = s->in_last + 8;
    uint8_t *out = s->out, *out_begin = s->out_begin, *out_end = s->out_end;
    uint64_t buf = s->buf;
    unsigned bits = s->bits;
    uint32_t e;
    for (;;) {
        if (out > out_end || in > in_stop)
            return false;
        buf |= load64(in) << bits;
        in += (63 - bits) >> 3;
        bits |= 56;
        e = lit[buf & ((1 << LIT_BITS) - 1)];
        if (e & KIND_LITERAL) {
            buf >>= e & 255;
            bits -= e & 255;
            *out++ = (uint8_t)(e >> 16);
            e = lit[buf & ((1 << LIT_BITS) - 1)];
            if (e & KIND_LITERAL) {
                buf >>= e & 255;
                bits -= e & 255;
                *out++ = (uint8_t)(e >> 16);
                e = lit[buf & ((1 << LIT_BITS) - 1)];
                if (e & KIND_LITERAL) {
                    buf >>= e & 255;
                    bits -= e & 255;
                    *out++ = (uint8_t)(e >> 16);
                    continue;
                }
            }
            if (in > in_stop)
                return false;
            buf |= load64(in) << bits;
            in += (63 - bits) >> 3;
            bits |= 56;
        }
        if ((e & KIND_OTHER) == KIND_SUBTABLE)
            e = lit[(e >> 16) + (buf >> LIT_BITS & ((1u << (e >> 8 & 15)) - 1))];
        if (e & KIND_LITERAL) {
            buf >>= e & 255;
            bits -= e & 255;
            *out++ = (uint8_t)(e >> 16);
            continue;
        }
        if (e & KIND_OTHER)
            break;
        size_t n = value_of(e, buf);
        buf >>= bits_of(e);
        bits -= bits_of(e);
        e = dist[buf & ((1 << DIST_BITS) - 1)];
        if ((e & KIND_OTHER) == KIND_SUBTABLE)
            e = dist[(e >> 16) + (buf >> DIST_BITS & ((1u << (e >> 8 & 15)) - 1))];
        if (e & KIND_OTHER)
            return false;
        size_t distance = value_of(e, buf);
        buf >>= bits_of(e);
        bits -= bits_of(e);
        if (distance > (size_t)(out - out_begin))
            return false;
        out = copy_match(out, distance, n);
    }
    s->in = in;
    s->out = out;
    s->buf = buf >> (e & 255);
    s->bits = bits - (e & 255);
    return (e & KIND_OTHER) == KIND_END && out <= out_end;
}

static bool blocks(state *s)
{
    for (bool last = false; !last;) {
        if (!refill(s))
            return false;
        last = take(s, 1);
        switch (take(s, 2)) {
        case 0:
            if (!stored(s))
                return false;
            break;
        case 1:
            if (!fixed_tables(s) || !codes(s))
                return false;
            break;
        case 2:
            if (!dynamic_tables(s) || !codes(s))
                return false;
            break;
        default:
            return false;
        }
    }
    return s->out == s->out_end && s->in - (s->bits >> 3) == s->in_last;
}

/* ---- gzip ---- */

/* Length of the member's header, 0 if it is none we know. */
static size_t gzip_header(const uint8_t *p, size_t n)
{
    enum { CRC = 2, EXTRA = 4, NAME = 8, COMMENT = 16 };
    if (n < 18 || p[0] != 0x1f || p[1] != 0x8b || p[2] != 8 || p[3] & 0xe0)
        return 0;
    size_t at = 10;
    if (p[3] & EXTRA) {
        at += 2 + (p[10] | (size_t)p[11] << 8);
        if (at >= n)
            return 0;
    }
    for (int text = NAME; text <= COMMENT; text *= 2) {
        if (!(p[3] & text))
            continue;
        const uint8_t *end = memchr(p + at, 0, n - at);
        if (!end)
            return 0;
        at = (size_t)(end - p) + 1;
    }
    if (p[3] & CRC)
        at += 2;
    return at + 8 <= n ? at : 0;
}

static uint32_t load32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

bool rk__inflate_gzip(const uint8_t *in, size_t n, uint8_t *out, size_t size)
{
    size_t header = gzip_header(in, n);
    if (!header || load32(in + n - 4) != (uint32_t)size)
        return false;
    state s = {
        .in = in + header, .in_last = in + n - 8, .out = out, .out_begin = out, .out_end = out + size
    };
    return blocks(&s) && load32(in + n - 8) == (uint32_t)crc32_z(crc32_z(0, NULL, 0), out, size);
}
