/* attention_template.h - causal attention over v16, EXACT: one query (decoding), and a block of queries of a head
 * (evaluation, prompts). Included by vector_template.h.
 *
 * A block turns 16 keys at a time into columns: then the 16 virtual lanes of a dot product are 16 vectors, each with
 * a key in every SIMD lane, and their sum needs no shuffles. Several queries share the loads of keys and of values.
 * Against query by query (Cascade Lake, 128 to 512 keys): 2 to 3 times as fast with AVX-512, 1.3 to 1.9 with AVX2.
 * ATTENTION_SCORE_QUERIES; ATTENTION_VALUE_QUERIES (at most V16_EXPS), ATTENTION_VALUE_VECTORS: the tiles that the
 * registers hold.
 */
#ifndef ATTENTION_SCORE_QUERIES
#define ATTENTION_SCORE_QUERIES 2
#define ATTENTION_VALUE_QUERIES 2
#define ATTENTION_VALUE_VECTORS 2
#endif

/* ---- one query ---- */

/* Lane sums of q k_j for V16_KEYS keys at once: independent chains of additions hide their latency. */
V16_FUNCTION void v16_key_lanes(const hyb_attention_job *job, size_t first, v16 *lanes) {
    const float *keys = job->keys + first * job->ld;
    v16 sum[V16_KEYS];
    size_t d = 0;
    HYB_UNROLL
    for (int j = 0; j < V16_KEYS; ++j) sum[j] = v16_zero();
    for (; d + HYB_LANES <= job->head_dim; d += HYB_LANES) {
        v16 q = v16_load(job->q + d);
        HYB_UNROLL
        for (int j = 0; j < V16_KEYS; ++j) {
            sum[j] = v16_add(sum[j], v16_mul(q, v16_load(keys + (size_t)j * job->ld + d)));
        }
    }
    if (d < job->head_dim) {
        size_t n = job->head_dim - d;
        v16 q = v16_load_part(job->q + d, n);
        HYB_UNROLL
        for (int j = 0; j < V16_KEYS; ++j) {
            sum[j] = v16_add(sum[j], v16_mul(q, v16_load_part(keys + (size_t)j * job->ld + d, n)));
        }
    }
    HYB_UNROLL
    for (int j = 0; j < V16_KEYS; ++j) lanes[j] = sum[j];
}

V16_FUNCTION void v16_scores(const hyb_attention_job *job) {
    size_t j = 0;
    for (; j + HYB_LANES <= job->n_keys; j += HYB_LANES) {
        v16 lanes[HYB_LANES];
        for (size_t part = 0; part < HYB_LANES; part += V16_KEYS) v16_key_lanes(job, j + part, lanes + part);
        v16_store(job->probabilities + j, v16_mul(v16_reduce_add_16(lanes), v16_set1(job->scale)));
    }
    for (; j < job->n_keys; ++j) {
        job->probabilities[j] = v16_dot(job->q, job->keys + j * job->ld, job->head_dim) * job->scale;
    }
}

/* out[0 .. 16 n_vectors) = r * sum_j p_j v_j, one accumulator per element; the last vector has n_last lanes. */
V16_FUNCTION void v16_weighted_values(const hyb_attention_job *job, size_t d, size_t n_vectors, size_t n_last,
                                      float r) {
    v16 sum[V16_VALUES];
    const float *value = job->values + d;
    HYB_UNROLL
    for (size_t i = 0; i < V16_VALUES; ++i) sum[i] = v16_zero();
    for (size_t j = 0; j < job->n_keys; ++j, value += job->ld) {
        v16 p = v16_set1(job->probabilities[j]);
        HYB_UNROLL
        for (size_t i = 0; i < V16_VALUES; ++i) {
            if (i >= n_vectors) continue;
            size_t n = i + 1 == n_vectors ? n_last : HYB_LANES;
            sum[i] = v16_add(sum[i], v16_mul(p, v16_get(value + HYB_LANES * i, n)));
        }
    }
    HYB_UNROLL
    for (size_t i = 0; i < V16_VALUES; ++i) {
        if (i >= n_vectors) continue;
        size_t n = i + 1 == n_vectors ? n_last : HYB_LANES;
        v16_put(job->out + d + HYB_LANES * i, n, v16_mul(sum[i], v16_set1(r)));
    }
}

