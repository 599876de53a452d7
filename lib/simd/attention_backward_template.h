/* attention_backward_template.h - gradients of causal attention of one head over v16, RELAXED. Included by
 * vector_template.h behind attention_template.h.
 *
 * Keys and values are turned into columns once, rows are copied side by side once; then everything is products of a
 * tile of ATTENTION_TILE_ROWS rows and ATTENTION_TILE_VECTORS vectors that reads them as they lie. Queries go by
 * HYB_ATTENTION_BACKWARD_ROWS, so that their probabilities stay in cache, and tiles above the diagonal are left out.
 * Against the portable kernel (Cascade Lake, 128 positions): 23 to 28 times as fast with AVX-512, 14 to 17 with AVX2.
 */
#ifndef ATTENTION_TILE_ROWS
#define ATTENTION_TILE_ROWS 4 /* divides 16, a multiple of V16_EXPS */
#define ATTENTION_TILE_VECTORS 1
#endif

/* C (+)= A B for one tile: element (r, p) of A at a[r * a_row + p * a_col], vector v of row p of B at
 * b + p * b_row + v * b_vector. */
typedef struct attention_tile {
    size_t k;
    const float *a;
    size_t a_row, a_col;
    const float *b;
    size_t b_row, b_vector;
    float *c;
    size_t ldc;
} attention_tile;

/* vectors, by_columns and add are constants at every call. */
V16_FUNCTION void attention_tile_sum(const attention_tile *tile, size_t vectors, int by_columns, int add) {
    const attention_tile t = *tile;
    v16 sum[ATTENTION_TILE_ROWS][ATTENTION_TILE_VECTORS], row[ATTENTION_TILE_VECTORS];
    const float *a = t.a, *b = t.b;
    size_t a_row = by_columns ? 1 : t.a_row, a_col = by_columns ? t.a_col : 1;
    HYB_UNROLL
    for (size_t r = 0; r < ATTENTION_TILE_ROWS; ++r) {
        HYB_UNROLL
        for (size_t v = 0; v < vectors; ++v) sum[r][v] = v16_zero();
    }
    for (size_t p = t.k; p > 0; --p, a += a_col, b += t.b_row) {
        HYB_UNROLL
        for (size_t v = 0; v < vectors; ++v) row[v] = v16_load(b + v * t.b_vector);
        HYB_UNROLL
        for (size_t r = 0; r < ATTENTION_TILE_ROWS; ++r) {
            v16 factor = v16_set1(a[r * a_row]);
            HYB_UNROLL
            for (size_t v = 0; v < vectors; ++v) sum[r][v] = v16_fma(factor, row[v], sum[r][v]);
        }
    }
    HYB_UNROLL
    for (size_t r = 0; r < ATTENTION_TILE_ROWS; ++r) {
        HYB_UNROLL
        for (size_t v = 0; v < vectors; ++v) {
            float *c = t.c + r * t.ldc + v * HYB_LANES;
            v16_store(c, add ? v16_add(v16_load(c), sum[r][v]) : sum[r][v]);
        }
    }
}

/* Tiles of ATTENTION_TILE_ROWS rows from left to right, n_vectors vectors in all. */
#define ATTENTION_TILES(name, by_columns, add)                                                                         \
    static SIMD_TARGET void name(attention_tile t, size_t n_vectors) {                                                 \
        size_t v = 0;                                                                                                  \
        for (; v + ATTENTION_TILE_VECTORS <= n_vectors; v += ATTENTION_TILE_VECTORS) {                                 \
            attention_tile_sum(&t, ATTENTION_TILE_VECTORS, by_columns, add);                                           \
            t.b += ATTENTION_TILE_VECTORS * t.b_vector;                                                                \
            t.c += ATTENTION_TILE_VECTORS * HYB_LANES;                                                                 \
        }                                                                                                              \
        for (; v < n_vectors; ++v, t.b += t.b_vector, t.c += HYB_LANES) attention_tile_sum(&t, 1, by_columns, add);    \
    }
ATTENTION_TILES(attention_tiles_by_rows, 0, 0)
ATTENTION_TILES(attention_tiles_add_by_rows, 0, 1)
ATTENTION_TILES(attention_tiles_by_columns, 1, 1)
#undef ATTENTION_TILES

/* One head, copied so that tiles can read and write whole vectors: rows padded to `depth`, their number to 16. */
typedef struct attention_head {
    size_t n, n_padded, head_dim, depth;
    float scale;
    float *key_columns, *value_columns; /* [n_padded / 16][depth][16] */
    float *key_rows;                    /* [n_padded][depth] */
    float *d_key_rows, *d_value_rows;   /* [n_padded][depth] */
    float *q, *d_out, *d_q;             /* [HYB_ATTENTION_BACKWARD_ROWS][depth] */
    float *p, *ds;                      /* [HYB_ATTENTION_BACKWARD_ROWS][ld] */
    size_t ld;
} attention_head;

