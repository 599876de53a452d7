/* optimize.c - updates of master weights: AdamW and the learning-rate schedules (sources: hybrid/optimize.h), and the
 * sum of squares behind gradient clipping.
 */
#include <math.h>

#include <hybrid/optimize.h>

#include "moments.h"
#include "quantize.h"

/* Elements that one task handles. Part of the definition of hyb_sum_squares: it fixes the order of additions. */
#define CHUNK ((size_t)65536)
/* Values of an update that one task handles: half a megabyte of the four arrays. */
#define UPDATE_VALUES ((size_t)32768)

/* ---- AdamW ---- */

hyb_status hyb_adamw_check(hyb_ctx *ctx, const hyb_adamw *a) {
    const struct {
        const char *name;
        float value;
        int below_one;
    } fields[] = {{"learning_rate", a->learning_rate, 0},
                  {"beta1", a->beta1, 1},
                  {"beta2", a->beta2, 1},
                  {"epsilon", a->epsilon, 0},
                  {"weight_decay", a->weight_decay, 0},
                  {"gradient_scale", a->gradient_scale, 0}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; ++i) {
        if (hyb_is_finite(fields[i].value) && fields[i].value >= 0 && (!fields[i].below_one || fields[i].value < 1))
            continue;
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "adamw: %s is %g; it must be %s", fields[i].name,
                        (double)fields[i].value, fields[i].below_one ? "at least 0 and below 1" : "0 or more, finite");
    }
    if (a->epsilon <= 0) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "adamw: epsilon is %g; it must be above 0 (1e-8 is usual)",
                        (double)a->epsilon);
    }
    if (a->step == 0) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "adamw: step is 0; count from 1 for the first update");
    }
    return HYB_OK;
}

/* Pieces of `length` values (the last one may be shorter). What a piece returns depends on nothing but its values. */
typedef struct adamw_loop {
    const hyb_kernels *kernels;
    hyb_adamw_job whole;
    hyb_state_8bit state; /* of moments in 8 bits; a piece is a row */
    uint64_t step;
    size_t length, pieces_per_task;
    double decay;               /* learning rate * weight decay */
    const float *multipliers;   /* of each piece's learning rate, or NULL */
    hyb_magnitudes *magnitudes; /* of each piece, or NULL */
} adamw_loop;

static void adamw_task(void *argument, size_t index, size_t worker) {
    const adamw_loop *loop = argument;
    size_t piece = index * loop->pieces_per_task, end = piece + loop->pieces_per_task;
    (void)worker;
    for (; piece < end && piece * loop->length < loop->whole.n; ++piece) {
        hyb_adamw_job job = loop->whole;
        size_t first = piece * loop->length;
        job.n = hyb_min_size(loop->length, job.n - first);
        job.gradient += first;
        job.weights += first;
        if (loop->multipliers != NULL) {
            job.step_size *= loop->multipliers[piece];
            job.decay = (float)(1.0 - loop->decay * (double)loop->multipliers[piece]);
        }
        hyb_magnitudes found;
        if (hyb_state_is_8bit(&loop->state)) {
            hyb_state_row row = hyb_state_row_of(&loop->state, loop->step, piece, loop->length);
            found = hyb_adamw_row_8bit(loop->kernels, &job, &row);
        } else {
            job.first_moment += first;
            job.second_moment += first;
            found = loop->kernels->adamw(&job);
        }
        if (loop->magnitudes != NULL) loop->magnitudes[piece] = found;
    }
}

