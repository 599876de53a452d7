/* gemm_template.h - fp32 matrix product, written once over v16. Included by a file of lib/x86 before vector_template.h,
 * with GEMM_ROWS and GEMM_VECTORS: a tile of C of that many rows and vectors of 16 columns lives in registers.
 *
 * Five loops around the tile (Goto & van de Geijn 2008): columns of C by GEMM_COLS, inner length by GEMM_DEPTH, rows by
 * GEMM_BLOCK_ROWS, panels of B, tiles. B is packed into panels as wide as a tile; A is read where it is if its rows
 * lie side by side, and packed if it is transposed or its rows would compete for the same cache sets.
 * An element of C is  (...(c + s_0) + s_1) + ...  with s_i the fused sum, in order, over the i-th block of the inner
 * length: it depends on k only.
 */
#define GEMM_WIDTH ((size_t)GEMM_VECTORS * HYB_LANES)
/* Distances between packed strips and rows get a cache line more than they hold: multiples of 4 KiB would put all of
 * them into the same cache sets. */
#define GEMM_GAP 16
/* Rows ahead that packing asks memory for: 8 gained over none, 2, 4 and 16 (weight gradients, Cascade Lake). */
#define GEMM_AHEAD 8
#define GEMM_A_FLOATS ((size_t)GEMM_BLOCK_ROWS * (GEMM_DEPTH + GEMM_GAP))
#define GEMM_B_FLOATS (HYB_GEMM_SCRATCH_BYTES / sizeof(float) - GEMM_A_FLOATS)
#define GEMM_COLS (GEMM_B_FLOATS / (GEMM_DEPTH * GEMM_WIDTH + GEMM_GAP) * GEMM_WIDTH)
#define GEMM_PANEL(k) ((k)*GEMM_WIDTH + GEMM_GAP) /* distance of packed panels of B */

/* One tile: element (r, p) of A at a[r * a_row + p * a_col], rows of the packed panel of B one after another. */
typedef struct gemm_tile {
    size_t k;
    const float *a;
    size_t a_row, a_col;
    const float *b;
    float *c;
    size_t ldc;
    size_t n_last; /* lanes in use of the last vector */
    int add;       /* to C, or overwrite it */
} gemm_tile;

/* rows, vectors and by_columns are constants at every call: all loops unroll, sum lives in registers. */
V16_FUNCTION void gemm_tile_sum(const gemm_tile *tile, size_t rows, size_t vectors, int by_columns) {
    const gemm_tile t = *tile; /* a copy: stores to C cannot change it */
    v16 sum[GEMM_ROWS][GEMM_VECTORS];
    const float *a = t.a, *b = t.b;
    size_t a_row = by_columns ? 1 : t.a_row, a_col = by_columns ? t.a_col : 1;
    HYB_UNROLL
    for (size_t r = 0; r < rows; ++r) {
        HYB_UNROLL
        for (size_t v = 0; v < vectors; ++v) sum[r][v] = v16_zero();
    }
    /* Each half of the inner length asks for half of the rows of C, which are needed at the end. */
    size_t half = t.k / 2;
    for (size_t part = 0; part < 2; ++part) {
        for (size_t r = part * rows / 2; r < (part + 1) * rows / 2; ++r) {
            for (size_t v = 0; v < vectors; ++v) HYB_PREFETCH(t.c + r * t.ldc + v * HYB_LANES);
        }
        for (size_t p = part == 0 ? half : t.k - half; p > 0; --p, a += a_col, b += vectors * HYB_LANES) {
            v16 row[GEMM_VECTORS];
            HYB_UNROLL
            for (size_t v = 0; v < vectors; ++v) row[v] = v16_load(b + v * HYB_LANES);
            HYB_UNROLL
            for (size_t r = 0; r < rows; ++r) {
                v16 factor = v16_set1(a[r * a_row]);
                HYB_UNROLL
                for (size_t v = 0; v < vectors; ++v) sum[r][v] = v16_fma(factor, row[v], sum[r][v]);
            }
        }
    }
    float *c = t.c;
    HYB_UNROLL
    for (size_t r = 0; r < rows; ++r, c += t.ldc) {
        float *last = c + (vectors - 1) * HYB_LANES;
        HYB_UNROLL
        for (size_t v = 0; v + 1 < vectors; ++v) {
            float *here = c + v * HYB_LANES;
            v16_store(here, t.add ? v16_add(v16_load(here), sum[r][v]) : sum[r][v]);
        }
        if (t.n_last == HYB_LANES) {
            v16_store(last, t.add ? v16_add(v16_load(last), sum[r][vectors - 1]) : sum[r][vectors - 1]);
        } else {
            v16 before = t.add ? v16_load_part(last, t.n_last) : v16_zero();
            v16_store_part(last, t.n_last, v16_add(before, sum[r][vectors - 1]));
        }
    }
}

