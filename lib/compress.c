/* compress.c - gradients to few bits and back (hybrid/compress.h): per row the moments, the threshold, and one sweep
 * that writes codes, values and residual, all while the row is in the cache; then its codes are packed.
 *
 * Rows are independent and every sum has a fixed order, so the result depends on neither threads nor processor.
 */
#include <math.h>

#include "compress.h"

/* Values that one call of a kernel sees: its fp32 sums are then accurate, and are added in fp64. Part of the result. */
#define PIECE ((size_t)8192)
/* Values a task handles: long enough to hide the hand-over, short enough to share a small matrix. */
#define VALUES_PER_TASK ((size_t)32768)
/* Largest magnitude, 1e16: a piece's sum of squares of twice that is still a float. */
#define LARGEST 1e16f
/* What packing reads behind a row's codes. */
#define PADDING ((size_t)8)
#define ROW_SUMS 3 /* gradient_squares, compressed_squares, product */

/* n_bytes is 0 where the compressor or the sizes are not valid. */
static hyb_compressed_layout find_layout(const hyb_compressor *c, size_t n_rows, size_t n_cols) {
    hyb_compressed_layout l = {0, n_cols, 1, 0};
    int is_block = c->scheme == HYB_COMPRESSION_BLOCK;
    if (c->scheme < HYB_COMPRESSION_ROW || c->scheme > HYB_COMPRESSION_FIVE || n_rows == 0 || n_cols == 0) return l;
    if (is_block ? c->block_size != 32 && c->block_size != 64 : c->block_size != 0) return l;
    if (hyb_mul_overflows(n_rows, n_cols) || hyb_mul_overflows(n_rows * n_cols, sizeof(float))) return l;
    if (is_block) l.block_size = (size_t)c->block_size;
    l.n_scales = hyb_ceil_div(n_cols, l.block_size);
    l.row_bytes = hyb_ceil_div(n_cols, 5);
    /* 8 fields of 7 bits in 7 bytes */
    if (c->scheme == HYB_COMPRESSION_FIVE) l.row_bytes = hyb_ceil_div(n_cols, 3) - hyb_ceil_div(n_cols, 3) / 8;
    l.n_bytes = n_rows * (l.row_bytes + 2 * l.n_scales); /* fits: less than 4 bytes a value */
    return l;
}

hyb_status hyb_compress_layout(hyb_ctx *ctx, const hyb_compressor *c, size_t n_rows, size_t n_cols,
                               hyb_compressed_layout *l) {
    *l = find_layout(c, n_rows, n_cols);
    if (l->n_bytes != 0) return HYB_OK;
    if (c->scheme < HYB_COMPRESSION_ROW || c->scheme > HYB_COMPRESSION_FIVE)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "compression scheme %d: use 1 (row), 2 (block) or 3 (five)",
                        (int)c->scheme);
    if (n_rows != 0 && n_cols != 0 && !hyb_mul_overflows(n_rows, n_cols) &&
        !hyb_mul_overflows(n_rows * n_cols, sizeof(float)))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "block_size is %d: use 32 or 64 with blocks, 0 with the other schemes", (int)c->block_size);
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                    "a matrix of %zu x %zu: both sizes must be at least 1 and fit in memory", n_rows, n_cols);
}

size_t hyb_compressed_bytes(const hyb_compressor *compressor, size_t n_rows, size_t n_cols) {
    return compressor != NULL ? find_layout(compressor, n_rows, n_cols).n_bytes : 0;
}

/* ---- packing; as hyb_pack does it, for codes that need no check ---- */

/* Five digits at once, in bytes 3 to 7: byte 7 of the product with 81, 27, 9, 3, 1 in bytes 0 to 4 is d0 + 3 d1 + 9 d2
 * + 27 d3 + 81 d4, and no byte below exceeds 240. */
static void pack_ternary(const uint8_t *digits, size_t n_bytes, uint8_t *bytes) {
    const uint64_t weights = 81u | 27u << 8 | 9u << 16 | 3u << 24 | (uint64_t)1 << 32;
    for (size_t i = 0; i < n_bytes; ++i) bytes[i] = (uint8_t)((hyb_load_u64(digits + 5 * i) << 24) * weights >> 56);
}

