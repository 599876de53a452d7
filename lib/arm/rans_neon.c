/* rans_neon.c - entropy decoding for NEON: the 64 states stay in sixteen registers. There is no gather, so lanes are
 * looked up one by one; the arithmetic is done four lanes at a time, and eight lanes get their next words at once by a
 * table of byte permutations.
 *
 * Instructions a symbol, gcc 12 (tools/count_instructions): 6.9 with 2^12 slots and 8.8 with more; the reference takes
 * 24.2 and 28.2. No ARM processor timed it.
 */
#include "../common.h"

#if HYB_ARM64

#include <arm_neon.h>

/* By mask of 8 lanes, for each lane the two bytes of its word among the next 8 words; for one that takes none, bytes
 * that do not exist, which leave the lane as it is. */
#define BIT(m, i) ((uint32_t)(m) >> (i)&1u)
#define BELOW_0(m) 0u
#define BELOW_1(m) BIT(m, 0)
#define BELOW_2(m) (BELOW_1(m) + BIT(m, 1))
#define BELOW_3(m) (BELOW_2(m) + BIT(m, 2))
#define BELOW_4(m) (BELOW_3(m) + BIT(m, 3))
#define BELOW_5(m) (BELOW_4(m) + BIT(m, 4))
#define BELOW_6(m) (BELOW_5(m) + BIT(m, 5))
#define BELOW_7(m) (BELOW_6(m) + BIT(m, 6))
#define PLACE(m, i) (BIT(m, i) != 0 ? 0x0100u + 0x0202u * BELOW_##i(m) : 0xffffu)
#define PLACES(m)                                                                                                      \
    { PLACE(m, 0), PLACE(m, 1), PLACE(m, 2), PLACE(m, 3), PLACE(m, 4), PLACE(m, 5), PLACE(m, 6), PLACE(m, 7) }
#define PLACES_4(m) PLACES(m), PLACES((m) + 1), PLACES((m) + 2), PLACES((m) + 3)
#define PLACES_16(m) PLACES_4(m), PLACES_4((m) + 4), PLACES_4((m) + 8), PLACES_4((m) + 12)
#define PLACES_64(m) PLACES_16(m), PLACES_16((m) + 16), PLACES_16((m) + 32), PLACES_16((m) + 48)
static const uint16_t places[256][8] HYB_ALIGNED(16) = {PLACES_64(0), PLACES_64(64), PLACES_64(128), PLACES_64(192)};

/* Gives each of 8 states below 2^16 the next word; returns the place of the one behind. Reads 16 bytes. */
HYB_INLINE const uint8_t *refill(uint32x4_t *state, const uint8_t *words) {
    /* Added up over the lanes that take a word: the mask in bits 0 to 7, from bit 8 on the bytes that are taken. */
    static const uint16_t taken[8] = {0x201, 0x202, 0x204, 0x208, 0x210, 0x220, 0x240, 0x280};
    uint16x8_t a = vreinterpretq_u16_u32(state[0]), b = vreinterpretq_u16_u32(state[1]);
    uint16x8_t low = vuzp1q_u16(a, b), high = vuzp2q_u16(a, b), takes = vceqzq_u16(high);
    uint32_t sum = vaddvq_u16(vandq_u16(takes, vld1q_u16(taken)));
    uint8x16_t bytes = vreinterpretq_u8_u16(vld1q_u16(places[sum & 255]));
    high = vbslq_u16(takes, low, high);
    low = vreinterpretq_u16_u8(vqtbx1q_u8(vreinterpretq_u8_u16(low), vld1q_u8(words), bytes));
    state[0] = vreinterpretq_u32_u16(vzip1q_u16(low, high));
    state[1] = vreinterpretq_u32_u16(vzip2q_u16(low, high));
    words += sum >> 8;
    HYB_HIDE(words); /* else the compiler adds for the load, and once more */
    return words;
}

/* Four slots, two in a word: so they leave a vector with half as many moves, and a shift costs less than a move. */
typedef struct slot_pairs {
    uint64_t a, b;
} slot_pairs;

HYB_INLINE slot_pairs take_out(uint32x4_t slots) {
    uint64x2_t pairs = vreinterpretq_u64_u32(slots);
    slot_pairs at = {vgetq_lane_u64(pairs, 0), vgetq_lane_u64(pairs, 1)};
    HYB_HIDE(at.a); /* else gcc moves its lower half again */
    return at;
}

