/* pack.cu - integer codes to the bytes of a packing, and back; the CPU's side is lib/pack.c.
 *
 * Both read once and write once, so memory is the limit. Packing turns a tile over in shared memory (pack.h); unpacking
 * goes from the result: a thread finds the bytes of its four codes, which neighbours find in the cache.
 */
#include "pack.h"
#include "quantize.h"

/* ---- to bytes ---- */

namespace {

template <int PACKING> __device__ bool is_code(int code) {
    constexpr int32_t FORMAT = PACKING == HYB_PACKING_INT1   ? HYB_FORMAT_BINARY
                               : PACKING == HYB_PACKING_INT2 ? HYB_FORMAT_INT2
                               : PACKING == HYB_PACKING_INT4 ? HYB_FORMAT_INT4
                               : PACKING == HYB_PACKING_INT8 ? HYB_FORMAT_INT8
                                                             : HYB_FORMAT_TERNARY;
    return hyb_is_code(FORMAT, code);
}

template <int PACKING> __device__ bool are_codes(uint32_t four) {
    bool are = true;
    int n_zeros = 0;
    for (int i = 0; i < 4; ++i) {
        int code = (int8_t)(four >> (8 * i));
        are &= is_code<PACKING>(code);
        n_zeros += code == 0;
    }
    return are && (PACKING != HYB_PACKING_TERNARY_3OF4 || n_zeros == 1);
}

/* Up to four codes from codes[i] on. */
__device__ __forceinline__ uint32_t load_codes(const int8_t *codes, size_t i, size_t n, bool is_aligned) {
    if (is_aligned && i + 4 <= n) return *reinterpret_cast<const uint32_t *>(codes + i);
    uint32_t four = 0;
    for (size_t k = 0; k < 4 && i + k < n; ++k) four |= (uint32_t)(uint8_t)codes[i + k] << (8 * k);
    return four;
}

template <int PACKING>
__global__ void __launch_bounds__(HYB_PACK_THREADS)
    pack_kernel(const int8_t *codes, size_t n_codes, uint8_t *bytes, volatile int *malformed) {
    __shared__ uint32_t tile[HYB_PACK_TILE / 4];
    size_t first = (size_t)blockIdx.x * HYB_PACK_TILE, n = min((size_t)HYB_PACK_TILE, n_codes - first);
    bool is_aligned = hyb_is_aligned(codes, 4), bad = false;
    uint32_t fours[HYB_PACK_FOURS];
#pragma unroll
    for (int k = 0; k < HYB_PACK_FOURS; ++k)
        fours[k] = load_codes(codes + first, 4 * (threadIdx.x + (size_t)k * HYB_PACK_THREADS), n, is_aligned);
#pragma unroll
    for (int k = 0; k < HYB_PACK_FOURS; ++k) {
        size_t four = threadIdx.x + (size_t)k * HYB_PACK_THREADS;
        tile[four] = hyb_cut_codes<PACKING>(fours[k], n > 4 * four ? n - 4 * four : 0);
        bad |= !are_codes<PACKING>(tile[four]);
    }
    if (bad) *malformed = 1;
    __syncthreads();
    hyb_store_packed<PACKING>(tile, bytes + hyb_bytes_of<PACKING>(first), hyb_bytes_of<PACKING>(n));
}

template <int PACKING>
void launch_pack(hyb_cuda_state *state, const int8_t *codes, size_t n_codes, uint8_t *bytes, void *stream) {
    auto kernel = pack_kernel<PACKING>;
    volatile int *malformed = state->malformed;
    HYB_LAUNCH(kernel, (unsigned)hyb_blocks_for(n_codes, HYB_PACK_TILE), HYB_PACK_THREADS, 0, stream, codes, n_codes,
               bytes, malformed);
}

} // namespace

int hyb_module_pack(hyb_cuda_state *state, int32_t packing, const int8_t *codes, size_t n_codes, uint8_t *bytes,
                    void *stream) {
    HYB_CUDA_BEGIN(state);
    HYB_WITH_PACKING(packing, launch_pack, state, codes, n_codes, bytes, stream);
    return (int)cudaGetLastError();
}

/* ---- to codes ---- */