/* Three digits at once in the same way. */
static uint64_t five_field(const uint8_t *digits) {
    return (hyb_load_u32(digits) << 8) * (25u | 5u << 8 | 1u << 16) >> 24;
}
static void pack_five(const uint8_t *digits, size_t n_fields, uint8_t *bytes) {
    uint8_t little_endian[8];
    for (; n_fields >= 8; n_fields -= 8, digits += 24, bytes += 7) {
        uint64_t word = 0;
        HYB_UNROLL
        for (unsigned f = 0; f < 8; ++f) word |= five_field(digits + 3 * f) << (7 * f);
        hyb_store_u64(little_endian, word);
        memcpy(bytes, little_endian, 7);
    }
    uint64_t word = 0;
    for (size_t f = 0; f < n_fields; ++f) word |= five_field(digits + 3 * f) << (7 * f);
    hyb_store_u64(little_endian, word);
    memcpy(bytes, little_endian, n_fields);
}

/* ---- compression ---- */

typedef struct compress_loop {
    const hyb_kernels *kernels;
    const hyb_compressor *compressor;
    hyb_compressed_layout layout;
    const float *gradient;
    size_t n_rows, n_cols, rows_per_task;
    float *residual, *values;
    uint8_t *bytes;
    double *row_sums; /* [n_rows][ROW_SUMS] */
    uint8_t *work;    /* [workers][worker_bytes] */
    size_t worker_bytes;
    size_t bad_rows[HYB_MAX_THREADS]; /* by worker: 1 + the first that is not finite, or 0 */
} compress_loop;

/* A row, or a block of one. */
typedef struct span {
    const hyb_kernels *kernels;
    const float *gradient;
    float *residual, *values; /* or NULL */
    uint8_t *digits;          /* or NULL */
    size_t n;
} span;

static span span_at(const span *whole, size_t first, size_t n) {
    span s = *whole;
    s.gradient += first;
    if (s.residual != NULL) s.residual += first;
    if (s.values != NULL) s.values += first;
    if (s.digits != NULL) s.digits += first;
    s.n = n;
    return s;
}
static const float *values_of(const span *s) { return s->residual != NULL ? s->residual : s->gradient; }

