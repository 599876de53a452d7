/* rans_ref.c - entropy decoding in plain C: the specification of rans_decode (kernels.h). The lanes are independent but
 * for the place of their words, and nothing branches on the data, so that a processor works on several at once.
 */
#include "../common.h"

HYB_INLINE uint32_t next_word(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }

/* Takes a word if the state is below 2^16: without a branch, which would be a matter of chance. */
HYB_INLINE uint32_t refill(uint32_t state, const uint8_t **words) {
    uint32_t low = state < 65536u, word = next_word(*words);
    *words += 2 * (size_t)low;
    return state << 16 * low | (word & (0u - low));
}

/* A row with the table of 4096 whole entries; returns the place of the next word. */
HYB_INLINE const uint8_t *row_slots(const uint32_t *slots, uint32_t *states, const uint8_t *words, uint8_t *out) {
    HYB_NO_UNROLL
    for (size_t lane = 0; lane < HYB_RANS_LANES; ++lane) {
        uint32_t state = states[lane], entry = slots[state & (HYB_RANS_SLOTS - 1)];
        out[lane] = (uint8_t)(entry >> 24);
        states[lane] = refill((entry & 4095) * (state >> 12) + (entry >> 12 & 4095), &words);
    }
    return words;
}

/* A row with the symbol first, then its range. */
HYB_INLINE const uint8_t *row_ranges(const hyb_rans_job *job, uint32_t *states, const uint8_t *words, uint8_t *out) {
    const uint32_t mask = (1u << job->slot_bits) - 1;
    for (size_t lane = 0; lane < HYB_RANS_LANES; ++lane) {
        uint32_t slot = states[lane] & mask, range;
        out[lane] = job->symbols[slot];
        range = job->ranges[out[lane]];
        states[lane] = refill((range & 65535) * (states[lane] >> job->slot_bits) + slot - (range >> 16), &words);
    }
    return words;
}

void hyb_rans_decode_ref(hyb_rans_job *job) {
    const uint8_t *words = job->words, *last = job->words;
    if (job->n_words < HYB_RANS_LANES) return;
    last += 2 * (job->n_words - HYB_RANS_LANES); /* a row may begin here */
    uint8_t *out = job->out;
    uint32_t states[HYB_RANS_LANES];
    memcpy(states, job->states, sizeof states);
    if (job->slots != NULL)
        for (; job->n_rows > 0 && words <= last; --job->n_rows, out += HYB_RANS_LANES)
            words = row_slots(job->slots, states, words, out);
    else
        for (; job->n_rows > 0 && words <= last; --job->n_rows, out += HYB_RANS_LANES)
            words = row_ranges(job, states, words, out);
    memcpy(job->states, states, sizeof states);
    job->n_words -= (size_t)(words - job->words) / 2;
    job->words = words;
    job->out = out;
}
