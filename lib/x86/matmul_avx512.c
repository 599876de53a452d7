/* matmul_avx512.c - packed integer weights x int8 activations with AVX-512 VNNI. Specification: ref/matmul_ref.c.
 *
 * vpdpbusd multiplies unsigned by signed bytes and adds four products to an int32, without saturation. So weights enter
 * as ternary code + 1 in {0, 1, 2} or int8 code + 128 in [1, 255], and the excess, 1 or 128 times the sum of the
 * token's activations, is subtracted at the end. Longest safe sum: 255 * 127 * 65536 = 2.12e9 < 2^31.
 *
 * One token: weights are used as they lie in memory. More: a register tile of 4 row blocks x up to 6 tokens runs over
 * all columns (24 accumulators, 10 loads for 24 products). For one or two tiles it unpacks ternary weights as it goes;
 * for more, the job's rows are unpacked to bytes in scratch first.
 */
#include "../common.h"

#if HYB_X86
#include <immintrin.h>

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* gcc 12 keeps two copies of each accumulator of a loop and spills them; an empty statement that "changes" the one
 * leaves it no second. Clang needs none of it. */
#if defined(__clang__)
#define HOLD(v) ((void)0)
#else
#define HOLD(v) __asm__("" : "+v"(v))
#endif

#define MAX_BLOCKS (HYB_MATMUL_JOB_ROWS / HYB_BLOCK_ROWS)
#define TILE_TOKENS 6
/* Up to so many tokens the tiles unpack for themselves: 1.6 times as fast as through scratch at 8 tokens. */
#define MAX_PACKED_TOKENS (2 * TILE_TOKENS)
#define LINE 64
/* Bytes that software prefetch runs ahead in each row block: the hardware follows the four streams, but not far. */
#define PREFETCH_BYTES 2048

HYB_INLINE HYB_TARGET_AVX512_VNNI __m512i broadcast_i8x4(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

HYB_INLINE HYB_TARGET_AVX512_VNNI __m512i load_line(const uint8_t *p) { return _mm512_load_si512((const void *)p); }

/* What the results of all row blocks and tokens share. */
typedef struct results {
    __mmask16 masks[MAX_BLOCKS]; /* valid rows of each block */
    __m512 row_scales[MAX_BLOCKS];
    float *y;
    int32_t *y_i32;
    size_t ld_y;
    const float *x_scales;
    const int32_t *x_sums;
    int32_t per_sum; /* what a unit of the token's sum added to each row */
    int accumulate;
} results;

HYB_INLINE HYB_TARGET_AVX512_VNNI void get_results(const hyb_matmul_job *job, const size_t n_blocks, int32_t per_sum,
                                                   results *r) {
    UNROLL for (size_t b = 0; b < n_blocks; ++b) {
        size_t row = b * HYB_BLOCK_ROWS, n = hyb_min_size(job->n_rows - row, HYB_BLOCK_ROWS);
        r->masks[b] = (__mmask16)((1u << n) - 1u);
        r->row_scales[b] =
            job->y == NULL ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(r->masks[b], job->row_scales + row);
    }
    r->y = job->y;
    r->y_i32 = job->y_i32;
    r->ld_y = job->ld_y;
    r->x_scales = job->x_scales;
    r->x_sums = job->x_sums;
    r->per_sum = per_sum;
    r->accumulate = job->accumulate;
}

/* Results of the row blocks for one token: what the unsigned codes added is taken off. */
HYB_INLINE HYB_TARGET_AVX512_VNNI void store_token(const results *r, const size_t n_blocks, size_t token,
                                                   const __m512i *sums) {
    __m512i excess = _mm512_set1_epi32(r->x_sums[token] * r->per_sum);
    if (r->y == NULL) {
        int32_t *y = r->y_i32 + token * r->ld_y;
        UNROLL for (size_t b = 0; b < n_blocks; ++b)
            _mm512_mask_storeu_epi32(y + b * HYB_BLOCK_ROWS, r->masks[b], _mm512_sub_epi32(sums[b], excess));
        return;
    }
    float *y = r->y + token * r->ld_y;
    __m512 x_scale = _mm512_set1_ps(r->x_scales[token]);
    UNROLL for (size_t b = 0; b < n_blocks; ++b) {
        __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[b], excess));
        sum = _mm512_mul_ps(sum, _mm512_mul_ps(x_scale, r->row_scales[b]));
        if (r->accumulate) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(r->masks[b], y + b * HYB_BLOCK_ROWS), sum);
        _mm512_mask_storeu_ps(y + b * HYB_BLOCK_ROWS, r->masks[b], sum);
    }
}

