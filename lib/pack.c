/* pack.c - integer codes to bytes and back: the storage encodings of quantize.h, used by model files and exporters.
 *
 * Both directions check everything before the first byte is written: a code outside its format is the caller's error,
 * an invalid byte or tail means a damaged file. Work goes byte by byte, so the machine's byte order does not matter.
 */
#include <hybrid/quantize.h>

#include "matmul.h"

/* code = field * step + offset, fields of n_bits from the lowest bit up, n_bits 0 for base 3 and int8. */
typedef struct encoding {
    size_t per_byte;
    unsigned n_bits;
    int step, offset;
    hyb_format format;
} encoding;

static const encoding *find_encoding(hyb_packing packing) {
    static const encoding table[] = {
        {4, 2, 1, -1, HYB_FORMAT_TERNARY}, {5, 0, 1, -1, HYB_FORMAT_TERNARY}, {8, 1, 2, -1, HYB_FORMAT_BINARY},
        {4, 2, 2, -3, HYB_FORMAT_INT2},    {2, 4, 2, -15, HYB_FORMAT_INT4},   {1, 0, 1, 0, HYB_FORMAT_INT8},
        {0, 5, 1, -1, HYB_FORMAT_TERNARY}, /* three of four: not byte by byte */
    };
    int index = (int)packing - (int)HYB_PACKING_TERNARY_2BIT;
    return index >= 0 && index < (int)(sizeof table / sizeof table[0]) ? &table[index] : NULL;
}

size_t hyb_packed_bytes(hyb_packing packing, size_t n_codes) {
    if (packing == HYB_PACKING_TERNARY_3OF4)
        return n_codes % 4 == 0 ? n_codes / 32 * 5 + hyb_ceil_div(n_codes % 32 / 4 * 5, 8) : 0;
    const encoding *e = find_encoding(packing);
    return e != NULL ? hyb_ceil_div(n_codes, e->per_byte) : 0;
}

static size_t find_bad(const int8_t *codes, size_t n, int limit, int odd) {
    for (size_t i = 0; i < n; ++i) {
        int code = codes[i];
        if (code > limit || code < -limit || (odd && code % 2 == 0)) return i;
    }
    return n;
}

size_t hyb_find_bad_code(hyb_format format, const int8_t *codes, size_t n) {
    static const uint8_t limits[] = {0, 1, 1, 3, 15, 127}; /* by hyb_format */
    enum { CHUNK = 512 };                                  /* one branch for as many codes */
    int limit = limits[format], odd = format != HYB_FORMAT_TERNARY && format != HYB_FORMAT_INT8;
    int8_t high = (int8_t)limit, low = (int8_t)-limit, need = (int8_t)odd;
    size_t first = 0;
    for (; first + CHUNK <= n; first += CHUNK) {
        int8_t bad = 0;
        for (size_t i = first; i < first + CHUNK; ++i)
            bad = (int8_t)(bad | (codes[i] > high) | (codes[i] < low) | (need & ~codes[i]));
        if (bad != 0) break;
    }
    return first + find_bad(codes + first, n - first, limit, odd);
}

/* ---- three of four: 5 bits for each four codes, 8 fields in 5 bytes ---- */

size_t hyb_find_not_three_of_four(const int8_t *codes, size_t n) {
    for (size_t i = 0; i + 4 <= n; i += 4) {
        int n_zeros = 0;
        for (size_t j = i; j < i + 4; ++j) n_zeros += codes[j] == 0;
        if (n_zeros != 1) return i;
    }
    return n / 4 * 4;
}

static unsigned field_of_four(const int8_t *codes) {
    unsigned place = 0, signs = 0, n_signs = 0;
    for (unsigned i = 0; i < 4; ++i) {
        if (codes[i] == 0)
            place = i;
        else
            signs |= (unsigned)(codes[i] > 0) << n_signs++;
    }
    return place | signs << 2;
}

