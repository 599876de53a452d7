/* kernels.h - the table of hot functions. lib/ref holds the specification of each in plain C99; lib/x86 and lib/arm
 * hold faster ones. kernels.c fills a context's table: reference first, then the best that processor and mask allow.
 *
 * Adding a kernel: a line in HYB_KERNELS, hyb_<op>_ref in ref/, variants, a check in tests/c/check_<file>.c.
 * Kernels trust their arguments: callers validated them. Pointers need no alignment unless said. Nothing overlaps
 * unless said. n may be 0 only where said.
 *
 * EXACT kernels give the same bits in every variant. Their sums run over 16 virtual lanes: element i is added to lane
 * i % 16 in ascending order (lanes begin at +0), then lane[l] += lane[l + 8] for l < 8, then 4, 2, 1. No fused
 * multiply-add. RELAXED kernels may use fused multiply-add and other orders; their bits do not depend on threads.
 */
#ifndef HYB_KERNELS_H
#define HYB_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define HYB_LANES 16

/* Layout of packed weights, for all variants: rows in blocks of 16 (padded with code 0), columns padded with code 0 to
 * n_k16 groups of 16.
 *   ternary: [row block][k16][16 rows][4 bytes]; bits 2p, 2p+1 of byte b hold code + 1 of column 16 k16 + 4 p + b
 *            (a 32-bit word holds 16 columns of a row: plane p, shifted down by 2p and masked, is 4 consecutive
 * columns) int8:    [row block][k4][16 rows][4 bytes]: byte b is the code of column 4 k4 + b; n_k4 = 4 n_k16 */
#define HYB_BLOCK_ROWS 16
#define HYB_BLOCK_COLS 16
/* A job covers at most this many rows; its scratch holds their unpacked codes. */
#define HYB_MATMUL_JOB_ROWS 64
#define HYB_MATMUL_SCRATCH_BYTES(n_k16) ((size_t)HYB_MATMUL_JOB_ROWS * HYB_BLOCK_COLS * (n_k16))

/* Ternary weights for table look-ups, a layout of its own: a 16-bit word holds 9 columns of a row as three indices of 5
 * bits, i = t0 + 3 t1 + 9 t2 with t = code + 1 of three columns, the first in the lowest bits. Rows in blocks of 32,
 * everything padded with code 0:  [row block][word][32 rows] */
#define HYB_LOOKUP_WORD_COLS 9
#define HYB_LOOKUP_WORDS(n_k16) ((HYB_BLOCK_COLS * (size_t)(n_k16) + HYB_LOOKUP_WORD_COLS - 1) / HYB_LOOKUP_WORD_COLS)
#define HYB_LOOKUP_BLOCK_ROWS 32
#define HYB_LOOKUP_BLOCK_BYTES(n_k16) (HYB_LOOKUP_WORDS(n_k16) * HYB_LOOKUP_BLOCK_ROWS * 2)
/* A job covers at most this many rows: so many that making the tables hardly shows. Its scratch holds tables (64 bytes
 * each, three a word), then sums of its rows and a tile of tokens. */
#define HYB_LOOKUP_JOB_ROWS 2048
#define HYB_LOOKUP_TILE_TOKENS 5
#define HYB_LOOKUP_TABLE_BYTES ((size_t)3 * 64 * 560) /* one token of 5040 columns */
#define HYB_LOOKUP_SCRATCH_BYTES (HYB_LOOKUP_TABLE_BYTES + (size_t)4 * HYB_LOOKUP_JOB_ROWS * HYB_LOOKUP_TILE_TOKENS)

typedef struct hyb_matmul_job {
    const uint8_t *weights;  /* first row block, aligned to 64 */
    size_t n_rows;           /* 1 .. HYB_MATMUL_JOB_ROWS valid rows; matmul_lookup: HYB_LOOKUP_JOB_ROWS */
    size_t n_k16;            /* >= 1 */
    const int8_t *x;         /* [n_tokens][ld_x], -127..127, zero from n_cols to 16 n_k16; aligned to 16 */
    size_t ld_x;             /* bytes, a multiple of 16, >= 16 n_k16 */
    const int32_t *x_sums;   /* [n_tokens]: sum of a token's codes */
    size_t n_tokens;         /* >= 1 */
    const float *x_scales;   /* [n_tokens]; unused with y_i32 */
    const float *row_scales; /* [n_rows]; unused with y_i32 */
    float *y;                /* [n_tokens][ld_y]: (float)sum * (x_scale * row_scale); or NULL and */
    int32_t *y_i32;          /* the exact sums */
    size_t ld_y;             /* elements */
    int accumulate;          /* y += the result; not with y_i32 */
    uint8_t *scratch;        /* HYB_MATMUL_SCRATCH_BYTES or HYB_LOOKUP_SCRATCH_BYTES, aligned to 64 */
} hyb_matmul_job;

