/* limits_x86.c - probes of hyb_limits_measure for AVX2, AVX-512 and VNNI.
 * Arithmetic: twelve independent sums hide a latency of four or five cycles on two ports. Every loop over them is
 * unrolled, the first and the last too: else gcc 12 keeps them in memory and moves each on every turn (2.4 times
 * slower). They begin with different values: equal sums would be computed once.
 */
#include "../limits.h"

#if HYB_X86
#include <immintrin.h>

/* Keeps gcc 12 from moving a sum to and fro between two registers in each turn. */
#define HOLD(v) __asm__("" : "+v"(v))

#define SUMS 12 /* more than latency * ports = 10, and few enough for sixteen registers */

static HYB_TARGET_AVX2 uint64_t sum_i64x4(__m256i v) {
    uint64_t lanes[4];
    _mm256_storeu_si256((__m256i *)(void *)lanes, v);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

static HYB_TARGET_AVX512 uint64_t sum_i64x8(__m512i v) {
    return sum_i64x4(_mm256_add_epi64(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)));
}

/* Four streams: alone, one has too few lines on their way at a time (1.2 to 2 times as fast from DRAM). */
#define STREAMS 4

static HYB_TARGET_AVX2 uint64_t read_avx2(const uint8_t *memory, size_t n_bytes) {
    __m256i sums[8];
    const size_t share = n_bytes / STREAMS;
    HYB_UNROLL
    for (size_t j = 0; j < 8; ++j) sums[j] = _mm256_setzero_si256();
    for (size_t i = 0; i < share; i += sizeof sums) {
        for (const uint8_t *at = memory + i; at < memory + n_bytes; at += share) {
            _mm_prefetch((const char *)at + 2048, _MM_HINT_T0);
            _mm_prefetch((const char *)at + 2048 + 64, _MM_HINT_T0);
            _mm_prefetch((const char *)at + 2048 + 128, _MM_HINT_T0);
            _mm_prefetch((const char *)at + 2048 + 192, _MM_HINT_T0);
            HYB_UNROLL
            for (size_t j = 0; j < 8; ++j)
                sums[j] = _mm256_or_si256(sums[j], _mm256_load_si256((const __m256i *)(const void *)(at + 32 * j)));
        }
    }
    HYB_UNROLL
    for (size_t j = 1; j < 8; ++j) sums[0] = _mm256_xor_si256(sums[0], sums[j]);
    return sum_i64x4(sums[0]);
}

/* Without prefetching: for working sets that a cache holds, where a prefetch only takes a load's place. */
static HYB_TARGET_AVX2 uint64_t read_cached_avx2(const uint8_t *memory, size_t n_bytes) {
    __m256i sums[8];
    HYB_UNROLL
    for (size_t j = 0; j < 8; ++j) sums[j] = _mm256_setzero_si256();
    for (size_t i = 0; i < n_bytes; i += sizeof sums) {
        HYB_UNROLL
        for (size_t j = 0; j < 8; ++j)
            sums[j] = _mm256_or_si256(sums[j], _mm256_load_si256((const __m256i *)(const void *)(memory + i + 32 * j)));
    }
    HYB_UNROLL
    for (size_t j = 1; j < 8; ++j) sums[0] = _mm256_xor_si256(sums[0], sums[j]);
    return sum_i64x4(sums[0]);
}

static HYB_TARGET_AVX512 uint64_t read_avx512(const uint8_t *memory, size_t n_bytes) {
    __m512i sums[4];
    const size_t share = n_bytes / STREAMS;
    HYB_UNROLL
    for (size_t j = 0; j < 4; ++j) sums[j] = _mm512_setzero_si512();
    for (size_t i = 0; i < share; i += sizeof sums) {
        for (const uint8_t *at = memory + i; at < memory + n_bytes; at += share) {
            HYB_UNROLL
            for (size_t j = 0; j < 4; ++j) {
                _mm_prefetch((const char *)at + 2048 + 64 * j, _MM_HINT_T0);
                sums[j] = _mm512_or_si512(sums[j], _mm512_load_si512(at + 64 * j));
            }
        }
    }
    HYB_UNROLL
    for (size_t j = 1; j < 4; ++j) sums[0] = _mm512_xor_si512(sums[0], sums[j]);
    return sum_i64x8(sums[0]);
}

static HYB_TARGET_AVX512 uint64_t read_cached_avx512(const uint8_t *memory, size_t n_bytes) {
    __m512i sums[8];
    HYB_UNROLL
    for (size_t j = 0; j < 8; ++j) sums[j] = _mm512_setzero_si512();
    for (size_t i = 0; i < n_bytes; i += sizeof sums) {
        HYB_UNROLL
        for (size_t j = 0; j < 8; ++j) sums[j] = _mm512_or_si512(sums[j], _mm512_load_si512(memory + i + 64 * j));
    }
    HYB_UNROLL
    for (size_t j = 1; j < 8; ++j) sums[0] = _mm512_xor_si512(sums[0], sums[j]);
    return sum_i64x8(sums[0]);
}

#define CACHED_BYTES ((size_t)1 << 20) /* the private caches of today's processors hold about this */

static uint64_t read_any_avx2(const uint8_t *memory, size_t n_bytes) {
    return n_bytes <= CACHED_BYTES ? read_cached_avx2(memory, n_bytes) : read_avx2(memory, n_bytes);
}

