/* attention_training_template.h - causal attention of a head in a training step over v16, RELAXED; and the tiles that
 * its gradients are made of too. Included by vector_template.h behind attention_template.h.
 *
 * Keys are turned into columns once, rows are copied side by side once; then everything is products of a tile of
 * ATTENTION_TILE_ROWS rows and ATTENTION_TILE_VECTORS vectors that reads them as they lie. Queries go by
 * HYB_ATTENTION_TRAINING_ROWS, so that their probabilities stay in cache, and tiles above the diagonal are left out.
 * Against attention_block (Cascade Lake, 128 and 512 positions): 1.4 to 2.2 times as fast with AVX-512, 1.6 to 2.2 with
 * AVX2; against the portable kernel 25 to 33 times and 16 to 20 times.
 */
#ifndef ATTENTION_TILE_ROWS
#define ATTENTION_TILE_ROWS 4 /* divides 16, a multiple of V16_EXPS */
#define ATTENTION_TILE_VECTORS 1
#endif

#define ATTENTION_LOG2_E 1.44269504f

/* x[i] = 2^x[i] for n vectors, a constant, x <= 1; at least 2^-126. The polynomial is the best of degree 5 with 2^0 = 1
 * on [-1/2, 1/2]: relative error 1.1e-7. */
V16_FUNCTION void v16_exp2_fused_all(v16 *x, size_t n) {
    static const float terms[] = {9.6715126762e-3f, 5.5507337435e-2f, 2.4022242085e-1f, 6.9314697760e-1f, 1.0f};
    const v16 magic = v16_set1(12582912.0f); /* 1.5 * 2^23 */
    v16 shifted[V16_EXPS], whole[V16_EXPS], p[V16_EXPS];
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) x[i] = v16_max(v16_set1(-126.0f), x[i]);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) shifted[i] = v16_add(x[i], magic);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) whole[i] = v16_sub(shifted[i], magic);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) x[i] = v16_sub(x[i], whole[i]);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) p[i] = v16_set1(1.3264727238e-3f);
    HYB_UNROLL
    for (size_t t = 0; t < sizeof terms / sizeof *terms; ++t) {
        HYB_UNROLL
        for (size_t i = 0; i < n; ++i) p[i] = v16_fma(p[i], x[i], v16_set1(terms[t]));
    }
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) x[i] = v16_exp_scale(p[i], whole[i], shifted[i]);
}

/* ---- tiles ---- */

/* What becomes of the sums of a tile: they are stored, or added; or, less start[r], they are exponents of
 * probabilities, of which row r keeps visible + r, or factors of the probabilities at `p`. */
enum { ATTENTION_STORE, ATTENTION_ADD, ATTENTION_EXP, ATTENTION_TIMES };

/* C from A B for one tile: element (r, p) of A at a[r * a_row + p * a_col], vector v of row p of B at
 * b + p * b_row + v * b_vector. */
typedef struct attention_tile {
    size_t k;
    const float *a;
    size_t a_row, a_col;
    const float *b;
    size_t b_row, b_vector;
    float *c;
    size_t ldc;
    const float *start;
    size_t visible;
    const float *p; /* ldc apart */
} attention_tile;

/* The sums, vectors of them a row (a constant), less `start`, become exponentials in place: the subtraction comes last,
 * as in the forward pass, so that no exponent is above 0 however large the scores are. */
V16_FUNCTION void attention_tile_exp(const attention_tile *t, size_t vectors,
                                     v16 sum[ATTENTION_TILE_ROWS][ATTENTION_TILE_VECTORS]) {
    HYB_UNROLL
    for (size_t v = 0; v < vectors; ++v) {
        HYB_UNROLL
        for (size_t r = 0; r < ATTENTION_TILE_ROWS; r += V16_EXPS) {
            v16 e[V16_EXPS];
            HYB_UNROLL
            for (size_t i = 0; i < V16_EXPS; ++i) e[i] = v16_sub(sum[r + i][v], v16_set1(t->start[r + i]));
            v16_exp2_fused_all(e, V16_EXPS);
            HYB_UNROLL
            for (size_t i = 0; i < V16_EXPS; ++i) sum[r + i][v] = e[i];
        }
    }
    if (t->visible >= vectors * HYB_LANES) return;
    for (size_t v = 0; v < vectors; ++v) {
        for (size_t r = 0; r < ATTENTION_TILE_ROWS; ++r) {
            size_t n = t->visible + r > v * HYB_LANES ? t->visible + r - v * HYB_LANES : 0;
            sum[r][v] = v16_keep(hyb_min_size(n, HYB_LANES), sum[r][v]);
        }
    }
}