SIMD_TARGET void SIMD_NAME(attention)(const hyb_attention_job *job) {
    float *p = job->probabilities;
    v16_scores(job);
    float sum = v16_exp_sum(p, job->n_keys, SIMD_NAME(max_f32)(p, job->n_keys), p);
    float r = 1.0f / sum;
    size_t d = 0;
    for (; d + V16_VALUES * HYB_LANES <= job->head_dim; d += V16_VALUES * HYB_LANES) {
        v16_weighted_values(job, d, V16_VALUES, HYB_LANES, r);
    }
    for (; d + 2 * HYB_LANES <= job->head_dim; d += 2 * HYB_LANES) v16_weighted_values(job, d, 2, HYB_LANES, r);
    for (; d + HYB_LANES <= job->head_dim; d += HYB_LANES) v16_weighted_values(job, d, 1, HYB_LANES, r);
    if (d < job->head_dim) v16_weighted_values(job, d, 1, job->head_dim - d, r);
    SIMD_NAME(scale_f32)(p, p, job->n_keys, r);
}

/* ---- a block of queries: scores ---- */

/* Columns of 16 keys, [head_dim][16]; keys behind the first n_keys become zeros. */
V16_FUNCTION void attention_columns(const float *keys, size_t ld, size_t n_keys, size_t head_dim, float *columns) {
    for (size_t d = 0; d < head_dim; d += HYB_LANES) {
        size_t n = hyb_min_size(HYB_LANES, head_dim - d);
        v16 x[HYB_LANES];
        if (n == HYB_LANES && n_keys == HYB_LANES) {
            HYB_UNROLL
            for (size_t j = 0; j < HYB_LANES; ++j) {
                x[j] = v16_load(keys + j * ld + d);
                HYB_PREFETCH(keys + (j + HYB_LANES) * ld + d);
            }
            v16_transpose(x);
            HYB_UNROLL
            for (size_t j = 0; j < HYB_LANES; ++j) v16_store(columns + (d + j) * HYB_LANES, x[j]);
        } else {
            for (size_t j = 0; j < HYB_LANES; ++j) x[j] = j < n_keys ? v16_load_part(keys + j * ld + d, n) : v16_zero();
            v16_transpose(x);
            for (size_t j = 0; j < n; ++j) v16_store(columns + (d + j) * HYB_LANES, x[j]);
        }
    }
}

/* Lanes l, l + 4, l + 8, l + 12 of the dot products of n_queries queries (a constant) and 16 keys, added as the tree
 * has it. A lane begins with its first product, not with +0: that changes a zero's sign at most, which the softmax does
 * not see. */
V16_FUNCTION void attention_lane_fours(const float *columns, const float *q, size_t ld_q, size_t n_queries,
                                       size_t head_dim, size_t l, v16 *fours) {
    v16 lanes[4][ATTENTION_SCORE_QUERIES];
    HYB_UNROLL
    for (size_t t = 0; t < 4; ++t) {
        v16 keys = l + 4 * t < head_dim ? v16_load(columns + (l + 4 * t) * HYB_LANES) : v16_zero();
        HYB_UNROLL
        for (size_t i = 0; i < n_queries; ++i) {
            lanes[t][i] = l + 4 * t < head_dim ? v16_mul(keys, v16_set1(q[i * ld_q + l + 4 * t])) : v16_zero();
        }
    }
    size_t d = l + HYB_LANES;
    for (; d + 12 < head_dim; d += HYB_LANES) {
        HYB_UNROLL
        for (size_t t = 0; t < 4; ++t) {
            v16 keys = v16_load(columns + (d + 4 * t) * HYB_LANES);
            HYB_UNROLL
            for (size_t i = 0; i < n_queries; ++i) {
                lanes[t][i] = v16_add(lanes[t][i], v16_mul(keys, v16_set1(q[i * ld_q + d + 4 * t])));
            }
        }
    }
    HYB_UNROLL
    for (size_t t = 0; t < 3; ++t) {
        if (d + 4 * t >= head_dim) continue;
        v16 keys = v16_load(columns + (d + 4 * t) * HYB_LANES);
        HYB_UNROLL
        for (size_t i = 0; i < n_queries; ++i) {
            lanes[t][i] = v16_add(lanes[t][i], v16_mul(keys, v16_set1(q[i * ld_q + d + 4 * t])));
        }
    }
    HYB_UNROLL
    for (size_t i = 0; i < n_queries; ++i) {
        fours[i] = v16_add(v16_add(lanes[0][i], lanes[2][i]), v16_add(lanes[1][i], lanes[3][i]));
    }
}