static uint64_t read_any_avx512(const uint8_t *memory, size_t n_bytes) {
    return n_bytes <= CACHED_BYTES ? read_cached_avx512(memory, n_bytes) : read_avx512(memory, n_bytes);
}

static HYB_TARGET_AVX2 uint64_t fma_avx2(const uint8_t *operands, size_t n_turns) {
    const float *values = (const float *)(const void *)operands;
    __m256 sums[SUMS], factor = _mm256_loadu_ps(values), term = _mm256_loadu_ps(values + 8);
    HYB_UNROLL
    for (size_t j = 0; j < SUMS; ++j) sums[j] = _mm256_set1_ps((float)j);
    for (size_t i = 0; i < n_turns; ++i) {
        HYB_UNROLL
        for (size_t j = 0; j < SUMS; ++j) sums[j] = _mm256_fmadd_ps(sums[j], factor, term);
    }
    HYB_UNROLL
    for (size_t j = 1; j < SUMS; ++j) sums[0] = _mm256_add_ps(sums[0], sums[j]);
    return sum_i64x4(_mm256_castps_si256(sums[0]));
}

static HYB_TARGET_AVX512 uint64_t fma_avx512(const uint8_t *operands, size_t n_turns) {
    const float *values = (const float *)(const void *)operands;
    __m512 sums[SUMS], factor = _mm512_loadu_ps(values), term = _mm512_loadu_ps(values + 16);
    HYB_UNROLL
    for (size_t j = 0; j < SUMS; ++j) sums[j] = _mm512_set1_ps((float)j);
    for (size_t i = 0; i < n_turns; ++i) {
        HYB_UNROLL
        for (size_t j = 0; j < SUMS; ++j) sums[j] = _mm512_fmadd_ps(sums[j], factor, term);
    }
    HYB_UNROLL
    for (size_t j = 1; j < SUMS; ++j) sums[0] = _mm512_add_ps(sums[0], sums[j]);
    return sum_i64x8(_mm512_castps_si512(sums[0]));
}

/* An operand changes with the turn: otherwise the product would be taken out of the loop. Sums of 16 bits: with
 * ternary codes they need to be widened only after 64 additions, so widening is no part of the limit. */
#define EACH_SUM(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define CLEAR_SUM(j) __m256i sum##j = _mm256_setzero_si256();
/* The addition is written out: gcc 12 would add into the product's register and copy it back. */
#define ADD_PRODUCT(j)                                                                                                 \
    product = _mm256_maddubs_epi16(codes, _mm256_load_si256((const __m256i *)(const void *)(at + 32 * j)));            \
    __asm__("vpaddw %1, %0, %0" : "+x"(sum##j) : "x"(product));
#define ADD_SUM(j) total = _mm256_add_epi16(total, sum##j);

static HYB_TARGET_AVX2 uint64_t product_avx2(const uint8_t *operands, size_t n_turns) {
    __m256i codes = _mm256_loadu_si256((const __m256i *)(const void *)operands);
    __m256i product, total = _mm256_setzero_si256();
    EACH_SUM(CLEAR_SUM)
    for (size_t i = 0; i < n_turns; ++i) {
        const uint8_t *at = operands + i * 256 % HYB_LIMIT_OPERAND_BYTES;
        HYB_HIDE(at); /* one register: an address of two would cost an operation in each product */
        EACH_SUM(ADD_PRODUCT)
    }
    EACH_SUM(ADD_SUM)
    return sum_i64x4(total);
}

static HYB_TARGET_AVX512_VNNI uint64_t product_vnni(const uint8_t *operands, size_t n_turns) {
    __m512i sums[SUMS], a = _mm512_loadu_si512(operands), b = _mm512_loadu_si512(operands + 64);
    HYB_UNROLL
    for (size_t j = 0; j < SUMS; ++j) sums[j] = _mm512_set1_epi32((int)j);
    for (size_t i = 0; i < n_turns; ++i) {
        HYB_UNROLL
        for (size_t j = 0; j < SUMS; ++j) {
            sums[j] = _mm512_dpbusd_epi32(sums[j], a, b);
            HOLD(sums[j]);
        }
    }
    HYB_UNROLL
    for (size_t j = 1; j < SUMS; ++j) sums[0] = _mm512_add_epi32(sums[0], sums[j]);
    return sum_i64x8(sums[0]);
}

void hyb_limit_probes_x86(hyb_limit_probes *probes, uint32_t isa) {
    if ((isa & HYB_ISA_AVX2) != 0) {
        probes->read = read_any_avx2, probes->read_method = "vmovdqa ymm";
        probes->fma = fma_avx2, probes->fma_method = "vfmadd ymm", probes->fma_operations = SUMS * 8 * 2;
        probes->product = product_avx2, probes->product_method = "vpmaddubsw + vpaddw ymm";
        probes->product_operations = 8 * 32 * 2;
    }
    if ((isa & HYB_ISA_AVX512) != 0) {
        probes->read = read_any_avx512, probes->read_method = "vmovdqa64 zmm";
        probes->fma = fma_avx512, probes->fma_method = "vfmadd zmm", probes->fma_operations = SUMS * 16 * 2;
    }
    if ((isa & HYB_ISA_AVX512_VNNI) != 0) {
        probes->product = product_vnni, probes->product_method = "vpdpbusd zmm";
        probes->product_operations = SUMS * 64 * 2;
    }
}

#else
typedef int hyb_limits_x86_unused; /* a translation unit must not be empty */
#endif