/* One token, n_blocks row blocks side by side so that they share the broadcast activations. The four planes of codes
 * are masked in place: plane p counts 4^p times too much in an accumulator of its own, a multiple of 4^p, so that the
 * shift at the end is exact. Largest: 2 * 64 * 127 * 16384 = 2.7e8. */
HYB_INLINE HYB_TARGET_AVX512_VNNI void ternary_token(const hyb_matmul_job *job, const size_t n_blocks) {
    const uint8_t *weights = job->weights;
    const size_t stride = job->n_k16 * LINE;
    const __m512i mask0 = _mm512_set1_epi8(3), mask1 = _mm512_set1_epi8(12);
    const __m512i mask2 = _mm512_set1_epi8(48), mask3 = _mm512_set1_epi8((char)192);
    __m512i plane0[MAX_BLOCKS], plane1[MAX_BLOCKS], plane2[MAX_BLOCKS], plane3[MAX_BLOCKS];
    UNROLL for (size_t b = 0; b < n_blocks; ++b) plane0[b] = plane1[b] = plane2[b] = plane3[b] = _mm512_setzero_si512();
    const int8_t *x = job->x;
    for (size_t k = 0; k < job->n_k16; ++k, x += HYB_BLOCK_COLS, weights += LINE) {
        __m512i x0 = broadcast_i8x4(x), x1 = broadcast_i8x4(x + 4);
        __m512i x2 = broadcast_i8x4(x + 8), x3 = broadcast_i8x4(x + 12);
        UNROLL for (size_t b = 0; b < n_blocks; ++b) {
            __m512i w = load_line(weights + b * stride);
            _mm_prefetch((const char *)(weights + b * stride + PREFETCH_BYTES), _MM_HINT_T0);
            plane0[b] = _mm512_dpbusd_epi32(plane0[b], _mm512_and_si512(w, mask0), x0);
            HOLD(plane0[b]);
            plane1[b] = _mm512_dpbusd_epi32(plane1[b], _mm512_and_si512(w, mask1), x1);
            HOLD(plane1[b]);
            plane2[b] = _mm512_dpbusd_epi32(plane2[b], _mm512_and_si512(w, mask2), x2);
            HOLD(plane2[b]);
            plane3[b] = _mm512_dpbusd_epi32(plane3[b], _mm512_and_si512(w, mask3), x3);
            HOLD(plane3[b]);
        }
    }
    UNROLL for (size_t b = 0; b < n_blocks; ++b) {
        __m512i low = _mm512_add_epi32(plane0[b], _mm512_srai_epi32(plane1[b], 2));
        __m512i high = _mm512_add_epi32(_mm512_srai_epi32(plane2[b], 4), _mm512_srai_epi32(plane3[b], 6));
        plane0[b] = _mm512_add_epi32(low, high);
    }
    results r;
    get_results(job, n_blocks, 1, &r);
    store_token(&r, n_blocks, 0, plane0);
}

