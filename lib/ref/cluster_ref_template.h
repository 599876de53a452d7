/* cluster_ref_template.h - the kernels of K-means in plain C, for the type REAL; kernels.h says what each does.
 * Included by cluster_ref.c once for each type, with REF(op) and ROOT (the type's square root).
 */
void REF(pack)(const void *const *rows, size_t n, size_t d, const void *centre, void *panel) {
    const REAL *middle = centre;
    REAL *target = panel;
    for (size_t i = 0; i < HYB_CLUSTER_PANEL; ++i) {
        const REAL *row = i < n ? rows[i] : NULL;
        REAL squares = 0;
        for (size_t j = 0; j < d; ++j) {
            REAL x = row != NULL ? row[j] - middle[j] : 0;
            REAL square = x * x;
            squares = squares + square;
            target[j * HYB_CLUSTER_PANEL + i] = x;
        }
        target[d * HYB_CLUSTER_PANEL + i] = ROOT(squares);
    }
}

void REF(add)(double *sums, size_t d, const void *rows, const int32_t *labels, const void *weights, size_t n) {
    const REAL *row = rows, *weight = weights;
    for (size_t i = 0; i < n; ++i, row += d) {
        double *sum = sums + (size_t)labels[i] * d;
        if (weight == NULL) {
            for (size_t j = 0; j < d; ++j) sum[j] += (double)row[j];
        } else {
            for (size_t j = 0; j < d; ++j) sum[j] += (double)weight[i] * (double)row[j];
        }
    }
}

double REF(distance)(const void *a, const void *b, size_t n) {
    const REAL *x = a, *y = b;
    double lanes[HYB_LANES] = {0};
    for (size_t i = 0; i < n; ++i) {
        double difference = (double)x[i] - (double)y[i];
        lanes[i % HYB_LANES] += difference * difference;
    }
    for (size_t step = HYB_LANES / 2; step > 0; step /= 2) {
        for (size_t l = 0; l < step; ++l) lanes[l] += lanes[l + step];
    }
    return lanes[0];
}

/* Score of centroid c of a block of `size`, for point p of a panel. */
static REAL REF(score)(const REAL *panel, size_t p, const REAL *block, size_t size, size_t c, size_t d, REAL offset) {
    REAL score = offset;
    for (size_t j = 0; j < d; ++j) score += panel[j * HYB_CLUSTER_PANEL + p] * block[j * size + c];
    return score;
}

/* The largest two scores of point p, and the label of the largest. */
static int32_t REF(best_two)(const hyb_cluster_job *job, const REAL *panel, size_t p, REAL *best, REAL *second) {
    const REAL *centroids = job->centroids, *offsets = job->offsets;
    const size_t n_blocks = hyb_ceil_div(job->k, HYB_CLUSTER_TILE);
    int32_t label = 0;
    *best = *second = -(REAL)INFINITY;
    for (size_t b = 0, first = 0; b < n_blocks; ++b) {
        size_t size = job->k / n_blocks + (b < job->k % n_blocks);
        for (size_t c = 0; c < size; ++c) {
            REAL score = REF(score)(panel, p, centroids + first * job->d, size, c, job->d, offsets[first + c]);
            if (score > *best) {
                *second = *best;
                *best = score;
                label = (int32_t)(first + c);
            } else if (score > *second) {
                *second = score;
            }
        }
        first += size;
    }
    return label;
}

void REF(nearest)(const hyb_cluster_job *job) {
    const REAL *panel = job->panels;
    for (size_t i = 0; i < job->n_panels * HYB_CLUSTER_PANEL; ++i) {
        size_t p = i % HYB_CLUSTER_PANEL;
        REAL best, second, norm = panel[job->d * HYB_CLUSTER_PANEL + p];
        job->labels[i] = REF(best_two)(job, panel, p, &best, &second);
        double error = 2 * (job->error_norm * (double)norm + job->error_constant), lower = 0;
        if (job->upper != NULL) {
            double square = (double)norm * (double)norm, slack = error + job->error_square * square;
            double above = square - 2 * (double)best + slack, below = square - 2 * (double)second - slack;
            /* Rounding to float moves a bound by less than 2^-21 of it; upper bounds must not become 0. */
            job->upper[i] = to_float(sqrt(above > 0 ? above : 0) * (1 + 0x1p-21) + 1e-37);
            lower = sqrt(below > 0 ? below : 0) * (1 - 0x1p-21);
        }
        job->lower[i] = (double)best - (double)second > error ? to_float(lower) : -1.0f;
        if (p == HYB_CLUSTER_PANEL - 1) panel += (job->d + 1) * HYB_CLUSTER_PANEL;
    }
}

void REF(candidates)(const hyb_cluster_job *job) {
    const REAL *panel = job->panels, *offsets = job->offsets;
    for (size_t i = 0; i < job->n_panels * HYB_CLUSTER_PANEL; ++i) {
        size_t p = i % HYB_CLUSTER_PANEL;
        double norm = (double)panel[job->d * HYB_CLUSTER_PANEL + p];
        double error = 2 * (job->error_norm * norm + job->error_constant) + job->error_square * norm * norm;
        for (size_t c = 0; c < job->k; ++c) {
            REAL score = REF(score)(panel, p, job->centroids, job->k, c, job->d, offsets[c]);
            double distance = norm * norm - 2 * (double)score;
            job->distances[c * job->ld + i] = distance > 32 * error ? to_float(distance * job->scale) : -1.0f;
        }
        if (p == HYB_CLUSTER_PANEL - 1) panel += (job->d + 1) * HYB_CLUSTER_PANEL;
    }
}
