/* codec.c - arrays of codes to coded bytes and back (hybrid/codec.h): codes become symbols, coding.c finds how to code
 * them, rans.c does; a short header and a checksum make the bytes stand alone.
 */
#include <math.h>

#include <hybrid/codec.h>
#include <hybrid/file.h>

#include "coding.h"

#define CHECKSUM_BYTES 4
#define HEADER_BYTES (1 + HYB_VARINT_BYTES)
#define MAX_SYMBOLS ((size_t)1 << 31)
/* Symbols decoded at a time on the way to codes: a multiple of 64 that stays in the cache. */
#define PIECE ((size_t)16384)

static const hyb_symbols alphabets[] = {{0, 0}, {3, 5}, {5, 3}, {0, 1}}; /* by hyb_alphabet */

static int is_alphabet(int32_t alphabet) { return alphabet >= HYB_ALPHABET_TERNARY && alphabet <= HYB_ALPHABET_INT8; }
static size_t symbols_of(int32_t alphabet, size_t n_codes) {
    return hyb_ceil_div(n_codes, alphabets[alphabet].n_digits);
}

size_t hyb_coded_bound(int32_t alphabet, size_t n_codes) {
    if (!is_alphabet(alphabet) || n_codes > SIZE_MAX - HEADER_BYTES - CHECKSUM_BYTES) return 0;
    return HEADER_BYTES + symbols_of(alphabet, n_codes) + CHECKSUM_BYTES;
}

double hyb_codes_entropy(const int8_t *codes, size_t n_codes) {
    size_t counts[256] = {0};
    double bits = 0;
    for (size_t i = 0; i < n_codes; ++i) ++counts[(uint8_t)codes[i]];
    for (size_t s = 0; s < 256; ++s)
        if (counts[s] != 0) bits -= (double)counts[s] * log2((double)counts[s] / (double)n_codes);
    return n_codes != 0 ? bits / (double)n_codes : 0;
}

/* ---- symbols ---- */

static uint8_t pack_five(const int8_t *codes, size_t n) {
    unsigned symbol = 0;
    for (size_t i = 3; i-- > 0;) symbol = symbol * 5 + (i < n ? (unsigned)(codes[i] + 2) : 2u);
    return (uint8_t)symbol;
}

/* Returns the index of a code outside the alphabet, or n_codes. */
static size_t find_bad_code(int32_t alphabet, const int8_t *codes, size_t n_codes) {
    int limit = alphabet == HYB_ALPHABET_TERNARY ? 1 : alphabet == HYB_ALPHABET_FIVE ? 2 : 128;
    for (size_t i = 0; i < n_codes; ++i)
        if (codes[i] > limit || codes[i] < -limit) return i;
    return n_codes;
}

static hyb_status make_symbols(hyb_ctx *ctx, int32_t alphabet, const int8_t *codes, size_t n_codes, uint8_t *symbols) {
    if (alphabet == HYB_ALPHABET_TERNARY) return hyb_pack(ctx, HYB_PACKING_TERNARY_BASE3, codes, n_codes, symbols);
    if (alphabet == HYB_ALPHABET_INT8) memcpy(symbols, codes, n_codes);
    if (alphabet == HYB_ALPHABET_FIVE)
        for (size_t i = 0; i < n_codes; i += 3) symbols[i / 3] = pack_five(codes + i, hyb_min_size(3, n_codes - i));
    return HYB_OK;
}