/* fp32 matrix product of a block of C (hyb_gemm's layouts; transpose is hyb_transpose). */
#define HYB_GEMM_SCRATCH_BYTES ((size_t)1536 * 1024)
typedef struct hyb_gemm_job {
    int transpose;
    size_t m, n, k;
    const float *a;
    size_t lda;
    const float *b;
    size_t ldb;
    int accumulate;
    float *c;
    size_t ldc;
    void *scratch; /* HYB_GEMM_SCRATCH_BYTES, aligned to 64 */
} hyb_gemm_job;

/* Causal attention of one query of one head over keys 0 .. n_keys-1:
 *   s_j = dot(q, k_j) * scale (16-lane dot);  p_j = exp(s_j - max s);  r = 1 / (16-lane sum of p)
 *   out_d = (sum over j ascending of p_j * v_jd, one accumulator per d, from +0) * r;  probabilities p_j * r */
typedef struct hyb_attention_job {
    const float *q;      /* [head_dim] */
    const float *keys;   /* key j at keys + j * ld, [head_dim] */
    const float *values; /* value j at values + j * ld */
    size_t ld;           /* elements */
    size_t n_keys;       /* >= 1 */
    size_t head_dim;
    float scale;
    float *probabilities; /* [n_keys]: work memory, and result */
    float *out;           /* [head_dim] */
} hyb_attention_job;

#define HYB_ROUND_UP_16(n) (((size_t)(n) + 15) / 16 * 16)

/* The same for n_queries queries of one head that follow one another: query i sees keys 0 .. first_position + i. What
 * remains of the probabilities is not said. */
#define HYB_ATTENTION_BLOCK_QUERIES                                                                                    \
    32 /* a good size: many queries share the loads of a key, the work stays in cache                                  \
        */
#define HYB_ATTENTION_BLOCK_FLOATS(n_queries, n_keys, head_dim)                                                        \
    (HYB_LANES * (size_t)(head_dim) + (size_t)(n_queries) * ((size_t)(head_dim) + HYB_ROUND_UP_16(n_keys) + 32) +      \
     (size_t)(n_keys)*HYB_ROUND_UP_16(head_dim))
typedef struct hyb_attention_block_job {
    const float *q; /* query i at q + i * ld_q, [head_dim] */
    size_t ld_q;    /* elements; of out too */
    size_t n_queries, first_position;
    const float *keys, *values; /* as above; first_position + n_queries of them */
    size_t ld;
    size_t head_dim;
    float scale;
    float *scratch; /* HYB_ATTENTION_BLOCK_FLOATS(n_queries, first_position + n_queries, head_dim), aligned to 64 */
    float *out;     /* [n_queries], ld_q apart */
} hyb_attention_block_job;

/* Causal attention of n queries over n keys, one head of one sequence, in a training step, and its gradients:
 *   s_ij = dot(q_i, k_j) scale log2(e),  m_i = max_j s_ij,  r_i = 1 / sum_j 2^(s_ij - m_i),  p_ij = 2^(s_ij - m_i) r_i;
 *   out_i = sum_j p_ij v_j.  Kept for the way back: softmax[i] = m_i, r_i.  Then from dout:
 *   D_i = dot(dout_i, out_i) = sum_j p_ij dot(dout_i, v_j),  ds_ij = p_ij (dot(dout_i, v_j) - D_i) scale;
 *   dq_i = sum_j ds_ij k_j,  dk_j = sum_i ds_ij q_i,  dv_j = sum_i p_ij dout_i
 * Source: Dao 2023, FlashAttention-2 (what is kept, and D). */
