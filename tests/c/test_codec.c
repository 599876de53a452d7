/* test_codec.c - the entropy coder: models, streams of several segments and lanes, arrays of codes of every kind and
 * length and back; how near the entropy; damaged bytes give a status and never an access outside them.
 */
#include "testing.h"

#include <math.h>

#include <hybrid/codec.h>
#include <hybrid/file.h>

#include "coding.h"
#include "failing_allocator.h"
#include "tier_context.h"

static hyb_ctx *ctx;
static hyb_rans_decoder decoder; /* large */

/* ---- models ---- */

static void check_model(const hyb_rans_model *m) {
    uint32_t sum = 0, n_present = 0;
    for (size_t s = 0; s < 256; ++s) {
        sum += m->frequencies[s];
        n_present += m->frequencies[s] != 0;
    }
    CHECK(sum == 1u << m->slot_bits && n_present == m->n_present && n_present > 0);
    CHECK(m->frequencies[m->only] != 0);
}

/* Models of digits: every slot is used, what cannot occur has none, what can has one; symmetric shares give the same.
 */
static void test_digit_models(void) {
    static const uint32_t shares[][3] = {{21845, 21845, 21845}, {0, 65535, 0},        {65535, 0, 0},
                                         {1, 65533, 1},         {0, 1, 65534},        {32767, 0, 32768},
                                         {1, 1, 65533},         {10000, 45535, 10000}};
    hyb_rans_model m;
    for (size_t i = 0; i < sizeof shares / sizeof *shares; ++i)
        for (uint32_t bits = 12; bits <= 16; bits += 2) {
            hyb_rans_model_digits((hyb_symbols){3, 5}, shares[i], bits, &m);
            check_model(&m);
            uint32_t n_digits = 0, expected = 1;
            for (size_t d = 0; d < 3; ++d) n_digits += shares[i][d] != 0;
            for (int d = 0; d < 5; ++d) expected *= n_digits;
            CHECK(m.n_present == expected);
            for (size_t s = 243; s < 256; ++s) CHECK(m.frequencies[s] == 0);
        }
    hyb_rans_model_digits((hyb_symbols){3, 5}, shares[0], 12, &m);
    for (size_t s = 0; s < 243; ++s) CHECK(m.frequencies[s] == 16 || m.frequencies[s] == 17);
    static const uint32_t five[5] = {1, 20000, 25533, 20000, 1};
    hyb_rans_model_digits((hyb_symbols){5, 3}, five, 12, &m);
    check_model(&m);
    CHECK(m.n_present == 125 && m.frequencies[125] == 0);
}

/* The slots of these models are part of the file format: a digest of them, the same on every machine. */
static void test_models_known_answer(void) {
    uint32_t crc = 0;
    uint64_t state = 7;
    hyb_rans_model m;
    for (int round = 0; round < 200; ++round) {
        uint32_t a = (uint32_t)test_random_below(&state, 65536), b = (uint32_t)test_random_below(&state, 65536 - a);
        uint32_t shares[3] = {a, b, 65535 - a - b};
        hyb_rans_model_digits((hyb_symbols){3, 5}, shares, 12 + 2 * (uint32_t)(round % 3), &m);
        check_model(&m);
        for (size_t s = 0; s < 256; ++s) {
            uint8_t bytes[4];
            hyb_store_u32(bytes, m.frequencies[s]);
            crc = hyb_crc32c(crc, bytes, 4);
        }
    }
    if (crc != 0x823be022u) fprintf(stderr, "digest of the models: 0x%08lx\n", (unsigned long)crc);
    CHECK(crc == 0x823be022u);
}

