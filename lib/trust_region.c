/* trust_region.c - steps that stay in a ball around the weights: of the spectral norm along orthogonalised momentum, or
 * of a norm of all elements along Adam's direction. Sources and equations: hybrid/optimize.h.
 *
 * A matrix in SPECTRAL: momentum -> Newton-Schulz, behind which no singular value is above 1 -> with row_beta, rows of
 * equal size, and the cubic once more -> shortened by a bound of what weight decay adds -> applied.
 */
#include <math.h>

#include "trust_region.h"

/* Values that one task handles. */
#define TASK_VALUES ((size_t)32768)

/* ---- options ---- */

static hyb_status check_value(hyb_ctx *ctx, const char *name, float value, int below_one) {
    if (hyb_is_finite(value) && value >= 0 && (!below_one || value < 1)) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "trust region: %s is %g; it must be %s", name, (double)value,
                    below_one ? "at least 0 and below 1" : "0 or more, finite");
}

void hyb_trust_region_defaults(hyb_trust_region *options) {
    if (options == NULL) return;
    *options = (hyb_trust_region){.struct_size = sizeof *options,
                                  .momentum = 0.8f,
                                  .weight_decay = 0.03f,
                                  .vector_ratio = 0.32f,
                                  .gain_rate = 0.02f,
                                  .beta1 = 0.8f,
                                  .beta2 = 0.99f,
                                  .epsilon = 1e-8f};
}

hyb_status hyb_trust_region_read(hyb_ctx *ctx, const hyb_trust_region *given, hyb_trust_region *o) {
    hyb_trust_region_defaults(o);
    HYB_TRY(hyb_read_struct(ctx, "hyb_trust_region", o, given, sizeof *o));
    HYB_TRY(check_value(ctx, "learning_rate", o->learning_rate, 0));
    HYB_TRY(check_value(ctx, "radius", o->radius, 0));
    HYB_TRY(check_value(ctx, "momentum", o->momentum, 1));
    HYB_TRY(check_value(ctx, "row_beta", o->row_beta, 1));
    HYB_TRY(check_value(ctx, "weight_decay", o->weight_decay, 0));
    HYB_TRY(check_value(ctx, "vector_ratio", o->vector_ratio, 0));
    HYB_TRY(check_value(ctx, "gain_rate", o->gain_rate, 0));
    HYB_TRY(check_value(ctx, "beta1", o->beta1, 1));
    HYB_TRY(check_value(ctx, "beta2", o->beta2, 1));
    HYB_TRY(check_value(ctx, "epsilon", o->epsilon, 0));
    if (o->epsilon <= 0)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "trust region: epsilon is 0; it must be above (1e-8 is usual)");
    if (o->step == 0)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "trust region: step is 0; count from 1 for the first update");
    return HYB_OK;
}

/* ---- loops over rows ---- */

typedef struct row_loop {
    hyb_ctx *ctx;
    const hyb_trust_region *options;
    const hyb_trust_tensor *tensor;
    size_t rows_per_task;
    float *x;            /* u, then its orthogonalised form; or changes; or a row of each worker, */
    size_t ld_x;         /* so many values apart */
    double *row_sums;    /* [n_rows]: sums of squares */
    double scale;        /* of all values, or of rows times row_moment's factors */
    float factor, decay; /* of apply, and what a row of both is multiplied by (NULL: 1) */
    const float *multipliers;
    hyb_adam_change_job adam;
} row_loop;

static void for_rows(row_loop *loop, hyb_task task) {
    const hyb_trust_tensor *t = loop->tensor;
    loop->rows_per_task = t->n_cols < TASK_VALUES ? TASK_VALUES / t->n_cols : 1;
    hyb_parallel(loop->ctx, hyb_ceil_div(t->n_rows, loop->rows_per_task), task, loop);
}

/* Rows [first, end) of a task. */
static size_t task_rows(const row_loop *loop, size_t index, size_t *end) {
    size_t first = index * loop->rows_per_task;
    *end = first + hyb_min_size(loop->rows_per_task, loop->tensor->n_rows - first);
    return first;
}

static float multiplier_of(const float *multipliers, size_t r) { return multipliers != NULL ? multipliers[r] : 1.0f; }

