/* rans_model.c - what symbols cost (rans.h): slots by their probabilities, models as bytes, and costs in bits.
 *
 * Integer arithmetic only, and the same steps everywhere: a model of digits is stored as their shares, and each reader
 * works the slots out again.
 */
#include "rans.h"

/* ---- slots ---- */

#define WEIGHT_BITS 40 /* of a symbol's weight: with 2^16 slots products stay below 2^57 */

/* The symbol to give a slot to (step 1) or to take it from (step -1): the one that it changes most, or least. A slot
 * more is worth weight / (2 f + 1), nearly weight * log2((f + 1) / f): Webster's rule of allotting seats. The first of
 * equals. */
static size_t find_seat(const uint64_t *weights, const uint32_t *frequencies, int step) {
    size_t best = 256;
    for (size_t s = 0; s < 256; ++s) {
        if (weights[s] == 0 || (step < 0 && frequencies[s] == 1)) continue;
        if (best == 256) {
            best = s;
            continue;
        }
        uint64_t mine = weights[s] * (2 * (uint64_t)frequencies[best] + (uint64_t)(int64_t)step);
        uint64_t other = weights[best] * (2 * (uint64_t)frequencies[s] + (uint64_t)(int64_t)step);
        if (step > 0 ? mine > other : mine < other) best = s;
    }
    return best;
}

/* Gives each symbol with a weight (below 2^WEIGHT_BITS) its share of 2^slot_bits slots: one where it is worth less, of
 * the rest the nearest whole number; what is then too few or too many goes to, or comes from, whom it changes most, or
 * least. */
static void allot(const uint64_t weights[256], uint32_t slot_bits, hyb_rans_model *model) {
    const uint32_t n_slots = 1u << slot_bits;
    uint64_t total = 0, large = 0;
    uint32_t n_small = 0, sum = 0, *f = model->frequencies;
    model->slot_bits = slot_bits;
    model->n_present = model->only = 0;
    for (size_t s = 0; s < 256; ++s) total += weights[s];
    for (uint32_t s = 0; s < 256; ++s) {
        f[s] = weights[s] != 0;
        if (weights[s] == 0) continue;
        ++model->n_present;
        model->only = s;
        if (weights[s] * n_slots < total)
            ++n_small;
        else
            large += weights[s];
    }
    for (size_t s = 0; s < 256; ++s) {
        if (weights[s] != 0 && weights[s] * n_slots >= total) {
            uint64_t share = (weights[s] * (n_slots - n_small) + large / 2) / large;
            f[s] = share > 0 ? (uint32_t)share : 1;
        }
        sum += f[s];
    }
    for (; sum < n_slots; ++sum) ++f[find_seat(weights, f, 1)];
    for (; sum > n_slots; --sum) --f[find_seat(weights, f, -1)];
}

void hyb_rans_model_digits(hyb_symbols symbols, const uint32_t *shares, uint32_t slot_bits, hyb_rans_model *model) {
    uint64_t weights[256] = {0};
    uint32_t n_symbols = 1;
    for (uint32_t i = 0; i < symbols.n_digits; ++i) n_symbols *= symbols.base;
    for (uint32_t s = 0; s < n_symbols; ++s) {
        uint64_t weight = 1; /* the shares of all digits but the last: at most 64 bits */
        uint32_t rest = s;
        for (uint32_t i = 1; i < symbols.n_digits; ++i, rest /= symbols.base) weight *= shares[rest % symbols.base];
        int is_present = weight != 0 && shares[rest] != 0;
        weight = symbols.n_digits == 5 ? (weight >> 24) * shares[rest] >> 16 : weight * shares[rest] >> 8;
        weights[s] = is_present && weight == 0 ? 1 : weight;
    }
    allot(weights, slot_bits, model);
}

void hyb_rans_model_counts(const uint32_t counts[256], uint32_t slot_bits, hyb_rans_model *model) {
    uint64_t weights[256];
    for (size_t s = 0; s < 256; ++s) weights[s] = counts[s];
    allot(weights, slot_bits, model);
}

/* ---- bytes ---- */

size_t hyb_put_varint(uint64_t value, uint8_t *bytes) {
    size_t n = 0;
    for (; value > 127; value >>= 7) bytes[n++] = (uint8_t)(value | 128);
    bytes[n++] = (uint8_t)value;
    return n;
}

int hyb_get_varint(const uint8_t **cursor, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (unsigned shift = 0; shift < 64 && *cursor < end; shift += 7) {
        uint8_t byte = *(*cursor)++;
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return shift < 63 || byte < 2; /* nothing was shifted out */
    }
    return 0;
}

