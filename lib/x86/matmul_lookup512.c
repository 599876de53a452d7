/* matmul_lookup512.c - ternary weights x int8 activations by table look-up, with AVX-512. Specification:
 * ref/matmul_lookup_ref.c; layout of the weights: kernels.h.
 *
 * Three codes of a row and three activations have 27 sums: a table of 16-bit lanes, made once a token. vpermw then adds
 * three columns of 32 rows at once, with no correction afterwards. An int16 sum takes 84 look-ups (84 * 3 * 127 =
 * 32004), then goes to int32 in scratch. Tables of a run of columns stay in the first-level cache while all rows of the
 * job pass by.
 *
 * Measured beside matmul_avx512.c on Cascade Lake, whose vpermw takes two turns of one port: one token from DRAM 1.1 to
 * 1.16 times as fast, from L3 0.95 to 1.07, from L2 0.8; 8 tokens 0.56; 128 tokens 0.39. Contexts there do not choose
 * it. This file has not run where vpermw is fast; a prototype of its loop gave 0.9 to 1.3 times the rate on Zen 5.
 */
#include "../common.h"

#if HYB_X86
#include <immintrin.h>
#include <x86intrin.h>

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define HOLD(v) ((void)0)
#else
#define UNROLL _Pragma("GCC unroll 16")
/* gcc 12 would look up all at once and spill eleven sums; this keeps each look-up at its addition. */
#define HOLD(v) __asm__("" : "+v"(v))
#endif

#define LINE 64
#define TILE_TOKENS HYB_LOOKUP_TILE_TOKENS
#define BLOCKS                                                                                                         \
    4 /* row blocks of a tile: with 5 tokens, 20 sums, 4 words, a table and what vpermw gives in registers             \
       */
#define TILE_ROWS (HYB_LOOKUP_BLOCK_ROWS * BLOCKS)
#define RUN_WORDS 28 /* 84 look-ups */
#define PASS_RUNS 20 /* whose tables fit the scratch */
/* Bytes that software prefetch runs ahead in each row block. */
#ifndef PREFETCH_BYTES
#define PREFETCH_BYTES 1024
#endif
#define TABLE_LANES 32

/* ---- tables ---- */

/* Bytes 2i and 2i + 1 of the first are t0 and t1 of index i, of the second t2 and 0; the lanes of the third are 128
 * times the sum of the three. Lanes 27 to 31 are never looked up. */
#define T0(i) ((i) % 3 - 1)
#define T1(i) ((i) / 3 % 3 - 1)
#define T2(i) ((i) / 9 - 1)
#define LOW(i) T0(i), T1(i)
#define HIGH(i) T2(i), 0
#define EXCESS(i) (int16_t)(128 * (T0(i) + T1(i) + T2(i)))
#define EACH_INDEX(F)                                                                                                  \
    F(0), F(1), F(2), F(3), F(4), F(5), F(6), F(7), F(8), F(9), F(10), F(11), F(12), F(13), F(14), F(15), F(16),       \
        F(17), F(18), F(19), F(20), F(21), F(22), F(23), F(24), F(25), F(26)
static const HYB_ALIGNED(64) int8_t low_digits[64] = {EACH_INDEX(LOW)};
static const HYB_ALIGNED(64) int8_t high_digits[64] = {EACH_INDEX(HIGH)};
static const HYB_ALIGNED(64) int16_t excess_lanes[32] = {EACH_INDEX(EXCESS)};

/* t0 a0 + t1 a1 + t2 a2 in every lane. vpmaddubsw multiplies unsigned by signed bytes, so the activations enter 128
 * larger: at most 2 * 255 a lane, far from saturation. */
HYB_INLINE HYB_TARGET_AVX512_VNNI __m512i table_of(const int8_t *x) {
    uint16_t two;
    memcpy(&two, x, sizeof two);
    __m512i low = _mm512_set1_epi16((int16_t)(two ^ 0x8080u));
    __m512i high = _mm512_set1_epi16((int16_t)((uint8_t)x[2] ^ 0x80u));
    low = _mm512_maddubs_epi16(low, _mm512_load_si512((const void *)low_digits));
    high = _mm512_maddubs_epi16(high, _mm512_load_si512((const void *)high_digits));
    return _mm512_sub_epi16(_mm512_add_epi16(low, high), _mm512_load_si512((const void *)excess_lanes));
}