/* Nearest bfloat16, ties to even. */
static float round_scale(float scale) {
    uint32_t bits = hyb_bits_of(scale);
    return hyb_float_of((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

/* Mean of the magnitudes above a threshold; 0 if there are none. */
static float mean_above(const span *s, float threshold) {
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < s->n; i += PIECE) {
        size_t n_above;
        sum += (double)s->kernels->sum_above_wide(values_of(s) + i, hyb_min_size(PIECE, s->n - i), threshold, &n_above);
        count += n_above;
    }
    return (float)(sum / (double)(count != 0 ? count : 1));
}

/* Asks for a part of the n values that follow, if there are any: they come while this row is worked on in the
 * cache. From DRAM that makes a matrix 1.07 times as fast. */
static void prefetch_part(const float *next, size_t n, int part) {
    if (next == NULL) return;
    size_t length = n / HYB_TERNARY_EVALUATIONS, first = (size_t)(part - 1) * length;
    for (size_t i = 0; i < length; i += HYB_CACHE_LINE / sizeof(float)) HYB_PREFETCH(next + first + i);
}

/* What the kernel ternary_blocks does, for any number of values whose mean magnitude is known. */
static float ternary_scale(const span *s, float mean, const float *next_row, float *threshold) {
    float scale = 0;
    *threshold = HYB_TERNARY_START * mean;
    for (int evaluation = 1;; ++evaluation) {
        prefetch_part(next_row, s->n, evaluation);
        scale = mean_above(s, *threshold);
        if (evaluation == HYB_TERNARY_EVALUATIONS) return scale;
        float next = HYB_TERNARY_NEXT(scale, *threshold);
        *threshold = next > 0.0f ? next : 0.0f;
    }
}

/* Codes, values and residual of a span that shares a scale, and its part of the sums. */
static void write_span(const span *s, int is_five, float threshold, float scale, double *sums) {
    hyb_compress_job job = {.threshold = threshold, .scale = scale};
    job.inverse = scale >= 1.17549435e-38f ? 1.0f / scale : 0.0f; /* below the smallest normal number: zeros */
    for (size_t i = 0; i < s->n; i += PIECE) {
        span piece = span_at(s, i, hyb_min_size(PIECE, s->n - i));
        job.gradient = piece.gradient;
        job.residual = piece.residual;
        job.values = piece.values;
        job.digits = piece.digits;
        job.n = piece.n;
        hyb_compress_sums found = is_five ? s->kernels->compress_five(&job) : s->kernels->compress_ternary(&job);
        sums[1] += (double)found.squares * (double)scale * (double)scale;
        sums[2] += (double)found.product * (double)scale;
    }
}

static void store_scale(uint8_t *scales, size_t index, float scale) {
    uint32_t bits = hyb_bits_of(scale) >> 16;
    if (scales == NULL) return;
    scales[2 * index] = (uint8_t)bits;
    scales[2 * index + 1] = (uint8_t)(bits >> 8);
}

static void compress_blocks(const span *row, size_t block_size, float *thresholds, uint8_t *scales, double *sums) {
    size_t n_whole = row->n / block_size, n_rest = row->n % block_size, n_blocks = n_whole + (n_rest != 0);
    float *means = thresholds + n_blocks;
    if (n_whole != 0) row->kernels->ternary_blocks(values_of(row), n_whole, block_size, thresholds, means);
    if (n_rest != 0) {
        span rest = span_at(row, n_whole * block_size, n_rest);
        means[n_whole] = ternary_scale(&rest, mean_above(&rest, -1.0f), NULL, &thresholds[n_whole]);
    }
    for (size_t b = 0; b < n_blocks; ++b) {
        span block = span_at(row, b * block_size, hyb_min_size(block_size, row->n - b * block_size));
        float scale = round_scale(means[b]);
        write_span(&block, 0, thresholds[b], scale, sums);
        store_scale(scales, b, scale);
    }
}

static int is_small_enough(const hyb_kernels *kernels, const float *x, size_t n) {
    return x == NULL || kernels->max_abs_bits(x, n) <= hyb_bits_of(LARGEST);
}

/* Without a residual the gradient is read once: that its squares add up to a small sum says the same of each. */
static int row_is_small_enough(const span *row) {
    if (row->residual == NULL) return 1;
    return is_small_enough(row->kernels, row->gradient, row->n) && is_small_enough(row->kernels, row->residual, row->n);
}

/* 0 if the row holds what is not finite or too large: then nothing of it is changed. */
static int compress_row(const compress_loop *loop, size_t r, uint8_t *work) {
    const hyb_compressed_layout *l = &loop->layout;
    span row = {.kernels = loop->kernels, .gradient = loop->gradient, .residual = loop->residual};
    row.values = loop->values;
    row = span_at(&row, r * loop->n_cols, loop->n_cols);
    if (loop->bytes != NULL) row.digits = work;
    if (!row_is_small_enough(&row)) return 0;
    double sum = 0, squares = 0, *sums = loop->row_sums + r * ROW_SUMS;
    for (size_t i = 0; i < row.n; i += PIECE) {
        hyb_gradient_moments found = row.kernels->gradient_moments(
            row.gradient + i, row.residual != NULL ? row.residual + i : NULL, hyb_min_size(PIECE, row.n - i));
        sum += (double)found.sum;
        squares += (double)found.squares;
        sums[0] += (double)found.gradient_squares;
    }
    int is_clearly_small = squares <= (double)LARGEST * (double)LARGEST;
    if (!is_clearly_small && row.residual == NULL && !is_small_enough(row.kernels, row.gradient, row.n)) return 0;
    uint8_t *scales = loop->bytes;
    if (scales != NULL) scales += loop->n_rows * l->row_bytes + r * l->n_scales * 2;
    if (loop->compressor->scheme == HYB_COMPRESSION_BLOCK) {
        float *thresholds = (float *)(void *)(work + hyb_round_up(loop->n_cols + PADDING, HYB_CACHE_LINE));
        compress_blocks(&row, l->block_size, thresholds, scales, sums);
    } else {
        int is_five = loop->compressor->scheme == HYB_COMPRESSION_FIVE;
        float threshold = 0, scale;
        if (is_five)
            scale = (float)sqrt(squares / (double)row.n);
        else
            scale = ternary_scale(&row, (float)(sum / (double)row.n),
                                  r + 1 < loop->n_rows ? loop->gradient + (r + 1) * loop->n_cols : NULL, &threshold);
        scale = round_scale(scale);
        write_span(&row, is_five, threshold, scale, sums);
        store_scale(scales, 0, scale);
    }
    if (loop->bytes == NULL) return 1;
    if (loop->compressor->scheme == HYB_COMPRESSION_FIVE)
        pack_five(row.digits, hyb_ceil_div(row.n, 3), loop->bytes + r * l->row_bytes);
    else
        pack_ternary(row.digits, l->row_bytes, loop->bytes + r * l->row_bytes);
    return 1;
}

static void compress_task(void *argument, size_t index, size_t worker) {
    compress_loop *loop = argument;
    uint8_t *work = loop->work + worker * loop->worker_bytes;
    size_t first = index * loop->rows_per_task, end = hyb_min_size(first + loop->rows_per_task, loop->n_rows);
    /* The last byte of a row is filled up with code 0. */
    memset(work + loop->n_cols, loop->compressor->scheme == HYB_COMPRESSION_FIVE ? 2 : 1, PADDING);
    for (size_t r = first; r < end; ++r) {
        memset(loop->row_sums + r * ROW_SUMS, 0, ROW_SUMS * sizeof(double));
        if (compress_row(loop, r, work)) continue;
        if (loop->bad_rows[worker] == 0 || r + 1 < loop->bad_rows[worker]) loop->bad_rows[worker] = r + 1;
    }
}

/* The smallest 1 + row that a worker noted, 0 if there is none: the same for any number of threads. */
static size_t first_bad_row(const size_t *bad_rows) {
    size_t first = 0;
    for (size_t i = 0; i < HYB_MAX_THREADS; ++i)
        if (bad_rows[i] != 0 && (first == 0 || bad_rows[i] < first)) first = bad_rows[i];
    return first;
}

static hyb_status say_not_finite(hyb_ctx *ctx, const compress_loop *loop, size_t r) {
    const float *row = loop->gradient + r * loop->n_cols;
    const char *name = "gradient";
    if (is_small_enough(loop->kernels, row, loop->n_cols)) {
        row = loop->residual + r * loop->n_cols;
        name = "residual";
    }
    size_t c = 0;
    while (c + 1 < loop->n_cols && fabsf(row[c]) <= LARGEST) ++c;
    if (hyb_is_finite(row[c]))
        return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "the %s at row %zu, column %zu is %g; at most 1e16 is possible",
                        name, r, c, (double)row[c]);
    return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "the %s at row %zu, column %zu is %s", name, r, c,
                    row[c] != row[c] ? "NaN" : "infinite");
}