enum { FIRST_BITS = 3, FIRST_FREQUENCIES = 4 };
static uint8_t first_byte(uint32_t slot_bits, int has_frequencies) {
    return (uint8_t)((slot_bits - 12) / 2 | (has_frequencies ? FIRST_FREQUENCIES : 0));
}

size_t hyb_rans_put_shares(hyb_symbols symbols, const uint32_t *shares, uint32_t slot_bits, uint8_t *bytes) {
    size_t n = 0;
    bytes[n++] = first_byte(slot_bits, 0);
    for (uint32_t d = 0; d + 1 < symbols.base; ++d) {
        bytes[n++] = (uint8_t)shares[d];
        bytes[n++] = (uint8_t)(shares[d] >> 8);
    }
    return n;
}

size_t hyb_rans_put_model(const hyb_rans_model *model, uint8_t *bytes) {
    size_t n = 0;
    bytes[n++] = first_byte(model->slot_bits, 1);
    for (size_t s = 0; s < 256;) {
        uint32_t f = model->frequencies[s++];
        n += hyb_put_varint(f, bytes + n);
        if (f != 0) continue;
        size_t further = 0;
        while (s < 256 && model->frequencies[s] == 0) ++s, ++further;
        n += hyb_put_varint(further, bytes + n);
    }
    return n;
}

static int get_shares(hyb_symbols symbols, const uint8_t **cursor, const uint8_t *end, uint32_t *shares) {
    uint32_t rest = HYB_DIGIT_SHARES;
    if (symbols.base == 0 || (size_t)(end - *cursor) < 2 * (size_t)(symbols.base - 1)) return 0;
    for (uint32_t d = 0; d + 1 < symbols.base; ++d, *cursor += 2) {
        shares[d] = (uint32_t)(*cursor)[0] | (uint32_t)(*cursor)[1] << 8;
        if (shares[d] > rest) return 0;
        rest -= shares[d];
    }
    shares[symbols.base - 1] = rest;
    return 1;
}

static int get_frequencies(const uint8_t **cursor, const uint8_t *end, hyb_rans_model *model) {
    uint64_t sum = 0, value;
    model->n_present = 0;
    memset(model->frequencies, 0, sizeof model->frequencies);
    for (uint32_t s = 0; s < 256; ++s) {
        if (!hyb_get_varint(cursor, end, &value) || value > (uint64_t)1 << model->slot_bits) return 0;
        model->frequencies[s] = (uint32_t)value;
        sum += value;
        if (value != 0) {
            ++model->n_present;
            model->only = s;
            continue;
        }
        if (!hyb_get_varint(cursor, end, &value) || value > 255 - s) return 0;
        s += (uint32_t)value;
    }
    return sum == (uint64_t)1 << model->slot_bits;
}

int hyb_rans_get_model(hyb_symbols symbols, const uint8_t **cursor, const uint8_t *end, hyb_rans_model *model) {
    uint32_t shares[HYB_MAX_BASE];
    hyb_rans_model passed;
    hyb_rans_model *m = model != NULL ? model : &passed;
    if (*cursor == end) return 0;
    uint8_t first = *(*cursor)++;
    if (first > (FIRST_BITS | FIRST_FREQUENCIES) || (first & FIRST_BITS) == 3) return 0;
    m->slot_bits = 12 + 2 * (uint32_t)(first & FIRST_BITS);
    if ((first & FIRST_FREQUENCIES) != 0) return get_frequencies(cursor, end, m);
    if (!get_shares(symbols, cursor, end, shares)) return 0;
    if (model != NULL) hyb_rans_model_digits(symbols, shares, m->slot_bits, m); /* what takes the time */
    return 1;
}

/* ---- costs ---- */

uint32_t hyb_log2_q16(uint64_t value) {
    uint32_t result = 0;
    uint64_t m = value;
    while (m >= (uint64_t)1 << 32) m >>= 1, ++result; /* the bits that are lost are below 2^-31 */
    while (m < (uint64_t)1 << 31) m <<= 1, --result;
    result += 31; /* value is m / 2^31 times 2^result, and m / 2^31 from 1 to 2 */
    for (int i = 0; i < 16; ++i) {
        m = m * m >> 31;
        uint32_t bit = (uint32_t)(m >> 32); /* 1 if the square is 2 or more */
        m >>= bit;
        result = result << 1 | bit;
    }
    return result;
}

uint64_t hyb_rans_cost(const hyb_rans_model *model, const uint32_t counts[256]) {
    uint64_t cost = 0;
    for (size_t s = 0; s < 256; ++s) {
        if (counts[s] == 0) continue;
        if (model->frequencies[s] == 0) return UINT64_MAX;
        cost += (uint64_t)counts[s] * ((model->slot_bits << 16) - hyb_log2_q16(model->frequencies[s]));
    }
    return cost;
}
