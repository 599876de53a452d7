/* check_codec.c - entropy decoding: every variant of the kernel rans_decode against the reference, bit for bit: both
 * kinds of tables, states and words at random (any bytes are a stream), every number of rows and words around the end;
 * words, symbols and tables end at a guard page. With --bench: weights/s (5 a symbol) of each tier, by the number of
 * slots, and the encoder's. With --run TIER SLOT_BITS ROWS TIMES: nothing but the kernel, for tools/count_instructions.
 */
#include "testing.h"

#include <math.h>
#include <time.h>

#include "rans.h"

typedef struct tier {
    const char *name;
    hyb_kernels kernels;
} tier;

static size_t find_tiers(tier *tiers) {
    size_t n = 0;
    hyb_kernels_select(&tiers[n].kernels, 0);
    tiers[n++].name = "scalar";
#if HYB_X86
    if (hyb_isa_detect() & HYB_ISA_AVX2) {
        hyb_install_rans_avx2(&tiers[n].kernels);
        tiers[n++].name = "avx2";
    }
    if (hyb_isa_detect() & HYB_ISA_AVX512) {
        hyb_install_rans_avx512(&tiers[n].kernels);
        tiers[n++].name = "avx512";
    }
#elif HYB_ARM64
    hyb_install_rans_neon(&tiers[n].kernels);
    tiers[n++].name = "neon";
#endif
    return n;
}

/* A model with shares of every kind: a few symbols have most of the slots. */
static void random_model(uint32_t slot_bits, uint64_t *state, hyb_rans_model *model) {
    uint32_t counts[256];
    size_t n_present = 2 + test_random_below(state, 255);
    for (size_t s = 0; s < 256; ++s)
        counts[s] = s < n_present ? 1 + (uint32_t)(test_random(state) >> (44 + test_random_below(state, 20))) : 0;
    hyb_rans_model_counts(counts, slot_bits, model);
}

static hyb_rans_decoder decoder; /* large */

/* The tables of the decoder, each before a guard page. */
typedef struct tables {
    uint32_t *slots, *ranges;
    uint8_t *symbols;
    size_t symbols_bytes;
} tables;

static tables make_tables(uint32_t slot_bits) {
    tables t = {test_guarded_alloc(sizeof decoder.slots), test_guarded_alloc(sizeof decoder.ranges), NULL, 0};
    t.symbols_bytes = ((size_t)1 << slot_bits) + 3;
    t.symbols = test_guarded_alloc(t.symbols_bytes);
    memcpy(t.slots, decoder.slots, sizeof decoder.slots);
    memcpy(t.ranges, decoder.ranges, sizeof decoder.ranges);
    memcpy(t.symbols, decoder.symbols, t.symbols_bytes);
    return t;
}
static void free_tables(tables t) {
    test_guarded_free(t.slots, sizeof decoder.slots);
    test_guarded_free(t.ranges, sizeof decoder.ranges);
    test_guarded_free(t.symbols, t.symbols_bytes);
}

static void check_rows(const hyb_kernels *k, const tables *t, uint32_t slot_bits, size_t n_rows, size_t n_words,
                       uint64_t *state) {
    const size_t n_out = n_rows * HYB_RANS_LANES;
    uint8_t *words = test_guarded_alloc(2 * n_words), *out = test_guarded_alloc(n_out), *expected = malloc(n_out + 1);
    uint32_t states[HYB_RANS_LANES], expected_states[HYB_RANS_LANES];
    hyb_rans_job job = {.slots = slot_bits == 12 ? t->slots : NULL,
                        .symbols = t->symbols,
                        .ranges = t->ranges,
                        .slot_bits = slot_bits,
                        .words = words,
                        .n_words = n_words,
                        .n_rows = n_rows};
    for (size_t i = 0; i < 2 * n_words; ++i) words[i] = (uint8_t)test_random(state);
    for (size_t i = 0; i < HYB_RANS_LANES; ++i)
        states[i] = (uint32_t)test_random(state) >> test_random_below(state, 16);
    for (size_t i = 0; i < HYB_RANS_LANES; ++i) states[i] |= 65536;
    memcpy(expected_states, states, sizeof states);
    memset(out, 0xa5, n_out);
    memset(expected, 0xa5, n_out);
    hyb_rans_job ours = job, reference = job;
    ours.states = states;
    ours.out = out;
    reference.states = expected_states;
    reference.out = expected;
    k->rans_decode(&ours);
    hyb_rans_decode_ref(&reference);
    CHECK(memcmp(states, expected_states, sizeof states) == 0);
    CHECK(memcmp(out, expected, n_out) == 0);
    CHECK(ours.words == reference.words && ours.n_words == reference.n_words && ours.n_rows == reference.n_rows);
    CHECK(ours.out - out == reference.out - expected);
    CHECK(ours.words == words + 2 * (n_words - ours.n_words));
    CHECK(ours.n_rows == 0 || ours.n_words < HYB_RANS_LANES);
    free(expected);
    test_guarded_free(out, n_out);
    test_guarded_free(words, 2 * n_words);
}

