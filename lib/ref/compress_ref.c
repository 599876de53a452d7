/* compress_ref.c - kernels of gradient compression in plain C99: the specification of each. Every variant gives the
 * same bits.
 */
#include "../common.h"

/* Adding and subtracting 1.5 * 2^23 rounds a float of magnitude below 2^22 to an integer, ties to even. */
#define ROUND_MAGIC 12582912.0f

static float magnitude(float x) { return hyb_float_of(hyb_bits_of(x) & 0x7fffffffu); }

static float fold(float *lanes, size_t n_lanes) {
    for (size_t width = n_lanes / 2; width != 0; width /= 2)
        for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    return lanes[0];
}

hyb_gradient_moments hyb_gradient_moments_ref(const float *gradient, float *residual, size_t n) {
    float sums[HYB_LANES] = {0}, squares[HYB_LANES] = {0}, gradient_squares[HYB_LANES] = {0};
    hyb_gradient_moments result;
    for (size_t i = 0; i < n; ++i) {
        float x = residual != NULL ? (residual[i] += gradient[i]) : gradient[i];
        sums[i % HYB_LANES] += magnitude(x);
        squares[i % HYB_LANES] += x * x;
        gradient_squares[i % HYB_LANES] += gradient[i] * gradient[i];
    }
    result.sum = fold(sums, HYB_LANES);
    result.squares = fold(squares, HYB_LANES);
    result.gradient_squares = fold(gradient_squares, HYB_LANES);
    return result;
}

float hyb_sum_above_wide_ref(const float *x, size_t n, float threshold, size_t *n_above) {
    float lanes[HYB_WIDE_LANES] = {0};
    size_t count = 0;
    for (size_t i = 0; i < n; ++i) {
        float m = magnitude(x[i]);
        lanes[i % HYB_WIDE_LANES] += m > threshold ? m : 0.0f;
        count += m > threshold;
    }
    *n_above = count;
    return fold(lanes, HYB_WIDE_LANES);
}

void hyb_ternary_blocks_ref(const float *x, size_t n_blocks, size_t block_size, float *thresholds, float *scales) {
    for (size_t b = 0; b < n_blocks; ++b, x += block_size) {
        size_t n_above;
        float mean = hyb_sum_above_wide_ref(x, block_size, -1.0f, &n_above) / (float)block_size;
        float threshold = HYB_TERNARY_START * mean;
        for (int evaluation = 1;; ++evaluation) {
            float sum = hyb_sum_above_wide_ref(x, block_size, threshold, &n_above);
            scales[b] = sum / (float)(n_above != 0 ? n_above : 1);
            if (evaluation == HYB_TERNARY_EVALUATIONS) break;
            threshold = HYB_TERNARY_NEXT(scales[b], threshold);
            threshold = threshold > 0.0f ? threshold : 0.0f;
        }
        thresholds[b] = threshold;
    }
}

/* q = s * code of one value, and what goes with it; lane i % 16 of both sums. */
static void put(const hyb_compress_job *job, size_t i, float x, float code, float bias, float *products,
                float *squares) {
    float q = code * job->scale;
    products[i % HYB_LANES] += job->gradient[i] * code;
    squares[i % HYB_LANES] += code * code;
    if (job->digits != NULL) job->digits[i] = (uint8_t)(code + bias);
    if (job->residual != NULL) job->residual[i] = x - q;
    if (job->values != NULL) job->values[i] = q;
}

static hyb_compress_sums result_of(float *products, float *squares) {
    hyb_compress_sums sums = {fold(products, HYB_LANES), fold(squares, HYB_LANES)};
    return sums;
}

hyb_compress_sums hyb_compress_ternary_ref(const hyb_compress_job *job) {
    float products[HYB_LANES] = {0}, squares[HYB_LANES] = {0};
    for (size_t i = 0; i < job->n; ++i) {
        float x = job->residual != NULL ? job->residual[i] : job->gradient[i];
        float code = (float)((x > job->threshold) - (x < -job->threshold));
        put(job, i, x, code, 1.0f, products, squares);
    }
    return result_of(products, squares);
}

hyb_compress_sums hyb_compress_five_ref(const hyb_compress_job *job) {
    float products[HYB_LANES] = {0}, squares[HYB_LANES] = {0};
    for (size_t i = 0; i < job->n; ++i) {
        float x = job->residual != NULL ? job->residual[i] : job->gradient[i];
        float v = x * job->inverse;
        v = v > 2.0f ? 2.0f : v;
        v = v < -2.0f ? -2.0f : v;
        put(job, i, x, (v + ROUND_MAGIC) - ROUND_MAGIC, 2.0f, products, squares);
    }
    return result_of(products, squares);
}
