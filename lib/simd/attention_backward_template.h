/* attention_backward_template.h - gradients of causal attention of one head over v16, RELAXED. Included by
 * vector_template.h behind attention_training_template.h, whose tiles it is made of.
 *
 * One sweep: what the forward pass kept makes probabilities of a tile of scores, and gradients of scores of the tile of
 * dO V^T behind it, while both are in registers. Factors that a whole row shares are taken out: dO comes times the
 * reciprocal sum of its row, so that exponentials serve as probabilities; Q comes times scale log2(e), which dK divides
 * out again, and dS without the scale.
 */

/* One head, copied so that tiles can read and write whole vectors: rows padded to `depth`, their number to 16. */
typedef struct attention_head {
    size_t n, n_padded, head_dim, depth;
    float *key_columns, *value_columns;      /* [n_padded / 16][depth][16] */
    float *key_rows;                         /* [n_padded][depth] */
    float *d_key_rows, *d_value_rows;        /* [n_padded][depth] */
    float *q, *d_out, *d_q;                  /* [HYB_ATTENTION_TRAINING_ROWS][depth] */
    float *p, *ds;                           /* [HYB_ATTENTION_TRAINING_ROWS][ld] */
    float max[HYB_ATTENTION_TRAINING_ROWS];  /* of the scores */
    float mean[HYB_ATTENTION_TRAINING_ROWS]; /* D times the reciprocal sum */
    size_t ld;
} attention_head;

static SIMD_TARGET void attention_pack_head(const hyb_attention_backward_job *job, attention_head *h) {
    h->n = job->n;
    h->head_dim = job->head_dim;
    h->n_padded = HYB_ROUND_UP_16(job->n);
    h->depth = HYB_ROUND_UP_16(job->head_dim);
    h->ld = h->n_padded + HYB_LANES; /* no multiple of 4 KiB */
    size_t size = h->n_padded * h->depth, block = HYB_ATTENTION_TRAINING_ROWS * h->depth;
    h->key_columns = job->scratch;
    h->value_columns = h->key_columns + size;
    h->key_rows = h->value_columns + size;
    h->d_key_rows = h->key_rows + size;
    h->d_value_rows = h->d_key_rows + size;
    h->q = h->d_value_rows + size;
    h->d_out = h->q + block;
    h->d_q = h->d_out + block;
    h->p = h->d_q + block;
    h->ds = h->p + HYB_ATTENTION_TRAINING_ROWS * h->ld;
    for (size_t j = 0; j < h->n; j += HYB_LANES) {
        size_t n = hyb_min_size(HYB_LANES, h->n - j);
        attention_columns(job->keys + j * job->ld_k, job->ld_k, n, h->head_dim, h->key_columns + j * h->depth);
        attention_columns(job->values + j * job->ld_k, job->ld_k, n, h->head_dim, h->value_columns + j * h->depth);
    }
    attention_copy_rows(job->keys, job->ld_k, h->n, h->n_padded, h->head_dim, h->depth, h->key_rows);
    memset(h->d_key_rows, 0, 2 * size * sizeof(float));
}

/* `rows` queries from `first`: their gradients times the reciprocal sums, and what the sweep begins its sums with. */
static SIMD_TARGET void attention_pack_rows(const hyb_attention_backward_job *job, size_t first, size_t rows,
                                            attention_head *h) {
    enum { AHEAD = 16 };
    size_t ld = job->ld_q, n_padded = HYB_ROUND_UP_16(rows);
    const float *out = job->out + first * ld, *d_out = job->d_out + first * ld;
    const float *softmax = job->softmax + first * job->ld_softmax;
    float *to = h->d_out;
    attention_copy_queries(job->q + first * ld, ld, rows, h->head_dim, h->depth, job->scale * ATTENTION_LOG2_E, h->q);
    for (size_t i = 0; i < rows; ++i, out += ld, d_out += ld, softmax += job->ld_softmax, to += h->depth) {
        v16 sum = v16_zero(), r = v16_set1(softmax[1]);
        for (size_t d = 0; d < h->head_dim; d += HYB_LANES) {
            HYB_PREFETCH(out + AHEAD * ld + d);
            HYB_PREFETCH(d_out + AHEAD * ld + d);
            size_t n = hyb_min_size(HYB_LANES, h->head_dim - d);
            v16 x = v16_mul(r, v16_get(d_out + d, n));
            v16_store(to + d, x);
            sum = v16_fma(x, v16_get(out + d, n), sum);
        }
        h->max[i] = softmax[0];
        h->mean[i] = v16_reduce_add(sum);
    }
    memset(to, 0, (n_padded - rows) * h->depth * sizeof *to);
    for (size_t i = rows; i < n_padded; ++i) h->max[i] = h->mean[i] = 0.0f;
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
        attention_tiles_add_by_columns(t, vectors);
        t.a = h->ds + skip * h->ld + j;
        t.b = h->q + skip * h->depth;
        t.c = h->d_key_rows + j * h->depth;
        attention_tiles_add_by_columns(t, vectors);
    }
}

SIMD_TARGET void SIMD_NAME(attention_backward)(const hyb_attention_backward_job *job) {
    const float one = 1.0f, log_2 = 1.0f / ATTENTION_LOG2_E;
    attention_head h;
    attention_pack_head(job, &h);
    for (size_t first = 0; first < h.n; first += HYB_ATTENTION_TRAINING_ROWS) {
        size_t rows = hyb_min_size(HYB_ATTENTION_TRAINING_ROWS, h.n - first), at = first * job->ld_q;
        attention_pack_rows(job, first, rows, &h);
        attention_tile t = {.k = h.head_dim, .ldc = h.ld};
        t.a = h.q;
        t.b = h.key_columns;
        t.c = h.p;
        t.start = h.max;
        attention_scores_of_rows(&t, first, rows, h.depth, ATTENTION_EXP);
        t.a = h.d_out;
        t.b = h.value_columns;
        t.c = h.ds;
        t.p = h.p;
        t.start = h.mean;
        attention_scores_of_rows(&t, first, rows, h.depth, ATTENTION_TIMES);
        attention_rows_of_keys(h.ds, h.ld, h.key_rows, first, rows, h.depth, h.d_q);
        attention_fetch_rows(job->d_q + at, job->ld_q, rows, h.head_dim);
        attention_backward_keys(&h, first, rows);
        attention_put_rows(h.d_q, rows, h.head_dim, h.depth, &job->scale, 0, 0, job->d_q + at, job->ld_q);
    }
    attention_put_rows(h.d_key_rows, h.n, h.head_dim, h.depth, &log_2, 0, job->accumulate, job->d_keys, job->ld_k);
    attention_put_rows(h.d_value_rows, h.n, h.head_dim, h.depth, &one, 0, job->accumulate, job->d_values, job->ld_k);
}