void hyb_adamw_fold(const hyb_adamw *adamw, hyb_adamw_job *job) {
    double rate = (double)adamw->learning_rate, beta1 = (double)adamw->beta1, beta2 = (double)adamw->beta2;
    double t = (double)adamw->step;
    job->gradient_scale = adamw->gradient_scale;
    job->beta1 = adamw->beta1;
    job->one_minus_beta1 = (float)(1.0 - beta1);
    job->beta2 = adamw->beta2;
    job->one_minus_beta2 = (float)(1.0 - beta2);
    job->decay = (float)(1.0 - rate * (double)adamw->weight_decay);
    job->step_size = (float)(rate / (1.0 - pow(beta1, t)));
    job->inv_sqrt_correction2 = (float)(1.0 / sqrt(1.0 - pow(beta2, t)));
    job->epsilon = adamw->epsilon;
}

hyb_status hyb_adamw_update_rows(hyb_ctx *ctx, const hyb_adamw *adamw, size_t n_rows, size_t n_cols,
                                 const float *gradient, float *weights, float *first_moment, float *second_moment,
                                 const hyb_state_8bit *state, const float *row_multipliers,
                                 hyb_magnitudes *magnitudes) {
    HYB_TRY(hyb_adamw_check(ctx, adamw));
    adamw_loop loop = {.kernels = &ctx->kernels,
                       .state = *state,
                       .step = adamw->step,
                       .length = n_cols,
                       .decay = (double)adamw->learning_rate * (double)adamw->weight_decay,
                       .multipliers = row_multipliers,
                       .magnitudes = magnitudes};
    hyb_adamw_job *job = &loop.whole;
    job->gradient = gradient;
    job->weights = weights;
    job->first_moment = first_moment;
    job->second_moment = second_moment;
    job->n = n_rows * n_cols;
    hyb_adamw_fold(adamw, job);
    loop.pieces_per_task = n_cols < UPDATE_VALUES ? UPDATE_VALUES / n_cols : 1;
    hyb_parallel(ctx, hyb_ceil_div(n_rows, loop.pieces_per_task), adamw_task, &loop);
    return HYB_OK;
}

/* n values in pieces; state NULL: the moments are fp32. UPDATE_VALUES are whole blocks of a state in 8 bits. */
static void update_values(hyb_ctx *ctx, const hyb_adamw *adamw, size_t n, const float *gradient, float *weights,
                          float *first_moment, float *second_moment, const hyb_state_8bit *state) {
    adamw_loop loop = {.kernels = &ctx->kernels, .step = adamw->step, .length = UPDATE_VALUES, .pieces_per_task = 1};
    hyb_adamw_job *job = &loop.whole;
    if (state != NULL) loop.state = *state;
    job->gradient = gradient;
    job->weights = weights;
    job->first_moment = first_moment;
    job->second_moment = second_moment;
    job->n = n;
    hyb_adamw_fold(adamw, job);
    hyb_parallel(ctx, hyb_ceil_div(n, UPDATE_VALUES), adamw_task, &loop);
}

hyb_status hyb_adamw_update(hyb_ctx *ctx, const hyb_adamw *adamw, size_t n, const float *gradient, float *weights,
                            float *first_moment, float *second_moment) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (adamw == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "adamw: the options are NULL");
    HYB_TRY(hyb_adamw_check(ctx, adamw));
    if (n == 0) return HYB_OK;
    if (gradient == NULL || weights == NULL || first_moment == NULL || second_moment == NULL) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "adamw: %s is NULL",
                        gradient == NULL       ? "gradient"
                        : weights == NULL      ? "weights"
                        : first_moment == NULL ? "first_moment"
                                               : "second_moment");
    }
    update_values(ctx, adamw, n, gradient, weights, first_moment, second_moment, NULL);
    return HYB_OK;
}

hyb_status hyb_adamw_update_8bit(hyb_ctx *ctx, const hyb_adamw *adamw, size_t n, const float *gradient, float *weights,
                                 const hyb_state_8bit *state) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (adamw == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "adamw: the options are NULL");
    HYB_TRY(hyb_adamw_check(ctx, adamw));
    if (n == 0) return HYB_OK;
    if (gradient == NULL || weights == NULL || state == NULL) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "adamw: %s is NULL",
                        gradient == NULL  ? "gradient"
                        : weights == NULL ? "weights"
                                          : "state");
    }
    if (state->first_codes == NULL || state->first_scales == NULL || state->second_codes == NULL ||
        state->second_scales == NULL) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "adamw: codes or scales of the state are NULL");
    }
    update_values(ctx, adamw, n, gradient, weights, NULL, NULL, state);
    return HYB_OK;
}

