/* compress_template.h - the kernels of gradient compression, written once in v16 operations. A file of lib/x86 or
 * lib/arm includes a v16_<isa>.h, defines what vector_template.h wants and six operations more, and then includes this
 * file:
 *   v16_where_above(a, t, x)     lanes of x where a > t, else +0
 *   v16_add_above(sum, a, t, x)  sum + that; sum is not -0
 *   v16_count_above(c, a, t)     c + 1 where a > t, in lanes of int32; v16_counts(c): the same as floats
 *   v16_ternary(x, t)            +-1 with the sign of x where |x| > t, else +0
 *   v16_store_digits(p, n, x)    the first n lanes, whole numbers from 0 to 255, as bytes
 */
#ifndef SIMD_NAME
#error "include through a file of lib/x86 or lib/arm"
#endif

V16_FUNCTION void v16_moments(const float *gradient, float *residual, size_t n, v16 *sums) {
    v16 g = v16_get(gradient, n), x = g;
    if (residual != NULL) {
        x = v16_add(v16_get(residual, n), g);
        v16_put(residual, n, x);
        sums[2] = v16_add(sums[2], v16_mul(g, g));
    }
    sums[0] = v16_add(sums[0], v16_abs(x));
    sums[1] = v16_add(sums[1], v16_mul(x, x));
}
SIMD_TARGET hyb_gradient_moments SIMD_NAME(gradient_moments)(const float *gradient, float *residual, size_t n) {
    v16 sums[3] = {v16_zero(), v16_zero(), v16_zero()};
    size_t i = 0;
    for (; i + HYB_LANES <= n; i += HYB_LANES)
        v16_moments(gradient + i, residual != NULL ? residual + i : NULL, HYB_LANES, sums);
    if (i < n) v16_moments(gradient + i, residual != NULL ? residual + i : NULL, n - i, sums);
    hyb_gradient_moments result = {v16_reduce_add(sums[0]), v16_reduce_add(sums[1]), 0};
    result.gradient_squares = residual != NULL ? v16_reduce_add(sums[2]) : result.squares;
    return result;
}

/* Four vectors of sums: 64 lanes. */
SIMD_TARGET float SIMD_NAME(sum_above_wide)(const float *x, size_t n, float threshold, size_t *n_above) {
    const v16 limit = v16_set1(threshold);
    v16 sums[4] = {v16_zero(), v16_zero(), v16_zero(), v16_zero()}, count = v16_zero(), rest = v16_zero();
    size_t i = 0;
    for (; i + HYB_WIDE_LANES <= n; i += HYB_WIDE_LANES) {
        HYB_UNROLL
        for (size_t j = 0; j < 4; ++j) {
            v16 a = v16_abs(v16_load(x + i + j * HYB_LANES));
            sums[j] = v16_add_above(sums[j], a, limit, a);
            count = v16_count_above(count, a, limit);
        }
    }
    HYB_UNROLL
    for (size_t j = 0; j < 4; ++j) {
        if (i >= n) break;
        size_t lanes = hyb_min_size(HYB_LANES, n - i);
        v16 a = v16_abs(v16_get(x + i, lanes));
        sums[j] = v16_add_above(sums[j], a, limit, a);
        rest = v16_add(rest, v16_keep(lanes, v16_counts(v16_count_above(v16_zero(), a, limit))));
        i += lanes;
    }
    *n_above = (size_t)v16_reduce_add(v16_add(v16_counts(count), rest)); /* exact: whole numbers below 2^24 */
    return v16_reduce_add(v16_add(v16_add(sums[0], sums[2]), v16_add(sums[1], sums[3])));
}

/* Sums of |x| above a block's threshold (all of them if it is below 0), and numbers, of up to 16 blocks of 2 or 4
 * vectors: lane b of the results is block b's. */
V16_FUNCTION void v16_blocks_above(const float *x, size_t n_blocks, size_t n_vectors, const float *thresholds,
                                   v16 *all_sums, v16 *all_counts) {
    v16 sums[HYB_TERNARY_BLOCKS], counts[HYB_TERNARY_BLOCKS];
    for (size_t b = 0; b < n_blocks; ++b, x += n_vectors * HYB_LANES) {
        const v16 limit = v16_set1(thresholds[b]);
        v16 half_sums[2], count = v16_zero();
        HYB_UNROLL
        for (size_t j = 0; j < n_vectors; ++j) {
            v16 a = v16_abs(v16_load(x + j * HYB_LANES));
            half_sums[j % 2] = j < 2 ? v16_where_above(a, limit, a) : v16_add_above(half_sums[j % 2], a, limit, a);
            count = v16_count_above(count, a, limit);
        }
        sums[b] = v16_add(half_sums[0], half_sums[1]);
        counts[b] = v16_counts(count);
    }
    for (size_t b = n_blocks; b < HYB_TERNARY_BLOCKS; ++b) sums[b] = counts[b] = v16_zero();
    *all_sums = v16_reduce_add_16(sums);
    *all_counts = v16_reduce_add_16(counts);
}