/* n codes, at most 32, from or to the bytes that they take. */
static void pack_fours(const int8_t *codes, size_t n, uint8_t *bytes) {
    uint64_t word = 0;
    for (size_t i = 0; i < n / 4; ++i) word |= (uint64_t)field_of_four(codes + i * 4) << (i * 5);
    for (size_t i = 0; i < hyb_ceil_div(n / 4 * 5, 8); ++i) bytes[i] = (uint8_t)(word >> (i * 8));
}

static void unpack_fours(const uint8_t *bytes, size_t n, const int8_t (*table)[4], int8_t *codes) {
    uint64_t word = 0;
    for (size_t i = 0; i < hyb_ceil_div(n / 4 * 5, 8); ++i) word |= (uint64_t)bytes[i] << (i * 8);
    for (size_t i = 0; i < n / 4; ++i) memcpy(codes + i * 4, table[word >> (i * 5) & 31], 4);
}

static hyb_status pack_three_of_four(hyb_ctx *ctx, const int8_t *codes, size_t n_codes, uint8_t *bytes) {
    size_t bad = hyb_find_not_three_of_four(codes, n_codes);
    if (bad < n_codes)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "codes %zu and the following: packing 7 takes four codes with exactly one 0", bad);
    for (size_t i = 0; i < n_codes; i += 32) pack_fours(codes + i, hyb_min_size(n_codes - i, 32), bytes + i / 32 * 5);
    return HYB_OK;
}

static hyb_status unpack_three_of_four(hyb_ctx *ctx, const uint8_t *bytes, size_t n_codes, int8_t *codes) {
    int8_t table[32][4];
    if (n_codes % 4 != 0)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu codes: packing 7 has a multiple of 4", n_codes);
    size_t n_tail = n_codes % 32 / 4 * 5;
    if (n_tail % 8 != 0 && bytes[hyb_packed_bytes(HYB_PACKING_TERNARY_3OF4, n_codes) - 1] >> n_tail % 8 != 0)
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "the bits behind the last code are not zero");
    for (unsigned field = 0; field < 32; ++field)
        for (unsigned i = 0, n_signs = 0; i < 4; ++i)
            table[field][i] = i == (field & 3) ? 0 : (field >> (2 + n_signs++) & 1) != 0 ? 1 : -1;
    for (size_t i = 0; i < n_codes; i += 32)
        unpack_fours(bytes + i / 32 * 5, hyb_min_size(n_codes - i, 32), (const int8_t(*)[4])table, codes + i);
    return HYB_OK;
}

/* ---- to bytes; the codes were checked ---- */

static uint8_t pack_base3(const int8_t *c) {
    return (uint8_t)(c[0] + 1 + (c[1] + 1) * 3 + (c[2] + 1) * 9 + (c[3] + 1) * 27 + (c[4] + 1) * 81);
}

static uint8_t pack_fields(const encoding *e, const int8_t *codes, size_t n) {
    unsigned byte = 0;
    for (size_t i = 0; i < n; ++i) byte |= (unsigned)((codes[i] - e->offset) / e->step) << (i * e->n_bits);
    return (uint8_t)byte;
}

/* Eight codes -1, 0, 1 as code + 1 in each byte: -1 is 3 in two bits, so (3, 0, 1) + 1 mod 4 is (0, 1, 2). */
static uint64_t biased_codes(const int8_t *codes) {
    uint64_t word = hyb_load_u64((const uint8_t *)codes);
    return ((word & 0x0303030303030303u) + 0x0101010101010101u) & 0x0303030303030303u;
}

/* Whole bytes while eight codes can be read; returns their number. Five digits at once: byte 4 of the product with
 * 81, 27, 9, 3, 1 in bytes 0 to 4 is c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4, and no byte below exceeds 240. */
static size_t pack_base3_fast(const int8_t *codes, size_t n_codes, uint8_t *bytes) {
    const uint64_t weights = 81u | 27u << 8 | 9u << 16 | 3u << 24 | (uint64_t)1 << 32;
    size_t i = 0;
    for (; i * 5 + 8 <= n_codes; ++i)
        bytes[i] = (uint8_t)((biased_codes(codes + i * 5) & 0xffffffffffu) * weights >> 32);
    return i;
}