#define HYB_ATTENTION_TRAINING_ROWS 64 /* queries whose probabilities are held at once; on the way back, keys too */
#define HYB_ATTENTION_TRAINING_FLOATS(n, head_dim)                                                                     \
    (2 * HYB_ROUND_UP_16(n) * HYB_ROUND_UP_16(head_dim) +                                                              \
     HYB_ATTENTION_TRAINING_ROWS * (2 * HYB_ROUND_UP_16(head_dim) + HYB_ROUND_UP_16(n) + 16))
#define HYB_ATTENTION_BACKWARD_FLOATS(n, head_dim)                                                                     \
    (HYB_ROUND_UP_16(n) * (3 * HYB_ROUND_UP_16(head_dim) + 2) +                                                        \
     HYB_ATTENTION_TRAINING_ROWS * (5 * HYB_ROUND_UP_16(head_dim) + 2 * (HYB_ATTENTION_TRAINING_ROWS + 16)))
typedef struct hyb_attention_training_job {
    const float *q; /* [n][head_dim], ld_q apart */
    const float *keys, *values;
    size_t ld_q; /* elements; of out too */
    size_t ld_k; /* of keys and values */
    size_t n, head_dim;
    float scale;
    float *out;
    float *softmax;    /* query i's two floats at softmax + i * ld_softmax */
    size_t ld_softmax; /* elements, >= 2 */
    float *scratch;    /* HYB_ATTENTION_TRAINING_FLOATS(n, head_dim), aligned to 64 */
} hyb_attention_training_job;

typedef struct hyb_attention_backward_job {
    const float *q, *out, *d_out; /* [n][head_dim], ld_q apart */
    const float *keys, *values;
    size_t ld_q; /* elements; of d_q too */
    size_t ld_k; /* of keys, values, d_keys, d_values */
    const float *softmax;
    size_t ld_softmax;
    size_t n, head_dim;
    float scale;                    /* > 0 */
    int accumulate;                 /* add to d_keys and d_values, or overwrite them */
    float *d_q, *d_keys, *d_values; /* d_q is overwritten */
    float *scratch;                 /* HYB_ATTENTION_BACKWARD_FLOATS(n, head_dim), aligned to 64 */
} hyb_attention_backward_job;

/* K-means. A panel holds 32 points side by side, [d + 1][32] elements of their type: row j their coordinates j less the
 * centre's, row d the Euclidean norms of what is above; points that the last panel lacks are zeros. Centroids, less the
 * centre too, lie in ceil(k / 12) blocks, [block][d][b]: b is k / n_blocks, and 1 more in the first k % n_blocks. */
#define HYB_CLUSTER_PANEL ((size_t)32)
#define HYB_CLUSTER_TILE ((size_t)12)
#define HYB_CLUSTER_JOB_PANELS 16
/* Scores s_j = offset_j + x . c_j with offset_j = -|c_j|^2 / 2: the nearest centroid has the largest one. Rounding
 * moves a score by at most e = error_norm |x| + error_constant, and |x|^2 - 2 s_j by 2 e + error_square |x|^2. */
typedef struct hyb_cluster_job {
    const void *panels;
    size_t n_panels; /* 1 .. HYB_CLUSTER_JOB_PANELS */
    size_t d;
    const void *centroids;
    const void *offsets; /* [k] */
    size_t k;
    double error_norm, error_constant, error_square;
    /* nearest; [32 n_panels] each. label: the first of the largest score. lower: -1 if another score is within 2 e of
     * it, else 0, or, with upper, a lower bound of the distances to all other centroids (infinity for k = 1); upper: an
     * upper bound of the distance to the nearest. upper may be NULL. */
    int32_t *labels;
    float *upper, *lower;
    /* candidates, k <= HYB_CLUSTER_TILE; [k][ld]: (|x|^2 - 2 s_j) * scale, or -1 where rounding may be 1/32 of it. */
    float *distances;
    size_t ld;
    double scale;
} hyb_cluster_job;

/* Of n floats: the 16-lane sum of |x|, and the largest bit pattern of |x| (0x7f800000 and above: an infinity or a NaN).
 */
typedef struct hyb_magnitudes {
    float sum;
    uint32_t max_bits;
} hyb_magnitudes;