static SIMD_TARGET attention_head attention_pack_head(const hyb_attention_backward_job *job) {
    attention_head h = {.n = job->n, .head_dim = job->head_dim, .scale = job->scale};
    h.n_padded = HYB_ROUND_UP_16(job->n);
    h.depth = HYB_ROUND_UP_16(job->head_dim);
    h.ld = h.n_padded + HYB_LANES; /* no multiple of 4 KiB */
    size_t size = h.n_padded * h.depth, block = HYB_ATTENTION_BACKWARD_ROWS * h.depth;
    h.key_columns = job->scratch;
    h.value_columns = h.key_columns + size;
    h.key_rows = h.value_columns + size;
    h.d_key_rows = h.key_rows + size;
    h.d_value_rows = h.d_key_rows + size;
    h.q = h.d_value_rows + size;
    h.d_out = h.q + block;
    h.d_q = h.d_out + block;
    h.p = h.d_q + block;
    h.ds = h.p + HYB_ATTENTION_BACKWARD_ROWS * h.ld;
    for (size_t j = 0; j < h.n; j += HYB_LANES) {
        size_t n = hyb_min_size(HYB_LANES, h.n - j);
        attention_columns(job->keys + j * job->ld_k, job->ld_k, n, h.head_dim, h.key_columns + j * h.depth);
        attention_columns(job->values + j * job->ld_k, job->ld_k, n, h.head_dim, h.value_columns + j * h.depth);
    }
    attention_copy_rows(job->keys, job->ld_k, h.n, h.n_padded, h.head_dim, h.depth, h.key_rows);
    memset(h.d_key_rows, 0, 2 * size * sizeof(float));
    return h;
}

/* V16_EXPS queries, of which the first sees n keys and each one more than the one before it, all ending in the same
 * group of 16: scores in p become probabilities, their gradients in ds become those of the scores, zero behind a row's
 * end. */
V16_FUNCTION void attention_backward_rows(float *p, float *ds, size_t ld, size_t n, float scale) {
    v16 shift[V16_EXPS], sum[V16_EXPS], pull[V16_EXPS], e[V16_EXPS], factor = v16_set1(scale);
    size_t last = (n - 1) / HYB_LANES * HYB_LANES;
    HYB_UNROLL
    for (size_t i = 0; i < V16_EXPS; ++i) {
        shift[i] = v16_set1(-SIMD_NAME(max_f32)(p + i * ld, n + i) * scale);
        sum[i] = pull[i] = v16_zero();
    }
    for (size_t j = 0; j <= last; j += HYB_LANES) {
        HYB_UNROLL
        for (size_t i = 0; i < V16_EXPS; ++i) e[i] = v16_fma(v16_load(p + i * ld + j), factor, shift[i]);
        v16_exp_fused_all(e, V16_EXPS);
        HYB_UNROLL
        for (size_t i = 0; i < V16_EXPS; ++i) {
            if (j == last) e[i] = v16_keep(n + i - last, e[i]);
            v16_store(p + i * ld + j, e[i]);
            sum[i] = v16_add(sum[i], e[i]);
            pull[i] = v16_fma(e[i], v16_load(ds + i * ld + j), pull[i]);
        }
    }
    HYB_UNROLL
    for (size_t i = 0; i < V16_EXPS; ++i) {
        v16 r = v16_set1(1.0f / v16_reduce_add(sum[i])), mean = v16_mul(v16_set1(v16_reduce_add(pull[i])), r);
        for (size_t j = i * ld; j <= i * ld + last; j += HYB_LANES) {
            v16 probability = v16_mul(v16_load(p + j), r);
            v16_store(p + j, probability);
            v16_store(ds + j, v16_mul(v16_mul(probability, factor), v16_sub(v16_load(ds + j), mean)));
        }
    }
}

/* Keys whose columns, or rows, all queries go through before the next ones: they stay in the first-level cache. */
#define ATTENTION_KEY_BLOCK (2 * HYB_LANES)
#define ATTENTION_ROW_BLOCK 64

/* C (rows x keys) = A B with A rows of depth `h->depth` and B columns of keys; groups of keys that no row of a tile
 * sees are left out. */
static SIMD_TARGET void attention_backward_scores(const attention_head *h, size_t first, size_t rows, const float *a,
                                                  const float *columns, float *c) {
    size_t group = h->depth * HYB_LANES;
    for (size_t j = 0; j < first + rows; j += ATTENTION_KEY_BLOCK) {
        size_t from = j > first ? (j - first) / ATTENTION_TILE_ROWS * ATTENTION_TILE_ROWS : 0;
        for (size_t i = from; i < rows; i += ATTENTION_TILE_ROWS) {
            size_t end = first + hyb_min_size(i + ATTENTION_TILE_ROWS, rows);
            size_t n_groups = hyb_min_size(hyb_ceil_div(end - j, HYB_LANES), ATTENTION_KEY_BLOCK / HYB_LANES);
            attention_tile t = {h->head_dim, a + i * h->depth,  h->depth, 1, columns + j * h->depth, HYB_LANES,
                                group,       c + i * h->ld + j, h->ld};
            attention_tiles_by_rows(t, n_groups);
        }
    }
}