static double sum_rows(const row_loop *loop) {
    double sum = 0.0;
    for (size_t r = 0; r < loop->tensor->n_rows; r++) sum += loop->row_sums[r];
    return sum;
}

static void momentum_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    const hyb_trust_tensor *t = loop->tensor;
    size_t end, first = task_rows(loop, index, &end);
    (void)worker;
    for (size_t r = first; r < end; r++) {
        size_t at = r * t->n_cols;
        hyb_momentum_job job = {
            t->gradient + at, NULL, loop->x + at, t->n_cols, loop->options->momentum, 1.0f - loop->options->momentum};
        if (hyb_state_is_8bit(&t->state)) {
            hyb_state_row row = hyb_state_row_of(&t->state, loop->options->step, r, t->n_cols);
            loop->row_sums[r] = hyb_momentum_row_8bit(&loop->ctx->kernels, &job, &row);
        } else {
            job.momentum = t->first_moment + at;
            loop->row_sums[r] = loop->ctx->kernels.momentum(&job);
        }
    }
}

static void scale_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    size_t end, first = task_rows(loop, index, &end), n_cols = loop->tensor->n_cols;
    float *x = loop->x + first * n_cols;
    (void)worker;
    loop->ctx->kernels.scale_f32(x, x, (end - first) * n_cols, (float)loop->scale);
}

static void row_sum_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    size_t end, first = task_rows(loop, index, &end), n_cols = loop->tensor->n_cols;
    (void)worker;
    for (size_t r = first; r < end; r++)
        loop->row_sums[r] = loop->ctx->kernels.sum_squares_f64(loop->x + r * n_cols, n_cols);
}

static double row_factor(const hyb_trust_tensor *t, size_t r) {
    return 1.0 / (sqrt((double)t->row_moment[r]) + HYB_TRUST_ROW_EPSILON);
}

static void row_scale_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    size_t end, first = task_rows(loop, index, &end), n_cols = loop->tensor->n_cols;
    (void)worker;
    for (size_t r = first; r < end; r++) {
        double factor = fmin(row_factor(loop->tensor, r) * loop->scale, HYB_TRUST_MAX_ROW_FACTOR);
        loop->ctx->kernels.scale_f32(loop->x + r * n_cols, loop->x + r * n_cols, n_cols, (float)factor);
    }
}

static void apply_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    const hyb_trust_tensor *t = loop->tensor;
    size_t end, first = task_rows(loop, index, &end);
    (void)worker;
    for (size_t r = first; r < end; r++) {
        size_t at = r * t->n_cols;
        float multiplier = multiplier_of(loop->multipliers, r);
        hyb_magnitudes found =
            loop->ctx->kernels.apply_change(loop->x + at, t->n_cols, loop->factor * multiplier,
                                            loop->decay * multiplier, t->weights + at, t->change + at);
        if (t->magnitudes != NULL) t->magnitudes[r] = found;
    }
}

/* ---- SPECTRAL ---- */

/* The smallest and the largest row multiplier. */
static void multiplier_range(const hyb_trust_tensor *t, double *least, double *most) {
    *least = *most = (double)multiplier_of(t->row_multipliers, 0);
    for (size_t r = 1; r < t->n_rows; r++) {
        *least = fmin(*least, (double)multiplier_of(t->row_multipliers, r));
        *most = fmax(*most, (double)multiplier_of(t->row_multipliers, r));
    }
}

/* Divides the rows by the roots of the running means of their mean squares, and keeps the Frobenius norm. */
static void normalize_rows(row_loop *loop) {
    const hyb_trust_tensor *t = loop->tensor;
    double beta = (double)loop->options->row_beta, before = 0.0, after = 0.0;
    for_rows(loop, row_sum_task);
    for (size_t r = 0; r < t->n_rows; r++) {
        double mean = loop->row_sums[r] / (double)t->n_cols, past = (double)t->row_moment[r];
        t->row_moment[r] = (float)(past > 0.0 ? beta * past + (1.0 - beta) * mean : mean);
        double factor = row_factor(t, r);
        before += loop->row_sums[r];
        after += loop->row_sums[r] * factor * factor;
    }
    loop->scale = after > 0.0 ? sqrt(before / after) : 1.0;
    for_rows(loop, row_scale_task);
}

