/* matmul.c - packed integer weights and their product with int8 activations, parallel over rows and tokens.
 *
 * codes -> hyb_weights (16 x 16 blocks, kernels.h) -> jobs of at most 64 rows -> kernels matmul_ternary, matmul_int8.
 * The public functions validate, copy the activations to padded rows in the context's scratch, and run the same split
 * as the networks do. Integer sums are exact, so no split can change a bit.
 */
#include "matmul.h"

/* Ternary code 0 is stored as 1 in 2 bits: four of them in a byte. */
#define TERNARY_ZERO_BYTE 0x55

/* Unpacking a job's weights costs about as much as multiplying them with one token; from this many tokens a job it
 * hardly shows. */
#define MIN_TOKENS_PER_JOB 48
/* Bytes of activations that the jobs of all rows go through before the next: they stay in a second-level cache. 1.5
 * times as fast as all 2048 tokens at once with 1280 columns, Cascade Lake. */
#define MAX_BLOCK_BYTES ((size_t)384 << 10)
/* Jobs a thread, so that threads which began late or run slower do not hold up the rest. */
#define JOBS_PER_THREAD 4
/* Rows of a product by look-ups for which making the tables takes less than a third of the time. */
#define LOOKUP_JOB_MIN_ROWS 256
/* Products of fewer multiplications than this are done before another thread would have woken up. */
#define MIN_PARALLEL_MULTIPLICATIONS 65536

/* ---- packed weights ---- */

static size_t bytes_per_k16(hyb_format format) {
    return format == HYB_FORMAT_TERNARY ? (size_t)HYB_BLOCK_ROWS * 4 : (size_t)HYB_BLOCK_ROWS * HYB_BLOCK_COLS;
}

hyb_status hyb_weights_check_shape(hyb_ctx *ctx, hyb_format format, size_t n_rows, size_t n_cols) {
    int known = format == HYB_FORMAT_TERNARY || format == HYB_FORMAT_BINARY || format == HYB_FORMAT_INT2 ||
                format == HYB_FORMAT_INT4 || format == HYB_FORMAT_INT8;
    if (!known)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "format %d: packed weights take TERNARY, BINARY, INT2, INT4 or INT8", (int)format);
    if (n_rows == 0 || n_cols == 0)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "weights of %zu x %zu: both sizes must be at least 1", n_rows,
                        n_cols);
    if (n_cols > HYB_MATMUL_MAX_COLS)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_cols %zu: at most %d, the longest exact int32 sum", n_cols,
                        HYB_MATMUL_MAX_COLS);
    return HYB_OK;
}

static size_t rows_per_block(hyb_layout layout) {
    return layout == HYB_LAYOUT_LOOKUP ? HYB_LOOKUP_BLOCK_ROWS : HYB_BLOCK_ROWS;
}

static hyb_status alloc_weights(hyb_ctx *ctx, hyb_format format, hyb_layout layout, size_t n_rows, size_t n_cols,
                                hyb_weights **weights) {
    HYB_TRY(hyb_weights_check_shape(ctx, format, n_rows, n_cols));
    size_t block_rows = rows_per_block(layout), n_blocks = hyb_ceil_div(n_rows, block_rows);
    size_t n_k16 = hyb_ceil_div(n_cols, HYB_BLOCK_COLS), head = hyb_round_up(sizeof(hyb_weights), 64);
    size_t block_bytes = layout == HYB_LAYOUT_LOOKUP ? HYB_LOOKUP_BLOCK_BYTES(n_k16) : n_k16 * bytes_per_k16(format);
    size_t per_block = block_bytes + block_rows * sizeof(float);
    hyb_weights *w = NULL;
    if (n_blocks <= (SIZE_MAX - head) / per_block) w = hyb_alloc(ctx, 1, head + n_blocks * per_block);
    if (w == NULL)
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for packed weights of %zu x %zu", n_rows, n_cols);
    w->release = ctx->options.release;
    w->release_user = ctx->options.allocator_user;
    w->format = format;
    w->layout = layout;
    w->n_rows = n_rows;
    w->n_cols = n_cols;
    w->n_k16 = n_k16;
    w->block_bytes = block_bytes;
    w->blocks = (uint8_t *)w + head;
    w->row_scales = (float *)(void *)(w->blocks + n_blocks * block_bytes);
    if (layout == HYB_LAYOUT_LOOKUP)
        hyb_lookup_clear(w->blocks, n_blocks * block_bytes / 2);
    else
        memset(w->blocks, format == HYB_FORMAT_TERNARY ? TERNARY_ZERO_BYTE : 0, n_blocks * block_bytes);
    for (size_t i = 0; i < n_blocks * block_rows; ++i) w->row_scales[i] = 0.0f;
    *weights = w;
    return HYB_OK;
}

