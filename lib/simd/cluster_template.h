/* cluster_template.h - the kernels of K-means, written once over v16 (floats) and v8 (doubles). A file of lib/x86 or
 * lib/arm includes it once for each type, with CLUSTER_TYPE (f32, f64), CLUSTER_REAL, CLUSTER_VECTOR, CLUSTER_LANES,
 * CLUSTER_OP(op) (v16_op or v8_op), CLUSTER_WIDEN(p) (8 elements as v8), CLUSTER_VECTORS and CLUSTER_CENTROIDS: a tile
 * of so many vectors of points and centroids lives in registers; CLUSTER_NAME(op) and SIMD_TARGET.
 *
 * A tile is that of a matrix product: its sums begin at -|c|^2 / 2, and are compared instead of stored.
 */
#define CLUSTER_STATE CLUSTER_NAME(state)
/* Coordinates ahead that a tile asks memory for: 7 % faster than none for 10,000 x 64 points in 10 clusters (Cascade
 * Lake, AVX-512), no matter for larger tiles. */
#define CLUSTER_AHEAD 16

/* The largest two scores of each point of a panel so far, and whose the largest is. */
typedef struct CLUSTER_STATE {
    CLUSTER_REAL best[HYB_CLUSTER_PANEL], second[HYB_CLUSTER_PANEL], label[HYB_CLUSTER_PANEL];
} CLUSTER_STATE;

/* Scores of n centroids (a constant), `stride` apart from one coordinate to the next. */
V16_FUNCTION void CLUSTER_NAME(scores)(const CLUSTER_REAL *points, const CLUSTER_REAL *centroids, size_t stride,
                                       const CLUSTER_REAL *offsets, size_t d, size_t n,
                                       CLUSTER_VECTOR (*sum)[CLUSTER_VECTORS]) {
    HYB_UNROLL
    for (size_t c = 0; c < n; ++c) {
        HYB_UNROLL
        for (size_t v = 0; v < CLUSTER_VECTORS; ++v) sum[c][v] = CLUSTER_OP(set1)(offsets[c]);
    }
    for (size_t j = d; j > 0; --j, points += HYB_CLUSTER_PANEL, centroids += stride) {
        CLUSTER_VECTOR x[CLUSTER_VECTORS];
        for (size_t v = 0; v < CLUSTER_VECTORS; ++v) {
            HYB_PREFETCH(points + CLUSTER_AHEAD * HYB_CLUSTER_PANEL + v * CLUSTER_LANES);
        }
        HYB_UNROLL
        for (size_t v = 0; v < CLUSTER_VECTORS; ++v) x[v] = CLUSTER_OP(load)(points + v * CLUSTER_LANES);
        HYB_UNROLL
        for (size_t c = 0; c < n; ++c) {
            CLUSTER_VECTOR factor = CLUSTER_OP(set1)(centroids[c]);
            HYB_UNROLL
            for (size_t v = 0; v < CLUSTER_VECTORS; ++v) sum[c][v] = CLUSTER_OP(fma)(factor, x[v], sum[c][v]);
        }
    }
}

/* Lets n centroids, the first of which has number `first`, compete for the points from `at` on. */
V16_FUNCTION void CLUSTER_NAME(compete)(const CLUSTER_REAL *points, const CLUSTER_REAL *centroids, size_t stride,
                                        const CLUSTER_REAL *offsets, size_t d, size_t n, size_t first,
                                        CLUSTER_STATE *state, size_t at) {
    CLUSTER_VECTOR sum[CLUSTER_CENTROIDS][CLUSTER_VECTORS];
    CLUSTER_NAME(scores)(points + at, centroids, stride, offsets, d, n, sum);
    HYB_UNROLL
    for (size_t v = 0; v < CLUSTER_VECTORS; ++v, at += CLUSTER_LANES) {
        CLUSTER_VECTOR best = CLUSTER_OP(load)(state->best + at), second = CLUSTER_OP(load)(state->second + at);
        CLUSTER_VECTOR label = CLUSTER_OP(load)(state->label + at);
        HYB_UNROLL
        for (size_t c = 0; c < n; ++c) {
            label = CLUSTER_OP(pick)(label, sum[c][v], best, CLUSTER_OP(set1)((CLUSTER_REAL)(first + c)));
            second = CLUSTER_OP(max)(second, CLUSTER_OP(min)(best, sum[c][v]));
            best = CLUSTER_OP(max)(best, sum[c][v]);
        }
        CLUSTER_OP(store)(state->best + at, best);
        CLUSTER_OP(store)(state->second + at, second);
        CLUSTER_OP(store)(state->label + at, label);
    }
}

