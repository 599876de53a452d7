/* coding.c - chooses groups and models by their size, and walks over them (coding.h). The choice is made in integer
 * arithmetic, so that the same symbols give the same bytes on every machine.
 */
#include "coding.h"

/* A group is worth its tables from about so many symbols on. */
#define SMALLEST_GROUP ((size_t)8192)
/* More slots, which take longer to look up, from a loss of 1 / so much on. Where 85 to 92 % of ternary codes are 0 the
 * best choice still loses 0.11 to 0.18 %: each of 243 symbols takes a slot of 2^14, and 2^16 leave so few of a state's
 * bits above them that rounding costs 0.003 to 0.004 bits a symbol. Slots are allotted as well as any rule could. */
#define TOLERATED_LOSS 1000
#define NO_COST UINT64_MAX

/* ---- one group ---- */

/* How often each symbol occurs in a group. */
typedef struct histogram {
    uint32_t counts[256];
} histogram;

static void count_symbols(const uint8_t *bytes, size_t n, uint32_t counts[256]) {
    uint32_t parts[4][256]; /* a symbol that follows itself does not wait for its own count */
    size_t i = 0;
    memset(parts, 0, sizeof parts);
    for (; i + 4 <= n; i += 4)
        for (size_t p = 0; p < 4; ++p) ++parts[p][bytes[i + p]];
    for (; i < n; ++i) ++parts[0][bytes[i]];
    for (size_t s = 0; s < 256; ++s) counts[s] = parts[0][s] + parts[1][s] + parts[2][s] + parts[3][s];
}

/* Bits, times 2^16, of things that occur so often, by their own shares: n log2 n - sum of c log2 c. */
static uint64_t entropy_cost(const uint64_t *counts, size_t n) {
    uint64_t total = 0, cost = 0;
    for (size_t i = 0; i < n; ++i) total += counts[i];
    for (size_t i = 0; i < n; ++i)
        if (counts[i] != 0) cost += counts[i] * (uint64_t)(hyb_log2_q16(total) - hyb_log2_q16(counts[i]));
    return cost;
}

/* Whole shares of HYB_DIGIT_SHARES, none of which is 0 where the digit occurs; the commonest takes what is left. */
static void digit_shares(const uint64_t *counts, uint32_t base, uint32_t *shares) {
    uint64_t total = 0;
    uint32_t rest = HYB_DIGIT_SHARES, most = 0;
    for (uint32_t d = 0; d < base; ++d) total += counts[d];
    for (uint32_t d = 0; d < base; ++d) {
        shares[d] = (uint32_t)((counts[d] * HYB_DIGIT_SHARES + total / 2) / total);
        if (counts[d] != 0 && shares[d] == 0) shares[d] = 1;
        if (counts[d] > counts[most]) most = d;
    }
    for (uint32_t d = 0; d < base; ++d) rest -= d != most ? shares[d] : 0;
    shares[most] = rest;
}

static void count_digits(hyb_symbols symbols, const uint32_t counts[256], uint64_t *digits) {
    memset(digits, 0, HYB_MAX_BASE * sizeof *digits);
    for (uint32_t s = 0; s < 256; ++s)
        for (uint32_t i = 0, rest = s; i < symbols.n_digits; ++i, rest /= symbols.base)
            digits[rest % symbols.base] += counts[s];
}

/* The best model of a group as bytes; returns its cost, and in *n_bytes their number. */
static uint64_t best_model(hyb_symbols symbols, const uint32_t counts[256], uint8_t *bytes, size_t *n_bytes) {
    uint8_t candidate[HYB_RANS_MODEL_BYTES];
    hyb_rans_model model;
    uint64_t best = NO_COST, cost = 0, floor_cost, wide[256], digits[HYB_MAX_BASE];
    *n_bytes = 0;
    if (symbols.base != 0) {
        uint32_t shares[HYB_MAX_BASE];
        count_digits(symbols, counts, digits);
        digit_shares(digits, symbols.base, shares);
        floor_cost = entropy_cost(digits, symbols.base);
        for (uint32_t bits = 12; bits <= 16; bits += 2) {
            hyb_rans_model_digits(symbols, shares, bits, &model);
            cost = hyb_rans_cost(&model, counts);
            if (cost >= best) continue;
            best = cost;
            *n_bytes = hyb_rans_put_shares(symbols, shares, bits, bytes);
            if (cost <= floor_cost + floor_cost / TOLERATED_LOSS) break;
        }
    }
    uint64_t n_present = 0;
    for (size_t s = 0; s < 256; ++s) {
        wide[s] = counts[s];
        n_present += counts[s] != 0;
    }
    floor_cost = entropy_cost(wide, 256);
    for (uint32_t bits = 12; bits <= 16; bits += 2) {
        if (best != NO_COST && best <= floor_cost + (n_present << 19)) break; /* each takes a byte of the model */
        hyb_rans_model_counts(counts, bits, &model);
        size_t n = hyb_rans_put_model(&model, candidate);
        cost = hyb_rans_cost(&model, counts);
        if (best == NO_COST || cost + ((uint64_t)n << 19) < best + ((uint64_t)*n_bytes << 19)) {
            best = cost;
            *n_bytes = n;
            memcpy(bytes, candidate, n);
        }
        if (cost <= floor_cost + floor_cost / TOLERATED_LOSS) break;
    }
    return best;
}

/* ---- groups ---- */