/* AdamW over n values, constants folded by the caller: g' = g * gradient_scale; m = b1 m + (1 - b1) g';
 * v = b2 v + (1 - b2) g' g'; w = w * decay - step_size * m / (sqrt(v) * inv_sqrt_correction2 + epsilon). */
typedef struct hyb_adamw_job {
    const float *gradient;
    float *weights;
    float *first_moment;
    float *second_moment;
    size_t n;
    float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
    float decay;                /* 1 - learning rate * weight decay */
    float step_size;            /* learning rate / (1 - beta1^t) */
    float inv_sqrt_correction2; /* 1 / sqrt(1 - beta2^t) */
    float epsilon;
} hyb_adamw_job;

/* Nesterov momentum over n values: m = beta m + one_minus_beta g; u = beta m + one_minus_beta g. */
typedef struct hyb_momentum_job {
    const float *gradient;
    float *momentum;
    float *u;
    size_t n;
    float beta, one_minus_beta;
} hyb_momentum_job;

/* Adam's change over n values, moments as in hyb_adamw_job with a gradient scale of 1:
 *   change = clamp(-step_size * m / (sqrt(v) * inv_sqrt_correction2 + epsilon), -limit, limit) - decay * w */
typedef struct hyb_adam_change_job {
    const float *gradient;
    const float *weights;
    float *first_moment;
    float *second_moment;
    float *change;
    size_t n;
    float beta1, one_minus_beta1, beta2, one_minus_beta2;
    float step_size, inv_sqrt_correction2, epsilon, limit, decay;
} hyb_adam_change_job;

/* Quantises fp32 [n_tokens][ld_x] to the transposed codes, column by column:
 *   codes[c][t] = round_half_even(clamp((x[t][c] * token_scales[t]) * inverses[c], -127, 127)), a NaN gives -127
 * and zeros for t from n_tokens to the next multiple of 16; sums[c] += sum of the codes of column c. */
typedef struct hyb_quantize_transposed_job {
    const float *x;
    size_t ld_x;               /* elements */
    size_t n_tokens, n_cols;   /* each >= 1 */
    const float *token_scales; /* [n_tokens] */
    const float *inverses;     /* [n_cols] */
    int8_t *codes;             /* [n_cols][ld_codes] */
    size_t ld_codes;           /* bytes, at least n_tokens rounded up to 16 */
    int32_t *sums;             /* [n_cols] */
} hyb_quantize_transposed_job;

/* Packs codes [n_inner][ld] as weights of n_rows rows and n_inner columns (the transpose), padding included. */
typedef struct hyb_pack_transposed_job {
    const int8_t *codes;
    size_t ld;              /* bytes, >= n_rows */
    size_t n_inner, n_rows; /* each >= 1 */
    uint8_t *blocks;        /* the first row block, at the column group of the first code; aligned to 64 */
    size_t block_bytes;     /* from one row block to the next, a multiple of 64 */
} hyb_pack_transposed_job;

/* Gradient compression. The least-squares ternary threshold t of values x is half of s(t), the mean of |x| above t.
 * Lloyd's iteration t = s(t) / 2 comes closer by factors of .375 (Gaussian values) to .5 (Laplace) or worse; gone 1.6
 * times as far, by 0 to .2. It starts at the optimum for a Gaussian. No threshold reaches the largest |x|. */
#define HYB_WIDE_LANES 64
#define HYB_TERNARY_START 0.75f /* threshold by mean |x| */
#define HYB_TERNARY_EVALUATIONS 4
#define HYB_TERNARY_BLOCKS 16 /* most that are done together */
/* t + 1.6 (s / 2 - t), rounded as written. Below 0, which stands for 0, only where subnormals left nothing above t. */
#define HYB_TERNARY_NEXT(scale, threshold) (0.8f * (scale)-0.6f * (threshold))
/* 16-lane sums of |x|, x^2 and gradient^2. */
typedef struct hyb_gradient_moments {
    float sum, squares, gradient_squares;
} hyb_gradient_moments;
typedef struct hyb_compress_job {
    const float *gradient; /* [n] */
    float *residual;       /* [n]: x, receives x - q; or NULL: x is the gradient */
    float *values;         /* [n]: receives q = code * scale; may be gradient; or NULL */
    uint8_t *digits;       /* [n]: code + 1 (ternary), code + 2 (five); or NULL */
    size_t n;              /* at most 2^22 */
    float threshold;       /* ternary: code = (x > threshold) - (x < -threshold) */
    float inverse;         /* five: code = round_half_even(clamp(x * inverse, -2, 2)) */
    float scale;
} hyb_compress_job;
/* 16-lane sums of gradient * code, and of code^2. */
typedef struct hyb_compress_sums {
    float product, squares;
} hyb_compress_sums;