hyb_status hyb_weights_alloc(hyb_ctx *ctx, hyb_format format, size_t n_rows, size_t n_cols, hyb_weights **weights) {
    return alloc_weights(ctx, format, HYB_LAYOUT_PLANES, n_rows, n_cols, weights);
}

hyb_status hyb_weights_alloc_fixed(hyb_ctx *ctx, hyb_format format, size_t n_rows, size_t n_cols,
                                   hyb_weights **weights) {
    int looks_up = format == HYB_FORMAT_TERNARY && (ctx->isa & HYB_ISA_AVX512_LOOKUP) != 0;
    return alloc_weights(ctx, format, looks_up ? HYB_LAYOUT_LOOKUP : HYB_LAYOUT_PLANES, n_rows, n_cols, weights);
}

/* Where a row's first word lies. In a block of either layout, 64 bytes hold a word of each row. */
static uint8_t *row_words(const hyb_weights *weights, size_t row) {
    size_t block_rows = rows_per_block(weights->layout);
    return weights->blocks + row / block_rows * weights->block_bytes + row % block_rows * (64 / block_rows);
}

/* Eight codes -1, 0, 1 in the bytes of a word to code + 1 in each byte: -1 is 3 in two bits, so (3, 0, 1) + 1 mod 4 is
 * (0, 1, 2), and no carry leaves a byte. */
static uint64_t biased_codes(uint64_t codes) {
    return ((codes & 0x0303030303030303u) + 0x0101010101010101u) & 0x0303030303030303u;
}

/* 16 codes to the 32-bit word of a row and column group. */
static uint32_t ternary_word(const int8_t *codes) {
    uint64_t low = biased_codes(hyb_load_u64((const uint8_t *)codes));
    uint64_t high = biased_codes(hyb_load_u64((const uint8_t *)codes + 8));
    uint64_t word = (low | low >> 30) & 0x0f0f0f0fu; /* planes 0 and 1 */
    return (uint32_t)(word | ((high | high >> 30) & 0x0f0f0f0fu) << 4);
}

static void fill_ternary_row(uint8_t *words, const int8_t *codes, size_t n_cols) {
    size_t n_whole = n_cols / HYB_BLOCK_COLS, n_rest = n_cols % HYB_BLOCK_COLS;
    for (size_t k = 0; k < n_whole; ++k) hyb_store_u32(words + k * 64, ternary_word(codes + k * HYB_BLOCK_COLS));
    if (n_rest != 0) {
        int8_t last[HYB_BLOCK_COLS] = {0};
        memcpy(last, codes + n_whole * HYB_BLOCK_COLS, n_rest);
        hyb_store_u32(words + n_whole * 64, ternary_word(last));
    }
}

static void fill_int8_row(uint8_t *words, const int8_t *codes, size_t n_cols) {
    size_t n_whole = n_cols / 4, n_rest = n_cols % 4;
    for (size_t k = 0; k < n_whole; ++k) memcpy(words + k * 64, codes + k * 4, 4);
    if (n_rest != 0) memcpy(words + n_whole * 64, codes + n_whole * 4, n_rest); /* the padding stays 0 */
}