/* Four lanes; returns the entries, the symbol in their highest byte. */
HYB_INLINE uint32x4_t decode_slots(const uint32_t *slots, uint32x4_t *state) {
    const uint32x4_t low_12 = vdupq_n_u32(HYB_RANS_SLOTS - 1);
    const slot_pairs at = take_out(vandq_u32(*state, low_12));
    uint32x4_t entry = {slots[(uint32_t)at.a], slots[at.a >> 32], slots[(uint32_t)at.b], slots[at.b >> 32]};
    uint32x4_t above = vandq_u32(vshrq_n_u32(entry, 12), low_12);
    *state = vmlaq_u32(above, vandq_u32(entry, low_12), vshrq_n_u32(*state, 12));
    return entry;
}

/* The highest byte of each of 16 entries. */
HYB_INLINE void store_symbols(const uint32x4_t *entry, uint8_t *out) {
    uint16x8_t ab = vuzp2q_u16(vreinterpretq_u16_u32(entry[0]), vreinterpretq_u16_u32(entry[1]));
    uint16x8_t cd = vuzp2q_u16(vreinterpretq_u16_u32(entry[2]), vreinterpretq_u16_u32(entry[3]));
    vst1q_u8(out, vuzp2q_u8(vreinterpretq_u8_u16(ab), vreinterpretq_u8_u16(cd)));
}

/* Four lanes, and their symbols to out. */
HYB_INLINE void decode_ranges(const hyb_rans_job *job, uint32x4_t *state, uint8_t *out) {
    const int32x4_t down = vdupq_n_s32(-(int32_t)job->slot_bits);
    uint32x4_t slot = vandq_u32(*state, vdupq_n_u32((1u << job->slot_bits) - 1));
    const slot_pairs at = take_out(slot);
    out[0] = job->symbols[(uint32_t)at.a];
    out[1] = job->symbols[at.a >> 32];
    out[2] = job->symbols[(uint32_t)at.b];
    out[3] = job->symbols[at.b >> 32];
    uint32x4_t range = {job->ranges[out[0]], job->ranges[out[1]], job->ranges[out[2]], job->ranges[out[3]]};
    uint32x4_t above = vsubq_u32(slot, vshrq_n_u32(range, 16));
    *state = vmlaq_u32(above, vandq_u32(range, vdupq_n_u32(65535)), vshlq_u32(*state, down));
}

HYB_INLINE const uint8_t *row(const hyb_rans_job *job, uint32x4_t *state, const uint8_t *words, uint8_t *out,
                              int is_slots) {
    HYB_UNROLL
    for (size_t g = 0; g < 16; g += 4) {
        uint32x4_t entry[4];
        HYB_UNROLL
        for (size_t i = 0; i < 4; ++i)
            if (is_slots)
                entry[i] = decode_slots(job->slots, &state[g + i]);
            else
                decode_ranges(job, &state[g + i], out + 4 * (g + i));
        if (is_slots) store_symbols(entry, out + 4 * g);
        words = refill(&state[g], words);
        words = refill(&state[g + 2], words);
    }
    return words;
}

static void hyb_rans_decode_neon(hyb_rans_job *job) {
    const uint8_t *words = job->words, *last = job->words;
    if (job->n_words < HYB_RANS_LANES) return;
    last += 2 * (job->n_words - HYB_RANS_LANES); /* a row may begin here: it reads 128 bytes at most */
    uint8_t *out = job->out;
    const hyb_rans_job table = *job; /* a copy: what is stored to out does not change it */
    uint32x4_t state[16];
    HYB_UNROLL
    for (size_t g = 0; g < 16; ++g) state[g] = vld1q_u32(job->states + 4 * g);
    if (job->slots != NULL)
        for (; job->n_rows > 0 && words <= last; --job->n_rows, out += HYB_RANS_LANES)
            words = row(&table, state, words, out, 1);
    else
        for (; job->n_rows > 0 && words <= last; --job->n_rows, out += HYB_RANS_LANES)
            words = row(&table, state, words, out, 0);
    HYB_UNROLL
    for (size_t g = 0; g < 16; ++g) vst1q_u32(job->states + 4 * g, state[g]);
    job->n_words -= (size_t)(words - job->words) / 2;
    job->words = words;
    job->out = out;
}

void hyb_install_rans_neon(hyb_kernels *table) { HYB_INSTALL(table, rans_decode, neon, HYB_ISA_NEON); }

#else

typedef int hyb_rans_neon_is_for_aarch64; /* C99 wants a declaration in every file */

#endif