/* Length of the smallest groups that are tried: a multiple of 64, and of them at most HYB_CODING_GROUPS. */
static size_t unit_size(size_t n) {
    size_t units = 1;
    while (units < HYB_CODING_GROUPS && n / (2 * units) >= SMALLEST_GROUP) units *= 2;
    return hyb_round_up(hyb_ceil_div(n, units), HYB_RANS_LANES);
}

/* A candidate: the coding's bytes and cost with groups of so many units. */
static size_t try_groups(hyb_coding *c, const histogram *units, size_t n_units, size_t units_a_group, size_t unit,
                         uint8_t *head) {
    size_t n = 0, group = 0;
    c->group_size = units_a_group >= n_units ? c->n : units_a_group * unit;
    c->cost = 0;
    n += hyb_put_varint(units_a_group >= n_units ? 0 : c->group_size / HYB_RANS_LANES, head);
    for (size_t first = 0; first < n_units; first += units_a_group, ++group) {
        size_t n_model;
        histogram sum = units[first];
        for (size_t u = first + 1; u < hyb_min_size(first + units_a_group, n_units); ++u)
            for (size_t s = 0; s < 256; ++s) sum.counts[s] += units[u].counts[s];
        c->places[group] = (uint32_t)n;
        c->cost += best_model(c->symbols, sum.counts, head + n, &n_model);
        n += n_model;
    }
    c->n_groups = group;
    c->n_head = n;
    return n;
}

hyb_status hyb_coding_plan(hyb_ctx *ctx, hyb_symbols symbols, const uint8_t *bytes, size_t n, hyb_coding *coding) {
    const size_t unit = unit_size(n), n_units = hyb_ceil_div(n, unit);
    const size_t head_bytes = HYB_VARINT_BYTES + n_units * HYB_RANS_MODEL_BYTES;
    histogram *units = hyb_alloc(ctx, n_units, sizeof *units);
    uint8_t *head = hyb_alloc(ctx, head_bytes, 1), *best_head = hyb_alloc(ctx, head_bytes, 1);
    if (units == NULL || head == NULL || best_head == NULL) {
        hyb_free(ctx, units);
        hyb_free(ctx, head);
        hyb_free(ctx, best_head);
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to choose how to code %zu symbols", n);
    }
    hyb_coding candidate = {.symbols = symbols, .bytes = bytes, .n = n};
    *coding = candidate;
    for (size_t u = 0; u < n_units; ++u)
        count_symbols(bytes + u * unit, hyb_min_size(unit, n - u * unit), units[u].counts);
    for (size_t units_a_group = 1;; units_a_group *= 2) {
        (void)try_groups(&candidate, units, n_units, units_a_group, unit, head);
        if (coding->n_groups == 0 || hyb_coding_bytes(&candidate) <= hyb_coding_bytes(coding)) {
            *coding = candidate;
            memcpy(best_head, head, candidate.n_head);
        }
        if (units_a_group >= n_units) break;
    }
    coding->head = best_head;
    hyb_free(ctx, head);
    hyb_free(ctx, units);
    return HYB_OK;
}

void hyb_coding_free(hyb_ctx *ctx, hyb_coding *coding) {
    hyb_free(ctx, coding->head);
    coding->head = NULL;
}

uint64_t hyb_coding_bytes(const hyb_coding *coding) { return coding->n_head + (coding->cost >> 19); }

int hyb_coding_encode(const hyb_coding *coding, hyb_rans_encoder *encoder) {
    for (size_t g = coding->n_groups; g-- > 0;) {
        hyb_rans_model model;
        size_t first = g * coding->group_size;
        const uint8_t *cursor = coding->head + coding->places[g];
        if (!hyb_rans_get_model(coding->symbols, &cursor, coding->head + coding->n_head, &model)) return 0;
        if (!hyb_rans_encode(encoder, &model, coding->bytes + first,
                             hyb_min_size(coding->group_size, coding->n - first)))
            return 0;
    }
    return 1;
}

/* ---- reading ---- */

int hyb_coded_begin(hyb_symbols symbols, size_t n, const uint8_t **head, const uint8_t *end, hyb_coded *coded) {
    uint64_t rows;
    if (!hyb_get_varint(head, end, &rows)) return 0;
    size_t n_rows = hyb_ceil_div(n, HYB_RANS_LANES);
    *coded = (hyb_coded){.symbols = symbols, .group_size = n};
    if (rows != 0 && rows < n_rows) coded->group_size = (size_t)rows * HYB_RANS_LANES;
    return rows < n_rows || rows == 0;
}

int hyb_coded_pass(hyb_symbols symbols, size_t n, const uint8_t **head, const uint8_t *end) {
    hyb_coded coded;
    if (!hyb_coded_begin(symbols, n, head, end, &coded)) return 0;
    for (size_t groups = hyb_ceil_div(n, coded.group_size); groups > 0; --groups)
        if (!hyb_rans_get_model(symbols, head, end, NULL)) return 0;
    return 1;
}

int hyb_coded_read(hyb_coded *coded, hyb_rans_decoder *decoder, const uint8_t **head, const uint8_t *end, size_t n,
                   uint8_t *bytes) {
    while (n > 0) {
        if (coded->left_in_group == 0) {
            if (!hyb_rans_get_model(coded->symbols, head, end, &decoder->model)) return 0;
            hyb_rans_decoder_begin(decoder);
            coded->left_in_group = coded->group_size;
        }
        size_t n_now = hyb_min_size(n, coded->left_in_group);
        if (!hyb_rans_decode(decoder, n_now, bytes)) return 0;
        coded->left_in_group -= n_now;
        bytes += n_now;
        n -= n_now;
    }
    return 1;
}