/* Models survive their bytes; bytes that are none are refused, and none is read beyond the end. */
static void test_model_bytes(void) {
    uint64_t state = 11;
    uint8_t bytes[HYB_RANS_MODEL_BYTES];
    hyb_rans_model m, back;
    for (int round = 0; round < 200; ++round) {
        uint32_t counts[256];
        for (size_t s = 0; s < 256; ++s)
            counts[s] = test_random_below(&state, 3) == 0 ? (uint32_t)(test_random(&state) >> (40 + round % 20)) : 0;
        ++counts[test_random_below(&state, 256)];
        hyb_rans_model_counts(counts, 12 + 2 * (uint32_t)(round % 3), &m);
        check_model(&m);
        size_t n = hyb_rans_put_model(&m, bytes);
        CHECK(n <= sizeof bytes);
        const uint8_t *cursor = bytes;
        CHECK(hyb_rans_get_model((hyb_symbols){0, 1}, &cursor, bytes + n, &back) && cursor == bytes + n);
        CHECK(memcmp(m.frequencies, back.frequencies, sizeof m.frequencies) == 0 && m.n_present == back.n_present);
        for (size_t cut = 0; cut < n; ++cut) {
            cursor = bytes;
            CHECK(!hyb_rans_get_model((hyb_symbols){0, 1}, &cursor, bytes + cut, &back));
        }
    }
    static const uint8_t bad[][6] = {{3}, {8}, {255}, {0, 0, 0, 0, 0}, {0, 255, 255, 1, 0}, {4, 129, 32, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        const uint8_t *cursor = bad[i];
        CHECK(!hyb_rans_get_model((hyb_symbols){i == 3 ? 0 : 3, 5}, &cursor, bad[i] + 6, &back));
    }
}

/* log2 in integers: within its last place, and exact for powers of two. */
static void test_log2(void) {
    uint64_t state = 13;
    for (uint32_t i = 0; i < 64; ++i) CHECK(hyb_log2_q16((uint64_t)1 << i) == i << 16);
    for (int i = 0; i < 2000; ++i) {
        uint64_t value = (test_random(&state) >> test_random_below(&state, 63)) | 1;
        double expected = log2((double)value) * 65536;
        CHECK(fabs((double)hyb_log2_q16(value) - expected) < 1.5);
    }
}

/* ---- streams ---- */

#define MAX_SEGMENTS 5

/* Segments of all lengths, models and numbers of lanes come back, decoded at once or in pieces; a cut stream fails. */
static void test_streams(void) {
    uint64_t state = 17;
    uint8_t *symbols = malloc(MAX_SEGMENTS * 1000), *buffer = malloc(MAX_SEGMENTS * 2000 + 256), *back = malloc(1000);
    for (int round = 0; round < 300; ++round) {
        size_t n_segments = 1 + test_random_below(&state, MAX_SEGMENTS), lengths[MAX_SEGMENTS], n_bytes = 0;
        uint32_t n_lanes = 1u << test_random_below(&state, 7);
        hyb_rans_model models[MAX_SEGMENTS];
        hyb_rans_encoder encoder;
        for (size_t g = 0; g < n_segments; ++g) {
            uint32_t counts[256] = {0};
            size_t n_symbols = test_random_below(&state, 4) == 0 ? 1 : 1 + test_random_below(&state, 256);
            lengths[g] = test_random_below(&state, 1000);
            ++counts[n_symbols - 1];
            for (size_t i = 0; i < lengths[g]; ++i) {
                size_t draw = test_random_below(&state, n_symbols);
                if (test_random_below(&state, 3) != 0) draw = test_random_below(&state, draw + 1);
                if (n_symbols == 1) draw = 0;
                ++counts[symbols[1000 * g + i] = (uint8_t)draw];
            }
            hyb_rans_model_counts(counts, 12 + 2 * (uint32_t)test_random_below(&state, 3), &models[g]);
        }
        hyb_rans_encoder_init(&encoder, buffer, MAX_SEGMENTS * 2000 + 256, n_lanes);
        for (size_t g = n_segments; g-- > 0;)
            CHECK(hyb_rans_encode(&encoder, &models[g], symbols + 1000 * g, lengths[g]));
        const uint8_t *stream = hyb_rans_encoder_finish(&encoder, &n_bytes);
        CHECK(stream != NULL && (n_bytes == 0) == !encoder.used);
        uint8_t *copy = test_guarded_alloc(n_bytes);
        memcpy(copy, stream, n_bytes);
        CHECK(hyb_rans_decoder_init(&decoder, &ctx->kernels, copy, n_bytes, n_lanes));
        for (size_t g = 0; g < n_segments; ++g) {
            decoder.model = models[g];
            hyb_rans_decoder_begin(&decoder);
            for (size_t i = 0; i < lengths[g];) {
                size_t n = hyb_min_size(lengths[g] - i, (1 + test_random_below(&state, 10)) * HYB_RANS_LANES);
                CHECK(hyb_rans_decode(&decoder, n, back + i));
                i += n;
            }
            CHECK(memcmp(back, symbols + 1000 * g, lengths[g]) == 0);
        }
        CHECK(hyb_rans_decoder_finish(&decoder));
        test_guarded_free(copy, n_bytes);
        for (size_t cut = 1; cut <= n_bytes; cut += 1 + cut / 2) { /* from its end */
            copy = test_guarded_alloc(n_bytes - cut);
            memcpy(copy, stream, n_bytes - cut);
            int good = hyb_rans_decoder_init(&decoder, &ctx->kernels, copy, n_bytes - cut, n_lanes);
            for (size_t g = 0; good && g < n_segments; ++g) {
                decoder.model = models[g];
                hyb_rans_decoder_begin(&decoder);
                good = hyb_rans_decode(&decoder, lengths[g], back);
            }
            CHECK(!good || !hyb_rans_decoder_finish(&decoder));
            test_guarded_free(copy, n_bytes - cut);
        }
    }
    free(symbols);
    free(buffer);
    free(back);
}

/* A stream whose beginning is no stream's: states below 2^16, odd lengths, too few bytes, lanes that do not exist. */
static void test_stream_beginning(void) {
    uint8_t bytes[300];
    memset(bytes, 1, sizeof bytes);
    CHECK(hyb_rans_decoder_init(&decoder, &ctx->kernels, bytes, 256, 64));
    CHECK(!hyb_rans_decoder_finish(&decoder));
    CHECK(!hyb_rans_decoder_init(&decoder, &ctx->kernels, bytes, 255, 64));
    CHECK(!hyb_rans_decoder_init(&decoder, &ctx->kernels, bytes, 254, 64));
    CHECK(!hyb_rans_decoder_init(&decoder, &ctx->kernels, bytes, 257, 64));
    CHECK(!hyb_rans_decoder_init(&decoder, &ctx->kernels, bytes, 260, 65));
    CHECK(!hyb_rans_decoder_init(&decoder, &ctx->kernels, bytes, 260, 0));
    bytes[254] = bytes[255] = 0;
    CHECK(!hyb_rans_decoder_init(&decoder, &ctx->kernels, bytes, 256, 64));
    CHECK(hyb_rans_decoder_init(&decoder, &ctx->kernels, bytes, 0, 1));
    CHECK(hyb_rans_decoder_finish(&decoder));
    CHECK(hyb_rans_lanes(0) == 1 && hyb_rans_lanes(7999) == 1 && hyb_rans_lanes(8000) == 2);
    CHECK(hyb_rans_lanes(1000000) == 64 && hyb_rans_lanes(UINT64_MAX) == 64);
}

/* A buffer that is too small is said, whatever its size. */
static void test_full_buffer(void) {
    uint8_t symbols[1000], buffer[1300];
    uint64_t state = 19;
    uint32_t counts[256];
    hyb_rans_model model;
    hyb_rans_encoder encoder;
    for (size_t s = 0; s < 256; ++s) counts[s] = 1;
    for (size_t i = 0; i < sizeof symbols; ++i) symbols[i] = (uint8_t)test_random(&state);
    hyb_rans_model_counts(counts, 12, &model);
    size_t needed = 0, n_bytes;
    for (size_t capacity = 0; capacity < sizeof buffer; ++capacity) {
        hyb_rans_encoder_init(&encoder, buffer, capacity, 64);
        int fits = hyb_rans_encode(&encoder, &model, symbols, sizeof symbols) &&
                   hyb_rans_encoder_finish(&encoder, &n_bytes) != NULL;
        if (fits && needed == 0) needed = capacity;
        CHECK(fits == (needed != 0));
    }
    CHECK(needed >= 1000 && needed <= 1000 + 4 * 64 + 128);
}

/* ---- arrays ---- */

/* Encodes, decodes from bytes that end at a guard page, compares; returns the number of bytes. */
static size_t check_array(hyb_ctx *c, int32_t alphabet, const int8_t *codes, size_t n) {
    size_t bound = hyb_coded_bound(alphabet, n), n_bytes = 0, n_needed = 0;
    uint8_t *bytes = malloc(bound);
    int8_t *back = malloc(n + 1);
    hyb_coded_info info;
    CHECK_OK(hyb_codes_encode(c, alphabet, codes, n, bytes, bound, &n_bytes));
    CHECK(n_bytes <= bound);
    CHECK_STATUS(hyb_codes_encode(c, alphabet, codes, n, NULL, 0, &n_needed), HYB_ERROR_TOO_SMALL);
    CHECK(n_needed == n_bytes);
    uint8_t *copy = test_guarded_alloc(n_bytes);
    memcpy(copy, bytes, n_bytes);
    CHECK_OK(hyb_coded_inspect(c, copy, n_bytes, &info));
    CHECK(info.alphabet == alphabet && info.n_codes == n);
    back[n] = 77;
    CHECK_OK(hyb_codes_decode(c, copy, n_bytes, back, n));
    CHECK((n == 0 || memcmp(back, codes, n) == 0) && back[n] == 77);
    uint8_t *symbols = test_guarded_alloc(info.n_symbols);
    CHECK_OK(hyb_symbols_decode(c, copy, n_bytes, symbols, info.n_symbols));
    if (alphabet == HYB_ALPHABET_TERNARY) {
        CHECK_OK(hyb_unpack(c, HYB_PACKING_TERNARY_BASE3, symbols, n, back));
        CHECK(n == 0 || memcmp(back, codes, n) == 0);
    }
    CHECK_STATUS(hyb_codes_decode(c, copy, n_bytes, back, n + 1), HYB_ERROR_INVALID_ARGUMENT);
    test_guarded_free(symbols, info.n_symbols);
    test_guarded_free(copy, n_bytes);
    free(bytes);
    free(back);
    return n_bytes;
}

static int8_t draw_code(int32_t alphabet, double p_zero, uint64_t *state) {
    int limit = alphabet == HYB_ALPHABET_TERNARY ? 1 : alphabet == HYB_ALPHABET_FIVE ? 2 : 127;
    if ((double)(test_random(state) >> 11) * 0x1p-53 < p_zero) return 0;
    int code = 1 + (int)test_random_below(state, (size_t)limit);
    return (int8_t)(test_random(state) & 1 ? code : -code);
}

/* Every length around the sizes of symbols, rows and pieces; all alike; extreme skews; whatever the tier and threads.
 */
static void test_arrays(void) {
    static const size_t lengths[] = {0,  1,   2,   3,   4,    5,    6,     9,     15,    16,    63,    64,    65,
                                     79, 319, 320, 321, 1599, 1601, 20479, 20481, 81919, 81920, 81921, 262145};
    static const double shares[] = {1, 0.999, 0.9, 0.5, 1.0 / 3, 0.01, 0};
    uint64_t state = 23;
    int8_t *codes = malloc(262145);
    for (int32_t alphabet = HYB_ALPHABET_TERNARY; alphabet <= HYB_ALPHABET_INT8; ++alphabet)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; ++i)
            for (size_t s = 0; s < sizeof shares / sizeof *shares; ++s) {
                size_t n = lengths[i];
                if (n > 20000 && s % 2 != 0 && alphabet != HYB_ALPHABET_TERNARY) continue; /* saves time */
                for (size_t j = 0; j < n; ++j) codes[j] = draw_code(alphabet, shares[s], &state);
                size_t n_bytes = check_array(ctx, alphabet, codes, n);
                if (shares[s] == 1) CHECK(n_bytes <= 32);
                for (size_t j = 0; s == 0 && j < n; ++j) codes[j] = -1;
                if (s == 0) CHECK(check_array(ctx, alphabet, codes, n) <= 70);
            }
    for (size_t j = 0; j < 262145; ++j) codes[j] = (int8_t)test_random(&state); /* -128 too */
    CHECK(check_array(ctx, HYB_ALPHABET_INT8, codes, 262145) <= 262145 + 16);
    free(codes);
}