HYB_INLINE HYB_TARGET_AVX512_VNNI void int8_token(const hyb_matmul_job *job, const size_t n_blocks) {
    const size_t n_k4 = job->n_k16 * 4, stride = n_k4 * LINE;
    const uint8_t *weights = job->weights;
    const __m512i flip = _mm512_set1_epi8((char)0x80); /* two's complement code to code + 128 */
    __m512i even[MAX_BLOCKS], odd[MAX_BLOCKS];
    UNROLL for (size_t b = 0; b < n_blocks; ++b) even[b] = odd[b] = _mm512_setzero_si512();
    const int8_t *x = job->x;
    for (size_t k = 0; k < n_k4; k += 2, x += 8, weights += (size_t)2 * LINE) {
        __m512i x0 = broadcast_i8x4(x), x1 = broadcast_i8x4(x + 4);
        UNROLL for (size_t b = 0; b < n_blocks; ++b) {
            const uint8_t *w = weights + b * stride;
            _mm_prefetch((const char *)(w + PREFETCH_BYTES), _MM_HINT_T0);
            _mm_prefetch((const char *)(w + PREFETCH_BYTES + LINE), _MM_HINT_T0);
            even[b] = _mm512_dpbusd_epi32(even[b], _mm512_xor_si512(load_line(w), flip), x0);
            HOLD(even[b]);
            odd[b] = _mm512_dpbusd_epi32(odd[b], _mm512_xor_si512(load_line(w + LINE), flip), x1);
            HOLD(odd[b]);
        }
    }
    UNROLL for (size_t b = 0; b < n_blocks; ++b) even[b] = _mm512_add_epi32(even[b], odd[b]);
    results r;
    get_results(job, n_blocks, 128, &r);
    store_token(&r, n_blocks, 0, even);
}

/* ---- several tokens ---- */

/* Scratch: [k4][n_blocks][16 rows][4 columns] unsigned codes. */
static HYB_TARGET_AVX512_VNNI void unpack_ternary(const hyb_matmul_job *job, size_t n_blocks) {
    const __m512i mask = _mm512_set1_epi8(3);
    const size_t plane = n_blocks * LINE;
    for (size_t b = 0; b < n_blocks; ++b) {
        const uint8_t *weights = job->weights + b * job->n_k16 * LINE;
        uint8_t *out = job->scratch + b * LINE;
        for (size_t k = 0; k < job->n_k16; ++k, weights += LINE, out += 4 * plane) {
            __m512i w = load_line(weights);
            _mm_prefetch((const char *)(weights + PREFETCH_BYTES), _MM_HINT_T0);
            _mm512_store_si512((void *)out, _mm512_and_si512(w, mask));
            _mm512_store_si512((void *)(out + plane), _mm512_and_si512(_mm512_srli_epi16(w, 2), mask));
            _mm512_store_si512((void *)(out + 2 * plane), _mm512_and_si512(_mm512_srli_epi16(w, 4), mask));
            _mm512_store_si512((void *)(out + 3 * plane), _mm512_and_si512(_mm512_srli_epi16(w, 6), mask));
        }
    }
}

static HYB_TARGET_AVX512_VNNI void unpack_int8(const hyb_matmul_job *job, size_t n_blocks) {
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    const size_t n_k4 = job->n_k16 * 4;
    for (size_t b = 0; b < n_blocks; ++b) {
        const uint8_t *weights = job->weights + b * n_k4 * LINE;
        for (size_t k = 0; k < n_k4; ++k) {
            __m512i w = _mm512_xor_si512(load_line(weights + k * LINE), flip);
            _mm512_store_si512((void *)(job->scratch + (k * n_blocks + b) * LINE), w);
        }
    }
}

/* One token of a tile. Its sums are an array of their own: compilers keep these in registers, and spill one of [6][4].
 */
