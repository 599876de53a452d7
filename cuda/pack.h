/* pack.h - codes to the bytes of a hyb_packing (hybrid/quantize.h), a tile at a time, as the kernels of pack.cu and
 * quantize.cu do it: codes lie in shared memory, each thread makes words of four bytes of them.
 */
#ifndef HYB_CUDA_PACK_H
#define HYB_CUDA_PACK_H

#include "device.h"

/* Codes of a tile: its bytes are a multiple of 16 in every packing. */
#define HYB_PACK_TILE 5120
#define HYB_PACK_THREADS 256
#define HYB_PACK_FOURS (HYB_PACK_TILE / 4 / HYB_PACK_THREADS) /* of a thread */

/* Bytes of n codes. */
template <int PACKING> __host__ __device__ constexpr size_t hyb_bytes_of(size_t n) {
    return PACKING == HYB_PACKING_TERNARY_2BIT || PACKING == HYB_PACKING_INT2 ? (n + 3) / 4
           : PACKING == HYB_PACKING_TERNARY_BASE3                             ? (n + 4) / 5
           : PACKING == HYB_PACKING_INT1                                      ? (n + 7) / 8
           : PACKING == HYB_PACKING_INT4                                      ? (n + 1) / 2
           : PACKING == HYB_PACKING_TERNARY_3OF4                              ? (n / 4 * 5 + 7) / 8
                                                                              : n;
}

/* Four codes as they stand behind the last: what they are packed to is the tail that hyb_pack writes. */
template <int PACKING> __device__ __forceinline__ uint32_t hyb_tail_codes() {
    return PACKING == HYB_PACKING_INT1           ? 0xffffffffu /* -1 */
           : PACKING == HYB_PACKING_INT2         ? 0xfdfdfdfdu /* -3 */
           : PACKING == HYB_PACKING_INT4         ? 0xf1f1f1f1u /* -15 */
           : PACKING == HYB_PACKING_TERNARY_3OF4 ? 0xffffff00u /* 0, -1, -1, -1: a field of 0 */
                                                 : 0u;
}

/* The first n of four codes, then the tail's. */
template <int PACKING> __device__ __forceinline__ uint32_t hyb_cut_codes(uint32_t codes, size_t n) {
    if (n >= 4) return codes;
    uint32_t kept = (1u << (8 * n)) - 1;
    return (codes & kept) | (hyb_tail_codes<PACKING>() & ~kept);
}

/* Two bits in each byte to one byte. */
__device__ __forceinline__ uint32_t hyb_join_2bit(uint32_t x) {
    x |= x >> 6;
    return (x | x >> 12) & 255u;
}

/* Five bits of four codes of which one is 0. Bit 0 of a byte tells 0 from the others, bit 7 is the sign. */
__device__ __forceinline__ uint32_t hyb_field_of_four(uint32_t codes) {
    uint32_t not_zero = codes & 0x01010101u, plus = not_zero & ~(codes >> 7);
    not_zero = (not_zero | not_zero >> 7 | not_zero >> 14 | not_zero >> 21) & 15u;
    plus = (plus | plus >> 7 | plus >> 14 | plus >> 21) & 15u;
    uint32_t place = not_zero == 14 ? 0 : not_zero == 13 ? 1 : not_zero == 11 ? 2 : 3;
    uint32_t below = (1u << place) - 1;
    return place | ((plus & below) | (plus >> 1 & ~below)) << 2;
}