void hyb_weights_fill_rows(const hyb_ctx *ctx, hyb_weights *weights, const int8_t *codes, const float *scales,
                           size_t n_scales, size_t first_block, size_t n_blocks) {
    (void)ctx;
    size_t end = hyb_min_size((first_block + n_blocks) * HYB_BLOCK_ROWS, weights->n_rows);
    for (size_t row = first_block * HYB_BLOCK_ROWS; row < end; ++row) {
        uint8_t *words = row_words(weights, row);
        const int8_t *from = codes + row * weights->n_cols;
        if (weights->layout == HYB_LAYOUT_LOOKUP)
            hyb_lookup_fill_row(words, from, weights->n_cols);
        else if (weights->format == HYB_FORMAT_TERNARY)
            fill_ternary_row(words, from, weights->n_cols);
        else
            fill_int8_row(words, from, weights->n_cols);
        weights->row_scales[row] = scales[n_scales == 1 ? 0 : row];
    }
}

/* Codes of columns 16 k .. 16 k + 15 of a row. */
static void unpack_group(const hyb_weights *weights, size_t row, size_t k, int8_t *codes) {
    const uint8_t *words = row_words(weights, row);
    if (weights->layout == HYB_LAYOUT_LOOKUP) {
        size_t first = k * HYB_BLOCK_COLS;
        hyb_lookup_unpack(words, first, HYB_BLOCK_COLS, codes);
    } else if (weights->format == HYB_FORMAT_TERNARY) {
        const uint8_t *word = words + k * 64;
        for (size_t c = 0; c < HYB_BLOCK_COLS; ++c) codes[c] = (int8_t)((word[c % 4] >> (c / 4 * 2) & 3) - 1);
    } else {
        for (size_t p = 0; p < 4; ++p) memcpy(codes + p * 4, words + (k * 4 + p) * 64, 4);
    }
}

void hyb_weights_gather_row(const hyb_weights *weights, size_t row, float *out) {
    float scale = weights->row_scales[row];
    for (size_t k = 0, c = 0; k < weights->n_k16; ++k) {
        int8_t codes[HYB_BLOCK_COLS];
        unpack_group(weights, row, k, codes);
        for (size_t i = 0; i < HYB_BLOCK_COLS && c < weights->n_cols; ++i, ++c) out[c] = (float)codes[i] * scale;
    }
}

void hyb_weights_unpack_codes(const hyb_weights *weights, size_t row, int8_t *codes) {
    for (size_t k = 0; k < weights->n_k16; ++k) {
        int8_t group[HYB_BLOCK_COLS];
        unpack_group(weights, row, k, group);
        size_t first = k * HYB_BLOCK_COLS;
        memcpy(codes + first, group, hyb_min_size(HYB_BLOCK_COLS, weights->n_cols - first));
    }
}

/* ---- product ---- */

size_t hyb_activations_ld(size_t n_cols) {
    size_t ld = hyb_round_up(n_cols, HYB_BLOCK_COLS);
    return ld % 1024 == 0 ? ld + HYB_CACHE_LINE : ld;
}

void hyb_quantize_token(const hyb_kernels *kernels, const float *x, size_t n_cols, int8_t *codes, size_t ld,
                        int32_t *sum, float *scale) {
    uint32_t bits = kernels->max_abs_bits(x, n_cols);
    float absmax = hyb_float_of(bits);
    float inverse = bits == 0 ? 0.0f : 127.0f / absmax;
    *sum = 0;
    if (bits >= 0x7f800000u) { /* an infinity or a NaN */
        *scale = hyb_float_of(0x7fc00000u);
        memset(codes, 0, ld);
        return;
    }
    if (bits == 0 || !hyb_is_finite(inverse)) {
        *scale = 0.0f;
        memset(codes, 0, ld);
        return;
    }
    *scale = absmax / 127.0f;
    *sum = kernels->quantize_i8(x, n_cols, inverse, codes);
    memset(codes + n_cols, 0, ld - n_cols);
}