/* Probabilities, gradients of scores and of queries, of `rows` queries from `first`. */
static SIMD_TARGET void attention_backward_queries(const attention_head *h, size_t first, size_t rows) {
    size_t vectors = h->depth / HYB_LANES;
    attention_backward_scores(h, first, rows, h->q, h->key_columns, h->p);
    attention_backward_scores(h, first, rows, h->d_out, h->value_columns, h->ds);
    for (size_t r = 0; r < rows; r += V16_EXPS) { /* rows behind the end are zeros: harmless */
        attention_backward_rows(h->p + r * h->ld, h->ds + r * h->ld, h->ld, first + r + 1, h->scale);
    }
    memset(h->d_q, 0, HYB_ATTENTION_BACKWARD_ROWS * h->depth * sizeof(float));
    for (size_t j = 0; j < first + rows; j += ATTENTION_ROW_BLOCK) {
        size_t from = j > first ? (j - first) / ATTENTION_TILE_ROWS * ATTENTION_TILE_ROWS : 0;
        for (size_t i = from; i < rows; i += ATTENTION_TILE_ROWS) {
            /* Rows of one tile see as many groups of 16 keys, since ATTENTION_TILE_ROWS divides 16. */
            size_t end = HYB_ROUND_UP_16(first + hyb_min_size(i + ATTENTION_TILE_ROWS, rows));
            attention_tile t = {hyb_min_size(end - j, ATTENTION_ROW_BLOCK),
                                h->ds + i * h->ld + j,
                                h->ld,
                                1,
                                h->key_rows + j * h->depth,
                                h->depth,
                                HYB_LANES,
                                h->d_q + i * h->depth,
                                h->depth};
            attention_tiles_add_by_rows(t, vectors);
        }
    }
}

/* Adds what `rows` queries from `first` give to the gradients of keys and values. */
static SIMD_TARGET void attention_backward_keys(const attention_head *h, size_t first, size_t rows) {
    size_t vectors = h->depth / HYB_LANES;
    for (size_t j = 0; j < first + rows; j += ATTENTION_TILE_ROWS) {
        size_t skip = j > first ? j - first : 0; /* queries before the keys */
        attention_tile t = {.k = rows - skip, .a_row = 1, .a_col = h->ld, .b_row = h->depth, .b_vector = HYB_LANES};
        t.ldc = h->depth;
        t.a = h->p + skip * h->ld + j;
        t.b = h->d_out + skip * h->depth;
        t.c = h->d_value_rows + j * h->depth;
        attention_tiles_by_columns(t, vectors);
        t.a = h->ds + skip * h->ld + j;
        t.b = h->q + skip * h->depth;
        t.c = h->d_key_rows + j * h->depth;
        attention_tiles_by_columns(t, vectors);
    }
}

V16_FUNCTION void attention_put_rows(const float *rows, size_t n, size_t head_dim, size_t depth, int add, float *x,
                                     size_t ld) {
    enum { AHEAD = 16 };
    for (size_t i = 0; i < n; ++i, rows += depth, x += ld) {
        for (size_t d = 0; d < head_dim; d += HYB_LANES) {
            HYB_PREFETCH(x + AHEAD * ld + d);
            size_t lanes = hyb_min_size(HYB_LANES, head_dim - d);
            v16 y = v16_load(rows + d);
            v16_put(x + d, lanes, add ? v16_add(v16_get(x + d, lanes), y) : y);
        }
    }
}

/* Asks for rows that will be written soon. */
static SIMD_TARGET void attention_fetch_rows(const float *x, size_t ld, size_t n, size_t head_dim) {
    for (size_t i = 0; i < n; ++i, x += ld) {
        for (size_t d = 0; d < head_dim; d += HYB_LANES) HYB_PREFETCH(x + d);
    }
}

SIMD_TARGET void SIMD_NAME(attention_backward)(const hyb_attention_backward_job *job) {
    attention_head h = attention_pack_head(job);
    for (size_t first = 0; first < h.n; first += HYB_ATTENTION_BACKWARD_ROWS) {
        size_t rows = hyb_min_size(HYB_ATTENTION_BACKWARD_ROWS, h.n - first), at = first * job->ld_q;
        size_t padded = HYB_ROUND_UP_16(rows);
        attention_copy_rows(job->q + at, job->ld_q, rows, padded, h.head_dim, h.depth, h.q);
        attention_copy_rows(job->d_out + at, job->ld_q, rows, padded, h.head_dim, h.depth, h.d_out);
        attention_backward_queries(&h, first, rows);
        attention_fetch_rows(job->d_q + at, job->ld_q, rows, h.head_dim);
        attention_backward_keys(&h, first, rows);
        attention_put_rows(h.d_q, rows, h.head_dim, h.depth, 0, job->d_q + at, job->ld_q);
    }
    attention_put_rows(h.d_key_rows, h.n, h.head_dim, h.depth, job->accumulate, job->d_keys, job->ld_k);
    attention_put_rows(h.d_value_rows, h.n, h.head_dim, h.depth, job->accumulate, job->d_values, job->ld_k);
}
