/* crc32c.c - CRC-32C, the checksum of .hyb files (file_read.c, file_write.c).
 *
 * The remainder of the message, as a polynomial over GF(2), divided by Castagnoli's polynomial. Tables make the
 * portable variant eat eight bytes a turn; x86/crc32c_sse42.c uses the processor's instruction. Sources: Castagnoli,
 * Braeuer, Herrmann 1993 (polynomial); Kounavis, Berry 2008, "Novel Table Lookup-Based Algorithms for High-Performance
 * CRC Generation" (slicing by 8).
 */
#include "crc32c.h"

#include <hybrid/file.h>

#include "common.h"

/* tables[k][b]: what byte b contributes when k more bytes follow it in the group of eight. The contribution is linear
 * in b, so that each table is given by those of the eight single bits, beginning with bit 0. The last number of the
 * first row is the polynomial 0x1edc6f41 with its bits reversed; each row is the one above it, moved on by one zero
 * byte. */
#define BIT(b, i, value) (((b) >> (i)&1u) * (value))
#define BYTE(b, v0, v1, v2, v3, v4, v5, v6, v7)                                                                        \
    (BIT(b, 0, v0) ^ BIT(b, 1, v1) ^ BIT(b, 2, v2) ^ BIT(b, 3, v3) ^ BIT(b, 4, v4) ^ BIT(b, 5, v5) ^ BIT(b, 6, v6) ^   \
     BIT(b, 7, v7))
#define ROW_0(b)                                                                                                       \
    BYTE(b, 0xf26b8303u, 0xe13b70f7u, 0xc79a971fu, 0x8ad958cfu, 0x105ec76fu, 0x20bd8edeu, 0x417b1dbcu, 0x82f63b78u)
#define ROW_1(b)                                                                                                       \
    BYTE(b, 0x13a29877u, 0x274530eeu, 0x4e8a61dcu, 0x9d14c3b8u, 0x3fc5f181u, 0x7f8be302u, 0xff17c604u, 0xfbc3faf9u)
#define ROW_2(b)                                                                                                       \
    BYTE(b, 0xa541927eu, 0x4f6f520du, 0x9edea41au, 0x38513ec5u, 0x70a27d8au, 0xe144fb14u, 0xc76580d9u, 0x8b277743u)
#define ROW_3(b)                                                                                                       \
    BYTE(b, 0xdd45aab8u, 0xbf672381u, 0x7b2231f3u, 0xf64463e6u, 0xe964b13du, 0xd725148bu, 0xaba65fe7u, 0x52a0c93fu)
#define ROW_4(b)                                                                                                       \
    BYTE(b, 0x38116facu, 0x7022df58u, 0xe045beb0u, 0xc5670b91u, 0x8f2261d3u, 0x1ba8b557u, 0x37516aaeu, 0x6ea2d55cu)
#define ROW_5(b)                                                                                                       \
    BYTE(b, 0xef306b19u, 0xdb8ca0c3u, 0xb2f53777u, 0x6006181fu, 0xc00c303eu, 0x85f4168du, 0x0e045bebu, 0x1c08b7d6u)
#define ROW_6(b)                                                                                                       \
    BYTE(b, 0x68032cc8u, 0xd0065990u, 0xa5e0c5d1u, 0x4e2dfd53u, 0x9c5bfaa6u, 0x3d5b83bdu, 0x7ab7077au, 0xf56e0ef4u)
#define ROW_7(b)                                                                                                       \
    BYTE(b, 0x493c7d27u, 0x9278fa4eu, 0x211d826du, 0x423b04dau, 0x847609b4u, 0x0d006599u, 0x1a00cb32u, 0x34019664u)
#define ROWS_4(row, b) row(b), row((b) + 1), row((b) + 2), row((b) + 3)
#define ROWS_16(row, b) ROWS_4(row, b), ROWS_4(row, (b) + 4), ROWS_4(row, (b) + 8), ROWS_4(row, (b) + 12)
#define ROWS_64(row, b) ROWS_16(row, b), ROWS_16(row, (b) + 16), ROWS_16(row, (b) + 32), ROWS_16(row, (b) + 48)
#define TABLE(row)                                                                                                     \
    { ROWS_64(row, 0u), ROWS_64(row, 64u), ROWS_64(row, 128u), ROWS_64(row, 192u) }

static const uint32_t tables[8][256] = {TABLE(ROW_0), TABLE(ROW_1), TABLE(ROW_2), TABLE(ROW_3),
                                        TABLE(ROW_4), TABLE(ROW_5), TABLE(ROW_6), TABLE(ROW_7)};

uint32_t hyb_crc32c_portable(uint32_t crc, const uint8_t *bytes, size_t n_bytes) {
    uint32_t rest = ~crc;
    for (; n_bytes >= 8; bytes += 8, n_bytes -= 8) {
        uint32_t low = rest ^ hyb_load_u32(bytes), high = hyb_load_u32(bytes + 4);
        rest = tables[7][low & 0xff] ^ tables[6][low >> 8 & 0xff] ^ tables[5][low >> 16 & 0xff] ^ tables[4][low >> 24] ^
               tables[3][high & 0xff] ^ tables[2][high >> 8 & 0xff] ^ tables[1][high >> 16 & 0xff] ^
               tables[0][high >> 24];
    }
    for (; n_bytes > 0; ++bytes, --n_bytes) rest = rest >> 8 ^ tables[0][(rest ^ *bytes) & 0xff];
    return ~rest;
}

uint32_t hyb_crc32c(uint32_t crc, const void *bytes, size_t n_bytes) {
    if (bytes == NULL) return crc;
#if HYB_X86
    if (HYB_HAS_SSE42()) return hyb_crc32c_sse42(crc, bytes, n_bytes);
#endif
    return hyb_crc32c_portable(crc, bytes, n_bytes);
}