#define ADD_TOKEN(t)                                                                                                   \
    if (n_tokens > t) {                                                                                                \
        __m512i x_t = broadcast_i8x4((t < 3 ? x : upper) + t % 3 * ld_x);                                              \
        UNROLL for (size_t b = 0; b < n_blocks; ++b) {                                                                 \
            sums##t[b] = _mm512_dpbusd_epi32(sums##t[b], w[b], x_t);                                                   \
            HOLD(sums##t[b]);                                                                                          \
        }                                                                                                              \
    }
#define CLEAR_TOKEN(t) UNROLL for (size_t b = 0; b < n_blocks; ++b) sums##t[b] = _mm512_setzero_si512();
#define STORE_TOKEN(t)                                                                                                 \
    if (n_tokens > t) store_token(r, n_blocks, token + t, sums##t);
#define EACH_TOKEN(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)

/* Columns 4p .. 4p + 3 of a group of 16, for n_blocks row blocks and all tokens of the tile. */
#define ADD_PLANE(p)                                                                                                   \
    {                                                                                                                  \
        const int8_t *x = group + 4 * p, *upper = upper_group + 4 * p;                                                 \
        __m512i w[MAX_BLOCKS];                                                                                         \
        UNROLL for (size_t b = 0; b < n_blocks; ++b) w[b] =                                                            \
            packed ? _mm512_and_si512(_mm512_srli_epi16(load_line(weights + b * stride), 2 * p), mask)                 \
                   : load_line(weights + (p * n_blocks + b) * LINE);                                                   \
        EACH_TOKEN(ADD_TOKEN)                                                                                          \
    }

/* n_blocks x n_tokens results, from packed ternary weights or unpacked ones. A turn is 16 columns: 1.03 to 1.05 times
 * as fast as turns of four that fetch unpacked weights ahead. */
HYB_INLINE HYB_TARGET_AVX512_VNNI void tile(const hyb_matmul_job *job, size_t token, const size_t n_blocks,
                                            const size_t n_tokens, const results *r, const int packed) {
    __m512i sums0[MAX_BLOCKS], sums1[MAX_BLOCKS], sums2[MAX_BLOCKS];
    __m512i sums3[MAX_BLOCKS], sums4[MAX_BLOCKS], sums5[MAX_BLOCKS];
    EACH_TOKEN(CLEAR_TOKEN)
    /* A turn fetches a token's lines of the next tile's results, since all at once would keep the weights waiting: 1.03
     * to 1.2 times as fast as that at the shapes of a training step. Behind the last tile it does no harm. */
    const size_t ld_y = r->ld_y * sizeof(float);
    const char *fetched = r->y != NULL ? (const char *)(r->y + (token + n_tokens) * r->ld_y) : (const char *)job->x;
    const char *last_fetched = fetched + (r->y != NULL ? (TILE_TOKENS - 1) * ld_y : 0);
    /* Tokens 0, 1, 2 and 3, 4, 5 from two pointers that the compiler takes for unrelated: it would keep six offsets,
     * and move two of them out of vector registers in each turn, on a port that the products need. */
    const size_t ld_x = job->ld_x, stride = job->n_k16 * LINE, step = packed ? LINE : 4 * n_blocks * LINE;
    const int8_t *group = job->x + token * ld_x, *upper_group = group + 3 * ld_x;
    const int8_t *end = group + job->n_k16 * HYB_BLOCK_COLS;
    const uint8_t *weights = packed ? job->weights : job->scratch;
    const __m512i mask = _mm512_set1_epi8(3);
    HYB_HIDE(upper_group);
    for (; group < end; group += HYB_BLOCK_COLS, upper_group += HYB_BLOCK_COLS, weights += step) {
        if (packed)
            UNROLL for (size_t b = 0; b < n_blocks; ++b)
                _mm_prefetch((const char *)(weights + b * stride + PREFETCH_BYTES), _MM_HINT_T0);
        else
            UNROLL for (size_t b = 0; b < n_blocks; ++b) _mm_prefetch(fetched + b * LINE, _MM_HINT_T0);
        fetched += fetched < last_fetched ? ld_y : 0;
        ADD_PLANE(0)
        ADD_PLANE(1)
        ADD_PLANE(2)
        ADD_PLANE(3)
    }
    EACH_TOKEN(STORE_TOKEN)
}

HYB_INLINE HYB_TARGET_AVX512_VNNI void tile_of_tokens(const hyb_matmul_job *job, size_t token, const size_t n_blocks,
                                                      size_t n_tokens, const results *r, const int packed) {
    switch (n_tokens) {
    case 6:
        tile(job, token, n_blocks, 6, r, packed);
        break;
    case 5:
        tile(job, token, n_blocks, 5, r, packed);
        break;
    case 4:
        tile(job, token, n_blocks, 4, r, packed);
        break;
    case 3:
        tile(job, token, n_blocks, 3, r, packed);
        break;
    case 2:
        tile(job, token, n_blocks, 2, r, packed);
        break;
    default:
        tile(job, token, n_blocks, 1, r, packed);
        break;
    }
}

/* All tokens, in tiles as even as they go: 8 tokens are 4 + 4. */
HYB_INLINE HYB_TARGET_AVX512_VNNI void all_tiles(const hyb_matmul_job *job, const size_t n_blocks, int32_t per_sum,
                                                 const int packed) {
    size_t n_tiles = hyb_ceil_div(job->n_tokens, TILE_TOKENS);
    results r;
    get_results(job, n_blocks, per_sum, &r);
    for (size_t i = 0, token = 0; i < n_tiles; ++i) {
        size_t n = (job->n_tokens - token) / (n_tiles - i);
        tile_of_tokens(job, token, n_blocks, n, &r, packed);
        token += n;
    }
}

static HYB_TARGET_AVX512_VNNI void multiply_unpacked(const hyb_matmul_job *job, size_t n_blocks, int32_t per_sum) {
    switch (n_blocks) {
    case 4:
        all_tiles(job, 4, per_sum, 0);
        break;
    case 3:
        all_tiles(job, 3, per_sum, 0);
        break;
    case 2:
        all_tiles(job, 2, per_sum, 0);
        break;
    default:
        all_tiles(job, 1, per_sum, 0);
        break;
    }
}

static HYB_TARGET_AVX512_VNNI void multiply_packed(const hyb_matmul_job *job) { all_tiles(job, MAX_BLOCKS, 1, 1); }

static HYB_TARGET_AVX512_VNNI void hyb_matmul_ternary_avx512(const hyb_matmul_job *job) {
    size_t n_blocks = hyb_ceil_div(job->n_rows, HYB_BLOCK_ROWS);
    if (job->n_tokens > 1 && job->n_tokens <= MAX_PACKED_TOKENS && n_blocks == MAX_BLOCKS) {
        multiply_packed(job);
        return;
    }
    if (job->n_tokens > 1) {
        unpack_ternary(job, n_blocks);
        multiply_unpacked(job, n_blocks, 1);
        return;
    }
    switch (n_blocks) {
    case 4:
        ternary_token(job, 4);
        break;
    case 3:
        ternary_token(job, 3);
        break;
    case 2:
        ternary_token(job, 2);
        break;
    default:
        ternary_token(job, 1);
        break;
    }
}

static HYB_TARGET_AVX512_VNNI void hyb_matmul_int8_avx512(const hyb_matmul_job *job) {
    size_t n_blocks = hyb_ceil_div(job->n_rows, HYB_BLOCK_ROWS);
    if (job->n_tokens > 1) {
        unpack_int8(job, n_blocks);
        multiply_unpacked(job, n_blocks, 128);
        return;
    }
    switch (n_blocks) {
    case 4:
        int8_token(job, 4);
        break;
    case 3:
        int8_token(job, 3);
        break;
    case 2:
        int8_token(job, 2);
        break;
    default:
        int8_token(job, 1);
        break;
    }
}

void hyb_install_matmul_avx512(hyb_kernels *table) {
    HYB_INSTALL(table, matmul_ternary, avx512, HYB_ISA_AVX512_VNNI);
    HYB_INSTALL(table, matmul_int8, avx512, HYB_ISA_AVX512_VNNI);
}
#endif
