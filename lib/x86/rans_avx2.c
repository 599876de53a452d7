/* rans_avx2.c - entropy decoding for AVX2: eight vectors of 8 states; a gather looks slots up, a permutation by the
 * mask of the lanes that need one gives them the next words.
 */
#include "../common.h"

#if HYB_X86

#include <immintrin.h>

/* By mask of 8 lanes, for each lane the number of set lanes below it: 4 bits a lane, the first lowest. */
#define BIT(m, i) ((uint32_t)(m) >> (i)&1u)
#define BELOW_1(m) BIT(m, 0)
#define BELOW_2(m) (BELOW_1(m) + BIT(m, 1))
#define BELOW_3(m) (BELOW_2(m) + BIT(m, 2))
#define BELOW_4(m) (BELOW_3(m) + BIT(m, 3))
#define BELOW_5(m) (BELOW_4(m) + BIT(m, 4))
#define BELOW_6(m) (BELOW_5(m) + BIT(m, 5))
#define BELOW_7(m) (BELOW_6(m) + BIT(m, 6))
#define PLACES(m)                                                                                                      \
    (BELOW_1(m) << 4 | BELOW_2(m) << 8 | BELOW_3(m) << 12 | BELOW_4(m) << 16 | BELOW_5(m) << 20 | BELOW_6(m) << 24 |   \
     BELOW_7(m) << 28)
#define PLACES_4(m) PLACES(m), PLACES((m) + 1), PLACES((m) + 2), PLACES((m) + 3)
#define PLACES_16(m) PLACES_4(m), PLACES_4((m) + 4), PLACES_4((m) + 8), PLACES_4((m) + 12)
#define PLACES_64(m) PLACES_16(m), PLACES_16((m) + 16), PLACES_16((m) + 32), PLACES_16((m) + 48)
static const uint32_t places[256] = {PLACES_64(0), PLACES_64(64), PLACES_64(128), PLACES_64(192)};

/* Gives each state below 2^16 the next word; returns the place of the one behind. Reads 16 bytes. */
static inline HYB_TARGET_AVX2 const uint8_t *refill(__m256i *state, const uint8_t *words) {
    const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    __m256i low = _mm256_cmpeq_epi32(_mm256_srli_epi32(*state, 16), _mm256_setzero_si256());
    unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(low));
    __m256i next = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)words));
    /* Each lane's index is in its lowest bits; the permutation ignores the others. */
    next = _mm256_permutevar8x32_epi32(next, _mm256_srlv_epi32(_mm256_set1_epi32((int)places[mask]), shifts));
    *state = _mm256_blendv_epi8(*state, _mm256_or_si256(_mm256_slli_epi32(*state, 16), next), low);
    return words + 2 * (size_t)__builtin_popcount(mask);
}

/* The lowest byte of each of 32 dwords, in order. */
static inline HYB_TARGET_AVX2 void store_symbols(const __m256i *s, uint8_t *out) {
    __m256i ab = _mm256_packus_epi32(s[0], s[1]), cd = _mm256_packus_epi32(s[2], s[3]);
    __m256i bytes = _mm256_packus_epi16(ab, cd); /* dwords: a0 b0 c0 d0 | a1 b1 c1 d1 */
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)out, bytes);
}

/* A gather waits for what its result's register held before. A mask that the compiler does not know to be full makes it
 * clear the register: the gathers of several vectors then run at once. */
#define GATHER(index, table, scale)                                                                                    \
    _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), (const void *)(table), index, all, scale)

static inline HYB_TARGET_AVX2 __m256i decode_slots(const uint32_t *slots, __m256i all, __m256i *state) {
    const __m256i low_12 = _mm256_set1_epi32(HYB_RANS_SLOTS - 1);
    __m256i entry = GATHER(_mm256_and_si256(*state, low_12), slots, 4);
    __m256i product = _mm256_mullo_epi32(_mm256_and_si256(entry, low_12), _mm256_srli_epi32(*state, 12));
    *state = _mm256_add_epi32(product, _mm256_and_si256(_mm256_srli_epi32(entry, 12), low_12));
    return _mm256_srli_epi32(entry, 24);
}

static inline HYB_TARGET_AVX2 __m256i decode_ranges(const hyb_rans_job *job, __m256i all, __m256i *state) {
    const __m128i bits = _mm_cvtsi32_si128((int)job->slot_bits);
    const __m256i low_16 = _mm256_set1_epi32(65535);
    __m256i slot = _mm256_and_si256(*state, _mm256_set1_epi32((int)((1u << job->slot_bits) - 1)));
    __m256i symbol = GATHER(slot, job->symbols, 1);
    symbol = _mm256_and_si256(symbol, _mm256_set1_epi32(255));
    __m256i range = GATHER(symbol, job->ranges, 4);
    __m256i product = _mm256_mullo_epi32(_mm256_and_si256(range, low_16), _mm256_srl_epi32(*state, bits));
    *state = _mm256_add_epi32(product, _mm256_sub_epi32(slot, _mm256_srli_epi32(range, 16)));
    return symbol;
}

/* Half a row: four vectors at once, as many as the registers hold. */
static inline HYB_TARGET_AVX2 const uint8_t *half_row(const hyb_rans_job *job, __m256i *state, const uint8_t *words,
                                                      uint8_t *out, int is_slots) {
    int minus_one = -1;
    HYB_HIDE(minus_one);
    __m256i symbols[4], all = _mm256_set1_epi32(minus_one);
    HYB_UNROLL
    for (size_t g = 0; g < 4; ++g)
        symbols[g] = is_slots ? decode_slots(job->slots, all, &state[g]) : decode_ranges(job, all, &state[g]);
    store_symbols(symbols, out);
    HYB_UNROLL
    for (size_t g = 0; g < 4; ++g) words = refill(&state[g], words);
    return words;
}

static inline HYB_TARGET_AVX2 const uint8_t *row(const hyb_rans_job *job, __m256i *state, const uint8_t *words,
                                                 uint8_t *out, int is_slots) {
    words = half_row(job, state, words, out, is_slots);
    return half_row(job, state + 4, words, out + 32, is_slots);
}

static HYB_TARGET_AVX2 void hyb_rans_decode_avx2(hyb_rans_job *job) {
    const uint8_t *words = job->words, *last = job->words;
    if (job->n_words < HYB_RANS_LANES) return;
    last += 2 * (job->n_words - HYB_RANS_LANES); /* a row may begin here: it reads 128 bytes at most */
    uint8_t *out = job->out;
    const hyb_rans_job table = *job; /* a copy: what is stored to out does not change it */
    __m256i state[8];
    for (size_t g = 0; g < 8; ++g) state[g] = _mm256_loadu_si256((const void *)(job->states + 8 * g));
    if (job->slots != NULL)
        for (; job->n_rows > 0 && words <= last; --job->n_rows, out += HYB_RANS_LANES)
            words = row(&table, state, words, out, 1);
    else
        for (; job->n_rows > 0 && words <= last; --job->n_rows, out += HYB_RANS_LANES)
            words = row(&table, state, words, out, 0);
    for (size_t g = 0; g < 8; ++g) _mm256_storeu_si256((void *)(job->states + 8 * g), state[g]);
    job->n_words -= (size_t)(words - job->words) / 2;
    job->words = words;
    job->out = out;
}

void hyb_install_rans_avx2(hyb_kernels *table) { HYB_INSTALL(table, rans_decode, avx2, HYB_ISA_AVX2); }

#else

typedef int hyb_rans_avx2_is_for_x86; /* C99 wants a declaration in every file */

#endif