/* x becomes the direction of the step: momentum, orthogonalised. */
static void direction(row_loop *loop, hyb_orthogonal_work *work) {
    const hyb_trust_tensor *t = loop->tensor;
    for_rows(loop, momentum_task);
    double norm = sqrt(sum_rows(loop));
    if (!(norm > HYB_TRUST_SMALLEST_NORM)) {
        memset(loop->x, 0, t->n_rows * t->n_cols * sizeof *loop->x);
        return;
    }
    if (norm < 1.0 / HYB_TRUST_PLAIN_NORM || norm > HYB_TRUST_PLAIN_NORM) {
        loop->scale = 1.0 / norm;
        for_rows(loop, scale_task);
    }
    hyb_orthogonal_direction(loop->ctx, t->n_rows, t->n_cols, &loop->x, work);
    if (!(loop->options->row_beta > 0.0f)) return;
    normalize_rows(loop);
    hyb_newton_schulz_cubic(loop->ctx, t->n_rows, t->n_cols, &loop->x, work);
}

int hyb_trust_matrix_step(hyb_ctx *ctx, const hyb_trust_region *o, const hyb_trust_tensor *t, float *x,
                          const hyb_orthogonal_work *work) {
    hyb_orthogonal_work own = *work; /* the steps swap its buffers with x */
    row_loop loop = {.ctx = ctx, .options = o, .tensor = t, .x = x, .row_sums = own.rows};
    double decay = (double)o->weight_decay, bound = (double)*t->spectral_bound;
    double shape = t->n_rows > t->n_cols ? sqrt((double)t->n_rows / (double)t->n_cols) : 1.0, least, most;
    if (decay > 0.0 && (bound == 0.0 || o->step % HYB_TRUST_BOUND_STEPS == 0))
        bound = hyb_spectral_bound_of(ctx, t->n_rows, t->n_cols, t->weights, &own);
    direction(&loop, &own);
    /* The norm of a matrix whose rows are multiplied grows by the largest multiplier at most. (Ahead of the cubic,
     * which falls beyond 1, a larger multiplier would make a smaller step.) */
    multiplier_range(t, &least, &most);
    double longest = most * (HYB_ORTHOGONAL_BOUND + decay * bound / shape);
    double rate = longest > 0.0 ? fmin((double)o->learning_rate, (double)o->radius / longest) : 0.0;
    loop.factor = (float)(-rate * shape);
    loop.decay = (float)(-rate * decay);
    loop.multipliers = t->row_multipliers;
    for_rows(&loop, apply_task);
    /* The next one, rounded up. */
    double kept = fmax(fabs(1.0 - rate * decay * least), fabs(1.0 - rate * decay * most));
    bound = (kept * bound + rate * most * shape * HYB_ORTHOGONAL_BOUND) * (1.0 + HYB_TRUST_MARGIN);
    *t->spectral_bound = decay > 0.0 ? (float)bound : 0.0f;
    return longest > 0.0 && rate < (double)o->learning_rate;
}

/* ---- Adam's direction ---- */

static void fold_moments(const hyb_trust_region *o, double rate, hyb_adam_change_job *job) {
    double beta1 = (double)o->beta1, beta2 = (double)o->beta2, t = (double)o->step;
    job->beta1 = o->beta1;
    job->one_minus_beta1 = (float)(1.0 - beta1);
    job->beta2 = o->beta2;
    job->one_minus_beta2 = (float)(1.0 - beta2);
    job->step_size = (float)(rate / (1.0 - pow(beta1, t)));
    job->inv_sqrt_correction2 = (float)(1.0 / sqrt(1.0 - pow(beta2, t)));
    job->epsilon = o->epsilon;
}

void hyb_trust_change_job(const hyb_trust_region *o, int is_matrix, hyb_adam_change_job *job) {
    fold_moments(o, (double)o->learning_rate, job);
    job->limit = HUGE_VALF;
    job->decay = is_matrix ? (float)((double)o->learning_rate * (double)o->weight_decay) : 0.0f;
}