size_t hyb_matmul_scratch_bytes(const hyb_ctx *ctx, size_t max_n_cols) {
    size_t n_bytes = HYB_MATMUL_SCRATCH_BYTES(hyb_ceil_div(max_n_cols, HYB_BLOCK_COLS));
    int may_look_up = ctx->kernels.tier[HYB_KERNEL_matmul_lookup] != 0; /* the reference needs no work memory */
    if (may_look_up && n_bytes < HYB_LOOKUP_SCRATCH_BYTES) n_bytes = HYB_LOOKUP_SCRATCH_BYTES;
    return n_bytes * hyb_ctx_n_threads(ctx);
}

typedef struct product {
    const hyb_ctx *ctx;
    const hyb_weights *weights;
    const hyb_activations *x;
    size_t n_tokens, rows_per_job, n_row_jobs, tokens_per_job;
    float *y;
    int32_t *y_i32;
    size_t ld_y;
    int accumulate;
    uint8_t *scratch;
} product;

static void product_task(void *argument, size_t index, size_t worker) {
    const product *p = argument;
    const hyb_weights *w = p->weights;
    size_t row = index % p->n_row_jobs * p->rows_per_job, token = index / p->n_row_jobs * p->tokens_per_job;
    hyb_matmul_job job = {0};
    job.weights = w->blocks + row / rows_per_block(w->layout) * w->block_bytes;
    job.n_rows = hyb_min_size(p->rows_per_job, w->n_rows - row);
    job.n_k16 = w->n_k16;
    job.x = p->x->codes + token * p->x->ld;
    job.ld_x = p->x->ld;
    job.x_sums = p->x->sums + token;
    job.n_tokens = hyb_min_size(p->tokens_per_job, p->n_tokens - token);
    if (p->y != NULL) {
        job.x_scales = p->x->scales + token;
        job.row_scales = w->row_scales + row;
        job.y = p->y + token * p->ld_y + row;
    } else {
        job.y_i32 = p->y_i32 + token * p->ld_y + row;
    }
    job.ld_y = p->ld_y;
    job.accumulate = p->accumulate;
    if (w->layout == HYB_LAYOUT_LOOKUP) {
        job.scratch = p->scratch + worker * HYB_LOOKUP_SCRATCH_BYTES;
        p->ctx->kernels.matmul_lookup(&job);
        return;
    }
    job.scratch = p->scratch + worker * HYB_MATMUL_SCRATCH_BYTES(w->n_k16);
    if (w->format == HYB_FORMAT_TERNARY)
        p->ctx->kernels.matmul_ternary(&job);
    else
        p->ctx->kernels.matmul_int8(&job);
}

/* Jobs of 64 rows and all tokens reuse most. Where that gives too few jobs, tokens are divided while each job keeps
 * enough of them, then rows. */
static void split(product *p, size_t n_threads) {
    size_t n_rows = p->weights->n_rows, wanted = n_threads == 1 ? 1 : n_threads * JOBS_PER_THREAD;
    p->rows_per_job = HYB_MATMUL_JOB_ROWS;
    size_t row_jobs = hyb_ceil_div(n_rows, p->rows_per_job);
    size_t token_jobs = hyb_min_size(hyb_ceil_div(wanted, row_jobs), hyb_ceil_div(p->n_tokens, MIN_TOKENS_PER_JOB));
    size_t most = hyb_round_up(MAX_BLOCK_BYTES / p->x->ld, MIN_TOKENS_PER_JOB);
    size_t blocks = hyb_ceil_div(p->n_tokens, most > MIN_TOKENS_PER_JOB ? most : MIN_TOKENS_PER_JOB);
    if (token_jobs < blocks) token_jobs = blocks;
    p->tokens_per_job = hyb_ceil_div(p->n_tokens, token_jobs);
    token_jobs = hyb_ceil_div(p->n_tokens, p->tokens_per_job);
    while (p->rows_per_job > HYB_BLOCK_ROWS && hyb_ceil_div(n_rows, p->rows_per_job) * token_jobs < wanted)
        p->rows_per_job /= 2;
    p->n_row_jobs = hyb_ceil_div(n_rows, p->rows_per_job);
}