#define CLUSTER_CASE(count)                                                                                            \
    case count:                                                                                                        \
        for (size_t at = 0; at < HYB_CLUSTER_PANEL; at += CLUSTER_VECTORS * CLUSTER_LANES) {                           \
            CLUSTER_NAME(compete)(points, centroids, stride, offsets, d, count, first, state, at);                     \
        }                                                                                                              \
        break;

/* The same for all points of a panel, and n <= CLUSTER_CENTROIDS, which is no constant here. */
static SIMD_TARGET void CLUSTER_NAME(compete_panel)(const CLUSTER_REAL *points, const CLUSTER_REAL *centroids,
                                                    size_t stride, const CLUSTER_REAL *offsets, size_t d, size_t n,
                                                    size_t first, CLUSTER_STATE *state) {
    switch (n) {
        CLUSTER_CASE(1)
        CLUSTER_CASE(2)
        CLUSTER_CASE(3)
        CLUSTER_CASE(4)
        CLUSTER_CASE(5)
        CLUSTER_CASE(6)
#if CLUSTER_CENTROIDS > 6
        CLUSTER_CASE(7)
        CLUSTER_CASE(8)
        CLUSTER_CASE(9)
        CLUSTER_CASE(10)
        CLUSTER_CASE(11)
        CLUSTER_CASE(12)
#endif
    default:
        break;
    }
}

/* Labels and bounds of a panel from its scores. */
V16_FUNCTION void CLUSTER_NAME(finish)(const hyb_cluster_job *job, const CLUSTER_REAL *norms,
                                       const CLUSTER_STATE *state, size_t first) {
    /* Rounding to float and the square root move a bound by less than 2^-21 of it; upper bounds must not become 0. */
    const CLUSTER_VECTOR more = CLUSTER_OP(set1)((CLUSTER_REAL)(1 + 0x1p-21)),
                         tiny = CLUSTER_OP(set1)((CLUSTER_REAL)1e-37);
    const CLUSTER_VECTOR less = CLUSTER_OP(set1)((CLUSTER_REAL)(1 - 0x1p-21)), zero = CLUSTER_OP(set1)(0);
    const CLUSTER_VECTOR minus_two = CLUSTER_OP(set1)(-2), doubtful = CLUSTER_OP(set1)(-1);
    const CLUSTER_VECTOR error_norm = CLUSTER_OP(set1)((CLUSTER_REAL)job->error_norm);
    const CLUSTER_VECTOR error_constant = CLUSTER_OP(set1)((CLUSTER_REAL)job->error_constant);
    const CLUSTER_VECTOR error_square = CLUSTER_OP(set1)((CLUSTER_REAL)job->error_square);
    for (size_t at = 0; at < HYB_CLUSTER_PANEL; at += CLUSTER_LANES) {
        CLUSTER_VECTOR best = CLUSTER_OP(load)(state->best + at), second = CLUSTER_OP(load)(state->second + at);
        CLUSTER_VECTOR norm = CLUSTER_OP(load)(norms + at), lower = zero;
        CLUSTER_VECTOR error = CLUSTER_OP(fma)(error_norm, norm, error_constant);
        error = CLUSTER_OP(add)(error, error);
        if (job->upper != NULL) {
            CLUSTER_VECTOR square = CLUSTER_OP(mul)(norm, norm), slack = CLUSTER_OP(fma)(error_square, square, error);
            CLUSTER_VECTOR upper = CLUSTER_OP(add)(CLUSTER_OP(fma)(minus_two, best, square), slack);
            lower = CLUSTER_OP(sub)(CLUSTER_OP(fma)(minus_two, second, square), slack);
            upper = CLUSTER_OP(fma)(CLUSTER_OP(sqrt)(CLUSTER_OP(max)(zero, upper)), more, tiny);
            lower = CLUSTER_OP(mul)(CLUSTER_OP(sqrt)(CLUSTER_OP(max)(zero, lower)), less);
            CLUSTER_OP(store_f32)(job->upper + first + at, upper);
        }
        lower = CLUSTER_OP(pick)(doubtful, CLUSTER_OP(sub)(best, second), error, lower);
        CLUSTER_OP(store_f32)(job->lower + first + at, lower);
        CLUSTER_OP(store_i32)(job->labels + first + at, CLUSTER_OP(load)(state->label + at));
    }
}