/* Tables of words first .. first + n_words - 1 of some tokens: [3 n_words][n_tokens][32]. */
static HYB_TARGET_AVX512_VNNI void make_tables(const hyb_matmul_job *job, size_t token, size_t n_tokens, size_t first,
                                               size_t n_words, int16_t *tables) {
    size_t n_cols = job->n_k16 * HYB_BLOCK_COLS, begin = first * HYB_LOOKUP_WORD_COLS, n_triples = 3 * n_words;
    size_t n_whole = hyb_min_size(n_triples, (n_cols - begin) / 3), n_rest = (n_cols - begin) % 3;
    for (size_t t = 0; t < n_tokens; ++t) {
        const int8_t *x = job->x + (token + t) * job->ld_x + begin;
        int16_t *table = tables + t * TABLE_LANES;
        size_t i = 0;
        for (; i < n_whole; ++i, table += n_tokens * TABLE_LANES)
            _mm512_store_si512((void *)table, table_of(x + 3 * i));
        for (; i < n_triples; ++i, table += n_tokens * TABLE_LANES) { /* past the last group of columns */
            int8_t last[3] = {0};
            if (i == n_whole) memcpy(last, x + 3 * i, n_rest);
            _mm512_store_si512((void *)table, table_of(last));
        }
    }
}

/* ---- look-ups ---- */

/* One table of a token, for all blocks. Sums of each token in an array of their own: compilers keep these in registers.
 */