/* A function of its own for each shape and layout of A. Rows of C that a full tile leaves over go by 4, 2, 1. */
#define GEMM_TILE(name, rows, vectors)                                                                                 \
    static SIMD_TARGET void gemm_by_rows_##name##x##vectors(const gemm_tile *t) {                                      \
        gemm_tile_sum(t, rows, vectors, 0);                                                                            \
    }                                                                                                                  \
    static SIMD_TARGET void gemm_by_cols_##name##x##vectors(const gemm_tile *t) { gemm_tile_sum(t, rows, vectors, 1); }
#define GEMM_TILES(vectors)                                                                                            \
    GEMM_TILE(1, 1, vectors)                                                                                           \
    GEMM_TILE(2, 2, vectors)                                                                                           \
    GEMM_TILE(4, 4, vectors)                                                                                           \
    GEMM_TILE(full, GEMM_ROWS, vectors)
#define GEMM_SHAPES(layout, vectors)                                                                                   \
    {                                                                                                                  \
        gemm_##layout##_1x##vectors, gemm_##layout##_2x##vectors, gemm_##layout##_4x##vectors,                         \
            gemm_##layout##_fullx##vectors                                                                             \
    }

GEMM_TILES(1)
#if GEMM_VECTORS >= 2
GEMM_TILES(2)
#endif
#if GEMM_VECTORS >= 3
GEMM_TILES(3)
#endif

static const size_t gemm_shape_rows[4] = {1, 2, 4, GEMM_ROWS};
typedef void (*gemm_tile_function)(const gemm_tile *t);
static const gemm_tile_function gemm_tile_functions[2][GEMM_VECTORS][4] = {
    {
        GEMM_SHAPES(by_rows, 1),
#if GEMM_VECTORS >= 2
        GEMM_SHAPES(by_rows, 2),
#endif
#if GEMM_VECTORS >= 3
        GEMM_SHAPES(by_rows, 3),
#endif
    },
    {
        GEMM_SHAPES(by_cols, 1),
#if GEMM_VECTORS >= 2
        GEMM_SHAPES(by_cols, 2),
#endif
#if GEMM_VECTORS >= 3
        GEMM_SHAPES(by_cols, 3),
#endif
    },
};

/* ---- Packing ---- */

/* k rows of B [k][ldb], n columns from b, into panels of GEMM_WIDTH columns; the last is as many vectors wide as it
 * must be, padded with 0. Row after row, as memory likes to be read. */
static SIMD_TARGET void gemm_pack_b_rows(const float *b, size_t ldb, size_t k, size_t n, float *packed) {
    size_t n_full = n / GEMM_WIDTH, rest = n % GEMM_WIDTH, last = hyb_round_up(rest, HYB_LANES);
    for (size_t p = 0; p < k; ++p) {
        const float *source = b + p * ldb, *later = b + hyb_min_size(p + GEMM_AHEAD, k - 1) * ldb;
        float *target = packed + p * GEMM_WIDTH;
        for (size_t j = 0; j < n; j += HYB_LANES) HYB_PREFETCH(later + j);
        for (size_t j = 0; j < n_full; ++j, source += GEMM_WIDTH, target += GEMM_PANEL(k)) {
            HYB_UNROLL
            for (size_t v = 0; v < GEMM_WIDTH; v += HYB_LANES) v16_store(target + v, v16_load(source + v));
        }
        target = packed + n_full * GEMM_PANEL(k) + p * last;
        for (size_t j = 0; j < rest; j += HYB_LANES) {
            v16_store(target + j, v16_get(source + j, hyb_min_size(HYB_LANES, rest - j)));
        }
    }
}