static void test_tiers_and_threads(void) {
    static const uint32_t masks[] = {HYB_ISA_MASK_SCALAR, HYB_ISA_AVX2, 0};
    const size_t n = 3000001;
    uint64_t state = 29;
    int8_t *codes = malloc(n);
    uint8_t *first = malloc(n), *bytes = malloc(n);
    size_t n_first = 0, n_bytes = 0;
    for (size_t j = 0; j < n; ++j) codes[j] = draw_code(HYB_ALPHABET_TERNARY, j < n / 2 ? 0.5 : 0.8, &state);
    for (size_t i = 0; i < 3; ++i) {
        hyb_ctx *c = make_ctx(masks[i], (uint32_t)(1 + 2 * i));
        CHECK_OK(hyb_codes_encode(c, HYB_ALPHABET_TERNARY, codes, n, i == 0 ? first : bytes, n, &n_bytes));
        if (i == 0) n_first = n_bytes;
        CHECK(n_bytes == n_first && (i == 0 || memcmp(first, bytes, n_bytes) == 0));
        check_array(c, HYB_ALPHABET_TERNARY, codes, n);
        hyb_ctx_destroy(c);
    }
    /* Two groups: what one model for all would take is far more. */
    double bits = 8.0 * (double)n_first / (double)n, halves = 0;
    halves += hyb_codes_entropy(codes, n / 2) / 2 + hyb_codes_entropy(codes + n / 2, n - n / 2) / 2;
    CHECK(bits < 1.002 * halves);
    CHECK(1.02 * bits < hyb_codes_entropy(codes, n));
    free(codes);
    free(first);
    free(bytes);
}

