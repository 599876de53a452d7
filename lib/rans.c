/* rans.c - symbols to a stream and back (rans.h). The decoder's inner loop is the kernel rans_decode; here is what
 * surrounds it: the end of the stream, where fewer than 64 words are left, the last row of a segment, and streams of
 * fewer lanes, which are so short that their speed does not matter.
 */
#include "rans.h"

#define LOWER 65536u /* every state is at least this */

/* ---- encoder ---- */

uint32_t hyb_rans_lanes(uint64_t n_bytes) {
    uint32_t lanes = 1;
    /* A lane costs 3 bytes: 4 for its state, of which 8 bits in the mean carry symbols. */
    while (lanes < HYB_RANS_LANES && n_bytes / 4000 >= 2 * lanes) lanes *= 2;
    return lanes;
}

void hyb_rans_encoder_init(hyb_rans_encoder *e, uint8_t *buffer, size_t capacity, uint32_t n_lanes) {
    *e = (hyb_rans_encoder){.begin = buffer, .next = buffer + capacity, .end = buffer + capacity, .n_lanes = n_lanes};
    for (size_t i = 0; i < HYB_RANS_LANES; ++i) e->states[i] = LOWER;
}

/* What a symbol does to a state: if state >= limit, its lowest word goes out first; then with q = state / f
 * state = q 2^slot_bits + state - q f + first. */
typedef struct step {
    uint64_t limit, reciprocal; /* f << (32 - slot_bits); 2^32 / f, rounded down */
    uint32_t f, first;
} step;

static void make_steps(const hyb_rans_model *model, step *steps) {
    uint32_t first = 0;
    for (size_t s = 0; s < 256; ++s) {
        uint32_t f = model->frequencies[s];
        steps[s] = (step){(uint64_t)f << (32 - model->slot_bits), f != 0 ? ((uint64_t)1 << 32) / f : 0, f, first};
        first += f;
    }
}

/* Without a branch: the word is always written, and counts if the place moves. */
HYB_INLINE uint32_t put_symbol(uint32_t state, const step *s, uint32_t slot_bits, uint8_t **next) {
    uint32_t big = state >= s->limit;
    (*next)[-2] = (uint8_t)state;
    (*next)[-1] = (uint8_t)(state >> 8);
    *next -= 2 * (size_t)big;
    state >>= 16 * big;
    /* The reciprocal is too small by less than 1, so the quotient by at most 1. */
    uint32_t q = (uint32_t)(state * s->reciprocal >> 32), r = state - q * s->f, more = r >= s->f;
    return ((q + more) << slot_bits) + r - (s->f & (0u - more)) + s->first;
}

int hyb_rans_encode(hyb_rans_encoder *e, const hyb_rans_model *model, const uint8_t *symbols, size_t n) {
    step steps[256];
    if (model->n_present < 2 || n == 0) return 1;
    make_steps(model, steps);
    e->used = 1;
    for (size_t i = n; i > 0;) {
        /* The lanes of a row from the last to the first. */
        size_t n_row = (i - 1) % e->n_lanes + 1, row = i - n_row;
        if ((size_t)(e->next - e->begin) < 2 * n_row + 2) return 0;
        for (size_t lane = n_row; lane-- > 0;)
            e->states[lane] = put_symbol(e->states[lane], &steps[symbols[row + lane]], model->slot_bits, &e->next);
        i = row;
    }
    return 1;
}

const uint8_t *hyb_rans_encoder_finish(hyb_rans_encoder *e, size_t *n_bytes) {
    *n_bytes = 0;
    if (!e->used) return e->next;
    if ((size_t)(e->next - e->begin) < 4 * (size_t)e->n_lanes) return NULL;
    e->next -= 4 * (size_t)e->n_lanes;
    for (size_t i = 0; i < e->n_lanes; ++i) hyb_store_u32(e->next + 4 * i, e->states[i]);
    *n_bytes = (size_t)(e->end - e->next);
    return e->next;
}

/* ---- decoder ---- */

int hyb_rans_decoder_init(hyb_rans_decoder *d, const hyb_kernels *kernels, const uint8_t *bytes, size_t n_bytes,
                          uint32_t n_lanes) {
    size_t n_states = n_bytes > 0 ? n_lanes : 0;
    d->kernels = kernels;
    d->n_lanes = n_lanes;
    d->words = bytes;
    d->n_words = 0;
    d->failed = 1;
    for (size_t i = 0; i < HYB_RANS_LANES; ++i) d->states[i] = LOWER;
    if (n_lanes == 0 || n_lanes > HYB_RANS_LANES || n_bytes % 2 != 0 || n_bytes < 4 * n_states) return 0;
    for (size_t i = 0; i < n_states; ++i) {
        d->states[i] = hyb_load_u32(bytes + 4 * i);
        if (d->states[i] < LOWER) return 0;
    }
    d->words = n_states > 0 ? bytes + 4 * n_states : bytes;
    d->n_words = (n_bytes - 4 * n_states) / 2;
    d->failed = 0;
    return 1;
}