/* Each job makes its own tables, for all its rows: tokens are divided first, rows into few jobs. */
static void split_lookup(product *p, size_t n_threads) {
    size_t n_rows = p->weights->n_rows, token_jobs = 1;
    size_t row_jobs = hyb_ceil_div(n_rows, HYB_LOOKUP_JOB_ROWS);
    if (n_threads > 1) {
        size_t most = hyb_ceil_div(p->n_tokens, MIN_TOKENS_PER_JOB);
        token_jobs = hyb_min_size(n_threads * JOBS_PER_THREAD, most);
        row_jobs = hyb_ceil_div(hyb_round_up(token_jobs * row_jobs, n_threads), token_jobs);
    }
    p->tokens_per_job = hyb_round_up(hyb_ceil_div(p->n_tokens, token_jobs), HYB_LOOKUP_TILE_TOKENS);
    p->rows_per_job = hyb_round_up(hyb_ceil_div(n_rows, row_jobs), LOOKUP_JOB_MIN_ROWS);
    p->n_row_jobs = hyb_ceil_div(n_rows, p->rows_per_job);
}

void hyb_matmul_parallel(hyb_ctx *ctx, const hyb_weights *weights, const hyb_activations *x, size_t n_tokens, float *y,
                         int32_t *y_i32, size_t ld_y, int accumulate, uint8_t *scratch) {
    product p = {0};
    p.ctx = ctx;
    p.weights = weights;
    p.x = x;
    p.n_tokens = n_tokens;
    p.y = y;
    p.y_i32 = y_i32;
    p.ld_y = ld_y;
    p.accumulate = accumulate;
    p.scratch = scratch;
    size_t n_threads = hyb_ctx_n_threads(ctx);
    double multiplications = (double)weights->n_rows * (double)weights->n_cols * (double)n_tokens;
    if (multiplications < MIN_PARALLEL_MULTIPLICATIONS) n_threads = 1;
    if (weights->layout == HYB_LAYOUT_LOOKUP)
        split_lookup(&p, n_threads);
    else
        split(&p, n_threads);
    size_t n_jobs = p.n_row_jobs * hyb_ceil_div(n_tokens, p.tokens_per_job);
    if (n_threads > 1) {
        hyb_parallel(ctx, n_jobs, product_task, &p);
    } else {
        for (size_t i = 0; i < n_jobs; ++i) product_task(&p, i, 0);
    }
}

/* ---- public ---- */

hyb_status hyb_weights_create(hyb_ctx *ctx, hyb_format format, size_t n_rows, size_t n_cols, const int8_t *codes,
                              const float *scales, size_t n_scales, hyb_weights **weights) {
    if (ctx == NULL || codes == NULL || scales == NULL || weights == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_weights_create: ctx, codes, scales or weights is NULL");
    HYB_TRY(hyb_weights_check_shape(ctx, format, n_rows, n_cols));
    if (hyb_mul_overflows(n_rows, n_cols))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "weights of %zu x %zu do not fit in memory", n_rows, n_cols);
    if (n_scales != 1 && n_scales != n_rows)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_scales is %zu: give 1, or one of each of the %zu rows",
                        n_scales, n_rows);
    size_t bad = hyb_find_bad_code(format, codes, n_rows * n_cols);
    if (bad < n_rows * n_cols)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "code %d at row %zu, column %zu is not one of format %d",
                        codes[bad], bad / n_cols, bad % n_cols, (int)format);
    for (size_t i = 0; i < n_scales; ++i)
        if (!hyb_is_finite(scales[i]))
            return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "scale %zu is not a finite number", i);
    hyb_weights *w = NULL;
    HYB_TRY(hyb_weights_alloc_fixed(ctx, format, n_rows, n_cols, &w));
    hyb_weights_fill_rows(ctx, w, codes, scales, n_scales, 0, hyb_ceil_div(n_rows, HYB_BLOCK_ROWS));
    *weights = w;
    return HYB_OK;
}

void hyb_weights_destroy(hyb_weights *weights) {
    if (weights != NULL) weights->release(weights->release_user, weights);
}

size_t hyb_weights_n_rows(const hyb_weights *weights) { return weights != NULL ? weights->n_rows : 0; }