#define LOOK_UP(t)                                                                                                     \
    if (n_tokens > t) {                                                                                                \
        __m512i table = _mm512_load_si512((const void *)(tables + t * TABLE_LANES));                                   \
        UNROLL for (size_t b = 0; b < n_blocks; ++b) {                                                                 \
            __m512i found = _mm512_permutexvar_epi16(words[b], table);                                                 \
            HOLD(found);                                                                                               \
            sums##t[b] = _mm512_add_epi16(sums##t[b], found);                                                          \
            HOLD(sums##t[b]);                                                                                          \
        }                                                                                                              \
    }
#define CLEAR(t) UNROLL for (size_t b = 0; b < n_blocks; ++b) sums##t[b] = _mm512_setzero_si512();
/* Lanes 2i and 2i + 1 to int32 lanes i of two vectors. */
#define WIDEN(t)                                                                                                       \
    if (n_tokens > t) UNROLL for (size_t b = 0; b < n_blocks; ++b) {                                                   \
            int32_t *to = totals + (t * BLOCKS + b) * HYB_LOOKUP_BLOCK_ROWS;                                           \
            __m512i even = is_first ? _mm512_setzero_si512() : _mm512_load_si512((const void *)to);                    \
            __m512i odd = is_first ? _mm512_setzero_si512() : _mm512_load_si512((const void *)(to + 16));              \
            _mm512_store_si512((void *)to, _mm512_dpwssd_epi32(even, sums##t[b], _mm512_set1_epi32(1)));               \
            _mm512_store_si512((void *)(to + 16), _mm512_dpwssd_epi32(odd, sums##t[b], _mm512_set1_epi32(0x10000)));   \
        }
#define EACH_TOKEN(DO) DO(0) DO(1) DO(2) DO(3) DO(4)

/* At most RUN_WORDS words of n_blocks row blocks: sums to totals [n_tokens][BLOCKS][even, odd][16]. vpermw ignores the
 * upper bits of an index. */
HYB_INLINE HYB_TARGET_AVX512_VNNI void run(const uint8_t *weights, size_t stride, const int16_t *tables, size_t n_words,
                                           const size_t n_blocks, const size_t n_tokens, int is_first,
                                           int32_t *totals) {
    __m512i sums0[BLOCKS], sums1[BLOCKS], sums2[BLOCKS], sums3[BLOCKS], sums4[BLOCKS];
    EACH_TOKEN(CLEAR)
    for (size_t w = 0; w < n_words; ++w, weights += LINE) {
        __m512i words[BLOCKS];
        UNROLL for (size_t b = 0; b < n_blocks; ++b) {
            words[b] = _mm512_load_si512((const void *)(weights + b * stride));
            _mm_prefetch((const char *)(weights + b * stride + PREFETCH_BYTES), _MM_HINT_T0);
        }
        UNROLL for (int i = 0; i < 3; ++i) {
            EACH_TOKEN(LOOK_UP)
            tables += n_tokens * TABLE_LANES;
            if (i < 2) UNROLL for (size_t b = 0; b < n_blocks; ++b) words[b] = _mm512_srli_epi16(words[b], 5);
        }
    }
    EACH_TOKEN(WIDEN)
}

typedef struct pass {
    const hyb_matmul_job *job;
    const int16_t *tables;
    int32_t *totals;
    size_t token, n_tokens; /* of the tile */
    size_t first, n_words;  /* words of this pass */
    size_t all_words;       /* of a row */
} pass;

/* Results of a tile's rows from its totals. */
static HYB_TARGET_AVX512_VNNI void store_tile(const pass *p, size_t row, size_t n_blocks, const int32_t *totals) {
    const hyb_matmul_job *job = p->job;
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (size_t t = 0; t < p->n_tokens; ++t)
        for (size_t b = 0; b < 2 * n_blocks; ++b) {
            const int32_t *from = totals + (t * BLOCKS + b / 2) * HYB_LOOKUP_BLOCK_ROWS;
            size_t r = row + 16 * b;
            if (r >= job->n_rows) break;
            size_t n = hyb_min_size(job->n_rows - r, 16), at = (p->token + t) * job->ld_y + r;
            __mmask16 mask = (__mmask16)((1u << n) - 1u);
            __m512i sum = _mm512_permutex2var_epi32(_mm512_load_si512((const void *)from), b % 2 ? high : low,
                                                    _mm512_load_si512((const void *)(from + 16)));
            if (job->y == NULL) {
                _mm512_mask_storeu_epi32(job->y_i32 + at, mask, sum);
                continue;
            }
            __m512 row_scales = _mm512_maskz_loadu_ps(mask, job->row_scales + r);
            __m512 scale = _mm512_mul_ps(_mm512_set1_ps(job->x_scales[p->token + t]), row_scales);
            __m512 result = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
            if (job->accumulate) result = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, job->y + at), result);
            _mm512_mask_storeu_ps(job->y + at, mask, result);
        }
}

/* The words of a pass for the n_blocks row blocks at `row`. */
HYB_INLINE HYB_TARGET_AVX512_VNNI void tile(const pass *p, size_t row, const size_t n_blocks, const size_t n_tokens) {
    size_t stride = p->all_words * LINE;
    const uint8_t *weights = p->job->weights + row / HYB_LOOKUP_BLOCK_ROWS * stride + p->first * LINE;
    int32_t *totals = p->totals + row * TILE_TOKENS;
    for (size_t w = 0; w < p->n_words; w += RUN_WORDS)
        run(weights + w * LINE, stride, p->tables + 3 * w * n_tokens * TABLE_LANES,
            hyb_min_size(RUN_WORDS, p->n_words - w), n_blocks, n_tokens, p->first + w == 0, totals);
    if (p->first + p->n_words == p->all_words) store_tile(p, row, n_blocks, totals);
}

HYB_INLINE HYB_TARGET_AVX512_VNNI void all_rows(const pass *p, const size_t n_tokens) {
    size_t n_rows = p->job->n_rows, row = 0;
    for (; row + (BLOCKS - 1) * HYB_LOOKUP_BLOCK_ROWS < n_rows; row += TILE_ROWS) tile(p, row, BLOCKS, n_tokens);
    if (row >= n_rows) return;
    switch (hyb_ceil_div(n_rows - row, HYB_LOOKUP_BLOCK_ROWS)) {
    case 3:
        tile(p, row, 3, n_tokens);
        break;
    case 2:
        tile(p, row, 2, n_tokens);
        break;
    default:
        tile(p, row, 1, n_tokens);
        break;
    }
}

static HYB_TARGET_AVX512_VNNI void run_pass(const pass *p) {
    switch (p->n_tokens) {
    case 5:
        all_rows(p, 5);
        break;
    case 4:
        all_rows(p, 4);
        break;
    case 3:
        all_rows(p, 3);
        break;
    case 2:
        all_rows(p, 2);
        break;
    default:
        all_rows(p, 1);
        break;
    }
}

/* Tokens in tiles as even as they go; for each, the columns in passes whose tables fit the first-level cache. */
static HYB_TARGET_AVX512_VNNI void hyb_matmul_lookup_avx512(const hyb_matmul_job *job) {
    int16_t *tables = (int16_t *)(void *)job->scratch;
    pass p = {.job = job, .tables = tables, .all_words = HYB_LOOKUP_WORDS(job->n_k16)};
    p.totals = (int32_t *)(void *)(job->scratch + HYB_LOOKUP_TABLE_BYTES);
    size_t n_tiles = hyb_ceil_div(job->n_tokens, TILE_TOKENS);
    for (size_t i = 0; i < n_tiles; ++i, p.token += p.n_tokens) {
        p.n_tokens = (job->n_tokens - p.token) / (n_tiles - i);
        size_t pass_words = RUN_WORDS * (p.n_tokens < 3 ? PASS_RUNS / p.n_tokens : 1);
        for (p.first = 0; p.first < p.all_words; p.first += p.n_words) {
            p.n_words = hyb_min_size(pass_words, p.all_words - p.first);
            make_tables(job, p.token, p.n_tokens, p.first, p.n_words, tables);
            run_pass(&p);
        }
    }
}

void hyb_install_matmul_lookup512(hyb_kernels *table) {
    HYB_INSTALL(table, matmul_lookup, avx512, HYB_ISA_AVX512_VNNI);
}

/* ---- which form ---- */

#define PROBE_K16 8
#define PROBE_WORDS HYB_LOOKUP_WORDS(PROBE_K16)
#define PROBE_TOKENS 12 /* two tiles of matmul_avx512.c */
#define PROBE_REPEATS 3
#define PROBE_ROUNDS 16 /* 24 us on Cascade Lake: longer than it takes to wake the upper half of its registers */
/* Making the tables, which the probe leaves out, takes up to a tenth of a product's time. */
#define PROBE_MARGIN 1.1

typedef struct probe_memory {
    HYB_ALIGNED(64) uint8_t weights[BLOCKS * PROBE_WORDS * LINE];
    HYB_ALIGNED(64) int16_t tables[3 * PROBE_WORDS * TILE_TOKENS * TABLE_LANES];
    HYB_ALIGNED(64) int32_t totals[TILE_ROWS * TILE_TOKENS];
    HYB_ALIGNED(64) uint8_t scratch[HYB_MATMUL_SCRATCH_BYTES(PROBE_K16)];
    HYB_ALIGNED(64) int8_t x[PROBE_TOKENS * PROBE_K16 * HYB_BLOCK_COLS];
    int32_t x_sums[PROBE_TOKENS], y[PROBE_TOKENS * HYB_MATMUL_JOB_ROWS];
} probe_memory;

/* 1 if look-ups were faster in PROBE_ROUNDS turns of both. The best of each counts, so that neither an interrupt nor a
 * changing clock decides. */
static HYB_TARGET_AVX512_VNNI int probe(const hyb_matmul_job *job, void (*product)(const hyb_matmul_job *),
                                        probe_memory *m) {
    uint64_t product_ticks = UINT64_MAX, lookup_ticks = UINT64_MAX;
    for (int i = 0; i < PROBE_ROUNDS; ++i) {
        uint64_t begin = __rdtsc();
        product(job);
        uint64_t middle = __rdtsc();
        run(m->weights, PROBE_WORDS * LINE, m->tables, PROBE_WORDS, BLOCKS, TILE_TOKENS, 0, m->totals);
        uint64_t end = __rdtsc();
        if (middle - begin < product_ticks) product_ticks = middle - begin;
        if (end - middle < lookup_ticks) lookup_ticks = end - middle;
    }
    double products = (double)HYB_MATMUL_JOB_ROWS * PROBE_K16 * HYB_BLOCK_COLS * PROBE_TOKENS;
    double lookups = (double)TILE_ROWS * PROBE_WORDS * HYB_LOOKUP_WORD_COLS * TILE_TOKENS;
    return lookups * (double)product_ticks > PROBE_MARGIN * products * (double)lookup_ticks;
}

/* Inner loops of several tokens on data in the first-level cache. Look-ups must win each time: once in 1000 a busy
 * machine let them win on Cascade Lake, where they are slower. */
HYB_TARGET_AVX512_VNNI int hyb_lookup512_is_faster(void) {
    probe_memory m;
    memset(&m, 0, sizeof m);
    hyb_kernels table;
    hyb_install_matmul_avx512(&table);
    hyb_matmul_job job = {.weights = m.weights, .n_rows = HYB_MATMUL_JOB_ROWS, .n_k16 = PROBE_K16, .x = m.x};
    job.ld_x = PROBE_K16 * HYB_BLOCK_COLS;
    job.x_sums = m.x_sums;
    job.n_tokens = PROBE_TOKENS;
    job.y_i32 = m.y;
    job.ld_y = HYB_MATMUL_JOB_ROWS;
    job.scratch = m.scratch;
    for (int i = 0; i < PROBE_REPEATS; ++i)
        if (!probe(&job, table.matmul_ternary, &m)) return 0;
    return 1;
}
#endif