static void check_all(const tier *t) {
    uint64_t state = 5;
    for (uint32_t slot_bits = 12; slot_bits <= 16; slot_bits += 2)
        for (int round = 0; round < 6; ++round) {
            random_model(slot_bits, &state, &decoder.model);
            hyb_rans_decoder_begin(&decoder);
            tables guarded = make_tables(slot_bits);
            for (size_t n_words = 0; n_words < 200; n_words += 1 + test_random_below(&state, 9))
                check_rows(&t->kernels, &guarded, slot_bits, 1 + n_words % 5, n_words, &state);
            for (size_t n_rows = 0; n_rows < 40; ++n_rows)
                check_rows(&t->kernels, &guarded, slot_bits, n_rows, 40 * 64, &state);
            free_tables(guarded);
        }
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void bench(const tier *tiers, size_t n_tiers, double p_zero, uint32_t slot_bits) {
    const size_t n = (size_t)10 << 20;
    uint8_t *symbols = malloc(n), *back = malloc(n), *buffer = malloc(2 * n + 1024);
    const uint8_t *stream = NULL;
    uint32_t zero = (uint32_t)(65535 * p_zero),
             shares[3] = {(65535 - zero) / 2, zero, 65535 - zero - (65535 - zero) / 2};
    uint64_t state = 3;
    size_t n_bytes = 0;
    hyb_rans_encoder encoder;
    for (size_t i = 0; i < n; ++i) {
        unsigned symbol = 0;
        for (int d = 0; d < 5; ++d) {
            uint32_t u = (uint32_t)(test_random(&state) % 65535);
            symbol = symbol * 3 + (u < shares[0] ? 0 : u < shares[0] + shares[1] ? 1 : 2);
        }
        symbols[i] = (uint8_t)symbol;
    }
    hyb_rans_model_digits((hyb_symbols){3, 5}, shares, slot_bits, &decoder.model);
    hyb_rans_model model = decoder.model;
    double best = 1e9, entropy = -p_zero * log2(p_zero) - (1 - p_zero) * log2((1 - p_zero) / 2);
    for (int round = 0; round < 3; ++round) {
        double start = seconds_now();
        hyb_rans_encoder_init(&encoder, buffer, 2 * n + 1024, 64);
        CHECK(hyb_rans_encode(&encoder, &model, symbols, n));
        stream = hyb_rans_encoder_finish(&encoder, &n_bytes);
        best = fmin(best, seconds_now() - start);
    }
    printf("  P(0) %.3f, 2^%u slots: %.4f bits/weight, entropy %.4f; G weights/s: encode %.2f, decode", p_zero,
           slot_bits, 8.0 * (double)n_bytes / (5.0 * (double)n), entropy, 5e-9 * (double)n / best);
    for (size_t t = 0; t < n_tiers; ++t) {
        best = 1e9;
        for (int round = 0; round < 7; ++round) {
            double start = seconds_now();
            CHECK(hyb_rans_decoder_init(&decoder, &tiers[t].kernels, stream, n_bytes, 64));
            decoder.model = model;
            hyb_rans_decoder_begin(&decoder);
            CHECK(hyb_rans_decode(&decoder, n, back));
            CHECK(hyb_rans_decoder_finish(&decoder));
            best = fmin(best, seconds_now() - start);
        }
        CHECK(memcmp(back, symbols, n) == 0);
        printf(" %s %.2f", tiers[t].name, 5e-9 * (double)n / best);
    }
    printf("\n");
    free(symbols);
    free(back);
    free(buffer);
}

/* n random streams of random lanes by random models, in memory that ends with them: a status, the same from every tier,
 * and the same symbols. */
static void check_streams(const tier *tiers, size_t n_tiers, size_t n) {
    uint64_t state = 7;
    uint8_t out[512], first_out[512];
    hyb_rans_model model = {0};
    size_t n_decoded = 0;
    for (size_t i = 0; i < n; ++i) {
        if (i % 256 == 0) random_model(12 + 2 * (uint32_t)test_random_below(&state, 3), &state, &model);
        size_t n_bytes = 2 * test_random_below(&state, 400), n_symbols = 1 + test_random_below(&state, sizeof out);
        uint32_t n_lanes = 1u << test_random_below(&state, 7);
        uint8_t *bytes = malloc(n_bytes + 1); /* a sanitizer sees its end */
        int first = 0;
        for (size_t b = 0; b < n_bytes; b += 2) {
            uint64_t word = test_random(&state);
            bytes[b] = (uint8_t)word;
            bytes[b + 1] = (uint8_t)(word >> 8 | 1);
        }
        for (size_t t = 0; t < n_tiers; ++t) {
            int good = hyb_rans_decoder_init(&decoder, &tiers[t].kernels, bytes, n_bytes, n_lanes);
            decoder.model = model;
            if (i % 256 == 0) hyb_rans_decoder_begin(&decoder);
            memset(out, 0, sizeof out);
            if (good) good = hyb_rans_decode(&decoder, n_symbols, out);
            n_decoded += (size_t)good;
            good = good * 2 + (good && hyb_rans_decoder_finish(&decoder));
            if (t == 0) first = good;
            if (t == 0) memcpy(first_out, out, sizeof out);
            if (good != first || (good && memcmp(out, first_out, sizeof out) != 0)) CHECK(i == n);
        }
        free(bytes);
    }
    printf("%zu random streams, %zu of %zu decodings to the end\n", n, n_decoded, n * n_tiers);
    CHECK(n_decoded > n / 100 && n_decoded < n * n_tiers);
}

/* arguments: tier, slot bits (12, 14 or 16), rows, times. The stream and its states are random, the same for each tier.
 */
static int run_only(const tier *tiers, size_t n_tiers, char **arguments) {
    const uint32_t slot_bits = (uint32_t)strtoul(arguments[1], NULL, 10);
    const size_t n_rows = (size_t)strtoul(arguments[2], NULL, 10), times = (size_t)strtoul(arguments[3], NULL, 10);
    const size_t n_words = (n_rows + 1) * HYB_RANS_LANES;
    uint8_t *words = malloc(2 * n_words), *out = malloc(n_rows * HYB_RANS_LANES + 1);
    uint32_t states[HYB_RANS_LANES];
    uint64_t state = 9;
    random_model(slot_bits, &state, &decoder.model);
    hyb_rans_decoder_begin(&decoder);
    for (size_t i = 0; i < 2 * n_words; ++i) words[i] = (uint8_t)test_random(&state);
    for (size_t i = 0; i < HYB_RANS_LANES; ++i) states[i] = (uint32_t)test_random(&state) | 65536;
    for (size_t t = 0; t < n_tiers; ++t)
        for (size_t i = 0; i < times && strcmp(arguments[0], tiers[t].name) == 0; ++i) {
            hyb_rans_job job = {.slots = slot_bits == 12 ? decoder.slots : NULL,
                                .symbols = decoder.symbols,
                                .ranges = decoder.ranges,
                                .slot_bits = slot_bits,
                                .states = states,
                                .words = words,
                                .n_words = n_words,
                                .out = out,
                                .n_rows = n_rows};
            tiers[t].kernels.rans_decode(&job);
            CHECK(job.n_rows == 0);
        }
    free(words);
    free(out);
    if (test_checks == 0) TEST_SKIP("this processor does not have that tier");
    return TEST_RESULT();
}

int main(int argc, char **argv) {
    tier tiers[4];
    size_t n_tiers = find_tiers(tiers);
    if (argc == 6 && strcmp(argv[1], "--run") == 0) return run_only(tiers, n_tiers, argv + 2);
    for (size_t i = 0; i < n_tiers; ++i) check_all(&tiers[i]);
    check_streams(tiers, n_tiers, argc > 2 && strcmp(argv[1], "--streams") == 0 ? strtoul(argv[2], NULL, 10) : 5000);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        static const double shares[] = {0.31, 1.0 / 3, 0.4, 0.5, 0.59, 0.7, 0.9};
        for (size_t i = 0; i < sizeof shares / sizeof *shares; ++i)
            for (uint32_t slot_bits = 12; slot_bits <= (shares[i] > 0.65 ? 16u : 14u); slot_bits += 2)
                bench(tiers, n_tiers, shares[i], slot_bits);
    }
    return TEST_RESULT();
}