/* rANS (rans.h): 64 states side by side, a row is one symbol of each. Every state is at least 2^16; with slot =
 * state % 2^slot_bits and the symbol that owns it, frequency f and first slot c:
 *   state = f (state >> slot_bits) + slot - c;  if that is below 2^16: state = state << 16 | the next word
 * The lanes of a row take words in their order. Rows are decoded while 64 words are left, whatever they take. */
#define HYB_RANS_LANES 64
#define HYB_RANS_SLOTS 4096
typedef struct hyb_rans_job {
    /* [HYB_RANS_SLOTS], slot_bits 12: f in bits 0 to 11, slot - c in bits 12 to 23, the symbol above. NULL: */
    const uint32_t *slots;
    const uint8_t *symbols; /* [2^slot_bits + 3]: the symbol of a slot; the last 3 may be anything */
    const uint32_t *ranges; /* [256], by symbol: f in bits 0 to 15, c above */
    uint32_t slot_bits;     /* 12 to 16; every f is below 2^slot_bits */
    uint32_t *states;       /* [64] */
    /* These move on: */
    const uint8_t *words; /* little-endian, 16 bits each */
    size_t n_words;
    uint8_t *out; /* 64 bytes a row */
    size_t n_rows;
} hyb_rans_job;

/* An optimiser's moments in 8 bits, with one scale for a block of values. Piecewise linear codes, as of telephony
 * (ITU-T G.711), which the bits of a float give without a table: p(c) = 2^(c >> b) (1 + (c mod 2^b) / 2^b) is the float
 * of the bits (c << (23 - b)) + 0x3f800000.
 *
 * Signed: bit 7 is the sign, c the others, b = 4; a value is +-(p(c) - 1) * scale: 0, or 1/16 .. 247 scales.
 * Positive: b = 3; a value is p(c) * scale: no code is 0 unless the scale is.
 *
 * Encoding adds noise to the bits that a code has no room for; so it rounds up as often as keeps the mean. With
 * y = min(|x| * inverse, top) + 1 of signed, y = min(max(x * inverse, least), top) of positive ones:
 *   c = ((bits of y + (noise(seed + i) >> (9 + b))) >> (23 - b)) - (127 << b)
 * where inverse is 1 / scale (0 for 0), min(a, b) = a < b ? a : b, max(a, b) = a > b ? a : b, and noise(u) is, modulo
 * 2^32:  u = u * 0x9e3779b1;  u = u ^ (u >> 15);  u * 0x85ebca77. */
#define HYB_SIGNED_TOP 247.0f
#define HYB_POSITIVE_TOP 4026531840.0f /* 1.875 * 2^31 */
/* Encoding makes no smaller one: its root by that of the top is 1 / 3966, the smallest signed one by its top
 * 1 / 3952. */
#define HYB_POSITIVE_LEAST 256.0f

