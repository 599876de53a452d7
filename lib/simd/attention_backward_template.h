/* attention_backward_template.h - gradients of causal attention of one head over v16, RELAXED. Included by
 * vector_template.h behind attention_training_template.h, whose tiles it is made of.
 *
 * Blocks of keys, and within them blocks of the queries that see them: all that a pair of blocks needs stays in cache.
 * One sweep: what the forward pass kept makes probabilities of a tile of scores, and gradients of scores of a tile of
 * dO V^T, while it is in registers. Factors that a whole row shares are taken out: dO comes times the reciprocal sum of
 * its row, so that exponentials serve as probabilities; Q comes times scale log2(e), which dK divides out again, and dS
 * without the scale. Against the portable kernel (Cascade Lake, 128 positions): 26 to 36 times as fast with AVX-512, 17
 * to 23 with AVX2.
 */
enum { ATTENTION_BLOCK = HYB_ATTENTION_TRAINING_ROWS, ATTENTION_BLOCK_LD = HYB_ATTENTION_TRAINING_ROWS + HYB_LANES };

/* One head, copied so that tiles can read and write whole vectors: rows padded to `depth`, their number to 16. */
typedef struct attention_head {
    size_t n, n_padded, head_dim, depth;
    float *q, *d_out, *d_q;                      /* [n_padded][depth] */
    float *max, *mean;                           /* [n_padded] of the scores; D times the reciprocal sum */
    float *key_columns, *value_columns;          /* [ATTENTION_BLOCK / 16][depth][16] */
    float *key_rows, *d_key_rows, *d_value_rows; /* [ATTENTION_BLOCK][depth] */
    float *p, *ds;                               /* [ATTENTION_BLOCK][ATTENTION_BLOCK_LD] */
} attention_head;

static SIMD_TARGET attention_head attention_lay_out(const hyb_attention_backward_job *job) {
    attention_head h = {.n = job->n, .head_dim = job->head_dim};
    h.n_padded = HYB_ROUND_UP_16(job->n);
    h.depth = HYB_ROUND_UP_16(job->head_dim);
    size_t size = h.n_padded * h.depth, block = ATTENTION_BLOCK * h.depth;
    h.q = job->scratch;
    h.d_out = h.q + size;
    h.d_q = h.d_out + size;
    h.key_columns = h.d_q + size;
    h.value_columns = h.key_columns + block;
    h.key_rows = h.value_columns + block;
    h.d_key_rows = h.key_rows + block;
    h.d_value_rows = h.d_key_rows + block;
    h.p = h.d_value_rows + block;
    h.ds = h.p + ATTENTION_BLOCK * ATTENTION_BLOCK_LD;
    h.max = h.ds + ATTENTION_BLOCK * ATTENTION_BLOCK_LD;
    h.mean = h.max + h.n_padded;
    return h;
}

/* Queries; gradients of the output times the reciprocal sums; and what the sweep begins its sums with. */
static SIMD_TARGET void attention_pack_queries(const hyb_attention_backward_job *job, const attention_head *h) {
    enum { AHEAD = 16 };
    size_t ld = job->ld_q;
    const float *q = job->q, *out = job->out, *d_out = job->d_out, *softmax = job->softmax;
    float *to_q = h->q, *to = h->d_out;
    v16 factor = v16_set1(job->scale * ATTENTION_LOG2_E);
    for (size_t i = 0; i < h->n; ++i) {
        v16 sum = v16_zero(), r = v16_set1(softmax[1]);
        for (size_t d = 0; d < h->head_dim; d += HYB_LANES) {
            HYB_PREFETCH(q + AHEAD * ld + d);
            HYB_PREFETCH(out + AHEAD * ld + d);
            HYB_PREFETCH(d_out + AHEAD * ld + d);
            size_t n = hyb_min_size(HYB_LANES, h->head_dim - d);
            v16 x = v16_mul(r, v16_get(d_out + d, n));
            v16_store(to_q + d, v16_mul(factor, v16_get(q + d, n)));
            v16_store(to + d, x);
            sum = v16_fma(x, v16_get(out + d, n), sum);
        }
        h->max[i] = softmax[0];
        h->mean[i] = v16_reduce_add(sum);
        q += ld;
        out += ld;
        d_out += ld;
        softmax += job->ld_softmax;
        to_q += h->depth;
        to += h->depth;
    }
    memset(to_q, 0, (h->n_padded - h->n) * h->depth * sizeof *to);
    memset(to, 0, (h->n_padded - h->n) * h->depth * sizeof *to);
    for (size_t i = h->n; i < h->n_padded; ++i) h->max[i] = h->mean[i] = 0.0f;
    memset(h->d_q, 0, h->n_padded * h->depth * sizeof *h->d_q);
}

