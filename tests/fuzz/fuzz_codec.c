/* fuzz_codec.c - libFuzzer entry point of the entropy coder: any bytes as a stream with any model and number of lanes,
 * as coded bytes, and as symbols and codes that must come back. No input may crash, read outside the bytes, or leak;
 * what the tiers of the processor decode is the same. When to use it: after any change of rans*.c, coding.c or codec.c.
 * tools/full_check fuzz runs a million inputs, from valid streams and coded arrays on; the command for a short look is
 * that of fuzz_file.c, with lib/codec.c in place of lib/file_*.c. Streams that no coverage guides are those of
 * tests/c/check_codec.c --streams.
 */
#include <stdlib.h>

#include <hybrid/codec.h>
#include <hybrid/file.h>

#include "rans.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

/* A copy of exactly n bytes, so that the address sanitizer sees the first byte behind it. */
static uint8_t *copy_of(const uint8_t *bytes, size_t n) {
    uint8_t *copy = malloc(n > 0 ? n : 1);
    if (copy == NULL) abort();
    if (n > 0) memcpy(copy, bytes, n);
    return copy;
}

/* Two bytes choose the lanes and the alphabet, then a model, then the stream: two segments and a piece of 64. */
static uint32_t decode_stream(const hyb_kernels *kernels, const uint8_t *bytes, size_t n) {
    static const hyb_symbols alphabets[] = {{3, 5}, {5, 3}, {0, 1}};
    uint8_t out[400];
    const uint8_t *cursor = bytes + 2, *end = bytes + n;
    if (n < 2) return 0;
    hyb_rans_decoder *d = malloc(sizeof *d);
    if (d == NULL) abort();
    uint32_t result = 0;
    memset(out, 0, sizeof out);
    if (hyb_rans_get_model(alphabets[bytes[1] % 3], &cursor, end, &d->model)) {
        uint8_t *stream = copy_of(cursor, (size_t)(end - cursor));
        if (hyb_rans_decoder_init(d, kernels, stream, (size_t)(end - cursor), 1u << bytes[0] % 7)) {
            hyb_rans_decoder_begin(d);
            result = (uint32_t)hyb_rans_decode(d, 64 * (1 + bytes[0] / 64), out);
            result = result * 2 + (uint32_t)hyb_rans_decode(d, bytes[1] / 2, out + 256);
            result = result * 2 + (uint32_t)hyb_rans_decoder_finish(d);
            if ((result & 4) != 0) result += hyb_crc32c(0, out, 256) * 8; /* what an error leaves is not said */
        }
        free(stream);
    }
    free(d);
    return result;
}

static void decode_coded(hyb_ctx *ctx, const uint8_t *bytes, size_t n, int seal) {
    hyb_coded_info info;
    uint8_t *copy = copy_of(bytes, n);
    if (seal && n >= 4) hyb_store_u32(copy + n - 4, hyb_crc32c(0, copy, n - 4));
    if (hyb_coded_inspect(ctx, copy, n, &info) == HYB_OK && info.n_codes <= 1 << 20) {
        int8_t *codes = malloc(info.n_codes + 1);
        uint8_t *symbols = malloc(info.n_symbols + 1);
        if (codes == NULL || symbols == NULL) abort();
        (void)hyb_codes_decode(ctx, copy, n, codes, info.n_codes);
        (void)hyb_symbols_decode(ctx, copy, n, symbols, info.n_symbols);
        free(codes);
        free(symbols);
    }
    free(copy);
}

/* The bytes as symbols of one stream, through any number of lanes and slots: every tier gives them back, and ends where
 * the encoder began. */
static void round_trip_stream(const hyb_kernels *tiers, const uint8_t *bytes, size_t n) {
    uint32_t counts[256] = {0}, slot_bits = 12 + 2 * (uint32_t)(n % 3), n_lanes = 1u << bytes[0] % 7;
    const size_t capacity = 2 * n + 1024; /* a symbol takes 16 bits or less */
    size_t n_stream = 0;
    hyb_rans_encoder encoder;
    hyb_rans_model model;
    uint8_t *buffer = malloc(capacity), *back = malloc(n);
    hyb_rans_decoder *d = malloc(sizeof *d);
    if (buffer == NULL || back == NULL || d == NULL) abort();
    for (size_t i = 0; i < n; ++i) ++counts[bytes[i]];
    hyb_rans_model_counts(counts, slot_bits, &model);
    hyb_rans_encoder_init(&encoder, buffer, capacity, n_lanes);
    if (!hyb_rans_encode(&encoder, &model, bytes, n)) abort();
    const uint8_t *stream = hyb_rans_encoder_finish(&encoder, &n_stream);
    if (stream == NULL) abort();
    for (size_t i = 0; i < 3; ++i) {
        if (!hyb_rans_decoder_init(d, &tiers[i], stream, n_stream, n_lanes)) abort();
        d->model = model;
        hyb_rans_decoder_begin(d);
        if (!hyb_rans_decode(d, n, back) || !hyb_rans_decoder_finish(d) || memcmp(bytes, back, n) != 0) abort();
    }
    free(d);
    free(buffer);
    free(back);
}

static void round_trip(hyb_ctx *ctx, const uint8_t *bytes, size_t n) {
    for (int32_t alphabet = HYB_ALPHABET_TERNARY; alphabet <= HYB_ALPHABET_INT8; ++alphabet) {
        const int n_levels = alphabet == HYB_ALPHABET_TERNARY ? 3 : alphabet == HYB_ALPHABET_FIVE ? 5 : 256;
        size_t bound = hyb_coded_bound(alphabet, n), n_coded = 0;
        int8_t *codes = malloc(n + 1), *back = malloc(n + 1);
        uint8_t *coded = malloc(bound);
        if (codes == NULL || back == NULL || coded == NULL) abort();
        for (size_t i = 0; i < n; ++i) codes[i] = (int8_t)(bytes[i] % n_levels - n_levels / 2);
        if (hyb_codes_encode(ctx, alphabet, codes, n, coded, bound, &n_coded) != HYB_OK) abort();
        if (hyb_codes_decode(ctx, coded, n_coded, back, n) != HYB_OK) abort();
        if (n > 0 && memcmp(codes, back, n) != 0) abort();
        free(codes);
        free(back);
        free(coded);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
    static hyb_ctx *ctx; /* for all inputs: making one takes longer than most of them */
    static hyb_kernels tiers[3];
    if (ctx == NULL) {
        if (hyb_ctx_create(NULL, &ctx) != HYB_OK) abort();
        hyb_kernels_select(&tiers[0], HYB_ISA_SCALAR);
        hyb_kernels_select(&tiers[1], hyb_isa_detect() & ~(uint32_t)HYB_ISA_AVX512);
        hyb_kernels_select(&tiers[2], hyb_isa_detect());
    }
    uint32_t expected = decode_stream(&tiers[0], bytes, n_bytes);
    for (size_t i = 1; i < 3; ++i)
        if (decode_stream(&tiers[i], bytes, n_bytes) != expected) abort();
    decode_coded(ctx, bytes, n_bytes, 0);
    decode_coded(ctx, bytes, n_bytes, 1);
    /* The encoder takes its time: some of the inputs are enough. */
    if (n_bytes > 0 && bytes[n_bytes - 1] % 16 == 0) round_trip(ctx, bytes, n_bytes);
    if (n_bytes > 0 && bytes[n_bytes - 1] % 4 == 1) round_trip_stream(tiers, bytes, n_bytes);
    return 0;
}