void hyb_trust_vector_job(const hyb_trust_region *o, int is_gain, hyb_adam_change_job *job) {
    double ratio = (double)o->vector_ratio, rate = ratio * fmin((double)o->learning_rate, (double)o->radius);
    if (is_gain) rate = fmin(rate, (double)o->gain_rate);
    fold_moments(o, rate, job);
    job->limit = (float)(ratio * (double)o->radius);
    job->decay = 0.0f;
}

/* Adam's change of row r; the sum of its squares. */
static double adam_row(const row_loop *loop, size_t r, float *change) {
    const hyb_trust_tensor *t = loop->tensor;
    size_t at = r * t->n_cols;
    hyb_adam_change_job job = loop->adam;
    job.step_size *= multiplier_of(t->row_multipliers, r);
    job.decay *= multiplier_of(t->row_multipliers, r);
    job.gradient = t->gradient + at;
    job.weights = t->weights + at;
    job.change = change;
    job.n = t->n_cols;
    if (hyb_state_is_8bit(&t->state)) {
        hyb_state_row row = hyb_state_row_of(&t->state, loop->options->step, r, t->n_cols);
        return hyb_adam_change_row_8bit(&loop->ctx->kernels, &job, &row);
    }
    job.first_moment = t->first_moment + at;
    job.second_moment = t->second_moment + at;
    return loop->ctx->kernels.adam_change(&job);
}

static void adam_change_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    size_t end, first = task_rows(loop, index, &end);
    (void)worker;
    for (size_t r = first; r < end; r++)
        loop->row_sums[r] = adam_row(loop, r, loop->tensor->change + r * loop->tensor->n_cols);
}

double hyb_trust_adam_change(hyb_ctx *ctx, const hyb_trust_region *o, const hyb_trust_tensor *t, double *rows) {
    row_loop loop = {.ctx = ctx, .options = o, .tensor = t, .x = t->change, .row_sums = rows};
    hyb_trust_change_job(o, t->is_matrix, &loop.adam);
    for_rows(&loop, adam_change_task);
    return sum_rows(&loop);
}

void hyb_trust_apply(hyb_ctx *ctx, const hyb_trust_tensor *tensor, float factor) {
    row_loop loop = {.ctx = ctx, .tensor = tensor, .x = tensor->change, .factor = factor};
    for_rows(&loop, apply_task);
}

/* A row's change lives in the worker's row only. */
static void vector_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    const hyb_trust_tensor *t = loop->tensor;
    const hyb_kernels *kernels = &loop->ctx->kernels;
    size_t end, first = task_rows(loop, index, &end);
    float *row = loop->x + worker * loop->ld_x;
    for (size_t r = first; r < end; r++) {
        (void)adam_row(loop, r, row);
        hyb_magnitudes found = kernels->apply_change(row, t->n_cols, 1.0f, 0.0f, t->weights + r * t->n_cols, row);
        if (t->magnitudes != NULL) t->magnitudes[r] = found;
    }
}

void hyb_trust_vector_step(hyb_ctx *ctx, const hyb_trust_region *o, const hyb_trust_tensor *t, int is_gain, float *rows,
                           size_t row_floats) {
    row_loop loop = {.ctx = ctx, .options = o, .tensor = t, .x = rows, .ld_x = row_floats};
    hyb_trust_vector_job(o, is_gain, &loop.adam);
    for_rows(&loop, vector_task);
}

/* ---- products ---- */

/* Values whose products are summed in fp32 before they are added up in fp64. */
#define PRODUCT_VALUES ((size_t)4096)

void hyb_trust_products(hyb_ctx *ctx, const float *a, const float *b, size_t n, double products[3]) {
    const hyb_kernels *kernels = &ctx->kernels;
    for (size_t i = 0, count; i < n; i += count) {
        count = hyb_min_size(PRODUCT_VALUES, n - i);
        products[0] += (double)kernels->dot_f32(a + i, b + i, count);
        products[1] += (double)kernels->dot_f32(a + i, a + i, count);
        products[2] += (double)kernels->dot_f32(b + i, b + i, count);
    }
}
