/* matmul_vnni256_template.h - integer matrix products with vpdpbusd on 256-bit registers. Specification:
 * ref/matmul_ref.c. Included by x86/matmul_avxvnni.c once for the VEX encoding (AVX-VNNI), and once for the EVEX
 * encoding of the same instruction (AVX-512 VNNI with VL), which processors without AVX-VNNI can test.
 *
 * Before the inclusion: VNNI_NAME(op), VNNI_TARGET, VNNI_DOT(sum, unsigned bytes, signed bytes).
 * Weights enter as ternary code + 1 or int8 code + 128; the excess is subtracted at the end, as in matmul_avx512.c.
 */

/* One row block of 16 rows is two registers; 2 x 6 sums, 2 weights and 1 of activations make 15 of the 16. */
#define VNNI_TOKENS 6
#define VNNI_LINE 64

HYB_INLINE VNNI_TARGET __m256i VNNI_NAME(broadcast)(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

/* Results of up to 8 rows from `row` on for one token. */
HYB_INLINE VNNI_TARGET void VNNI_NAME(store_rows)(const hyb_matmul_job *job, size_t row, size_t token, __m256i sum) {
    size_t at = token * job->ld_y + row;
    if (row + 8 <= job->n_rows) {
        if (job->y == NULL) {
            _mm256_storeu_si256((__m256i *)(void *)(job->y_i32 + at), sum);
        } else {
            __m256 scale = _mm256_mul_ps(_mm256_set1_ps(job->x_scales[token]), _mm256_loadu_ps(job->row_scales + row));
            __m256 result = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale);
            if (job->accumulate) result = _mm256_add_ps(_mm256_loadu_ps(job->y + at), result);
            _mm256_storeu_ps(job->y + at, result);
        }
        return;
    }
    int32_t sums[8];
    _mm256_storeu_si256((__m256i *)(void *)sums, sum);
    for (size_t i = 0; row + i < job->n_rows; ++i) {
        if (job->y == NULL) {
            job->y_i32[at + i] = sums[i];
        } else {
            float scale = job->x_scales[token] * job->row_scales[row + i];
            float result = (float)sums[i] * scale;
            job->y[at + i] = job->accumulate ? job->y[at + i] + result : result;
        }
    }
}

/* Scratch: [k4][16 rows][4 columns] unsigned codes of one row block. */
static VNNI_TARGET void VNNI_NAME(unpack_ternary)(const hyb_matmul_job *job, size_t block) {
    const __m256i mask = _mm256_set1_epi8(3);
    const uint8_t *weights = job->weights + block * job->n_k16 * VNNI_LINE;
    uint8_t *out = job->scratch;
    for (size_t k = 0; k < job->n_k16; ++k, weights += VNNI_LINE, out += (size_t)4 * VNNI_LINE) {
        for (size_t half = 0; half < VNNI_LINE; half += 32) {
            __m256i w = _mm256_load_si256((const __m256i *)(const void *)(weights + half));
            __m256i *to = (__m256i *)(void *)(out + half);
            _mm256_store_si256(to, _mm256_and_si256(w, mask));
            _mm256_store_si256(to + 2, _mm256_and_si256(_mm256_srli_epi16(w, 2), mask));
            _mm256_store_si256(to + 4, _mm256_and_si256(_mm256_srli_epi16(w, 4), mask));
            _mm256_store_si256(to + 6, _mm256_and_si256(_mm256_srli_epi16(w, 6), mask));
        }
    }
}

static VNNI_TARGET void VNNI_NAME(unpack_int8)(const hyb_matmul_job *job, size_t block) {
    const __m256i flip = _mm256_set1_epi8((char)0x80); /* two's complement code to code + 128 */
    const uint8_t *weights = job->weights + block * job->n_k16 * 4 * VNNI_LINE;
    for (size_t i = 0; i < job->n_k16 * 4 * VNNI_LINE; i += 32) {
        __m256i w = _mm256_load_si256((const __m256i *)(const void *)(weights + i));
        _mm256_store_si256((__m256i *)(void *)(job->scratch + i), _mm256_xor_si256(w, flip));
    }
}

/* 16 rows x n_tokens from unpacked codes; per_sum is what a unit of the token's sum added to each row. */
HYB_INLINE VNNI_TARGET void VNNI_NAME(tile)(const hyb_matmul_job *job, size_t block, size_t token,
                                            const size_t n_tokens, int32_t per_sum) {
    const size_t n_k4 = job->n_k16 * 4;
    const int8_t *x = job->x + token * job->ld_x;
    const uint8_t *weights = job->scratch;
    __m256i low[VNNI_TOKENS], high[VNNI_TOKENS];
    HYB_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) low[t] = high[t] = _mm256_setzero_si256();
    /* Tokens 0, 1, 2 and 3, 4, 5 from two pointers: see matmul_avx512.c. */
    const size_t ld_x = job->ld_x;
    const int8_t *upper = x + 3 * ld_x;
    HYB_HIDE(upper);
    for (size_t k = 0; k < n_k4; ++k, x += 4, upper += 4, weights += VNNI_LINE) {
        __m256i w0 = _mm256_load_si256((const __m256i *)(const void *)weights);
        __m256i w1 = _mm256_load_si256((const __m256i *)(const void *)(weights + 32));
        HYB_UNROLL
        for (size_t t = 0; t < n_tokens; ++t) {
            __m256i x_t = VNNI_NAME(broadcast)((t < 3 ? x : upper) + t % 3 * ld_x);
            low[t] = VNNI_DOT(low[t], w0, x_t);
            high[t] = VNNI_DOT(high[t], w1, x_t);
        }
    }
    size_t row = block * HYB_BLOCK_ROWS;
    HYB_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) {
        __m256i excess = _mm256_set1_epi32(job->x_sums[token + t] * per_sum);
        VNNI_NAME(store_rows)(job, row, token + t, _mm256_sub_epi32(low[t], excess));
        if (row + 8 < job->n_rows) VNNI_NAME(store_rows)(job, row + 8, token + t, _mm256_sub_epi32(high[t], excess));
    }
}

