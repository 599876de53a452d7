/* vector_ref.c - float kernels over vectors in plain C99: the specification of each EXACT one, bit by bit.
 *
 * Sums run over 16 virtual lanes (kernels.h); every operation is rounded by itself. Where a choice of instruction could
 * show (signed zeros, NaN), the comments say what holds; lib/simd/vector_template.h does the same with vectors.
 */
#include <math.h>

#include "../common.h"
#include "float_ref.h"

float hyb_lanes_sum(const float *lanes) {
    float sums[HYB_LANES];
    memcpy(sums, lanes, sizeof sums);
    for (size_t width = HYB_LANES / 2; width > 0; width /= 2) {
        for (size_t l = 0; l < width; ++l) sums[l] += sums[l + width];
    }
    return sums[0];
}

/* A NaN stays a NaN; -0 gives 1. */
float hyb_exp_f32(float x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: its neighbours are 1 apart, so adding it rounds to an integer */
    x = -87.33654f > x ? -87.33654f : x;
    x = 88.72283f < x ? 88.72283f : x;
    float shifted = x * 1.44269504f + magic;
    float n = shifted - magic;
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float t = p * (r * r);
    t = t + r;
    t = t + 1.0f;
    /* The low bits of `shifted` hold n; 2^128 is no float, so n = 128 goes in two exact steps. */
    float last = n > 127.0f ? 2.0f : 1.0f;
    uint32_t exponent = hyb_bits_of(shifted) - hyb_bits_of(magic) + 127u - (n > 127.0f);
    return t * hyb_float_of(exponent << 23) * last;
}

uint32_t hyb_max_abs_bits_ref(const float *x, size_t n) {
    uint32_t largest = 0;
    for (size_t i = 0; i < n; ++i) {
        uint32_t bits = hyb_bits_of(x[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* A zero comes out as +0, whichever zeros went in: the order of comparisons then cannot show. */
float hyb_max_f32_ref(const float *x, size_t n) {
    float largest = x[0];
    for (size_t i = 1; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
    return largest + 0.0f;
}

float hyb_sum_abs_f32_ref(const float *x, size_t n) {
    float lanes[HYB_LANES] = {0};
    for (size_t i = 0; i < n; ++i) lanes[i % HYB_LANES] += fabsf(x[i]);
    return hyb_lanes_sum(lanes);
}

float hyb_dot_f32_ref(const float *a, const float *b, size_t n) {
    float lanes[HYB_LANES] = {0};
    for (size_t i = 0; i < n; ++i) lanes[i % HYB_LANES] += a[i] * b[i];
    return hyb_lanes_sum(lanes);
}

void hyb_add_f32_ref(float *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; ++i) y[i] += x[i];
}

void hyb_scale_f32_ref(float *y, const float *x, size_t n, float s) {
    for (size_t i = 0; i < n; ++i) y[i] = x[i] * s;
}

float hyb_rms_norm_ref(const float *x, const float *gain, size_t n, float epsilon, float *y) {
    float r = 1.0f / sqrtf(hyb_dot_f32_ref(x, x, n) / (float)n + epsilon);
    for (size_t i = 0; i < n; ++i) y[i] = (x[i] * r) * gain[i];
    return r;
}

float hyb_exp_sum_ref(const float *x, size_t n, float offset, float *y) {
    float lanes[HYB_LANES] = {0};
    for (size_t i = 0; i < n; ++i) {
        y[i] = hyb_exp_f32(x[i] - offset);
        lanes[i % HYB_LANES] += y[i];
    }
    return hyb_lanes_sum(lanes);
}

void hyb_gated_silu_ref(const float *gate, const float *up, size_t n, float *out) {
    for (size_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + hyb_exp_f32(-gate[i])) * up[i];
}

/* A NaN stays a NaN: 0 > NaN is false. */
void hyb_gated_relu2_ref(const float *gate, const float *up, size_t n, float *out) {
    for (size_t i = 0; i < n; ++i) {
        float positive = 0.0f > gate[i] ? 0.0f : gate[i];
        out[i] = (positive * positive) * up[i];
    }
}

void hyb_rotate_ref(float *x, const float *cosines, const float *sines, size_t half) {
    for (size_t i = 0; i < half; ++i) {
        float a = x[i], b = x[half + i];
        x[i] = a * cosines[i] - b * sines[i];
        x[half + i] = a * sines[i] + b * cosines[i];
    }
}

void hyb_axpy_f32_ref(float *y, const float *x, size_t n, float s) {
    for (size_t i = 0; i < n; ++i) y[i] += s * x[i];
}

double hyb_sum_squares_f64_ref(const float *x, size_t n) {
    double lanes[HYB_LANES] = {0}, sum = 0;
    for (size_t i = 0; i < n; ++i) lanes[i % HYB_LANES] += (double)x[i] * (double)x[i];
    for (size_t l = 0; l < HYB_LANES; ++l) sum += lanes[l];
    return sum;
}