/* clang-format off */
#define HYB_KERNELS(X) \
    /* EXACT, integers */ \
    X(matmul_ternary, void, (const hyb_matmul_job *job)) \
    X(matmul_int8, void, (const hyb_matmul_job *job)) \
    X(matmul_lookup, void, (const hyb_matmul_job *job)) /* ternary, in the layout for look-ups */ \
    /* code = clamp(round_half_even(x * inverse_scale), -127, 127) for finite x; returns the sum of the codes */ \
    X(quantize_i8, int32_t, (const float *x, size_t n, float inverse_scale, int8_t *codes)) \
    /* code = (w > threshold) - (w < -threshold) */ \
    X(ternarize, void, (const float *w, size_t n, float threshold, int8_t *codes)) \
    /* the same codes straight into a row of packed ternary weights: words of 16 columns, 64 bytes apart; the last one */ \
    /* padded. The words hold codes already: returns how many change; *n_zeros += number of codes 0 (of n) */ \
    X(ternarize_pack, size_t, (const float *w, size_t n, float threshold, uint8_t *words, size_t *n_zeros)) \
    /* code = clamp(round_half_even(x / scale), -127, 127) for finite x, scale > 0 */ \
    X(divide_i8, void, (const float *x, size_t n, float scale, int8_t *codes)) \
    /* number of i with a[i] != b[i]; *n_zeros += number of b[i] == 0 */ \
    X(count_flips, size_t, (const int8_t *a, const int8_t *b, size_t n, size_t *n_zeros)) \
    /* codes of any int8 format, or of ternary, in the transposed matrix's packed layout */ \
    X(pack_transposed_i8, void, (const hyb_pack_transposed_job *job)) \
    X(pack_transposed_ternary, void, (const hyb_pack_transposed_job *job)) \
    X(quantize_transposed, void, (const hyb_quantize_transposed_job *job)) \
    /* column_bits[i] = max(column_bits[i], bits of |x[i] * s|); returns max_abs_bits(x); bits as there (a NaN's own bits \
     * may differ between variants) */ \
    X(column_max_bits, uint32_t, (const float *x, size_t n, float s, uint32_t *column_bits)) \
    X(rans_decode, void, (hyb_rans_job *job)) \
    /* EXACT, floats; n may be 0 */ \
    /* largest bit pattern of |x|, as an integer: 0x7f800000 and above mean that an infinity or a NaN is there */ \
    X(max_abs_bits, uint32_t, (const float *x, size_t n)) \
    X(max_f32, float, (const float *x, size_t n)) /* n >= 1, no NaN */ \
    X(sum_abs_f32, float, (const float *x, size_t n)) \
    X(magnitudes, hyb_magnitudes, (const float *x, size_t n)) /* sum_abs_f32 and max_abs_bits in one pass */ \
    /* 16-lane sum of the |x| above threshold >= 0 (the others add +0); *n_above is their number */ \
    X(sum_above_f32, float, (const float *x, size_t n, float threshold, size_t *n_above)) \
    X(dot_f32, float, (const float *a, const float *b, size_t n)) \
    X(sum_squares_f64, double, (const float *x, size_t n)) /* of 16 lanes in double, added from the first to the last */ \
    X(add_f32, void, (float *y, const float *x, size_t n)) /* y += x */ \
    X(scale_f32, void, (float *y, const float *x, size_t n, float s)) /* y = x * s; y may be x */ \
    /* out = whole / steps * scale with whole = round_half_even(clip(x, -1, 1) * steps), steps 1 or 2, a zero keeping */ \
    /* its sign; out may be x. Returns 1 if there is a NaN, which stays one */ \
    X(quantize_levels_f32, int, (const float *x, size_t n, float steps, float scale, float *out)) \
    X(quantize_levels_f64, int, (const double *x, size_t n, double steps, double scale, double *out)) \
    /* x = gradient, or residual += gradient unless that is NULL; finite */ \
    X(gradient_moments, hyb_gradient_moments, (const float *gradient, float *residual, size_t n)) \
    /* sum_above_f32 over 64 lanes; n below 2^24, any threshold */ \
    X(sum_above_wide, float, (const float *x, size_t n, float threshold, size_t *n_above)) \
    /* threshold, and mean magnitude above it (0 if none is), of each block of 32 or 64 values, from sum_above_wide */ \
    X(ternary_blocks, void, (const float *x, size_t n_blocks, size_t block_size, float *thresholds, float *scales)) \
    X(compress_ternary, hyb_compress_sums, (const hyb_compress_job *job)) \
    X(compress_five, hyb_compress_sums, (const hyb_compress_job *job)) \
    /* moments in 8 bits (above) */ \
    X(encode_signed, void, (const float *x, size_t n, float inverse, uint32_t seed, uint8_t *codes)) \
    X(encode_positive, void, (const float *x, size_t n, float inverse, uint32_t seed, uint8_t *codes)) \
    X(decode_signed, void, (const uint8_t *codes, size_t n, float scale, float *x)) \
    X(decode_positive, void, (const uint8_t *codes, size_t n, float scale, float *x)) \
    /* y = codes * s */ \
    X(dequantize_i8, void, (const int8_t *codes, size_t n, float s, float *y)) \
    /* r = 1 / sqrt(dot(x, x) / n + epsilon); y = (x * r) * gain; returns r; y may be x */ \
    X(rms_norm, float, (const float *x, const float *gain, size_t n, float epsilon, float *y)) \
    /* y = exp(x - offset) with the library's exp (below); returns the 16-lane sum; y may be x */ \
    X(exp_sum, float, (const float *x, size_t n, float offset, float *y)) \
    /* out = act(gate) * up; silu: gate / (1 + exp(-gate)); squared ReLU: max(gate, 0) * max(gate, 0) */ \
    X(gated_silu, void, (const float *gate, const float *up, size_t n, float *out)) \
    X(gated_relu2, void, (const float *gate, const float *up, size_t n, float *out)) \
    /* x[i], x[half + i] = a c - b s, a s + b c with a = x[i], b = x[half + i], i < half */ \
    X(rotate, void, (float *x, const float *cosines, const float *sines, size_t half)) \
    X(attention, void, (const hyb_attention_job *job)) \
    X(attention_block, void, (const hyb_attention_block_job *job)) \
    /* K-means; void is float (_f32) or double (_f64). packs n <= 32 rows [d] into a panel; norm^2 adds up in order */ \
    X(cluster_pack_f32, void, (const void *const *rows, size_t n, size_t d, const void *centre, void *panel)) \
    X(cluster_pack_f64, void, (const void *const *rows, size_t n, size_t d, const void *centre, void *panel)) \
    /* sums[labels[i]][d] += (double)weights[i] * (double)rows[i][d], i ascending; weights may be NULL: 1 */ \
    X(cluster_add_f32, void, (double *sums, size_t d, const void *rows, const int32_t *labels, const void *weights, size_t n)) \
    X(cluster_add_f64, void, (double *sums, size_t d, const void *rows, const int32_t *labels, const void *weights, size_t n)) \
    /* 16-lane sum, in double, of ((double)a[i] - (double)b[i])^2 */ \
    X(cluster_distance_f32, double, (const void *a, const void *b, size_t n)) \
    X(cluster_distance_f64, double, (const void *a, const void *b, size_t n)) \
    /* RELAXED */ \
    X(cluster_nearest_f32, void, (const hyb_cluster_job *job)) \
    X(cluster_nearest_f64, void, (const hyb_cluster_job *job)) \
    X(cluster_candidates_f32, void, (const hyb_cluster_job *job)) \
    X(cluster_candidates_f64, void, (const hyb_cluster_job *job)) \
    X(gemm, void, (const hyb_gemm_job *job)) \
    X(attention_training, void, (const hyb_attention_training_job *job)) \
    X(attention_backward, void, (const hyb_attention_backward_job *job)) \
    X(adamw, hyb_magnitudes, (const hyb_adamw_job *job)) /* returns magnitudes of the new weights */ \
    X(momentum, double, (const hyb_momentum_job *job)) /* returns the sum of squares of u */ \
    X(adam_change, double, (const hyb_adam_change_job *job)) /* returns the sum of squares of the change */ \
    /* change = a * x + b * w; w += change; returns magnitudes of the new w; change may be x */ \
    X(apply_change, hyb_magnitudes, (const float *x, size_t n, float a, float b, float *w, float *change)) \
    X(axpy_f32, void, (float *y, const float *x, size_t n, float s)) /* y += s * x */ \
    /* dx += d(rms_norm)/dx^T dy with r as returned by rms_norm; dgain += dy * x * r */ \
    X(rms_norm_backward, void, (const float *x, const float *gain, const float *dy, size_t n, float r, float *dx, float *dgain)) \
    /* from dout: dgate, dup (overwritten; dgate may be gate, dup may be up) */ \
    X(gated_silu_backward, void, (const float *gate, const float *up, const float *dout, size_t n, float *dgate, float *dup)) \
    X(gated_relu2_backward, void, (const float *gate, const float *up, const float *dout, size_t n, float *dgate, float *dup))