/* Coded size: at most 0.1 % above the entropy of long arrays (0.4 % where 4 of 5 codes and more are 0), and 0.5 % and
 * 20 bytes of all: their number, probabilities and checksum take 13 or so. */
static void test_near_entropy(void) {
    static const double shares[] = {0.31, 1.0 / 3, 0.4, 0.5, 0.59, 0.7, 0.8, 0.9, 0.95};
    static const size_t lengths[] = {1000, 10000, 100000, 1000000};
    uint64_t state = 31;
    int8_t *codes = malloc(1000000);
    for (size_t s = 0; s < sizeof shares / sizeof *shares; ++s)
        for (size_t i = 0; i < 4; ++i) {
            size_t n = lengths[i];
            for (size_t j = 0; j < n; ++j) codes[j] = draw_code(HYB_ALPHABET_TERNARY, shares[s], &state);
            double least = hyb_codes_entropy(codes, n) * (double)n / 8;
            double n_bytes = (double)check_array(ctx, HYB_ALPHABET_TERNARY, codes, n);
            double long_limit = (shares[s] < 0.75 ? 1.001 : 1.004) * least;
            if (n_bytes > 1.005 * least + 20 || (n == 1000000 && n_bytes > long_limit))
                fprintf(stderr, "P(0) %.2f, n %zu: %.0f bytes, entropy %.1f\n", shares[s], n, n_bytes, least);
            CHECK(n_bytes <= 1.005 * least + 20);
            if (n == 1000000) CHECK(n_bytes <= long_limit);
        }
    for (size_t j = 0; j < 1000000; ++j) codes[j] = draw_code(HYB_ALPHABET_FIVE, 0.4, &state);
    CHECK((double)check_array(ctx, HYB_ALPHABET_FIVE, codes, 1000000) <=
          1.001 * hyb_codes_entropy(codes, 1000000) * 125000);
    for (size_t j = 0; j < 1000000; ++j) { /* a bell, as of embeddings */
        int sum = 0;
        for (int k = 0; k < 4; ++k) sum += (int)test_random_below(&state, 51);
        codes[j] = (int8_t)(sum - 100);
    }
    CHECK((double)check_array(ctx, HYB_ALPHABET_INT8, codes, 1000000) <=
          1.002 * hyb_codes_entropy(codes, 1000000) * 125000 + 300);
    CHECK(hyb_codes_entropy(NULL, 0) == 0 && hyb_codes_entropy(codes, 1) == 0);
    free(codes);
}