/* Scores of n_queries queries (a constant) and 16 keys. The loop over l must not unroll: compilers then load everything
 * first and run out of registers. */
V16_FUNCTION void attention_score_tile(const float *columns, const float *q, size_t ld_q, size_t n_queries,
                                       size_t head_dim, float scale, float *scores, size_t ld_scores) {
    v16 fours[4][ATTENTION_SCORE_QUERIES];
    HYB_NO_UNROLL
    for (size_t l = 0; l < 4; ++l) attention_lane_fours(columns, q, ld_q, n_queries, head_dim, l, fours[l]);
    HYB_UNROLL
    for (size_t i = 0; i < n_queries; ++i) {
        v16 sum = v16_add(v16_add(fours[0][i], fours[2][i]), v16_add(fours[1][i], fours[3][i]));
        v16_store(scores + i * ld_scores, v16_mul(sum, v16_set1(scale)));
    }
}

/* Scores of the queries from `first` and 16 keys. */
static SIMD_TARGET void attention_scores(const hyb_attention_block_job *job, size_t first, const float *columns,
                                         const float *q, float *scores, size_t ld_scores) {
    size_t head_dim = job->head_dim, i = first, n_queries = job->n_queries;
    float scale = job->scale;
    q += first * head_dim;
    scores += first * ld_scores;
    for (; i + ATTENTION_SCORE_QUERIES <= n_queries; i += ATTENTION_SCORE_QUERIES) {
        attention_score_tile(columns, q, head_dim, ATTENTION_SCORE_QUERIES, head_dim, scale, scores, ld_scores);
        q += ATTENTION_SCORE_QUERIES * head_dim;
        scores += ATTENTION_SCORE_QUERIES * ld_scores;
    }
    for (; i < n_queries; ++i, q += head_dim, scores += ld_scores) {
        attention_score_tile(columns, q, head_dim, 1, head_dim, scale, scores, ld_scores);
    }
}

/* n rows of head_dim side by side, zeros behind them up to n_padded rows and depth. Rows of one head are far apart in
 * memory, often by a power of two: they compete for a few cache sets, and the hardware does not foresee them. */
V16_FUNCTION void attention_copy_rows(const float *x, size_t ld, size_t n, size_t n_padded, size_t head_dim,
                                      size_t depth, float *rows) {
    enum { AHEAD = 16 };
    for (size_t i = 0; i < n; ++i, rows += depth, x += ld) {
        for (size_t d = 0; d < head_dim; d += HYB_LANES) {
            HYB_PREFETCH(x + AHEAD * ld + d);
            v16_store(rows + d, v16_get(x + d, hyb_min_size(HYB_LANES, head_dim - d)));
        }
    }
    memset(rows, 0, (n_padded - n) * depth * sizeof *rows);
}

/* Scores of all queries; those behind a query's own position are of no use. */
static SIMD_TARGET void attention_block_scores(const hyb_attention_block_job *job, float *scores, size_t ld_scores) {
    size_t n_keys = job->first_position + job->n_queries;
    /* Side by side: rows that are 1 KiB or more apart compete for a few cache sets. */
    float *q = scores + job->n_queries * ld_scores;
    for (size_t i = 0; i < job->n_queries; ++i) {
        memcpy(q + i * job->head_dim, job->q + i * job->ld_q, job->head_dim * sizeof *q);
    }
    for (size_t j = 0; j < n_keys; j += HYB_LANES) {
        size_t first = j > job->first_position ? j - job->first_position : 0; /* the first query that sees key j */
        float *columns = job->scratch;
        first -= first % ATTENTION_SCORE_QUERIES; /* whole tiles */
        attention_columns(job->keys + j * job->ld, job->ld, hyb_min_size(HYB_LANES, n_keys - j), job->head_dim,
                          columns);
        attention_scores(job, first, columns, q, scores + j, ld_scores);
    }
}

