/* rans_avx512.c - entropy decoding for AVX-512: four vectors of 16 states; a gather looks slots up, an expansion gives
 * the next words to the lanes that need one.
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
 * clear the register: the gathers of several vectors then run at once: 1.4 times as fast with two lookups, 2.4 times
 * for AVX2. */
#define GATHER(index, table, scale)                                                                                    \
    _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), all, index, (const void *)(table), scale)

static inline HYB_TARGET_AVX512 void decode_slots(const uint32_t *slots, __mmask16 all, __m512i *state, uint8_t *out) {
    const __m512i low_12 = _mm512_set1_epi32(HYB_RANS_SLOTS - 1);
    __m512i entry = GATHER(_mm512_and_si512(*state, low_12), slots, 4);
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtepi32_epi8(_mm512_srli_epi32(entry, 24)));
    __m512i product = _mm512_mullo_epi32(_mm512_and_si512(entry, low_12), _mm512_srli_epi32(*state, 12));
    *state = _mm512_add_epi32(product, _mm512_and_si512(_mm512_srli_epi32(entry, 12), low_12));
}

static inline HYB_TARGET_AVX512 void decode_ranges(const hyb_rans_job *table, __mmask16 all, __m512i *state,
                                                   uint8_t *out) {
    const __m128i bits = _mm_cvtsi32_si128((int)table->slot_bits);
    const __m512i low_16 = _mm512_set1_epi32(65535);
    __m512i slot = _mm512_and_si512(*state, _mm512_set1_epi32((int)((1u << table->slot_bits) - 1)));
    __m512i symbol = GATHER(slot, table->symbols, 1);
    symbol = _mm512_and_si512(symbol, _mm512_set1_epi32(255));
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtepi32_epi8(symbol));
    __m512i range = GATHER(symbol, table->ranges, 4);
    __m512i product = _mm512_mullo_epi32(_mm512_and_si512(range, low_16), _mm512_srl_epi32(*state, bits));
    *state = _mm512_add_epi32(product, _mm512_sub_epi32(slot, _mm512_srli_epi32(range, 16)));
}

static HYB_TARGET_AVX512 void hyb_rans_decode_avx512(hyb_rans_job *job) {
    const uint8_t *words = job->words, *last = job->words;
    if (job->n_words < HYB_RANS_LANES) return;
    last += 2 * (job->n_words - HYB_RANS_LANES); /* a row may begin here: it reads 128 bytes at most */
    uint8_t *out = job->out;
    const hyb_rans_job table = *job; /* a copy: what is stored to out does not change it */
    __m512i state[4];
    uint32_t all = 0xffff;
    HYB_HIDE(all);
    for (size_t g = 0; g < 4; ++g) state[g] = _mm512_loadu_si512(job->states + 16 * g);
    if (job->slots != NULL)
        for (; job->n_rows > 0 && words <= last; --job->n_rows, out += HYB_RANS_LANES) {
            HYB_UNROLL
            for (size_t g = 0; g < 4; ++g) decode_slots(table.slots, (__mmask16)all, &state[g], out + 16 * g);
            HYB_UNROLL
            for (size_t g = 0; g < 4; ++g) words = refill(&state[g], words);
        }
    else
        for (; job->n_rows > 0 && words <= last; --job->n_rows, out += HYB_RANS_LANES) {
            HYB_UNROLL
            for (size_t g = 0; g < 4; ++g) decode_ranges(&table, (__mmask16)all, &state[g], out + 16 * g);
            HYB_UNROLL
            for (size_t g = 0; g < 4; ++g) words = refill(&state[g], words);
        }
    for (size_t g = 0; g < 4; ++g) _mm512_storeu_si512(job->states + 16 * g, state[g]);
    job->n_words -= (size_t)(words - job->words) / 2;
    job->words = words;
    job->out = out;
}

void hyb_install_rans_avx512(hyb_kernels *table) { HYB_INSTALL(table, rans_decode, avx512, HYB_ISA_AVX512); }

#else

typedef int hyb_rans_avx512_is_for_x86; /* C99 wants a declaration in every file */

#endif