SIMD_TARGET void CLUSTER_NAME(nearest)(const hyb_cluster_job *job) {
    CLUSTER_STATE states[HYB_CLUSTER_JOB_PANELS];
    const size_t d = job->d, panel_size = (d + 1) * HYB_CLUSTER_PANEL;
    const size_t n_blocks = hyb_ceil_div(job->k, HYB_CLUSTER_TILE), size = job->k / n_blocks;
    const size_t n_larger = job->k % n_blocks;
    const CLUSTER_REAL *panels = job->panels, *centroids = job->centroids, *offsets = job->offsets;
    /* So many blocks stay in the second-level cache while all panels pass by. */
    const size_t group = CLUSTER_CACHED_BYTES / (HYB_CLUSTER_TILE * d * sizeof(CLUSTER_REAL)) + 1;
    for (size_t i = 0; i < job->n_panels; ++i) {
        for (size_t l = 0; l < HYB_CLUSTER_PANEL; ++l) {
            states[i].best[l] = states[i].second[l] = -(CLUSTER_REAL)INFINITY;
            states[i].label[l] = 0;
        }
    }
    for (size_t block = 0; block < n_blocks; block += group) {
        for (size_t i = 0; i < job->n_panels; ++i) {
            for (size_t b = block; b < hyb_min_size(n_blocks, block + group); ++b) {
                size_t first = b * size + hyb_min_size(b, n_larger), n = size + (b < n_larger);
                for (size_t done = 0; done < n;) { /* in one go, or in halves */
                    size_t some = n <= CLUSTER_CENTROIDS ? n : done == 0 ? (n + 1) / 2 : n / 2;
                    CLUSTER_NAME(compete_panel)
                    (panels + i * panel_size, centroids + first * d + done, n, offsets + first + done, d, some,
                     first + done, &states[i]);
                    done += some;
                }
            }
        }
    }
    for (size_t i = 0; i < job->n_panels; ++i) {
        CLUSTER_NAME(finish)(job, panels + i * panel_size + d * HYB_CLUSTER_PANEL, &states[i], i * HYB_CLUSTER_PANEL);
    }
}

/* Distances of the points from `at` on to n centroids (a constant). */
V16_FUNCTION void CLUSTER_NAME(measure)(const hyb_cluster_job *job, const CLUSTER_REAL *points, size_t done, size_t n,
                                        size_t at, float *distances) {
    CLUSTER_VECTOR sum[CLUSTER_CENTROIDS][CLUSTER_VECTORS];
    const CLUSTER_REAL *centroids = job->centroids, *offsets = job->offsets;
    const CLUSTER_VECTOR scale = CLUSTER_OP(set1)((CLUSTER_REAL)job->scale);
    CLUSTER_NAME(scores)(points + at, centroids + done, job->k, offsets + done, job->d, n, sum);
    HYB_UNROLL
    for (size_t v = 0; v < CLUSTER_VECTORS; ++v, at += CLUSTER_LANES) {
        CLUSTER_VECTOR norm = CLUSTER_OP(load)(points + job->d * HYB_CLUSTER_PANEL + at);
        CLUSTER_VECTOR square = CLUSTER_OP(mul)(norm, norm);
        CLUSTER_VECTOR error = CLUSTER_OP(fma)(CLUSTER_OP(set1)((CLUSTER_REAL)job->error_norm), norm,
                                               CLUSTER_OP(set1)((CLUSTER_REAL)job->error_constant));
        error =
            CLUSTER_OP(fma)(CLUSTER_OP(set1)((CLUSTER_REAL)job->error_square), square, CLUSTER_OP(add)(error, error));
        error = CLUSTER_OP(mul)(error, CLUSTER_OP(set1)(32));
        HYB_UNROLL
        for (size_t c = 0; c < n; ++c) {
            CLUSTER_VECTOR distance = CLUSTER_OP(fma)(CLUSTER_OP(set1)(-2), sum[c][v], square);
            distance = CLUSTER_OP(pick)(CLUSTER_OP(set1)(-1), distance, error, CLUSTER_OP(mul)(distance, scale));
            CLUSTER_OP(store_f32)(distances + (done + c) * job->ld + at, distance);
        }
    }
}