/* Codes of symbols; FORMAT where a symbol is not as make_symbols writes it. */
static hyb_status make_codes(hyb_ctx *ctx, int32_t alphabet, const uint8_t *symbols, size_t n_codes, int8_t *codes) {
    if (alphabet == HYB_ALPHABET_TERNARY) return hyb_unpack(ctx, HYB_PACKING_TERNARY_BASE3, symbols, n_codes, codes);
    if (alphabet == HYB_ALPHABET_INT8) {
        memcpy(codes, symbols, n_codes);
        return HYB_OK;
    }
    for (size_t i = 0; i < n_codes; i += 3) {
        unsigned symbol = symbols[i / 3];
        size_t n = hyb_min_size(3, n_codes - i);
        int8_t digits[3] = {(int8_t)(symbol % 5 - 2), (int8_t)(symbol / 5 % 5 - 2), (int8_t)(symbol / 25 % 5 - 2)};
        if (symbol > 124 || pack_five(digits, n) != symbol)
            return hyb_fail(ctx, HYB_ERROR_FORMAT, "symbol %zu (%u) holds no codes from -2 to 2", i / 3, symbol);
        memcpy(codes + i, digits, n);
    }
    return HYB_OK;
}

/* ---- encoding ---- */

static uint8_t first_byte(int32_t alphabet, int is_coded, uint32_t n_lanes) {
    unsigned byte = (unsigned)alphabet | (is_coded ? 4u : 0u);
    for (; n_lanes > 1; n_lanes /= 2) byte += 8;
    return (uint8_t)byte;
}

/* Writes what was put together, with its checksum, where it fits. */
static hyb_status put_parts(hyb_ctx *ctx, const uint8_t *const *parts, const size_t *sizes, size_t n_parts,
                            uint8_t *bytes, size_t capacity, size_t *n_bytes) {
    size_t n = CHECKSUM_BYTES, at = 0;
    for (size_t i = 0; i < n_parts; ++i) n += sizes[i];
    *n_bytes = n;
    if (n > capacity || bytes == NULL)
        return hyb_fail(ctx, HYB_ERROR_TOO_SMALL, "the codes take %zu bytes, there is room for %zu", n, capacity);
    for (size_t i = 0; i < n_parts; at += sizes[i++])
        if (sizes[i] > 0) memcpy(bytes + at, parts[i], sizes[i]);
    hyb_store_u32(bytes + at, hyb_crc32c(0, bytes, at));
    return HYB_OK;
}

static hyb_status encode_symbols(hyb_ctx *ctx, int32_t alphabet, size_t n_codes, const uint8_t *symbols, uint8_t *bytes,
                                 size_t capacity, size_t *n_bytes) {
    uint8_t header[HEADER_BYTES], *buffer = NULL;
    hyb_coding coding = {0};
    hyb_rans_encoder encoder;
    size_t n_symbols = symbols_of(alphabet, n_codes), n_header = 1 + hyb_put_varint(n_codes, header + 1), n_stream = 0;
    const uint8_t *stream = NULL;
    uint32_t n_lanes = 1;
    hyb_status status = HYB_OK;
    if (n_symbols > 0) {
        const size_t room = n_symbols + n_symbols / 8 + 1024; /* packing is smaller where this is too little */
        status = hyb_coding_plan(ctx, alphabets[alphabet], symbols, n_symbols, &coding);
        if (status == HYB_OK) buffer = hyb_alloc(ctx, room, 1);
        if (status == HYB_OK && buffer == NULL)
            status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to code %zu codes", n_codes);
        if (status != HYB_OK) goto out;
        if ((coding.cost >> 16) > 0) n_lanes = hyb_rans_lanes(coding.cost >> 19);
        hyb_rans_encoder_init(&encoder, buffer, room, n_lanes);
        if (hyb_coding_encode(&coding, &encoder)) stream = hyb_rans_encoder_finish(&encoder, &n_stream);
    }
    int is_coded = stream != NULL && coding.n_head + n_stream < n_symbols;
    const uint8_t *const parts[] = {header, is_coded ? coding.head : symbols, stream};
    const size_t sizes[] = {n_header, is_coded ? coding.n_head : n_symbols, is_coded ? n_stream : 0};
    header[0] = first_byte(alphabet, is_coded, is_coded ? n_lanes : 1);
    status = put_parts(ctx, parts, sizes, 3, bytes, capacity, n_bytes);
out:
    hyb_coding_free(ctx, &coding);
    hyb_free(ctx, buffer);
    return status;
}

