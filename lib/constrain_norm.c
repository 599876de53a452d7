/* constrain_norm.c - shortens a vector to a Euclidean ball: the bound of a plain trust region. Sums in fp64 over 16
 * lanes; the factor is rounded so that no result is longer than the radius.
 */
#include <float.h>
#include <math.h>

#include <hybrid/optimize.h>

#include "common.h"

/* Values that one task handles. Part of the definition: it fixes the order of additions. */
#define CHUNK ((size_t)65536)
/* Sums of squares within these have neither overflowed nor lost what matters to subnormals. */
#define SMALLEST_SUM 1e-280
#define LARGEST_SUM 1e300

typedef struct constrain_loop {
    const hyb_kernels *kernels;
    const void *x;
    void *out;
    size_t n;
    double unit;   /* doubles are multiplied by this power of 2 before they are squared */
    double factor; /* of the result */
    double *sums;  /* of each chunk, or its largest magnitude */
} constrain_loop;

static size_t chunk_of(const constrain_loop *loop, size_t index, size_t *first) {
    *first = index * CHUNK;
    return hyb_min_size(CHUNK, loop->n - *first);
}

static void squares_task(void *argument, size_t index, size_t worker) {
    const constrain_loop *loop = argument;
    size_t first, n = chunk_of(loop, index, &first), i = 0;
    const double *x = (const double *)loop->x + first, unit = loop->unit;
    double lanes[HYB_LANES] = {0}, sum = 0;
    (void)worker;
    for (; i + HYB_LANES <= n; i += HYB_LANES)
        for (size_t l = 0; l < HYB_LANES; ++l) lanes[l] += (x[i + l] * unit) * (x[i + l] * unit);
    for (size_t l = 0; i + l < n; ++l) lanes[l] += (x[i + l] * unit) * (x[i + l] * unit);
    for (size_t l = 0; l < HYB_LANES; ++l) sum += lanes[l];
    loop->sums[index] = sum;
}

/* A NaN becomes infinite, as in no maximum would it stay. */
static void largest_task(void *argument, size_t index, size_t worker) {
    const constrain_loop *loop = argument;
    size_t first, n = chunk_of(loop, index, &first);
    const double *x = (const double *)loop->x + first;
    double largest = 0;
    (void)worker;
    for (size_t i = 0; i < n; ++i) {
        double magnitude = fabs(x[i]);
        largest = magnitude <= largest ? largest : magnitude <= DBL_MAX ? magnitude : HUGE_VAL;
    }
    loop->sums[index] = largest;
}

static void scale_f32_task(void *argument, size_t index, size_t worker) {
    const constrain_loop *loop = argument;
    size_t first, n = chunk_of(loop, index, &first);
    (void)worker;
    loop->kernels->scale_f32((float *)loop->out + first, (const float *)loop->x + first, n, (float)loop->factor);
}

static void scale_f64_task(void *argument, size_t index, size_t worker) {
    const constrain_loop *loop = argument;
    size_t first, n = chunk_of(loop, index, &first);
    const double *x = (const double *)loop->x + first;
    double *out = (double *)loop->out + first;
    (void)worker;
    for (size_t i = 0; i < n; ++i) out[i] = x[i] * loop->factor;
}

/* Sum of what squares_task gives, or the largest of what largest_task gives. */
static double reduce(hyb_ctx *ctx, constrain_loop *loop, hyb_task task) {
    const constrain_loop whole = *loop;
    double sums[256], result = 0; /* chunks at a time, so that no memory is asked for */
    const size_t batch = sizeof sums / sizeof *sums * CHUNK;
    for (size_t first = 0; first < whole.n; first += batch) {
        loop->x = (const double *)whole.x + first;
        loop->n = hyb_min_size(batch, whole.n - first);
        loop->sums = sums;
        size_t n_chunks = hyb_ceil_div(loop->n, CHUNK);
        hyb_parallel(ctx, n_chunks, task, loop);
        for (size_t i = 0; i < n_chunks; ++i)
            result = task == squares_task ? result + sums[i] : sums[i] > result ? sums[i] : result;
        if (whole.n - first <= batch) break; /* first + batch could overflow */
    }
    loop->x = whole.x;
    loop->n = whole.n;
    return result;
}