/* All tokens of a row block, in tiles as even as they go. */
static VNNI_TARGET void VNNI_NAME(tiles)(const hyb_matmul_job *job, size_t block, int32_t per_sum) {
    size_t n_tiles = hyb_ceil_div(job->n_tokens, VNNI_TOKENS);
    for (size_t i = 0, token = 0; i < n_tiles; ++i) {
        size_t n = (job->n_tokens - token) / (n_tiles - i);
        if (n == 6) VNNI_NAME(tile)(job, block, token, 6, per_sum);
        if (n == 5) VNNI_NAME(tile)(job, block, token, 5, per_sum);
        if (n == 4) VNNI_NAME(tile)(job, block, token, 4, per_sum);
        if (n == 3) VNNI_NAME(tile)(job, block, token, 3, per_sum);
        if (n == 2) VNNI_NAME(tile)(job, block, token, 2, per_sum);
        if (n == 1) VNNI_NAME(tile)(job, block, token, 1, per_sum);
        token += n;
    }
}

/* One token, ternary weights as they lie in memory: the four planes are masked in place and count 4^p times too much,
 * each in an accumulator of its own, as in matmul_avx512.c. */
static VNNI_TARGET void VNNI_NAME(ternary_token)(const hyb_matmul_job *job, size_t block) {
    const __m256i mask0 = _mm256_set1_epi8(3), mask1 = _mm256_set1_epi8(12);
    const __m256i mask2 = _mm256_set1_epi8(48), mask3 = _mm256_set1_epi8((char)192), zero = _mm256_setzero_si256();
    const uint8_t *weights = job->weights + block * job->n_k16 * VNNI_LINE;
    const int8_t *x = job->x;
    __m256i p0[2] = {zero, zero}, p1[2] = {zero, zero}, p2[2] = {zero, zero}, p3[2] = {zero, zero};
    for (size_t k = 0; k < job->n_k16; ++k, x += HYB_BLOCK_COLS, weights += VNNI_LINE) {
        __m256i x0 = VNNI_NAME(broadcast)(x), x1 = VNNI_NAME(broadcast)(x + 4);
        __m256i x2 = VNNI_NAME(broadcast)(x + 8), x3 = VNNI_NAME(broadcast)(x + 12);
        _mm_prefetch((const char *)(weights + 2048), _MM_HINT_T0); /* the hardware does not run far enough ahead */
        HYB_UNROLL
        for (size_t h = 0; h < 2; ++h) {
            __m256i w = _mm256_load_si256((const __m256i *)(const void *)(weights + h * 32));
            p0[h] = VNNI_DOT(p0[h], _mm256_and_si256(w, mask0), x0);
            p1[h] = VNNI_DOT(p1[h], _mm256_and_si256(w, mask1), x1);
            p2[h] = VNNI_DOT(p2[h], _mm256_and_si256(w, mask2), x2);
            p3[h] = VNNI_DOT(p3[h], _mm256_and_si256(w, mask3), x3);
        }
    }
    const __m256i excess = _mm256_set1_epi32(job->x_sums[0]);
    for (size_t h = 0, row = block * HYB_BLOCK_ROWS; h < 2 && row < job->n_rows; ++h, row += 8) {
        __m256i sum = _mm256_add_epi32(p0[h], _mm256_srai_epi32(p1[h], 2));
        __m256i rest = _mm256_add_epi32(_mm256_srai_epi32(p2[h], 4), _mm256_srai_epi32(p3[h], 6));
        VNNI_NAME(store_rows)(job, row, 0, _mm256_sub_epi32(_mm256_add_epi32(sum, rest), excess));
    }
}

static VNNI_TARGET void VNNI_NAME(matmul_ternary)(const hyb_matmul_job *job) {
    size_t n_blocks = hyb_ceil_div(job->n_rows, HYB_BLOCK_ROWS);
    for (size_t block = 0; block < n_blocks; ++block) {
        if (job->n_tokens == 1) {
            VNNI_NAME(ternary_token)(job, block);
            continue;
        }
        VNNI_NAME(unpack_ternary)(job, block);
        VNNI_NAME(tiles)(job, block, 1);
    }
}

static VNNI_TARGET void VNNI_NAME(matmul_int8)(const hyb_matmul_job *job) {
    size_t n_blocks = hyb_ceil_div(job->n_rows, HYB_BLOCK_ROWS);
    for (size_t block = 0; block < n_blocks; ++block) {
        VNNI_NAME(unpack_int8)(job, block);
        VNNI_NAME(tiles)(job, block, 128);
    }
}

#undef VNNI_NAME
#undef VNNI_TARGET
#undef VNNI_DOT
#undef VNNI_TOKENS
#undef VNNI_LINE