/* clang-format on */

/* The library's exp for floats (EXACT): x clamped to [-87.33654, 88.72283]; n = round_half_even(x * 1.44269504f) by
 * adding and subtracting 12582912.0f; r = (x - n * 0.693359375f) - n * -2.12194440e-4f; then p = 1.9875691500e-4; p = p
 * r + 1.3981999507e-3; p = p r + 8.3334519073e-3; p = p r + 4.1665795894e-2; p = p r + 1.6666665459e-1; p = p r
 * + 5.0000001201e-1;  result ((p * (r * r)) + r + 1) * 2^n every product and sum rounded by itself, evaluated as
 * written: t = p * (r * r); t = t + r; t = t + 1; t * 2^n. 2^n is built as bits (n + 127) << 23; n is in [-126, 128]:
 * for 128 use 2^127 * 2. Source: Cephes expf (Moshier). */

typedef struct hyb_kernels {
#define HYB_KERNEL_FIELD(name, result, arguments) result(*name) arguments;
    HYB_KERNELS(HYB_KERNEL_FIELD)
#undef HYB_KERNEL_FIELD
    uint32_t tier[64]; /* hyb_isa bit of each entry, in the order of HYB_KERNELS */
} hyb_kernels;

enum {
#define HYB_KERNEL_INDEX(name, result, arguments) HYB_KERNEL_##name,
    HYB_KERNELS(HYB_KERNEL_INDEX)
#undef HYB_KERNEL_INDEX
        HYB_KERNEL_COUNT
};

