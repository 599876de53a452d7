/* rans_avx512.c - entropy decoding for AVX-512: four vectors of 16 states; a gather looks slots up, permutations the
 * ranges of their symbols, an expansion gives the next words to the lanes that need one.
 */
#include "../common.h"

#if HYB_X86

#include <immintrin.h>

/* Without optimisation GCC's gather is a macro that turns an unsigned mask into a signed one. */
#pragma GCC diagnostic ignored "-Wsign-conversion"

/* Gives each state below 2^16 the next word; returns the place of the one behind. Reads 32 bytes. */
static inline HYB_TARGET_AVX512 const uint8_t *refill(__m512i *state, const uint8_t *words) {
    __mmask16 low = _mm512_cmplt_epu32_mask(*state, _mm512_set1_epi32(65536));
    __m512i next = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)words));
    next = _mm512_maskz_expand_epi32(low, next);
    *state = _mm512_mask_or_epi32(*state, low, _mm512_slli_epi32(*state, 16), next);
    return words + 2 * (size_t)__builtin_popcount(low);
}

/* A gather waits for what its result's register held before. A mask that the compiler does not know to be full makes it
 * clear the register: the gathers of several vectors then run at once. */
#define GATHER(index, table, scale)                                                                                    \
    _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), all, index, (const void *)(table), scale)

static inline HYB_TARGET_AVX512 void row_slots(const uint32_t *slots, __mmask16 all, __m512i *state, uint8_t *out) {
    const __m512i low_12 = _mm512_set1_epi32(HYB_RANS_SLOTS - 1);
    HYB_UNROLL
    for (size_t g = 0; g < 4; ++g) {
        __m512i entry = GATHER(_mm512_and_si512(state[g], low_12), slots, 4);
        _mm_storeu_si128((__m128i *)(void *)(out + 16 * g), _mm512_cvtepi32_epi8(_mm512_srli_epi32(entry, 24)));
        __m512i product = _mm512_mullo_epi32(_mm512_and_si512(entry, low_12), _mm512_srli_epi32(state[g], 12));
        state[g] = _mm512_add_epi32(product, _mm512_and_si512(_mm512_srli_epi32(entry, 12), low_12));
    }
}

/* What each of 256 symbols has, 16 bits each, in registers. */
typedef struct words_256 {
    __m512i parts[8];
} words_256;

static inline HYB_TARGET_AVX512 words_256 load_words(const uint32_t *ranges, unsigned shift) {
    const __m128i count = _mm_cvtsi32_si128((int)shift);
    words_256 table;
    HYB_UNROLL
    for (size_t p = 0; p < 8; ++p) {
        __m512i low = _mm512_srl_epi32(_mm512_loadu_si512(ranges + 32 * p), count);
        __m512i high = _mm512_srl_epi32(_mm512_loadu_si512(ranges + 32 * p + 16), count);
        table.parts[p] = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(low));
        table.parts[p] = _mm512_inserti64x4(table.parts[p], _mm512_cvtepi32_epi16(high), 1);
    }
    return table;
}

/* table[symbol] of 32 symbols: a permutation of two registers looks up among 64. */
static inline HYB_TARGET_AVX512 __m512i look_up(const words_256 *table, __m512i symbols) {
    const __mmask32 bit_6 = _mm512_test_epi16_mask(symbols, _mm512_set1_epi16(64));
    const __mmask32 bit_7 = _mm512_test_epi16_mask(symbols, _mm512_set1_epi16(128));
    const __m512i *t = table->parts;
    __m512i a = _mm512_permutex2var_epi16(t[0], symbols, t[1]), b = _mm512_permutex2var_epi16(t[2], symbols, t[3]);
    __m512i c = _mm512_permutex2var_epi16(t[4], symbols, t[5]), d = _mm512_permutex2var_epi16(t[6], symbols, t[7]);
    return _mm512_mask_mov_epi16(_mm512_mask_mov_epi16(a, bit_6, b), bit_7, _mm512_mask_mov_epi16(c, bit_6, d));
}

/* A row; f and first by symbol. Packing interleaves the vectors of symbols, unpacking their words puts these back.
 * Permutations instead of a second gather make 2^14 and 2^16 slots 1.33 times as fast by gcc, 1.43 times by clang (Zen
 * 5), 0.7 times as fast as 2^12. Whole entries for 2^14 slots would give 1.17 times that, and AVX2 1.25 times what it
 * has, but their 64 KB fit no first-level cache, f only below 1008: larger ones want a table of their own. */