namespace {

/* A byte, or where there is none what stands for the tail's codes. */
__device__ __forceinline__ uint32_t byte_at(const uint8_t *bytes, size_t i, size_t n_bytes, uint32_t none) {
    return i < n_bytes ? bytes[i] : none;
}

/* Each byte less that of `offset`; none exceeds 127. */
__device__ __forceinline__ uint32_t subtract_from_bytes(uint32_t x, uint32_t offset) {
    return ((x | 0x80808080u) - offset) ^ 0x80808080u;
}

/* Codes 4 j to 4 j + 3; 0 in *is_valid where one is in a byte that no packing writes. */
template <int PACKING>
__device__ __forceinline__ uint32_t unpack_four(const uint8_t *bytes, size_t n_bytes, size_t n_codes, size_t j,
                                                bool *is_valid) {
    uint32_t x;
    if (PACKING == HYB_PACKING_TERNARY_2BIT || PACKING == HYB_PACKING_INT2) {
        x = byte_at(bytes, j, n_bytes, 0);
        *is_valid = PACKING == HYB_PACKING_INT2 || (x & x >> 1 & 0x55u) == 0;
        x = (x | x << 12) & 0x000f000fu;
        x = (x | x << 6) & 0x03030303u;
        return PACKING == HYB_PACKING_INT2 ? subtract_from_bytes(2 * x, 0x03030303u)
                                           : subtract_from_bytes(x, 0x01010101u);
    }
    if (PACKING == HYB_PACKING_TERNARY_BASE3) {
        size_t first = 4 * j / 5;
        uint32_t low = byte_at(bytes, first, n_bytes, 121), high = byte_at(bytes, first + 1, n_bytes, 121);
        unsigned skip = (unsigned)(4 * j % 5);
        *is_valid = low < 243 && (skip < 2 || high < 243); /* what it skips of `high`, others check */
        uint32_t digits = low + 243 * high, four = 0;
        for (unsigned i = 0; i < 4; ++i)
            if (i < skip) digits /= 3;
        for (unsigned i = 0; i < 4; ++i, digits /= 3) four |= digits % 3 << (8 * i);
        return subtract_from_bytes(four, 0x01010101u);
    }
    *is_valid = true;
    if (PACKING == HYB_PACKING_INT1) {
        x = bytes[j / 2] >> (4 * (j % 2)) & 15u;
        x = (x | x << 7 | x << 14 | x << 21) & 0x01010101u;
        return subtract_from_bytes(2 * x, 0x01010101u);
    }
    if (PACKING == HYB_PACKING_INT4) {
        x = bytes[2 * j] | byte_at(bytes, 2 * j + 1, n_bytes, 0) << 16;
        x = (x | x << 4) & 0x0f0f0f0fu;
        return subtract_from_bytes(2 * x, 0x0f0f0f0fu);
    }
    if (PACKING == HYB_PACKING_TERNARY_3OF4) {
        size_t first = 5 * j / 8;
        unsigned shift = (unsigned)(5 * j % 8);
        uint32_t both = (bytes[first] | byte_at(bytes, first + 1, n_bytes, 0) << 8) >> shift, place = both & 3u;
        *is_valid = 4 * j + 4 < n_codes || both >> 5 == 0; /* behind the last field all is 0 */
        uint32_t signs = both >> 2 & 7u, below = (1u << place) - 1, four = 0;
        signs = (signs & below) | (signs & ~below) << 1;
        for (unsigned i = 0; i < 4; ++i)
            if (i != place) four |= ((signs >> i & 1u) != 0 ? 1u : 255u) << (8 * i);
        return four;
    }
    x = 0;
    for (unsigned i = 0; i < 4; ++i) {
        uint32_t byte = byte_at(bytes, 4 * j + i, n_bytes, 0);
        *is_valid &= byte != 128;
        x |= byte << (8 * i);
    }
    return x;
}

/* Fours that the codes of n_bytes reach into. */
template <int PACKING> size_t fours_of(size_t n_bytes, size_t n_codes) {
    switch (PACKING) {
    case HYB_PACKING_TERNARY_2BIT:
    case HYB_PACKING_INT2:
        return n_bytes;
    case HYB_PACKING_TERNARY_BASE3:
        return hyb_blocks_for(5 * n_bytes, 4);
    case HYB_PACKING_INT1:
        return 2 * n_bytes;
    default:
        return hyb_blocks_for(n_codes, 4);
    }
}

template <int PACKING>
__global__ void __launch_bounds__(HYB_PACK_THREADS)
    unpack_kernel(const uint8_t *bytes, size_t n_bytes, size_t n_codes, size_t n_fours, int8_t *codes,
                  volatile int *malformed) {
    bool is_aligned = hyb_is_aligned(codes, 4), bad = false;
    size_t first = (size_t)blockIdx.x * (HYB_PACK_FOURS * HYB_PACK_THREADS) + threadIdx.x;
#pragma unroll
    for (size_t k = 0; k < HYB_PACK_FOURS; ++k) {
        size_t j = first + k * HYB_PACK_THREADS;
        if (j >= n_fours) break;
        bool is_valid;
        uint32_t four = unpack_four<PACKING>(bytes, n_bytes, n_codes, j, &is_valid);
        size_t n = 4 * j < n_codes ? n_codes - 4 * j : 0;
        bad |= !is_valid || four != hyb_cut_codes<PACKING>(four, n);
        if (is_aligned && n >= 4)
            reinterpret_cast<uint32_t *>(codes)[j] = four;
        else
            for (size_t i = 0; i < 4 && i < n; ++i) codes[4 * j + i] = (int8_t)(four >> (8 * i));
    }
    if (bad) *malformed = 1;
}

template <int PACKING>
void launch_unpack(hyb_cuda_state *state, const uint8_t *bytes, size_t n_codes, int8_t *codes, void *stream) {
    auto kernel = unpack_kernel<PACKING>;
    size_t n_bytes = hyb_bytes_of<PACKING>(n_codes), n_fours = fours_of<PACKING>(n_bytes, n_codes);
    volatile int *malformed = state->malformed;
    HYB_LAUNCH(kernel, (unsigned)hyb_blocks_for(n_fours, HYB_PACK_FOURS * HYB_PACK_THREADS), HYB_PACK_THREADS, 0,
               stream, bytes, n_bytes, n_codes, n_fours, codes, malformed);
}

} // namespace

int hyb_module_unpack(hyb_cuda_state *state, int32_t packing, const uint8_t *bytes, size_t n_codes, int8_t *codes,
                      void *stream) {
    HYB_CUDA_BEGIN(state);
    HYB_WITH_PACKING(packing, launch_unpack, state, bytes, n_codes, codes, stream);
    return (int)cudaGetLastError();
}