/* ---- a block of queries: values ---- */

/* Like v16_weighted_values for n_queries queries: all see n_keys keys, each one more than the one before it. */
V16_FUNCTION void attention_value_tile(const hyb_attention_block_job *job, size_t query, size_t n_queries,
                                       const float *p, size_t ld_p, const float *r, size_t d, size_t n_vectors,
                                       size_t n_last) {
    v16 sum[ATTENTION_VALUE_QUERIES][ATTENTION_VALUE_VECTORS], x[ATTENTION_VALUE_VECTORS];
    const float *value = job->values + d;
    size_t ld = job->ld, n_keys = job->first_position + query + 1;
    HYB_UNROLL
    for (size_t i = 0; i < n_queries; ++i) {
        HYB_UNROLL
        for (size_t v = 0; v < n_vectors; ++v) sum[i][v] = v16_zero();
    }
    for (size_t j = 0; j < n_keys; ++j, value += ld) {
        HYB_UNROLL
        for (size_t v = 0; v < n_vectors; ++v) {
            x[v] = v16_get(value + HYB_LANES * v, v + 1 == n_vectors ? n_last : HYB_LANES);
        }
        HYB_UNROLL
        for (size_t i = 0; i < n_queries; ++i) {
            v16 factor = v16_set1(p[i * ld_p + j]);
            HYB_UNROLL
            for (size_t v = 0; v < n_vectors; ++v) sum[i][v] = v16_add(sum[i][v], v16_mul(factor, x[v]));
        }
    }
    HYB_UNROLL
    for (size_t t = 1; t < n_queries; ++t, value += ld) {
        HYB_UNROLL
        for (size_t v = 0; v < n_vectors; ++v) {
            x[v] = v16_get(value + HYB_LANES * v, v + 1 == n_vectors ? n_last : HYB_LANES);
        }
        HYB_UNROLL
        for (size_t i = t; i < n_queries; ++i) {
            v16 factor = v16_set1(p[i * ld_p + n_keys + t - 1]);
            HYB_UNROLL
            for (size_t v = 0; v < n_vectors; ++v) sum[i][v] = v16_add(sum[i][v], v16_mul(factor, x[v]));
        }
    }
    HYB_UNROLL
    for (size_t i = 0; i < n_queries; ++i) {
        float *out = job->out + (query + i) * job->ld_q + d;
        HYB_UNROLL
        for (size_t v = 0; v < n_vectors; ++v) {
            v16_put(out + HYB_LANES * v, v + 1 == n_vectors ? n_last : HYB_LANES, v16_mul(sum[i][v], v16_set1(r[i])));
        }
    }
}

/* A tile over all of head_dim; n_queries is a constant. */
V16_FUNCTION void attention_value_row(const hyb_attention_block_job *job, size_t query, size_t n_queries,
                                      const float *p, size_t ld_p, const float *r) {
    size_t d = 0;
    for (; d + ATTENTION_VALUE_VECTORS * HYB_LANES <= job->head_dim; d += ATTENTION_VALUE_VECTORS * HYB_LANES) {
        attention_value_tile(job, query, n_queries, p, ld_p, r, d, ATTENTION_VALUE_VECTORS, HYB_LANES);
    }
#if ATTENTION_VALUE_VECTORS > 2
    for (; d + 2 * HYB_LANES <= job->head_dim; d += 2 * HYB_LANES) {
        attention_value_tile(job, query, n_queries, p, ld_p, r, d, 2, HYB_LANES);
    }
#endif
    for (; d + HYB_LANES <= job->head_dim; d += HYB_LANES) {
        attention_value_tile(job, query, n_queries, p, ld_p, r, d, 1, HYB_LANES);
    }
    if (d < job->head_dim) attention_value_tile(job, query, n_queries, p, ld_p, r, d, 1, job->head_dim - d);
}