/* Euclidean norm of loop->x times loop->unit, which is 1 unless squares would leave the range of doubles. */
static hyb_status norm_f64(hyb_ctx *ctx, constrain_loop *loop, double *norm) {
    loop->unit = 1;
    double sum = reduce(ctx, loop, squares_task);
    if (!(sum >= SMALLEST_SUM && sum <= LARGEST_SUM)) {
        double largest = reduce(ctx, loop, largest_task);
        if (!(largest <= DBL_MAX)) {
            const double *x = loop->x;
            size_t i = 0;
            while (i + 1 < loop->n && fabs(x[i]) <= DBL_MAX) ++i;
            return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "constrain_norm: value %zu is %s", i,
                            isnan(x[i]) ? "NaN" : "infinite");
        }
        int exponent = 0;
        (void)frexp(largest, &exponent);
        loop->unit = ldexp(1.0, exponent < -1000 ? 1000 : -exponent);
        sum = reduce(ctx, loop, squares_task);
    }
    *norm = sqrt(sum);
    return HYB_OK;
}

/* radius / norm, less what rounding of the sum, of the factor and of its products may add: half the additions' 2^-53
 * each, and 2^-24 or 2^-53 of a product. */
static double safe_factor(const constrain_loop *loop, int is_f64, double radius, double norm) {
    double additions = (double)(hyb_min_size(loop->n, CHUNK) / HYB_LANES + loop->n / CHUNK + 64);
    double slack = additions * DBL_EPSILON + (is_f64 ? 0.0 : 0.5 * (double)FLT_EPSILON);
    double factor = radius / norm * (1.0 - slack) * loop->unit;
    if (is_f64) return factor;
    float rounded = (float)factor;
    return (double)((double)rounded > factor ? nextafterf(rounded, 0.0f) : rounded);
}

static hyb_status constrain(hyb_ctx *ctx, int is_f64, double radius, size_t n, const void *x, void *out, double *norm,
                            int32_t *is_active) {
    constrain_loop loop = {.kernels = ctx != NULL ? &ctx->kernels : NULL, .x = x, .out = out, .n = n, .unit = 1};
    double length = 0;
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (!(radius >= 0))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "constrain_norm: radius is %g; it must be 0 or more", radius);
    if (n != 0 && (x == NULL || out == NULL))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "constrain_norm: %s is NULL", x == NULL ? "x" : "out");
    if (is_f64) {
        HYB_TRY(norm_f64(ctx, &loop, &length));
    } else {
        HYB_TRY(hyb_sum_squares(ctx, x, n, &length));
        length = sqrt(length);
    }
    double measured = length / loop.unit; /* infinite where no double is so large */
    int is_longer = measured > radius;
    if (is_longer) {
        loop.factor = safe_factor(&loop, is_f64, radius, length);
        hyb_parallel(ctx, hyb_ceil_div(n, CHUNK), is_f64 ? scale_f64_task : scale_f32_task, &loop);
    } else if (x != out && n != 0) {
        memcpy(out, x, n * (is_f64 ? sizeof(double) : sizeof(float)));
    }
    if (norm != NULL) *norm = measured;
    if (is_active != NULL) *is_active = is_longer;
    return HYB_OK;
}

hyb_status hyb_constrain_norm_f32(hyb_ctx *ctx, double radius, size_t n, const float *x, float *out, double *norm,
                                  int32_t *is_active) {
    return constrain(ctx, 0, radius, n, x, out, norm, is_active);
}

hyb_status hyb_constrain_norm_f64(hyb_ctx *ctx, double radius, size_t n, const double *x, double *out, double *norm,
                                  int32_t *is_active) {
    return constrain(ctx, 1, radius, n, x, out, norm, is_active);
}