SIMD_TARGET void CLUSTER_NAME(candidates)(const hyb_cluster_job *job) {
    const CLUSTER_REAL *points = job->panels;
    for (size_t i = 0; i < job->n_panels; ++i, points += (job->d + 1) * HYB_CLUSTER_PANEL) {
        float *distances = job->distances + i * HYB_CLUSTER_PANEL;
        for (size_t at = 0; at < HYB_CLUSTER_PANEL; at += CLUSTER_VECTORS * CLUSTER_LANES) {
            size_t done = 0;
            for (; done + 4 <= job->k; done += 4) CLUSTER_NAME(measure)(job, points, done, 4, at, distances);
            for (; done < job->k; ++done) CLUSTER_NAME(measure)(job, points, done, 1, at, distances);
        }
    }
}

/* ---- EXACT ---- */

SIMD_TARGET double CLUSTER_NAME(distance)(const void *a, const void *b, size_t n) {
    const CLUSTER_REAL *x = a, *y = b;
    double lanes[HYB_LANES];
    v8 low = v8_set1(0), high = low;
    size_t i = 0;
    for (; i + HYB_LANES <= n; i += HYB_LANES) {
        v8 p = v8_sub(CLUSTER_WIDEN(x + i), CLUSTER_WIDEN(y + i));
        v8 q = v8_sub(CLUSTER_WIDEN(x + i + 8), CLUSTER_WIDEN(y + i + 8));
        low = v8_add(low, v8_mul(p, p));
        high = v8_add(high, v8_mul(q, q));
    }
    v8_store(lanes, low);
    v8_store(lanes + 8, high);
    for (size_t l = 0; i < n; ++i, ++l) {
        double difference = (double)x[i] - (double)y[i];
        lanes[l] += difference * difference;
    }
    HYB_UNROLL
    for (size_t step = 8; step > 0; step /= 2) {
        HYB_UNROLL
        for (size_t l = 0; l < step; ++l) lanes[l] += lanes[l + step];
    }
    return lanes[0];
}

V16_FUNCTION void CLUSTER_NAME(add_row)(double *sum, size_t d, const CLUSTER_REAL *row, double weight, int weighted) {
    const v8 factor = v8_set1(weight);
    size_t j = 0;
    for (; j + 8 <= d; j += 8) {
        v8 x = CLUSTER_WIDEN(row + j);
        v8_store(sum + j, v8_add(v8_load(sum + j), weighted ? v8_mul(factor, x) : x));
    }
    for (; j < d; ++j) sum[j] += weighted ? weight * (double)row[j] : (double)row[j];
}

SIMD_TARGET void CLUSTER_NAME(add)(double *sums, size_t d, const void *rows, const int32_t *labels, const void *weights,
                                   size_t n) {
    const CLUSTER_REAL *row = rows, *weight = weights;
    if (weight == NULL) {
        for (size_t i = 0; i < n; ++i) CLUSTER_NAME(add_row)(sums + (size_t)labels[i] * d, d, row + i * d, 1, 0);
    } else {
        for (size_t i = 0; i < n; ++i) {
            CLUSTER_NAME(add_row)(sums + (size_t)labels[i] * d, d, row + i * d, (double)weight[i], 1);
        }
    }
}

#undef CLUSTER_STATE
#undef CLUSTER_AHEAD
#undef CLUSTER_CASE