/* vectors, by_columns and then are constants at every call. */
V16_FUNCTION void attention_tile_sum(const attention_tile *tile, size_t vectors, int by_columns, int then) {
    const attention_tile t = *tile;
    v16 sum[ATTENTION_TILE_ROWS][ATTENTION_TILE_VECTORS], row[ATTENTION_TILE_VECTORS];
    const float *a = t.a, *b = t.b;
    size_t a_row = by_columns ? 1 : t.a_row, a_col = by_columns ? t.a_col : 1;
    HYB_UNROLL
    for (size_t r = 0; r < ATTENTION_TILE_ROWS; ++r) {
        v16 start = then == ATTENTION_TIMES ? v16_set1(-t.start[r]) : v16_zero();
        HYB_UNROLL
        for (size_t v = 0; v < vectors; ++v) sum[r][v] = start;
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
    if (then == ATTENTION_EXP) attention_tile_exp(&t, vectors, sum);
    HYB_UNROLL
    for (size_t r = 0; r < ATTENTION_TILE_ROWS; ++r) {
        HYB_UNROLL
        for (size_t v = 0; v < vectors; ++v) {
            size_t at = r * t.ldc + v * HYB_LANES;
            if (then == ATTENTION_ADD) sum[r][v] = v16_add(v16_load(t.c + at), sum[r][v]);
            if (then == ATTENTION_TIMES) sum[r][v] = v16_mul(v16_load(t.p + at), sum[r][v]);
            v16_store(t.c + at, sum[r][v]);
        }
    }
}

/* Tiles of ATTENTION_TILE_ROWS rows from left to right, n_vectors vectors in all. */
#define ATTENTION_TILES(name, by_columns, then)                                                                        \
    static SIMD_TARGET void name(attention_tile t, size_t n_vectors) {                                                 \
        size_t v = 0;                                                                                                  \
        for (; v < n_vectors; v += ATTENTION_TILE_VECTORS) {                                                           \
            size_t vectors = hyb_min_size(ATTENTION_TILE_VECTORS, n_vectors - v), lanes = vectors * HYB_LANES;         \
            if (vectors == ATTENTION_TILE_VECTORS) {                                                                   \
                attention_tile_sum(&t, ATTENTION_TILE_VECTORS, by_columns, then);                                      \
            } else {                                                                                                   \
                attention_tile_sum(&t, 1, by_columns, then);                                                           \
            }                                                                                                          \
            t.b += vectors * t.b_vector;                                                                               \
            t.c += lanes;                                                                                              \
            if (then == ATTENTION_EXP) t.visible -= hyb_min_size(t.visible, lanes);                                    \
            if (then == ATTENTION_TIMES) t.p += lanes;                                                                 \
        }                                                                                                              \
    }
ATTENTION_TILES(attention_tiles_store, 0, ATTENTION_STORE)
ATTENTION_TILES(attention_tiles_add, 0, ATTENTION_ADD)
ATTENTION_TILES(attention_tiles_exp, 0, ATTENTION_EXP)
ATTENTION_TILES(attention_tiles_times, 0, ATTENTION_TIMES)
ATTENTION_TILES(attention_tiles_add_by_columns, 1, ATTENTION_ADD)
#undef ATTENTION_TILES

/* Keys whose columns, or rows, all queries go through before the next ones: they stay in the first-level cache. */
#define ATTENTION_KEY_BLOCK (2 * HYB_LANES)
#define ATTENTION_ROW_BLOCK 64

/* `rows` queries and those of n_keys keys that they see, query 0 sees keys 0 .. position: tile by tile, `then` (a
 * constant), of rows of `depth` and columns of keys. Groups of 16 keys that no row of a tile sees are left out. tile
 * holds k, a, b, c, ldc, start and p of the first query and key. */
V16_FUNCTION void attention_scores_of_rows(const attention_tile *tile, size_t position, size_t rows, size_t n_keys,
                                           size_t depth, int then) {
    for (size_t j = 0; j < hyb_min_size(position + rows, n_keys); j += ATTENTION_KEY_BLOCK) {
        size_t from = j > position ? (j - position) / ATTENTION_TILE_ROWS * ATTENTION_TILE_ROWS : 0;
        for (size_t i = from; i < rows; i += ATTENTION_TILE_ROWS) {
            size_t end = hyb_min_size(position + hyb_min_size(i + ATTENTION_TILE_ROWS, rows), n_keys);
            size_t n_groups = hyb_min_size(hyb_ceil_div(end - j, HYB_LANES), ATTENTION_KEY_BLOCK / HYB_LANES);
            attention_tile t = *tile;
            t.a += i * depth;
            t.a_row = depth;
            t.b += j * depth;
            t.b_row = HYB_LANES;
            t.b_vector = depth * HYB_LANES;
            t.c += i * t.ldc + j;
            if (then == ATTENTION_STORE) {
                attention_tiles_store(t, n_groups);
                continue;
            }
            t.start += i;
            if (then == ATTENTION_EXP) {
                t.visible = position + i + 1 - j; /* i >= j - position, since both are multiples of 16 */
                attention_tiles_exp(t, n_groups);
            } else {
                t.p += i * t.ldc + j;
                attention_tiles_times(t, n_groups);
            }
        }
    }
}

/* sums [rows][depth] += weights [rows][ld] times rows of keys (or values) [n_keys][depth], of the keys that the queries
 * see; weights are zeros from there to the next multiple of 16. */
static SIMD_TARGET void attention_rows_of_keys(const float *weights, size_t ld, const float *key_rows, size_t position,
                                               size_t rows, size_t n_keys, size_t depth, float *sums) {
    for (size_t j = 0; j < hyb_min_size(position + rows, n_keys); j += ATTENTION_ROW_BLOCK) {
        size_t from = j > position ? (j - position) / ATTENTION_TILE_ROWS * ATTENTION_TILE_ROWS : 0;
        for (size_t i = from; i < rows; i += ATTENTION_TILE_ROWS) {
            /* Rows of one tile see as many groups of 16 keys, since ATTENTION_TILE_ROWS divides 16. */
            size_t end = position + hyb_min_size(i + ATTENTION_TILE_ROWS, rows);
            end = HYB_ROUND_UP_16(hyb_min_size(end, n_keys));
            attention_tile t = {.k = hyb_min_size(end - j, ATTENTION_ROW_BLOCK), .a_row = ld, .ldc = depth};
            t.a = weights + i * ld + j;
            t.b = key_rows + j * depth;
            t.b_row = depth;
            t.b_vector = HYB_LANES;
            t.c = sums + i * depth;
            attention_tiles_add(t, depth / HYB_LANES);
        }
    }
}

/* ---- rows ---- */

/* x (+)= rows * factor, n rows; row i's factor is at factors[i * step]. */
V16_FUNCTION void attention_put_rows(const float *rows, size_t n, size_t head_dim, size_t depth, const float *factors,
                                     size_t step, int add, float *x, size_t ld) {
    enum { AHEAD = 16 };
    for (size_t i = 0; i < n; ++i, rows += depth, x += ld) {
        v16 factor = v16_set1(factors[i * step]);
        for (size_t d = 0; d < head_dim; d += HYB_LANES) {
            HYB_PREFETCH(x + AHEAD * ld + d);
            size_t lanes = hyb_min_size(HYB_LANES, head_dim - d);
            v16 y = v16_load(rows + d);
            v16_put(x + d, lanes, add ? v16_fma(y, factor, v16_get(x + d, lanes)) : v16_mul(y, factor));
        }
    }
}

/* Asks for rows that will be written soon. */
static SIMD_TARGET void attention_fetch_rows(const float *x, size_t ld, size_t n, size_t head_dim) {
    for (size_t i = 0; i < n; ++i, x += ld) {
        for (size_t d = 0; d < head_dim; d += HYB_LANES) HYB_PREFETCH(x + d);
    }
}

/* attention_copy_rows, each element times `factor`, which makes scores of dot products. */
V16_FUNCTION void attention_copy_queries(const float *x, size_t ld, size_t n, size_t head_dim, size_t depth,
                                         float factor, float *rows) {
    enum { AHEAD = 16 };
    v16 s = v16_set1(factor);
    memset(rows + n * depth, 0, (HYB_ROUND_UP_16(n) - n) * depth * sizeof *rows);
    for (size_t i = 0; i < n; ++i, rows += depth, x += ld) {
        for (size_t d = 0; d < head_dim; d += HYB_LANES) {
            HYB_PREFETCH(x + AHEAD * ld + d);
            v16_store(rows + d, v16_mul(s, v16_get(x + d, hyb_min_size(HYB_LANES, head_dim - d))));
        }
    }
}

/* ---- forward ---- */

/* V16_EXPS queries, of which the first sees n keys and each one more than the one before it, all ending in the same
 * group of 16: scores in p become exponentials, zero behind a row's end. softmax receives the maxima, r the reciprocals
 * of the sums. */
V16_FUNCTION void attention_exp_rows(float *p, size_t ld, size_t n, float *max, float *r) {
    v16 largest[V16_EXPS], sum[V16_EXPS], e[V16_EXPS];
    size_t last = (n - 1) / HYB_LANES * HYB_LANES;
    HYB_UNROLL
    for (size_t i = 0; i < V16_EXPS; ++i) {
        largest[i] = v16_load_part_or(p + i * ld + last, n + i - last, v16_set1(p[i * ld + last]));
        sum[i] = v16_zero();
    }
    for (size_t j = 0; j < last; j += HYB_LANES) {
        HYB_UNROLL
        for (size_t i = 0; i < V16_EXPS; ++i) largest[i] = v16_max(largest[i], v16_load(p + i * ld + j));
    }
    HYB_UNROLL
    for (size_t i = 0; i < V16_EXPS; ++i) {
        max[i] = v16_reduce_max(largest[i]);
        largest[i] = v16_set1(max[i]);
    }
    for (size_t j = 0; j <= last; j += HYB_LANES) {
        HYB_UNROLL
        for (size_t i = 0; i < V16_EXPS; ++i) e[i] = v16_sub(v16_load(p + i * ld + j), largest[i]);
        v16_exp2_fused_all(e, V16_EXPS);
        HYB_UNROLL
        for (size_t i = 0; i < V16_EXPS; ++i) {
            if (j == last) e[i] = v16_keep(n + i - last, e[i]);
            v16_store(p + i * ld + j, e[i]);
            sum[i] = v16_add(sum[i], e[i]);
        }
    }
    HYB_UNROLL
    for (size_t i = 0; i < V16_EXPS; ++i) r[i] = 1.0f / v16_reduce_add(sum[i]);
}

SIMD_TARGET void SIMD_NAME(attention_training)(const hyb_attention_training_job *job) {
    size_t n = job->n, n_padded = HYB_ROUND_UP_16(n), head_dim = job->head_dim, depth = HYB_ROUND_UP_16(head_dim);
    size_t ld = n_padded + HYB_LANES; /* no multiple of 4 KiB */
    float *key_columns = job->scratch, *value_rows = key_columns + n_padded * depth;
    float *q = value_rows + n_padded * depth, *out = q + HYB_ATTENTION_TRAINING_ROWS * depth;
    float *p = out + HYB_ATTENTION_TRAINING_ROWS * depth;
    for (size_t j = 0; j < n; j += HYB_LANES) {
        attention_columns(job->keys + j * job->ld_k, job->ld_k, hyb_min_size(HYB_LANES, n - j), head_dim,
                          key_columns + j * depth);
    }
    attention_copy_rows(job->values, job->ld_k, n, n_padded, head_dim, depth, value_rows);
    for (size_t first = 0; first < n; first += HYB_ATTENTION_TRAINING_ROWS) {
        float max[HYB_ATTENTION_TRAINING_ROWS], r[HYB_ATTENTION_TRAINING_ROWS];
        size_t rows = hyb_min_size(HYB_ATTENTION_TRAINING_ROWS, n - first), at = first * job->ld_q;
        attention_copy_queries(job->q + at, job->ld_q, rows, head_dim, depth, job->scale * ATTENTION_LOG2_E, q);
        attention_tile t = {.k = head_dim, .a = q, .b = key_columns, .c = p, .ldc = ld};
        attention_scores_of_rows(&t, first, rows, n, depth, ATTENTION_STORE);
        attention_fetch_rows(job->out + at, job->ld_q, rows, head_dim);
        for (size_t i = 0; i < rows; i += V16_EXPS) { /* rows behind the end are zeros: harmless */
            attention_exp_rows(p + i * ld, ld, first + i + 1, max + i, r + i);
        }
        memset(out, 0, HYB_ROUND_UP_16(rows) * depth * sizeof *out);
        attention_rows_of_keys(p, ld, value_rows, first, rows, n, depth, out);
        attention_put_rows(out, rows, head_dim, depth, r, 1, 0, job->out + at, job->ld_q);
        for (size_t i = 0; i < rows; ++i) {
            job->softmax[(first + i) * job->ld_softmax] = max[i];
            job->softmax[(first + i) * job->ld_softmax + 1] = r[i];
        }
    }
}
