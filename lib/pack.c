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
    };
    int index = (int)packing - (int)HYB_PACKING_TERNARY_2BIT;
    return index >= 0 && index < (int)(sizeof table / sizeof table[0]) ? &table[index] : NULL;
}

size_t hyb_packed_bytes(hyb_packing packing, size_t n_codes) {
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

/* ---- to bytes; the codes were checked ---- */

static uint8_t pack_base3(const int8_t *c) {
    return (uint8_t)(c[0] + 1 + (c[1] + 1) * 3 + (c[2] + 1) * 9 + (c[3] + 1) * 27 + (c[4] + 1) * 81);
}

static uint8_t pack_fields(const encoding *e, const int8_t *codes, size_t n) {
    unsigned byte = 0;
    for (size_t i = 0; i < n; ++i) byte |= (unsigned)((codes[i] - e->offset) / e->step) << (i * e->n_bits);
    return (uint8_t)byte;
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
    if (e == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "packing %d: use 1 to 6", (int)packing);
    if (n_codes == 0) return HYB_OK;
    if (codes == NULL || bytes == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_pack: codes or bytes is NULL");
    size_t bad = hyb_find_bad_code(e->format, codes, n_codes);
    if (bad < n_codes)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "code %d at index %zu has no place in packing %d", codes[bad],
                        bad, (int)packing);
    size_t n_whole = n_codes / e->per_byte, n_rest = n_codes % e->per_byte;
    if (packing == HYB_PACKING_INT8)
        memcpy(bytes, codes, n_codes);
    else if (packing == HYB_PACKING_TERNARY_BASE3)
        for (size_t i = 0; i < n_whole; ++i) bytes[i] = pack_base3(codes + i * 5);
    else
        for (size_t i = 0; i < n_whole; ++i) bytes[i] = pack_fields(e, codes + i * e->per_byte, e->per_byte);
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
    size_t i = 0;
    if (packing == HYB_PACKING_TERNARY_2BIT) {
        while (i < n && byte_is_valid(HYB_PACKING_TERNARY_2BIT, bytes[i])) ++i;
    } else if (packing == HYB_PACKING_TERNARY_BASE3) {
        while (i < n && bytes[i] < 243) ++i;
    } else if (packing == HYB_PACKING_INT8) {
        const uint8_t *found = memchr(bytes, 128, n);
        i = found != NULL ? (size_t)(found - bytes) : n;
    } else {
        i = n;
    }
    return i;
}

/* Codes of the last, partly filled byte; 0 where it is not as pack_tail writes it. */
static int unpack_tail(hyb_packing packing, const encoding *e, unsigned byte, size_t n, int8_t *codes) {
    if (!byte_is_valid(packing, byte)) return 0;
    if (packing == HYB_PACKING_TERNARY_BASE3)
        unpack_base3(byte, codes);
    else
        unpack_fields(e, byte, codes, e->per_byte);
    return pack_tail(packing, e, codes, n) == byte;
}

hyb_status hyb_unpack(hyb_ctx *ctx, hyb_packing packing, const uint8_t *bytes, size_t n_codes, int8_t *codes) {
    const encoding *e = find_encoding(packing);
    if (e == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "packing %d: use 1 to 6", (int)packing);
    if (n_codes == 0) return HYB_OK;
    if (codes == NULL || bytes == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_unpack: bytes or codes is NULL");
    size_t n_whole = n_codes / e->per_byte, n_rest = n_codes % e->per_byte;
    int8_t tail[8];
    size_t bad = find_bad_byte(packing, bytes, n_whole);
    if (bad < n_whole || (n_rest != 0 && !unpack_tail(packing, e, bytes[n_whole], n_rest, tail)))
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "packed byte %zu (0x%02x) is not one that packing %d writes", bad,
                        (unsigned)bytes[bad], (int)packing);
    if (packing == HYB_PACKING_INT8)
        memcpy(codes, bytes, n_codes);
    else if (packing == HYB_PACKING_TERNARY_BASE3)
        for (size_t i = 0; i < n_whole; ++i) unpack_base3(bytes[i], codes + i * 5);
    else
        for (size_t i = 0; i < n_whole; ++i) unpack_fields(e, bytes[i], codes + i * e->per_byte, e->per_byte);
    if (n_rest != 0) memcpy(codes + n_whole * e->per_byte, tail, n_rest);
    return HYB_OK;
}