/* Keys and values of a block. */
static SIMD_TARGET void attention_pack_keys(const hyb_attention_backward_job *job, size_t first, size_t n_keys,
                                            const attention_head *h) {
    const float *keys = job->keys + first * job->ld_k, *values = job->values + first * job->ld_k;
    size_t depth = h->depth;
    attention_copy_rows(keys, job->ld_k, n_keys, HYB_ROUND_UP_16(n_keys), h->head_dim, depth, h->key_rows);
    for (size_t j = 0; j < n_keys; j += HYB_LANES) {
        size_t n = hyb_min_size(HYB_LANES, n_keys - j);
        attention_columns(h->key_rows + j * depth, depth, n, h->head_dim, h->key_columns + j * depth);
        attention_columns(values + j * job->ld_k, job->ld_k, n, h->head_dim, h->value_columns + j * depth);
    }
    memset(h->d_key_rows, 0, ATTENTION_BLOCK * depth * sizeof(float));
    memset(h->d_value_rows, 0, ATTENTION_BLOCK * depth * sizeof(float));
}

/* What `rows` queries from `first` and the block of n_keys keys from `first_key` give each other. */
static SIMD_TARGET void attention_backward_blocks(const attention_head *h, size_t first, size_t rows, size_t first_key,
                                                  size_t n_keys) {
    size_t position = first - first_key, depth = h->depth, vectors = depth / HYB_LANES;
    attention_tile t = {.k = h->head_dim, .ldc = ATTENTION_BLOCK_LD};
    t.a = h->q + first * depth;
    t.b = h->key_columns;
    t.c = h->p;
    t.start = h->max + first;
    attention_scores_of_rows(&t, position, rows, n_keys, depth, ATTENTION_EXP);
    t.a = h->d_out + first * depth;
    t.b = h->value_columns;
    t.c = h->ds;
    t.p = h->p;
    t.start = h->mean + first;
    attention_scores_of_rows(&t, position, rows, n_keys, depth, ATTENTION_TIMES);
    attention_rows_of_keys(h->ds, ATTENTION_BLOCK_LD, h->key_rows, position, rows, n_keys, depth,
                           h->d_q + first * depth);
    for (size_t j = 0; j < n_keys; j += ATTENTION_TILE_ROWS) {
        size_t skip = j > position ? j - position : 0; /* queries before the keys */
        if (skip >= rows) break;
        attention_tile u = {.k = rows - skip, .a_row = 1, .a_col = ATTENTION_BLOCK_LD, .b_row = depth, .ldc = depth};
        u.b_vector = HYB_LANES;
        u.a = h->p + skip * ATTENTION_BLOCK_LD + j;
        u.b = h->d_out + (first + skip) * depth;
        u.c = h->d_value_rows + j * depth;
        attention_tiles_add_by_columns(u, vectors);
        u.a = h->ds + skip * ATTENTION_BLOCK_LD + j;
        u.b = h->q + (first + skip) * depth;
        u.c = h->d_key_rows + j * depth;
        attention_tiles_add_by_columns(u, vectors);
    }
}

SIMD_TARGET void SIMD_NAME(attention_backward)(const hyb_attention_backward_job *job) {
    const float one = 1.0f, log_2 = 1.0f / ATTENTION_LOG2_E;
    attention_head h = attention_lay_out(job);
    size_t n = h.n, width = h.head_dim, ld = job->ld_k;
    attention_pack_queries(job, &h);
    for (size_t key = 0; key < n; key += ATTENTION_BLOCK) {
        size_t n_keys = hyb_min_size(ATTENTION_BLOCK, n - key);
        attention_pack_keys(job, key, n_keys, &h);
        for (size_t first = key; first < n; first += ATTENTION_BLOCK) {
            attention_backward_blocks(&h, first, hyb_min_size(ATTENTION_BLOCK, n - first), key, n_keys);
        }
        attention_put_rows(h.d_key_rows, n_keys, width, h.depth, &log_2, 0, job->accumulate, job->d_keys + key * ld,
                           ld);
        attention_put_rows(h.d_value_rows, n_keys, width, h.depth, &one, 0, job->accumulate, job->d_values + key * ld,
                           ld);
        /* The block's own queries are through: no later key is seen by them. */
        attention_put_rows(h.d_q + key * h.depth, n_keys, width, h.depth, &job->scale, 0, 0, job->d_q + key * job->ld_q,
                           job->ld_q);
    }
}