/* Bytes 4 w to 4 w + 3 of the packed codes. */
template <int PACKING> __device__ __forceinline__ uint32_t hyb_pack_word(const uint32_t *codes, size_t w) {
    uint32_t word = 0;
    if (PACKING == HYB_PACKING_TERNARY_2BIT) {
        /* -1 is 3 in two bits, so (3, 0, 1) + 1 mod 4 is (0, 1, 2) */
        for (int i = 0; i < 4; ++i)
            word |= hyb_join_2bit(((codes[4 * w + i] & 0x03030303u) + 0x01010101u) & 0x03030303u) << (8 * i);
    } else if (PACKING == HYB_PACKING_TERNARY_BASE3) {
        uint32_t part[6];
        for (int i = 0; i < 5; ++i) part[i] = codes[5 * w + i];
        part[5] = 0;
        for (int i = 0; i < 4; ++i) { /* codes 5 i to 5 i + 4; 121 = 1 + 3 + 9 + 27 + 81 */
            uint64_t both = (uint64_t)part[5 * i / 4 + 1] << 32 | part[5 * i / 4];
            both >>= 8 * (5 * i % 4);
            int digits = __dp4a((int)(uint32_t)both, 1 | 3 << 8 | 9 << 16 | 27 << 24, 121);
            word |= (uint32_t)(digits + 81 * (int)(int8_t)(both >> 32)) << (8 * i);
        }
    } else if (PACKING == HYB_PACKING_INT1) {
        for (int i = 0; i < 8; ++i) {
            uint32_t plus = ~(codes[8 * w + i] >> 7) & 0x01010101u;
            word |= ((plus | plus >> 7 | plus >> 14 | plus >> 21) & 15u) << (4 * i);
        }
    } else if (PACKING == HYB_PACKING_INT2) {
        /* of odd numbers: bits 1 and 2 are (code - 1) / 2 mod 4, which is (code + 3) / 2 - 2 */
        for (int i = 0; i < 4; ++i)
            word |= hyb_join_2bit((codes[4 * w + i] >> 1 & 0x03030303u) ^ 0x02020202u) << (8 * i);
    } else if (PACKING == HYB_PACKING_INT4) {
        for (int i = 0; i < 2; ++i) { /* the same with four bits */
            uint32_t x = (codes[2 * w + i] >> 1 & 0x0f0f0f0fu) ^ 0x08080808u;
            x |= x >> 4;
            word |= ((x & 255u) | (x >> 8 & 0xff00u)) << (16 * i);
        }
    } else if (PACKING == HYB_PACKING_TERNARY_3OF4) {
        /* Field f is bits 5 f to 5 f + 4 of the tile: a word holds parts of 7 or 8. */
        size_t first = 32 * w / 5, last = (32 * w + 31) / 5;
        uint64_t fields = 0;
        for (size_t f = first; f <= last; ++f) fields |= (uint64_t)hyb_field_of_four(codes[f]) << (5 * (f - first));
        word = (uint32_t)(fields >> (32 * w - 5 * first));
    } else {
        word = codes[w];
    }
    return word;
}

/* Stores the n_bytes of a tile whose codes, the tail's behind them, lie in shared memory. */
template <int PACKING>
__device__ __forceinline__ void hyb_store_packed(const uint32_t *codes, uint8_t *bytes, size_t n_bytes) {
    bool is_aligned = hyb_is_aligned(bytes, 4);
    for (size_t w = threadIdx.x; 4 * w < n_bytes; w += HYB_PACK_THREADS) {
        uint32_t word = hyb_pack_word<PACKING>(codes, w);
        if (is_aligned && 4 * w + 4 <= n_bytes)
            reinterpret_cast<uint32_t *>(bytes)[w] = word;
        else
            for (size_t i = 0; i < 4 && 4 * w + i < n_bytes; ++i) bytes[4 * w + i] = (uint8_t)(word >> (8 * i));
    }
}

/* function<PACKING>(...) for a packing that is known when the program runs. */
#define HYB_WITH_PACKING(packing, function, ...)                                                                       \
    switch (packing) {                                                                                                 \
    case HYB_PACKING_TERNARY_2BIT:                                                                                     \
        function<HYB_PACKING_TERNARY_2BIT>(__VA_ARGS__);                                                               \
        break;                                                                                                         \
    case HYB_PACKING_TERNARY_BASE3:                                                                                    \
        function<HYB_PACKING_TERNARY_BASE3>(__VA_ARGS__);                                                              \
        break;                                                                                                         \
    case HYB_PACKING_INT1:                                                                                             \
        function<HYB_PACKING_INT1>(__VA_ARGS__);                                                                       \
        break;                                                                                                         \
    case HYB_PACKING_INT2:                                                                                             \
        function<HYB_PACKING_INT2>(__VA_ARGS__);                                                                       \
        break;                                                                                                         \
    case HYB_PACKING_INT4:                                                                                             \
        function<HYB_PACKING_INT4>(__VA_ARGS__);                                                                       \
        break;                                                                                                         \
    case HYB_PACKING_TERNARY_3OF4:                                                                                     \
        function<HYB_PACKING_TERNARY_3OF4>(__VA_ARGS__);                                                               \
        break;                                                                                                         \
    default:                                                                                                           \
        function<HYB_PACKING_INT8>(__VA_ARGS__);                                                                       \
    }

#endif /* HYB_CUDA_PACK_H */