/* The same for 2 bits: the fields of a dword move into its lowest byte. */
static size_t pack_2bit_fast(const int8_t *codes, size_t n_codes, uint8_t *bytes) {
    size_t i = 0;
    for (; i * 4 + 8 <= n_codes; i += 2) {
        uint64_t word = biased_codes(codes + i * 4);
        word |= word >> 6;
        word |= word >> 12;
        bytes[i] = (uint8_t)word;
        bytes[i + 1] = (uint8_t)(word >> 32);
    }
    return i;
}

/* n <= per_byte codes. A ternary tail is code 0, which is not bits 0. */
static uint8_t pack_tail(hyb_packing packing, const encoding *e, const int8_t *codes, size_t n) {
    int8_t padded[8] = {0};
    memcpy(padded, codes, n);
    if (packing == HYB_PACKING_TERNARY_BASE3) return pack_base3(padded);
    return pack_fields(e, padded, e->format == HYB_FORMAT_TERNARY ? e->per_byte : n);
}

hyb_status hyb_pack(hyb_ctx *ctx, hyb_packing packing, const int8_t *codes, size_t n_codes, uint8_t *bytes) {
    const encoding *e = find_encoding(packing);
    if (e == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "packing %d: use 1 to 7", (int)packing);
    if (n_codes == 0) return HYB_OK;
    if (codes == NULL || bytes == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_pack: codes or bytes is NULL");
    size_t bad = hyb_find_bad_code(e->format, codes, n_codes);
    if (bad < n_codes)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "code %d at index %zu has no place in packing %d", codes[bad],
                        bad, (int)packing);
    if (packing == HYB_PACKING_TERNARY_3OF4) return pack_three_of_four(ctx, codes, n_codes, bytes);
    size_t n_whole = n_codes / e->per_byte, n_rest = n_codes % e->per_byte;
    size_t done = 0;
    if (packing == HYB_PACKING_TERNARY_2BIT) done = pack_2bit_fast(codes, n_codes, bytes);
    if (packing == HYB_PACKING_TERNARY_BASE3) done = pack_base3_fast(codes, n_codes, bytes);
    if (packing == HYB_PACKING_INT8)
        memcpy(bytes, codes, n_codes);
    else if (packing == HYB_PACKING_TERNARY_BASE3)
        for (size_t i = done; i < n_whole; ++i) bytes[i] = pack_base3(codes + i * 5);
    else
        for (size_t i = done; i < n_whole; ++i) bytes[i] = pack_fields(e, codes + i * e->per_byte, e->per_byte);
    if (n_rest != 0) bytes[n_whole] = pack_tail(packing, e, codes + n_whole * e->per_byte, n_rest);
    return HYB_OK;
}

/* ---- to codes ---- */

static void unpack_base3(unsigned byte, int8_t *codes) {
    for (size_t i = 0; i < 5; ++i) {
        unsigned quotient = byte * 171 >> 9; /* byte / 3, exact below 512 */
        codes[i] = (int8_t)((int)(byte - quotient * 3) - 1);
        byte = quotient;
    }
}

static void unpack_fields(const encoding *e, unsigned byte, int8_t *codes, size_t n) {
    unsigned mask = (1u << e->n_bits) - 1;
    for (size_t i = 0; i < n; ++i) codes[i] = (int8_t)((int)(byte >> (i * e->n_bits) & mask) * e->step + e->offset);
}

static void unpack_byte(const encoding *e, unsigned byte, int8_t *codes) {
    if (e->n_bits == 0)
        unpack_base3(byte, codes);
    else
        unpack_fields(e, byte, codes, e->per_byte);
}

/* Whole bytes through a table of the codes of every byte, eight codes to an entry: all eight are written, then those
 * behind per_byte are overwritten, so the end of the array is left to the caller. Returns the number of bytes done. */