static size_t rows_per_task(size_t n_cols) { return n_cols < VALUES_PER_TASK ? VALUES_PER_TASK / n_cols : 1; }

/* Work memory of a loop: `head` bytes, then a row's codes and block statistics for each worker. NULL: there is none. */
static uint8_t *get_work(hyb_ctx *ctx, const hyb_compressed_layout *l, size_t n_cols, size_t head,
                         size_t *worker_bytes) {
    size_t n_workers = hyb_ctx_n_threads(ctx);
    if (n_cols > SIZE_MAX / 16 || head > SIZE_MAX / 2) return NULL;
    *worker_bytes =
        hyb_round_up(n_cols + PADDING, HYB_CACHE_LINE) + hyb_round_up(2 * l->n_scales * sizeof(float), HYB_CACHE_LINE);
    if (hyb_mul_overflows(n_workers, *worker_bytes) || n_workers * *worker_bytes > SIZE_MAX / 2) return NULL;
    return hyb_scratch(ctx, head + n_workers * *worker_bytes);
}

hyb_status hyb_compress(hyb_ctx *ctx, const hyb_compressor *compressor, const float *gradient, size_t n_rows,
                        size_t n_cols, float *residual, uint8_t *bytes, float *values, hyb_compression_sums *sums) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (compressor == NULL || gradient == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_compress: compressor or gradient is NULL");
    compress_loop loop = {.kernels = &ctx->kernels, .compressor = compressor, .gradient = gradient, .n_rows = n_rows};
    HYB_TRY(hyb_compress_layout(ctx, compressor, n_rows, n_cols, &loop.layout));
    loop.n_cols = n_cols;
    loop.rows_per_task = rows_per_task(n_cols);
    loop.residual = residual;
    loop.values = values;
    loop.bytes = bytes;
    size_t head = hyb_mul_overflows(n_rows, ROW_SUMS * sizeof(double)) ? SIZE_MAX : n_rows * ROW_SUMS * sizeof(double);
    if (head != SIZE_MAX) head = hyb_round_up(head, HYB_CACHE_LINE);
    uint8_t *work = get_work(ctx, &loop.layout, n_cols, head, &loop.worker_bytes);
    if (work == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the work on %zu rows", n_rows);
    loop.row_sums = (double *)(void *)work;
    loop.work = work + head;
    hyb_parallel(ctx, hyb_ceil_div(n_rows, loop.rows_per_task), compress_task, &loop);
    size_t bad = first_bad_row(loop.bad_rows);
    if (bad != 0) return say_not_finite(ctx, &loop, bad - 1);
    if (sums == NULL) return HYB_OK;
    hyb_compression_sums total = {0, 0, 0};
    for (const double *row = loop.row_sums, *end = row + n_rows * ROW_SUMS; row < end; row += ROW_SUMS) {
        total.gradient_squares += row[0];
        total.compressed_squares += row[1];
        total.product += row[2];
    }
    *sums = total;
    return HYB_OK;
}

/* ---- decompression ---- */

typedef struct decompress_loop {
    const hyb_kernels *kernels;
    hyb_compressed_layout layout;
    int is_five;
    const uint8_t *bytes;
    size_t n_rows, n_cols, rows_per_task;
    float *values;
    uint8_t *work;
    size_t worker_bytes;
    int8_t table[256][8];             /* codes of a byte, or of a field of 7 bits */
    size_t bad_rows[HYB_MAX_THREADS]; /* by worker: 1 + the first row that nothing compresses to, or 0 */
} decompress_loop;

static void fill_table(decompress_loop *loop) {
    unsigned base = loop->is_five ? 5 : 3, n_digits = loop->is_five ? 3 : 5;
    for (unsigned byte = 0; byte < 256; ++byte) {
        unsigned rest = byte;
        for (unsigned i = 0; i < n_digits; ++i, rest /= base)
            loop->table[byte][i] = (int8_t)((int)(rest % base) - (int)(base / 2));
    }
}

/* Eight fields, or what is left of a row's n_bytes. */
static uint64_t load_fields(const uint8_t *bytes, size_t n_bytes) {
    uint8_t part[8] = {0};
    if (n_bytes >= 8) return hyb_load_u64(bytes) & (((uint64_t)1 << 56) - 1);
    memcpy(part, bytes, hyb_min_size(7, n_bytes));
    return hyb_load_u64(part);
}

/* Eight fields of 7 bits to bytes: halves apart, then quarters, then eighths. */
static uint64_t spread_fields(uint64_t word) {
    word = (word & 0x00fffffff0000000u) << 4 | (word & 0x000000000fffffffu);
    word = (word & 0x0fffc0000fffc000u) << 2 | (word & 0x00003fff00003fffu);
    return (word & 0x3f803f803f803f80u) << 1 | (word & 0x007f007f007f007fu);
}

/* 1 if codes `n_used` and after of the last byte or field are 0, as packing fills them up. */
static int tail_is_zero(const int8_t *codes, size_t n_used, size_t n_digits) {
    int is_zero = 1;
    for (size_t i = n_used; i < n_digits; ++i) is_zero &= codes[i] == 0;
    return is_zero;
}

static int ternary_is_valid(const decompress_loop *loop, const uint8_t *bytes) {
    size_t n_bytes = loop->layout.row_bytes;
    int bad = 0;
    for (size_t i = 0; i < n_bytes; ++i) bad |= bytes[i] > 242;
    return !bad && tail_is_zero(loop->table[bytes[n_bytes - 1]], loop->n_cols - 5 * (n_bytes - 1), 5);
}

static int five_is_valid(const decompress_loop *loop, const uint8_t *bytes) {
    size_t n_fields = hyb_ceil_div(loop->n_cols, 3), n_bytes = loop->layout.row_bytes, n_last = (n_fields - 1) % 8;
    uint64_t bad = 0, word = 0;
    for (size_t at = 0; at < n_bytes; at += 7) {
        word = load_fields(bytes + at, n_bytes - at);
        bad |= (spread_fields(word) + 0x0303030303030303u) & 0x8080808080808080u; /* 125 + 3 = 128 */
    }
    uint64_t last = word >> (7 * n_last); /* what follows the last field is 0 */
    return bad == 0 && last < 128 && tail_is_zero(loop->table[last], loop->n_cols - 3 * (n_fields - 1), 3);
}

/* Gradient and residual are at most 1e16 each, so a scale is below 2^55; negative ones and NaN are larger as bits. */
static int scales_are_valid(const uint8_t *scales, size_t n) {
    int bad = 0;
    for (size_t i = 0; i < n; ++i) bad |= (scales[2 * i] | scales[2 * i + 1] << 8) >= (127 + 55) << 7;
    return !bad;
}

static const uint8_t *scales_of(const decompress_loop *loop, size_t r) {
    return loop->bytes + loop->n_rows * loop->layout.row_bytes + r * loop->layout.n_scales * 2;
}

static void check_task(void *argument, size_t index, size_t worker) {
    decompress_loop *loop = argument;
    size_t first = index * loop->rows_per_task, end = hyb_min_size(first + loop->rows_per_task, loop->n_rows);
    for (size_t r = first; r < end; ++r) {
        const uint8_t *bytes = loop->bytes + r * loop->layout.row_bytes;
        int is_valid = loop->is_five ? five_is_valid(loop, bytes) : ternary_is_valid(loop, bytes);
        if (is_valid && scales_are_valid(scales_of(loop, r), loop->layout.n_scales)) continue;
        if (loop->bad_rows[worker] == 0 || r + 1 < loop->bad_rows[worker]) loop->bad_rows[worker] = r + 1;
    }
}

/* Writes up to 7 codes behind the row's. */
static void unpack_row(const decompress_loop *loop, const uint8_t *bytes, int8_t *codes) {
    size_t n_bytes = loop->layout.row_bytes;
    if (!loop->is_five) {
        for (size_t i = 0; i < n_bytes; ++i) memcpy(codes + 5 * i, loop->table[bytes[i]], 8);
        return;
    }
    for (size_t done = 0; done < n_bytes; done += 7) {
        uint64_t word = spread_fields(load_fields(bytes + done, n_bytes - done));
        size_t n_fields = hyb_min_size(8, (n_bytes - done) * 8 / 7);
        for (size_t f = 0; f < n_fields; ++f, word >>= 8, codes += 3) memcpy(codes, loop->table[word & 255u], 4);
    }
}

static void decompress_task(void *argument, size_t index, size_t worker) {
    const decompress_loop *loop = argument;
    int8_t *codes = (int8_t *)(loop->work + worker * loop->worker_bytes);
    size_t first = index * loop->rows_per_task, end = hyb_min_size(first + loop->rows_per_task, loop->n_rows);
    for (size_t r = first; r < end; ++r) {
        const uint8_t *scales = scales_of(loop, r);
        float *values = loop->values + r * loop->n_cols;
        unpack_row(loop, loop->bytes + r * loop->layout.row_bytes, codes);
        for (size_t b = 0; b < loop->layout.n_scales; ++b) {
            size_t at = b * loop->layout.block_size;
            uint32_t bits = (uint32_t)scales[2 * b] << 16 | (uint32_t)scales[2 * b + 1] << 24;
            loop->kernels->dequantize_i8(codes + at, hyb_min_size(loop->layout.block_size, loop->n_cols - at),
                                         hyb_float_of(bits), values + at);
        }
    }
}

hyb_status hyb_decompress(hyb_ctx *ctx, const hyb_compressor *compressor, const uint8_t *bytes, size_t n_bytes,
                          size_t n_rows, size_t n_cols, float *values) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (compressor == NULL || bytes == NULL || values == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_decompress: compressor, bytes or values is NULL");
    decompress_loop loop = {.kernels = &ctx->kernels, .bytes = bytes, .n_rows = n_rows, .n_cols = n_cols};
    HYB_TRY(hyb_compress_layout(ctx, compressor, n_rows, n_cols, &loop.layout));
    if (n_bytes != loop.layout.n_bytes)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu bytes; a matrix of %zu x %zu takes %zu", n_bytes, n_rows,
                        n_cols, loop.layout.n_bytes);
    loop.is_five = compressor->scheme == HYB_COMPRESSION_FIVE;
    loop.rows_per_task = rows_per_task(n_cols);
    loop.values = values;
    loop.work = get_work(ctx, &loop.layout, n_cols, 0, &loop.worker_bytes);
    if (loop.work == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a row of %zu codes", n_cols);
    fill_table(&loop);
    size_t n_tasks = hyb_ceil_div(n_rows, loop.rows_per_task);
    hyb_parallel(ctx, n_tasks, check_task, &loop);
    size_t bad = first_bad_row(loop.bad_rows);
    if (bad != 0)
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "the codes or a scale of row %zu are not as compression writes them",
                        bad - 1);
    hyb_parallel(ctx, n_tasks, decompress_task, &loop);
    return HYB_OK;
}