V16_FUNCTION void v16_ternary_blocks(const float *x, size_t n_blocks, size_t n_vectors, float *thresholds,
                                     float *scales) {
    float limits[HYB_TERNARY_BLOCKS];
    v16 sum, count, scale = v16_zero(), threshold;
    for (size_t b = 0; b < n_blocks; ++b) limits[b] = -1.0f;
    v16_blocks_above(x, n_blocks, n_vectors, limits, &sum, &count);
    threshold = v16_mul(v16_set1(HYB_TERNARY_START), v16_div(sum, v16_set1((float)(n_vectors * HYB_LANES))));
    for (int evaluation = 1;; ++evaluation) {
        v16_store(limits, threshold);
        v16_blocks_above(x, n_blocks, n_vectors, limits, &sum, &count);
        scale = v16_div(sum, v16_max(count, v16_set1(1.0f)));
        if (evaluation == HYB_TERNARY_EVALUATIONS) break;
        v16 next = v16_sub(v16_mul(v16_set1(0.8f), scale), v16_mul(v16_set1(0.6f), threshold));
        threshold = v16_max(next, v16_zero());
    }
    v16_put(thresholds, n_blocks, threshold);
    v16_put(scales, n_blocks, scale);
}
/* The reductions of 16 blocks at once cost a quarter of the additions; one block at a time they were most of it. */
SIMD_TARGET void SIMD_NAME(ternary_blocks)(const float *x, size_t n_blocks, size_t block_size, float *thresholds,
                                           float *scales) {
    for (size_t b = 0; b < n_blocks; b += HYB_TERNARY_BLOCKS) {
        size_t n = hyb_min_size(HYB_TERNARY_BLOCKS, n_blocks - b);
        if (block_size == 64)
            v16_ternary_blocks(x + b * 64, n, 4, thresholds + b, scales + b);
        else
            v16_ternary_blocks(x + b * 32, n, 2, thresholds + b, scales + b);
    }
}

/* Products of a code with a float are exact, and so are sums of squares of codes: fused operations round as separate
 * ones do, and cost half. */
V16_FUNCTION void v16_compress(const hyb_compress_job *job, size_t i, size_t n, int is_five, v16 *sums) {
    const v16 magic = v16_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to whole numbers */
    v16 g = v16_get(job->gradient + i, n), x = job->residual != NULL ? v16_get(job->residual + i, n) : g, code;
    if (is_five) {
        v16 v = v16_min(v16_set1(2.0f), v16_mul(x, v16_set1(job->inverse)));
        code = v16_sub(v16_add(v16_max(v16_set1(-2.0f), v), magic), magic);
        sums[1] = v16_fma(code, code, sums[1]);
    } else {
        code = v16_ternary(x, v16_set1(job->threshold));
        sums[1] = v16_count_above(sums[1], v16_abs(x), v16_set1(job->threshold));
    }
    sums[0] = v16_fma(g, code, sums[0]);
    if (job->digits != NULL) v16_store_digits(job->digits + i, n, v16_add(code, v16_set1(is_five ? 2.0f : 1.0f)));
    if (job->residual != NULL) v16_put(job->residual + i, n, v16_fma(v16_negate(code), v16_set1(job->scale), x));
    if (job->values != NULL) v16_put(job->values + i, n, v16_mul(code, v16_set1(job->scale)));
}
/* The job is copied: stores of bytes could otherwise change it, for all that the compiler knows. */
V16_FUNCTION hyb_compress_sums v16_compress_all(const hyb_compress_job *given, int is_five) {
    const hyb_compress_job job = *given;
    v16 sums[2] = {v16_zero(), v16_zero()};
    size_t i = 0;
    for (; i + HYB_LANES <= job.n; i += HYB_LANES) v16_compress(&job, i, HYB_LANES, is_five, sums);
    if (i < job.n) v16_compress(&job, i, job.n - i, is_five, sums);
    hyb_compress_sums result = {v16_reduce_add(sums[0]), v16_reduce_add(is_five ? sums[1] : v16_counts(sums[1]))};
    return result;
}
SIMD_TARGET hyb_compress_sums SIMD_NAME(compress_ternary)(const hyb_compress_job *job) {
    return v16_compress_all(job, 0);
}
SIMD_TARGET hyb_compress_sums SIMD_NAME(compress_five)(const hyb_compress_job *job) { return v16_compress_all(job, 1); }

static void compress_install(hyb_kernels *table) {
#define COMPRESS_INSTALL(name) (table->name = SIMD_NAME(name), table->tier[HYB_KERNEL_##name] = SIMD_ISA)
    COMPRESS_INSTALL(gradient_moments);
    COMPRESS_INSTALL(sum_above_wide);
    COMPRESS_INSTALL(ternary_blocks);
    COMPRESS_INSTALL(compress_ternary);
    COMPRESS_INSTALL(compress_five);
#undef COMPRESS_INSTALL
}