/* Scores of n_queries rows (a constant), of which the first has n_keys and each one more than the one before it, become
 * exponentials; r receives the reciprocals of their sums. Row beside row, so that the chains of operations overlap. */
V16_FUNCTION void attention_softmax_rows(float *p, size_t ld_p, size_t n_queries, size_t n_keys, float *r) {
    v16 max[V16_EXPS], sum[V16_EXPS], e[V16_EXPS];
    size_t j = 0;
    HYB_UNROLL
    for (size_t i = 0; i < n_queries; ++i) {
        max[i] = v16_set1(SIMD_NAME(max_f32)(p + i * ld_p, n_keys + i));
        sum[i] = v16_zero();
    }
    for (; j + HYB_LANES <= n_keys; j += HYB_LANES) {
        HYB_UNROLL
        for (size_t i = 0; i < n_queries; ++i) e[i] = v16_sub(v16_load(p + i * ld_p + j), max[i]);
        v16_exp_all(e, n_queries);
        HYB_UNROLL
        for (size_t i = 0; i < n_queries; ++i) {
            v16_store(p + i * ld_p + j, e[i]);
            sum[i] = v16_add(sum[i], e[i]);
        }
    }
    for (; j < n_keys + n_queries - 1; j += HYB_LANES) { /* rows are long enough for a whole vector */
        HYB_UNROLL
        for (size_t i = 0; i < n_queries; ++i) e[i] = v16_sub(v16_load(p + i * ld_p + j), max[i]);
        v16_exp_all(e, n_queries);
        HYB_UNROLL
        for (size_t i = 0; i < n_queries; ++i) {
            size_t n = n_keys + i > j ? hyb_min_size(HYB_LANES, n_keys + i - j) : 0;
            v16_store(p + i * ld_p + j, e[i]);
            sum[i] = v16_add(sum[i], v16_keep(n, e[i]));
        }
    }
    HYB_UNROLL
    for (size_t i = 0; i < n_queries; ++i) r[i] = 1.0f / v16_reduce_add(sum[i]);
}

/* Values of heads so wide are copied side by side first: 1.2 times as fast with 128 and 512 keys, 0.93 with 64 and 128.
 */
#define ATTENTION_MIN_COPIED 96

SIMD_TARGET void SIMD_NAME(attention_block)(const hyb_attention_block_job *given) {
    hyb_attention_block_job side_by_side = *given, *job = &side_by_side;
    size_t ld_p = HYB_ROUND_UP_16(job->first_position + job->n_queries) + HYB_LANES; /* no multiple of 4 KiB */
    float *p = job->scratch + HYB_LANES * job->head_dim;
    attention_block_scores(job, p, ld_p);
    if (job->head_dim >= ATTENTION_MIN_COPIED && job->ld != job->head_dim) {
        size_t n_keys = job->first_position + job->n_queries, depth = HYB_ROUND_UP_16(job->head_dim);
        float *rows = p + job->n_queries * (ld_p + job->head_dim);
        attention_copy_rows(job->values, job->ld, n_keys, n_keys, job->head_dim, depth, rows);
        job->values = rows;
        job->ld = depth;
    }
    for (size_t i = 0; i < job->n_queries;) {
        size_t n_queries = hyb_min_size(ATTENTION_VALUE_QUERIES, job->n_queries - i);
        float r[ATTENTION_VALUE_QUERIES], *rows = p + i * ld_p;
        size_t n_keys = job->first_position + i + 1;
        if (n_queries < ATTENTION_VALUE_QUERIES) {
            n_queries = 1;
            attention_softmax_rows(rows, ld_p, 1, n_keys, r);
            attention_value_row(job, i, 1, rows, ld_p, r);
        } else {
            attention_softmax_rows(rows, ld_p, ATTENTION_VALUE_QUERIES, n_keys, r);
            attention_value_row(job, i, ATTENTION_VALUE_QUERIES, rows, ld_p, r);
        }
        i += n_queries;
    }
}