static size_t unpack_fast(const encoding *e, const uint8_t *bytes, size_t n_whole, int8_t *codes) {
    int8_t table[256][8] = {{0}};
    if (n_whole < 1024) return 0; /* not worth a table */
    for (unsigned byte = 0; byte < 256; ++byte) unpack_byte(e, byte, table[byte]);
    size_t n = n_whole - 4; /* four bytes hold at least 8 codes */
    switch (e->per_byte) {  /* constant steps */
    case 2:
        for (size_t i = 0; i < n; ++i) memcpy(codes + i * 2, table[bytes[i]], 2);
        break;
    case 4:
        for (size_t i = 0; i < n; ++i) memcpy(codes + i * 4, table[bytes[i]], 4);
        break;
    case 5:
        for (size_t i = 0; i < n; ++i) memcpy(codes + i * 5, table[bytes[i]], 8);
        break;
    default:
        for (size_t i = 0; i < n; ++i) memcpy(codes + i * 8, table[bytes[i]], 8);
    }
    return n;
}

static int byte_is_valid(hyb_packing packing, unsigned byte) {
    switch (packing) {
    case HYB_PACKING_TERNARY_2BIT:
        return (byte & byte >> 1 & 0x55) == 0; /* no field is 3 */
    case HYB_PACKING_TERNARY_BASE3:
        return byte < 243;
    case HYB_PACKING_INT8:
        return byte != 128;
    default:
        return 1;
    }
}

static size_t find_bad_byte(hyb_packing packing, const uint8_t *bytes, size_t n) {
    enum { CHUNK = 512 }; /* one branch for as many bytes */
    size_t i = 0;
    if (packing != HYB_PACKING_TERNARY_2BIT && packing != HYB_PACKING_TERNARY_BASE3 && packing != HYB_PACKING_INT8)
        return n;
    for (; i + CHUNK <= n; i += CHUNK) {
        uint8_t bad = 0;
        if (packing == HYB_PACKING_TERNARY_2BIT)
            for (size_t j = i; j < i + CHUNK; ++j) bad = (uint8_t)(bad | (bytes[j] & bytes[j] >> 1 & 0x55));
        else if (packing == HYB_PACKING_TERNARY_BASE3)
            for (size_t j = i; j < i + CHUNK; ++j) bad = (uint8_t)(bad | (bytes[j] > 242));
        else
            bad = memchr(bytes + i, 128, CHUNK) != NULL;
        if (bad) break;
    }
    while (i < n && byte_is_valid(packing, bytes[i])) ++i;
    return i;
}

/* Codes of the last, partly filled byte; 0 where it is not as pack_tail writes it. */
static int unpack_tail(hyb_packing packing, const encoding *e, unsigned byte, size_t n, int8_t *codes) {
    if (!byte_is_valid(packing, byte)) return 0;
    unpack_byte(e, byte, codes);
    return pack_tail(packing, e, codes, n) == byte;
}

hyb_status hyb_unpack(hyb_ctx *ctx, hyb_packing packing, const uint8_t *bytes, size_t n_codes, int8_t *codes) {
    const encoding *e = find_encoding(packing);
    if (e == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "packing %d: use 1 to 7", (int)packing);
    if (n_codes == 0) return HYB_OK;
    if (codes == NULL || bytes == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_unpack: bytes or codes is NULL");
    if (packing == HYB_PACKING_TERNARY_3OF4) return unpack_three_of_four(ctx, bytes, n_codes, codes);
    size_t n_whole = n_codes / e->per_byte, n_rest = n_codes % e->per_byte;
    int8_t tail[8];
    size_t bad = find_bad_byte(packing, bytes, n_whole);
    if (bad < n_whole || (n_rest != 0 && !unpack_tail(packing, e, bytes[n_whole], n_rest, tail)))
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "packed byte %zu (0x%02x) is not one that packing %d writes", bad,
                        (unsigned)bytes[bad], (int)packing);
    if (packing == HYB_PACKING_INT8)
        memcpy(codes, bytes, n_codes);
    else
        for (size_t i = unpack_fast(e, bytes, n_whole, codes); i < n_whole; ++i)
            unpack_byte(e, bytes[i], codes + i * e->per_byte);
    if (n_rest != 0) memcpy(codes + n_whole * e->per_byte, tail, n_rest);
    return HYB_OK;
}