hyb_status hyb_codes_encode(hyb_ctx *ctx, int32_t alphabet, const int8_t *codes, size_t n_codes, uint8_t *bytes,
                            size_t capacity, size_t *n_bytes) {
    if (ctx == NULL || n_bytes == NULL || (codes == NULL && n_codes > 0))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_codes_encode: ctx, codes or n_bytes is NULL");
    if (!is_alphabet(alphabet))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "alphabet %d: use 1 (ternary), 2 (five) or 3 (int8)",
                        (int)alphabet);
    size_t bad = find_bad_code(alphabet, codes, n_codes), n_symbols = symbols_of(alphabet, n_codes);
    if (bad < n_codes)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "code %d at index %zu is outside alphabet %d", codes[bad], bad,
                        (int)alphabet);
    if (n_symbols > MAX_SYMBOLS)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu codes: more than 2^31 symbols", n_codes);
    uint8_t *symbols = hyb_alloc(ctx, n_symbols, 1);
    if (symbols == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to code %zu codes", n_codes);
    hyb_status status = make_symbols(ctx, alphabet, codes, n_codes, symbols);
    if (status == HYB_OK) status = encode_symbols(ctx, alphabet, n_codes, symbols, bytes, capacity, n_bytes);
    hyb_free(ctx, symbols);
    return status;
}

/* ---- decoding ---- */

/* Coded bytes whose beginning was read. */
typedef struct reader {
    hyb_coded_info info;
    uint32_t n_lanes;
    const uint8_t *body, *end; /* without the checksum */
    const uint8_t *stream;     /* behind the models */
    hyb_coded coded;
    hyb_rans_decoder *decoder;
} reader;

static hyb_status fail_damaged(hyb_ctx *ctx, const char *what) {
    return hyb_fail(ctx, HYB_ERROR_FORMAT, "coded bytes: %s", what);
}

static hyb_status read_beginning(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, reader *r) {
    const uint8_t *cursor = bytes + 1;
    uint64_t n_codes = 0;
    if (n_bytes < 2 + CHECKSUM_BYTES)
        return hyb_fail(ctx, HYB_ERROR_TRUNCATED, "coded bytes: %zu, and the shortest are 6", n_bytes);
    *r = (reader){.end = bytes + (n_bytes - CHECKSUM_BYTES)};
    if (hyb_load_u32(r->end) != hyb_crc32c(0, bytes, n_bytes - CHECKSUM_BYTES))
        return hyb_fail(ctx, HYB_ERROR_CHECKSUM, "coded bytes: the checksum is wrong, they are damaged or cut");
    r->info.alphabet = bytes[0] & 3;
    r->info.is_coded = bytes[0] >> 2 & 1;
    r->n_lanes = 1u << (bytes[0] >> 3 & 7);
    if (!is_alphabet(r->info.alphabet) || bytes[0] > 63 || r->n_lanes > HYB_RANS_LANES)
        return fail_damaged(ctx, "the first byte is unknown");
    if (!hyb_get_varint(&cursor, r->end, &n_codes)) return fail_damaged(ctx, "the number of codes is missing");
    if (n_codes > SIZE_MAX) return fail_damaged(ctx, "more codes than this machine can address");
    r->info.n_codes = (size_t)n_codes;
    r->info.n_symbols = symbols_of(r->info.alphabet, r->info.n_codes);
    if (r->info.n_symbols > MAX_SYMBOLS) return fail_damaged(ctx, "more than 2^31 symbols");
    r->body = cursor;
    if (!r->info.is_coded && ((size_t)(r->end - cursor) != r->info.n_symbols || r->n_lanes != 1))
        return fail_damaged(ctx, "their number does not match the number of codes");
    return r->info.is_coded && n_codes == 0 ? fail_damaged(ctx, "no codes, and they are coded") : HYB_OK;
}