/* One panel of B transposed, [n][ldb]: 16 x 16 elements at a time. */
static SIMD_TARGET void gemm_pack_b_columns(const float *b, size_t ldb, size_t k, size_t n, size_t vectors,
                                            float *panel) {
    for (size_t j = 0; j < n; j += HYB_LANES) {
        size_t rows = hyb_min_size(HYB_LANES, n - j);
        for (size_t p = 0; p < k; p += HYB_LANES) {
            size_t depth = hyb_min_size(HYB_LANES, k - p);
            const float *source = b + j * ldb + p;
            float *target = panel + p * vectors * HYB_LANES + j;
            v16 x[HYB_LANES];
            if (rows == HYB_LANES && depth == HYB_LANES) {
                HYB_UNROLL
                for (size_t i = 0; i < HYB_LANES; ++i) x[i] = v16_load(source + i * ldb);
                v16_transpose(x);
                HYB_UNROLL
                for (size_t i = 0; i < HYB_LANES; ++i) v16_store(target + i * vectors * HYB_LANES, x[i]);
            } else {
                for (size_t i = 0; i < HYB_LANES; ++i) {
                    x[i] = i < rows ? v16_load_part(source + i * ldb, depth) : v16_zero();
                }
                v16_transpose(x);
                for (size_t i = 0; i < depth; ++i) v16_store(target + i * vectors * HYB_LANES, x[i]);
            }
        }
    }
}

static SIMD_TARGET void gemm_pack_b(const hyb_gemm_job *job, size_t k0, size_t k, size_t j0, size_t n, float *packed) {
    if (job->transpose != HYB_GEMM_NT) {
        gemm_pack_b_rows(job->b + k0 * job->ldb + j0, job->ldb, k, n, packed);
        return;
    }
    for (size_t j = 0; j < n; j += GEMM_WIDTH, packed += GEMM_PANEL(k)) {
        size_t width = hyb_min_size(GEMM_WIDTH, n - j), vectors = hyb_ceil_div(width, HYB_LANES);
        gemm_pack_b_columns(job->b + (j0 + j) * job->ldb + k0, job->ldb, k, width, vectors, packed);
    }
}

/* Where a block of A lies: row i at a + i / GEMM_ROWS * group + i % GEMM_ROWS * row. */
typedef struct gemm_a_block {
    const float *a;
    size_t group, row, col;
} gemm_a_block;

/* Transposed A, [k][lda]: the GEMM_ROWS elements of a tile's column side by side, a strip for each tile. */
static SIMD_TARGET gemm_a_block gemm_pack_a_columns(const float *a, size_t lda, size_t m, size_t k, float *packed) {
    gemm_a_block block = {packed, GEMM_ROWS * k + GEMM_GAP, 1, GEMM_ROWS};
    for (size_t p = 0; p < k; ++p) {
        const float *source = a + p * lda, *later = a + hyb_min_size(p + GEMM_AHEAD, k - 1) * lda;
        float *target = packed + p * GEMM_ROWS;
        size_t i = 0;
        for (size_t j = 0; j < m; j += HYB_LANES) HYB_PREFETCH(later + j);
        /* The lanes behind a tile's are overwritten by the next p, at last they are in the gap. */
        for (; i + HYB_LANES <= m; i += GEMM_ROWS, target += block.group) v16_store(target, v16_load(source + i));
        for (; i < m; i += GEMM_ROWS, target += block.group) {
            v16_store_part(target, GEMM_ROWS, v16_load_part(source + i, hyb_min_size(GEMM_ROWS, m - i)));
        }
    }
    return block;
}