/* Reference functions: hyb_<name>_ref, in lib/ref. */
#define HYB_KERNEL_REF(name, result, arguments) result hyb_##name##_ref arguments;
HYB_KERNELS(HYB_KERNEL_REF)
#undef HYB_KERNEL_REF

/* Puts hyb_<name>_<suffix> into a table. */
#define HYB_INSTALL(table, name, suffix, isa_bit)                                                                      \
    ((table)->name = hyb_##name##_##suffix, (table)->tier[HYB_KERNEL_##name] = (uint32_t)(isa_bit))

/* kernels.c: fills a table for a set of tiers. */
void hyb_kernels_select(hyb_kernels *table, uint32_t isa);

/* Each variant file installs its kernels. The caller checked the tier. */
void hyb_install_matmul_avx2(hyb_kernels *table);
void hyb_install_matmul_avxvnni(hyb_kernels *table);
void hyb_install_matmul_vnni256(hyb_kernels *table);   /* for tests: needs AVX-512 VNNI */
void hyb_install_matmul_avx512(hyb_kernels *table);    /* needs VNNI */
void hyb_install_matmul_lookup512(hyb_kernels *table); /* needs VNNI */
/* 1 if look-ups beat vpdpbusd on the running processor, by a measurement of both. Needs VNNI. */
int hyb_lookup512_is_faster(void);
void hyb_install_quantize_avx2(hyb_kernels *table);
void hyb_install_quantize_avx512(hyb_kernels *table);
void hyb_install_compress_avx2(hyb_kernels *table);
void hyb_install_compress_avx512(hyb_kernels *table);
void hyb_install_levels_avx2(hyb_kernels *table);
void hyb_install_levels_avx512(hyb_kernels *table);
void hyb_install_rans_avx2(hyb_kernels *table);
void hyb_install_rans_avx512(hyb_kernels *table);
void hyb_install_transpose_avx2(hyb_kernels *table);
void hyb_install_transpose_avx512(hyb_kernels *table);
void hyb_install_vector_avx2(hyb_kernels *table);
void hyb_install_vector_avx512(hyb_kernels *table);
void hyb_install_cluster_avx2(hyb_kernels *table);
void hyb_install_cluster_avx512(hyb_kernels *table);
void hyb_install_matmul_neon(hyb_kernels *table);
void hyb_install_matmul_dotprod(hyb_kernels *table);
void hyb_install_matmul_i8mm(hyb_kernels *table);
void hyb_install_quantize_neon(hyb_kernels *table);
void hyb_install_compress_neon(hyb_kernels *table);
void hyb_install_levels_neon(hyb_kernels *table);
void hyb_install_rans_neon(hyb_kernels *table);
void hyb_install_vector_neon(hyb_kernels *table);
void hyb_install_cluster_neon(hyb_kernels *table);

#endif /* HYB_KERNELS_H */