void hyb_rans_decoder_feed(hyb_rans_decoder *d, const uint8_t *words, size_t n_words) {
    d->words = words;
    d->n_words = n_words;
}

void hyb_rans_decoder_begin(hyb_rans_decoder *d) {
    uint32_t first = 0;
    if (d->model.n_present < 2) return;
    for (uint32_t s = 0; s < 256; ++s) {
        uint32_t f = d->model.frequencies[s];
        if (d->model.slot_bits == 12)
            for (uint32_t i = 0; i < f; ++i) d->slots[first + i] = f | i << 12 | s << 24;
        else
            memset(d->symbols + first, (int)s, f);
        d->ranges[s] = f | first << 16;
        first += f;
    }
    memset(d->symbols + ((size_t)1 << d->model.slot_bits), 0, 3);
}

/* One lane after another, for what the kernel leaves; there are at least n words, or zeros behind those that there are.
 * Without a branch on the data. Returns the words that were taken. */
HYB_INLINE size_t decode_lanes(hyb_rans_decoder *d, const uint8_t *words, size_t n, uint8_t *symbols) {
    const uint32_t bits = d->model.slot_bits, mask = (1u << bits) - 1;
    const uint8_t *next = words;
    for (size_t lane = 0; lane < n; ++lane) {
        uint32_t state = d->states[lane], slot = state & mask;
        uint32_t s = bits == 12 ? d->slots[slot] >> 24 : d->symbols[slot], range = d->ranges[s];
        state = (range & 65535) * (state >> bits) + slot - (range >> 16);
        uint32_t low = state < LOWER, word = (uint32_t)next[0] | (uint32_t)next[1] << 8;
        next += 2 * (size_t)low;
        d->states[lane] = state << 16 * low | (word & (0u - low));
        symbols[lane] = (uint8_t)s;
    }
    return (size_t)(next - words) / 2;
}

/* A row, or the last lanes of one. Returns 0 if there are too few words. */
static int decode_row(hyb_rans_decoder *d, size_t n, uint8_t *symbols) {
    uint8_t padded[2 * HYB_RANS_LANES + 2] = {0};
    size_t n_taken;
    if (d->n_words > n) { /* one more than can be taken may be looked at */
        n_taken = decode_lanes(d, d->words, n, symbols);
    } else {
        memcpy(padded, d->words, 2 * d->n_words);
        n_taken = decode_lanes(d, padded, n, symbols);
        if (n_taken > d->n_words) return 0;
    }
    d->words += 2 * n_taken;
    d->n_words -= n_taken;
    return 1;
}

static void run_kernel(const hyb_rans_decoder *d, hyb_rans_job *job) {
    job->slots = d->model.slot_bits == 12 ? d->slots : NULL;
    job->symbols = d->symbols;
    job->ranges = d->ranges;
    job->slot_bits = d->model.slot_bits;
    d->kernels->rans_decode(job);
}

/* Whole rows of all 64 lanes. Where fewer than 64 words are left the kernel works on a copy with zeros behind it: as
 * long as it takes no more than there are, at least 64 remain, and it goes on to the end. */
static int decode_rows(hyb_rans_decoder *d, size_t n_rows, uint8_t *symbols) {
    uint8_t padded[4 * HYB_RANS_LANES];
    hyb_rans_job job = {
        .states = d->states, .words = d->words, .n_words = d->n_words, .out = symbols, .n_rows = n_rows};
    run_kernel(d, &job);
    d->words = job.words;
    d->n_words = job.n_words;
    if (job.n_rows == 0) return 1;
    memset(padded, 0, sizeof padded);
    memcpy(padded, d->words, 2 * d->n_words); /* fewer than 64 */
    job.words = padded;
    job.n_words = sizeof padded / 2;
    run_kernel(d, &job);
    size_t n_taken = sizeof padded / 2 - job.n_words;
    if (job.n_rows > 0 || n_taken > d->n_words) return 0;
    d->words += 2 * n_taken;
    d->n_words -= n_taken;
    return 1;
}

int hyb_rans_decode(hyb_rans_decoder *d, size_t n, uint8_t *symbols) {
    size_t done = 0;
    if (d->failed) return 0;
    if (d->model.n_present < 2) {
        memset(symbols, (int)d->model.only, n);
        return 1;
    }
    if (d->n_lanes == HYB_RANS_LANES && n >= HYB_RANS_LANES) {
        done = n / HYB_RANS_LANES * HYB_RANS_LANES;
        d->failed = !decode_rows(d, n / HYB_RANS_LANES, symbols);
    }
    for (; !d->failed && done < n; done += d->n_lanes)
        d->failed = !decode_row(d, hyb_min_size(n - done, d->n_lanes), symbols + done);
    return !d->failed;
}

int hyb_rans_decoder_finish(const hyb_rans_decoder *d) {
    uint32_t wrong = (uint32_t)d->failed;
    for (size_t i = 0; i < HYB_RANS_LANES; ++i) wrong |= d->states[i] ^ LOWER;
    return wrong == 0 && d->n_words == 0;
}