size_t hyb_weights_n_cols(const hyb_weights *weights) { return weights != NULL ? weights->n_cols : 0; }

size_t hyb_weights_bytes(const hyb_weights *weights) {
    if (weights == NULL) return 0;
    size_t block_rows = rows_per_block(weights->layout), n_blocks = hyb_ceil_div(weights->n_rows, block_rows);
    return sizeof *weights + n_blocks * (weights->block_bytes + block_rows * sizeof(float));
}

/* Bytes of the padded copy of the activations and of the workers' scratch; 0 on overflow. */
static size_t product_bytes(const hyb_ctx *ctx, const hyb_weights *w, size_t n_tokens, size_t ld) {
    size_t per_token = ld + sizeof(int32_t) + sizeof(float);
    size_t fixed = hyb_matmul_scratch_bytes(ctx, w->n_cols) + (size_t)3 * HYB_CACHE_LINE;
    if (n_tokens > (SIZE_MAX - fixed) / per_token) return 0;
    return n_tokens * per_token + fixed;
}

static hyb_status copy_token(hyb_ctx *ctx, const int8_t *from, size_t n_cols, size_t token, const hyb_activations *to) {
    int8_t *codes = to->codes + token * to->ld;
    int32_t sum = 0;
    for (size_t c = 0; c < n_cols; ++c) {
        codes[c] = from[c];
        sum += from[c];
    }
    memset(codes + n_cols, 0, to->ld - n_cols);
    to->sums[token] = sum;
    if (memchr(from, 0x80, n_cols) != NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "token %zu holds the code -128: activations lie between -127 and 127", token);
    return HYB_OK;
}

static hyb_status multiply(hyb_ctx *ctx, const hyb_weights *weights, const int8_t *x, const float *x_scales,
                           size_t n_tokens, float *y, int32_t *y_i32) {
    size_t ld = hyb_activations_ld(weights->n_cols), n_rows = weights->n_rows;
    size_t n_bytes = product_bytes(ctx, weights, n_tokens, ld);
    if (n_tokens == 0 || n_bytes == 0 || hyb_mul_overflows(n_tokens, n_rows))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_tokens is %zu: give at least 1, and what fits in memory",
                        n_tokens);
    uint8_t *memory = hyb_scratch(ctx, n_bytes);
    if (memory == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %zu bytes of work", n_bytes);

    size_t worker_bytes = hyb_matmul_scratch_bytes(ctx, weights->n_cols);
    hyb_activations copy;
    copy.ld = ld;
    copy.codes = (int8_t *)memory + worker_bytes;
    copy.sums = (int32_t *)(void *)(memory + worker_bytes + hyb_round_up(n_tokens * ld, HYB_CACHE_LINE));
    copy.scales = (float *)(void *)(copy.sums + n_tokens);
    for (size_t t = 0; t < n_tokens; ++t) {
        HYB_TRY(copy_token(ctx, x + t * weights->n_cols, weights->n_cols, t, &copy));
        copy.scales[t] = x_scales != NULL ? x_scales[t] : 0.0f;
    }
    hyb_matmul_parallel(ctx, weights, &copy, n_tokens, y, y_i32, n_rows, 0, memory);
    return HYB_OK;
}

hyb_status hyb_matmul(hyb_ctx *ctx, const hyb_weights *weights, const int8_t *x, const float *x_scales, size_t n_tokens,
                      float *y) {
    if (ctx == NULL || weights == NULL || x == NULL || x_scales == NULL || y == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_matmul: ctx, weights, x, x_scales or y is NULL");
    return multiply(ctx, weights, x, x_scales, n_tokens, y, NULL);
}

hyb_status hyb_matmul_i32(hyb_ctx *ctx, const hyb_weights *weights, const int8_t *x, size_t n_tokens, int32_t *y) {
    if (ctx == NULL || weights == NULL || x == NULL || y == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_matmul_i32: ctx, weights, x or y is NULL");
    return multiply(ctx, weights, x, NULL, n_tokens, NULL, y);
}