hyb_status hyb_coded_inspect(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, hyb_coded_info *info) {
    reader r;
    if (ctx == NULL || bytes == NULL || info == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_coded_inspect: ctx, bytes or info is NULL");
    HYB_TRY(read_beginning(ctx, bytes, n_bytes, &r));
    *info = r.info;
    return HYB_OK;
}

/* Finds the end of the models, which the stream follows. */
static int find_stream(reader *r) {
    hyb_coded coded;
    const uint8_t *cursor = r->body;
    if (!hyb_coded_begin(alphabets[r->info.alphabet], r->info.n_symbols, &cursor, r->end, &coded)) return 0;
    for (size_t first = 0; first < r->info.n_symbols; first += coded.group_size)
        if (!hyb_rans_get_model(coded.symbols, &cursor, r->end, &r->decoder->model)) return 0;
    r->stream = cursor;
    return hyb_coded_begin(coded.symbols, r->info.n_symbols, &r->body, r->end, &r->coded);
}

/* The next symbols: a multiple of 64 but for the last. */
static int read_symbols(reader *r, size_t n, uint8_t *symbols) {
    if (r->info.is_coded) return hyb_coded_read(&r->coded, r->decoder, &r->body, r->stream, n, symbols);
    if (n > 0) memcpy(symbols, r->body, n);
    r->body += n;
    return 1;
}

static hyb_status decode_all(hyb_ctx *ctx, reader *r, int8_t *codes, uint8_t *symbols) {
    uint8_t piece[PIECE];
    const size_t n_digits = alphabets[r->info.alphabet].n_digits;
    if (r->info.is_coded && !find_stream(r)) return fail_damaged(ctx, "their probabilities are no such");
    if (r->info.is_coded &&
        !hyb_rans_decoder_init(r->decoder, &ctx->kernels, r->stream, (size_t)(r->end - r->stream), r->n_lanes))
        return fail_damaged(ctx, "the stream's beginning is no such");
    for (size_t i = 0; i < r->info.n_symbols; i += PIECE) {
        size_t n = hyb_min_size(PIECE, r->info.n_symbols - i);
        if (!read_symbols(r, n, symbols != NULL ? symbols + i : piece))
            return fail_damaged(ctx, "the stream is damaged");
        if (codes == NULL) continue;
        size_t n_codes = hyb_min_size(n * n_digits, r->info.n_codes - i * n_digits);
        HYB_TRY(make_codes(ctx, r->info.alphabet, piece, n_codes, codes + i * n_digits));
    }
    if (r->info.is_coded && !hyb_rans_decoder_finish(r->decoder)) return fail_damaged(ctx, "the stream is damaged");
    return HYB_OK;
}

static hyb_status decode(hyb_ctx *ctx, reader *r, int8_t *codes, uint8_t *symbols) {
    if (r->info.is_coded) r->decoder = hyb_alloc(ctx, 1, sizeof *r->decoder);
    if (r->info.is_coded && r->decoder == NULL)
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to decode %zu codes", r->info.n_codes);
    hyb_status status = decode_all(ctx, r, codes, symbols);
    hyb_free(ctx, r->decoder);
    return status;
}

hyb_status hyb_codes_decode(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, int8_t *codes, size_t n_codes) {
    reader r;
    if (ctx == NULL || bytes == NULL || (codes == NULL && n_codes > 0))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_codes_decode: ctx, bytes or codes is NULL");
    HYB_TRY(read_beginning(ctx, bytes, n_bytes, &r));
    if (n_codes != r.info.n_codes)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_codes_decode: room for %zu codes, the bytes hold %zu",
                        n_codes, r.info.n_codes);
    return decode(ctx, &r, codes, NULL);
}

hyb_status hyb_symbols_decode(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, uint8_t *symbols, size_t n_symbols) {
    reader r;
    if (ctx == NULL || bytes == NULL || (symbols == NULL && n_symbols > 0))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_symbols_decode: ctx, bytes or symbols is NULL");
    HYB_TRY(read_beginning(ctx, bytes, n_bytes, &r));
    if (n_symbols != r.info.n_symbols)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_symbols_decode: room for %zu symbols, the bytes hold %zu",
                        n_symbols, r.info.n_symbols);
    return decode(ctx, &r, NULL, symbols);
}