static inline HYB_TARGET_AVX512 void row_ranges(const hyb_rans_job *table, const words_256 *f, const words_256 *first,
                                                __mmask16 all, __m512i *state, uint8_t *out) {
    const __m128i bits = _mm_cvtsi32_si128((int)table->slot_bits);
    const __m512i slot_mask = _mm512_set1_epi32((int)((1u << table->slot_bits) - 1));
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i slots[4], symbols[4], both[2];
    HYB_UNROLL
    for (size_t g = 0; g < 4; ++g) {
        slots[g] = _mm512_and_si512(state[g], slot_mask);
        symbols[g] = _mm512_and_si512(GATHER(slots[g], table->symbols, 1), _mm512_set1_epi32(255));
        state[g] = _mm512_srl_epi32(state[g], bits);
    }
    HYB_UNROLL
    for (size_t h = 0; h < 2; ++h) {
        both[h] = _mm512_packus_epi32(symbols[2 * h], symbols[2 * h + 1]);
        __m512i fs = look_up(f, both[h]), firsts = look_up(first, both[h]), zero = _mm512_setzero_si512();
        __m512i low = _mm512_mullo_epi32(_mm512_unpacklo_epi16(fs, zero), state[2 * h]);
        __m512i high = _mm512_mullo_epi32(_mm512_unpackhi_epi16(fs, zero), state[2 * h + 1]);
        low = _mm512_sub_epi32(low, _mm512_unpacklo_epi16(firsts, zero));
        high = _mm512_sub_epi32(high, _mm512_unpackhi_epi16(firsts, zero));
        state[2 * h] = _mm512_add_epi32(low, slots[2 * h]);
        state[2 * h + 1] = _mm512_add_epi32(high, slots[2 * h + 1]);
    }
    _mm512_storeu_si512(out, _mm512_permutexvar_epi32(in_order, _mm512_packus_epi16(both[0], both[1])));
}

HYB_INLINE HYB_TARGET_AVX512 void decode_rows(hyb_rans_job *job, int is_slots) {
    const uint8_t *words = job->words, *last = job->words;
    if (job->n_words < HYB_RANS_LANES) return;
    last += 2 * (job->n_words - HYB_RANS_LANES); /* a row may begin here: it reads 128 bytes at most */
    uint8_t *out = job->out;
    const hyb_rans_job table = *job; /* a copy: what is stored to out does not change it */
    words_256 f, first;
    __m512i state[4];
    uint32_t all = 0xffff;
    HYB_HIDE(all);
    if (!is_slots) f = load_words(table.ranges, 0), first = load_words(table.ranges, 16);
    for (size_t g = 0; g < 4; ++g) state[g] = _mm512_loadu_si512(job->states + 16 * g);
    for (; job->n_rows > 0 && words <= last; --job->n_rows, out += HYB_RANS_LANES) {
        if (is_slots)
            row_slots(table.slots, (__mmask16)all, state, out);
        else
            row_ranges(&table, &f, &first, (__mmask16)all, state, out);
        HYB_UNROLL
        for (size_t g = 0; g < 4; ++g) words = refill(&state[g], words);
    }
    for (size_t g = 0; g < 4; ++g) _mm512_storeu_si512(job->states + 16 * g, state[g]);
    job->n_words -= (size_t)(words - job->words) / 2;
    job->words = words;
    job->out = out;
}

/* Not one function: the tables in registers would leave none for the states of the other loop. */
static HYB_NO_INLINE HYB_TARGET_AVX512 void decode_by_slots(hyb_rans_job *job) { decode_rows(job, 1); }
static HYB_NO_INLINE HYB_TARGET_AVX512 void decode_by_ranges(hyb_rans_job *job) { decode_rows(job, 0); }

static void hyb_rans_decode_avx512(hyb_rans_job *job) {
    if (job->slots != NULL)
        decode_by_slots(job);
    else
        decode_by_ranges(job);
}

void hyb_install_rans_avx512(hyb_kernels *table) { HYB_INSTALL(table, rans_decode, avx512, HYB_ISA_AVX512); }

#else

typedef int hyb_rans_avx512_is_for_x86; /* C99 wants a declaration in every file */

#endif