/* ---- damage ---- */

/* The status of decoding bytes that end at a guard page; the result is compared with what it should be. */
static hyb_status decode_copy(const uint8_t *bytes, size_t n_bytes, const int8_t *codes, size_t n, int seal) {
    uint8_t *copy = test_guarded_alloc(n_bytes);
    int8_t *back = calloc(n + 1, 1);
    hyb_coded_info info;
    memcpy(copy, bytes, n_bytes);
    if (seal && n_bytes >= 4) hyb_store_u32(copy + n_bytes - 4, hyb_crc32c(0, copy, n_bytes - 4));
    hyb_status status = hyb_coded_inspect(ctx, copy, n_bytes, &info);
    if (status == HYB_OK && info.n_codes != n) status = HYB_ERROR_FORMAT; /* the caller sees it */
    if (status == HYB_OK) status = hyb_codes_decode(ctx, copy, n_bytes, back, n);
    if (status != HYB_OK) CHECK(hyb_ctx_last_error(ctx)[0] != '\0');
    if (status == HYB_OK && !seal) CHECK(memcmp(back, codes, n) == 0);
    free(back);
    test_guarded_free(copy, n_bytes);
    return status;
}

/* Cut anywhere, every bit flipped: a status. With the checksum made right again: a status or other codes, no crash. */
static void test_damage(void) {
    const size_t n = 3000;
    uint64_t state = 37;
    int8_t codes[3000];
    for (int32_t alphabet = HYB_ALPHABET_TERNARY; alphabet <= HYB_ALPHABET_INT8; ++alphabet) {
        size_t bound = hyb_coded_bound(alphabet, n), n_bytes = 0, n_refused = 0;
        uint8_t *bytes = malloc(bound);
        for (size_t j = 0; j < n; ++j) codes[j] = (int8_t)(draw_code(alphabet, 0.7, &state) / (alphabet == 3 ? 16 : 1));
        CHECK_OK(hyb_codes_encode(ctx, alphabet, codes, n, bytes, bound, &n_bytes));
        CHECK_OK(decode_copy(bytes, n_bytes, codes, n, 0));
        for (size_t cut = 0; cut < n_bytes; ++cut) {
            CHECK(decode_copy(bytes, cut, codes, n, 0) != HYB_OK);
            CHECK(decode_copy(bytes, cut, codes, n, 1) != HYB_OK);
        }
        for (size_t bit = 0; bit < 8 * n_bytes; ++bit) {
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            CHECK_STATUS(decode_copy(bytes, n_bytes, codes, n, 0), HYB_ERROR_CHECKSUM);
            if (bit < 8 * (n_bytes - 4)) n_refused += decode_copy(bytes, n_bytes, codes, n, 1) != HYB_OK;
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        CHECK(n_refused > 7 * n_bytes); /* the states at the end find nearly all */
        for (int round = 0; round < 2000; ++round) {
            uint8_t noise[200];
            size_t n_noise = test_random_below(&state, sizeof noise);
            for (size_t i = 0; i < n_noise; ++i) noise[i] = (uint8_t)test_random(&state);
            if (n_noise > 8) memcpy(noise, bytes, 2 + test_random_below(&state, 6));
            (void)decode_copy(noise, n_noise, codes, n, 1);
        }
        free(bytes);
    }
}

static void test_arguments(void) {
    int8_t codes[5] = {0, 1, -1, 2, 0};
    uint8_t bytes[64];
    size_t n_bytes = 0;
    hyb_coded_info info;
    CHECK(hyb_coded_bound(0, 5) == 0 && hyb_coded_bound(4, 5) == 0 && hyb_coded_bound(3, SIZE_MAX) == 0);
    CHECK_STATUS(hyb_codes_encode(NULL, 1, codes, 3, bytes, 64, &n_bytes), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_codes_encode(ctx, 1, NULL, 3, bytes, 64, &n_bytes), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_codes_encode(ctx, 1, codes, 3, bytes, 64, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_codes_encode(ctx, 0, codes, 3, bytes, 64, &n_bytes), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_codes_encode(ctx, 4, codes, 3, bytes, 64, &n_bytes), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_codes_encode(ctx, 1, codes, 5, bytes, 64, &n_bytes), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "index 3") != NULL);
    codes[3] = -3;
    CHECK_STATUS(hyb_codes_encode(ctx, 2, codes, 5, bytes, 64, &n_bytes), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_codes_encode(ctx, 3, codes, 5, bytes, 64, &n_bytes));
    CHECK_STATUS(hyb_coded_inspect(ctx, NULL, n_bytes, &info), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_coded_inspect(ctx, bytes, n_bytes, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_coded_inspect(ctx, bytes, 3, &info), HYB_ERROR_TRUNCATED);
    CHECK_STATUS(hyb_codes_decode(ctx, bytes, n_bytes, NULL, 5), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_symbols_decode(ctx, bytes, n_bytes, NULL, 5), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_symbols_decode(ctx, bytes, n_bytes, bytes, 4), HYB_ERROR_INVALID_ARGUMENT);
}

/* Every allocation may fail: a status, and nothing is left behind. */
static void test_no_memory(void) {
    const size_t n = 20000;
    uint64_t state = 41;
    int8_t *codes = malloc(n), *back = malloc(n);
    uint8_t *bytes = malloc(n);
    size_t n_bytes = 0;
    for (size_t j = 0; j < n; ++j) codes[j] = draw_code(HYB_ALPHABET_TERNARY, 0.6, &state);
    for (long fail_at = 0; fail_at < 12; ++fail_at) {
        failing f = {1000, 0};
        hyb_ctx *c = NULL;
        CHECK_OK(make_failing_ctx(&f, &c));
        long live = f.live;
        f.countdown = fail_at;
        hyb_status status = hyb_codes_encode(c, HYB_ALPHABET_TERNARY, codes, n, bytes, n, &n_bytes);
        CHECK(status == HYB_OK || status == HYB_ERROR_OUT_OF_MEMORY);
        CHECK(f.live == live && (fail_at > 0 || status != HYB_OK));
        if (status == HYB_OK) {
            f.countdown = fail_at % 2;
            status = hyb_codes_decode(c, bytes, n_bytes, back, n);
            CHECK(status == (fail_at % 2 ? HYB_OK : HYB_ERROR_OUT_OF_MEMORY) && f.live == live);
        }
        f.countdown = 1000;
        hyb_ctx_destroy(c);
        CHECK(f.live == 0);
    }
    free(codes);
    free(back);
    free(bytes);
}

int main(void) {
    ctx = make_ctx(0, 1);
    test_digit_models();
    test_models_known_answer();
    test_model_bytes();
    test_log2();
    test_streams();
    test_stream_beginning();
    test_full_buffer();
    test_arrays();
    test_tiers_and_threads();
    test_near_entropy();
    test_damage();
    test_arguments();
    test_no_memory();
    hyb_ctx_destroy(ctx);
    return TEST_RESULT();
}