/* ---- Schedule ---- */

hyb_status hyb_schedule_multiplier(const hyb_schedule *schedule, uint64_t step, double *multiplier) {
    const double pi = 3.14159265358979323846;
    if (schedule == NULL || multiplier == NULL || step == 0) return HYB_ERROR_INVALID_ARGUMENT;
    const hyb_schedule s = *schedule;
    if (s.shape < HYB_SCHEDULE_CONSTANT || s.shape > HYB_SCHEDULE_WSD || s.total_steps == 0 ||
        !(s.final_ratio >= 0 && s.final_ratio <= 1) || s.warmup_steps > s.total_steps) {
        return HYB_ERROR_INVALID_ARGUMENT;
    }
    if (s.shape == HYB_SCHEDULE_WSD && s.decay_steps > s.total_steps - s.warmup_steps) {
        return HYB_ERROR_INVALID_ARGUMENT;
    }
    if (step <= s.warmup_steps) {
        *multiplier = (double)step / (double)s.warmup_steps;
        return HYB_OK;
    }
    uint64_t span = s.shape == HYB_SCHEDULE_WSD ? s.decay_steps : s.total_steps - s.warmup_steps;
    uint64_t start = s.total_steps - span; /* the shape falls from here to total_steps */
    double done = step <= start ? 0.0 : step >= s.total_steps ? 1.0 : (double)(step - start) / (double)span;
    double fall = s.shape == HYB_SCHEDULE_CONSTANT ? 0.0
                  : s.shape == HYB_SCHEDULE_COSINE ? 0.5 - 0.5 * cos(pi * done)
                                                   : done;
    *multiplier = 1.0 - (1.0 - (double)s.final_ratio) * fall;
    return HYB_OK;
}

/* ---- Sum of squares ---- */

typedef struct squares_loop {
    const hyb_kernels *kernels;
    const float *values;
    size_t n;
    double *sums; /* of each chunk */
} squares_loop;

static void squares_task(void *argument, size_t index, size_t worker) {
    const squares_loop *loop = argument;
    size_t first = index * CHUNK;
    (void)worker;
    loop->sums[index] = loop->kernels->sum_squares_f64(loop->values + first, hyb_min_size(CHUNK, loop->n - first));
}

hyb_status hyb_sum_squares(hyb_ctx *ctx, const float *values, size_t n, double *sum) {
    double sums[256], total = 0; /* chunks at a time, so that no memory is asked for */
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (sum == NULL || (values == NULL && n != 0)) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "sum_squares: %s is NULL", sum == NULL ? "sum" : "values");
    }
    const size_t batch = sizeof sums / sizeof *sums * CHUNK;
    for (size_t first = 0; first < n; first += batch) {
        squares_loop loop = {&ctx->kernels, values + first, hyb_min_size(batch, n - first), sums};
        size_t n_chunks = hyb_ceil_div(loop.n, CHUNK);
        hyb_parallel(ctx, n_chunks, squares_task, &loop);
        for (size_t i = 0; i < n_chunks; ++i) total += sums[i];
        if (n - first <= batch) break; /* first + batch could overflow */
    }
    /* Squares of finite floats cannot overflow a double, so anything else came in. */
    if (!(total <= 1.7976931348623157e308)) {
        size_t i = 0;
        while (i < n && hyb_is_finite(values[i])) ++i;
        return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "sum_squares: value %zu is %s", i,
                        i < n && values[i] != values[i] ? "NaN" : "infinite");
    }
    *sum = total;
    return HYB_OK;
}