/* Rows i0 .. i0 + m - 1, inner elements k0 .. k0 + k - 1 of A, as they are or packed. */
static SIMD_TARGET gemm_a_block gemm_get_a(const hyb_gemm_job *job, size_t i0, size_t m, size_t k0, size_t k,
                                           float *packed) {
    if (job->transpose == HYB_GEMM_TN) {
        const float *a = job->a + k0 * job->lda + i0;
        gemm_a_block as_is = {a, GEMM_ROWS, 1, job->lda};
        /* For so few columns packing costs more than it saves. */
        return job->n <= 3 * HYB_LANES ? as_is : gemm_pack_a_columns(a, job->lda, m, k, packed);
    }
    gemm_a_block as_is = {job->a + i0 * job->lda + k0, GEMM_ROWS * job->lda, job->lda, 1};
    if (job->lda % 1024 != 0) return as_is;
    const size_t ld = GEMM_DEPTH + GEMM_GAP; /* rows 4 KiB apart compete for the same cache sets */
    for (size_t i = 0; i < m; ++i) memcpy(packed + i * ld, as_is.a + i * job->lda, k * sizeof(float));
    gemm_a_block copy = {packed, GEMM_ROWS * ld, ld, 1};
    return copy;
}

/* ---- The loops ---- */

/* Rows of one panel of B: tiles from top to bottom. */
static SIMD_TARGET void gemm_panel(gemm_tile *t, const gemm_a_block *block, size_t m, size_t vectors, int by_columns) {
    const gemm_tile_function *functions = gemm_tile_functions[by_columns][vectors - 1];
    float *c = t->c;
    for (size_t i = 0; i < m;) {
        int shape = 3;
        while (gemm_shape_rows[shape] > m - i) --shape;
        t->a = block->a + i / GEMM_ROWS * block->group + i % GEMM_ROWS * block->row;
        t->c = c + i * t->ldc;
        functions[shape](t);
        i += gemm_shape_rows[shape];
    }
}

/* m rows and n columns of C from c, panel after panel. */
static SIMD_TARGET void gemm_block(const hyb_gemm_job *job, const gemm_a_block *block, const float *b, float *c,
                                   size_t m, size_t n, size_t k, int add) {
    for (size_t j = 0; j < n; j += GEMM_WIDTH, b += GEMM_PANEL(k)) {
        size_t width = hyb_min_size(GEMM_WIDTH, n - j), vectors = hyb_ceil_div(width, HYB_LANES);
        gemm_tile t = {.k = k, .a_row = block->row, .a_col = block->col, .b = b, .c = c + j, .ldc = job->ldc};
        t.n_last = width - (vectors - 1) * HYB_LANES;
        t.add = add;
        gemm_panel(&t, block, m, vectors, job->transpose == HYB_GEMM_TN);
    }
}

SIMD_TARGET void SIMD_NAME(gemm)(const hyb_gemm_job *job) {
    float *a_packed = job->scratch, *b_packed = a_packed + GEMM_A_FLOATS;
    size_t depth = hyb_ceil_div(job->k, hyb_ceil_div(job->k, GEMM_DEPTH));
    for (size_t j0 = 0; j0 < job->n; j0 += GEMM_COLS) {
        size_t n = hyb_min_size(GEMM_COLS, job->n - j0);
        for (size_t k0 = 0; k0 < job->k; k0 += depth) {
            size_t k = hyb_min_size(depth, job->k - k0);
            gemm_pack_b(job, k0, k, j0, n, b_packed);
            for (size_t i0 = 0; i0 < job->m; i0 += GEMM_BLOCK_ROWS) {
                size_t m = hyb_min_size(GEMM_BLOCK_ROWS, job->m - i0);
                gemm_a_block block = gemm_get_a(job, i0, m, k0, k, a_packed);
                gemm_block(job, &block, b_packed, job->c + i0 * job->ldc + j0, m, n, k, job->accumulate || k0 > 0);
            }
        }
    }
}
