/* cuda_optimize.c - updates of weights on a GPU: arguments are checked as the CPU's functions check them, constants are
 * folded by those functions' own code, and the module (cuda/) queues the rest.
 */
#include "cuda.h"
#include "gemm.h"
#include "quantize.h"
#include "trust_region.h"

/* INVALID_ARGUMENT where an address is 0 or no multiple of its type's size. */
static hyb_status check_address(hyb_cuda *cuda, const char *function, const char *name, hyb_device_address address,
                                size_t size) {
    if (address != 0 && address % size == 0) return HYB_OK;
    return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "GPU, %s: the address of %s is %s", function, name,
                    address == 0 ? "0" : "no multiple of the size of its type");
}

/* 0 is allowed. */
static hyb_status check_optional(hyb_cuda *cuda, const char *function, const char *name, hyb_device_address address,
                                 size_t size) {
    return address == 0 ? HYB_OK : check_address(cuda, function, name, address, size);
}

static hyb_status check_shape(hyb_cuda *cuda, const char *function, size_t n_rows, size_t n_cols) {
    if (n_rows != 0 && n_cols != 0 && n_cols <= SIZE_MAX / sizeof(float) / 4 / n_rows) return HYB_OK;
    return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                    "GPU, %s: a matrix of %zu x %zu; give at least 1 x 1, within memory", function, n_rows, n_cols);
}

static float *floats(hyb_device_address address) { return hyb_device_pointer(address); }

/* ---- products ---- */

hyb_status hyb_cuda_gemm(hyb_cuda *cuda, hyb_transpose transpose, size_t m, size_t n, size_t k, hyb_device_address a,
                         size_t lda, hyb_device_address b, size_t ldb, int accumulate, hyb_device_address c, size_t ldc,
                         hyb_stream stream) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(hyb_gemm_check(cuda->ctx, transpose, m, n, k, floats(a), lda, floats(b), ldb, floats(c), ldc));
    HYB_TRY(check_optional(cuda, "gemm", "A", a, sizeof(float)));
    HYB_TRY(check_optional(cuda, "gemm", "B", b, sizeof(float)));
    HYB_TRY(check_optional(cuda, "gemm", "C", c, sizeof(float)));
    return HYB_CUDA_CALL(cuda, gemm, transpose, m, n, k, floats(a), lda, floats(b), ldb, accumulate, floats(c), ldc,
                         hyb_device_pointer(stream));
}

hyb_status hyb_cuda_orthogonalize(hyb_cuda *cuda, size_t n_rows, size_t n_cols, hyb_device_address x,
                                  hyb_device_address out, hyb_stream stream) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(check_shape(cuda, "orthogonalize", n_rows, n_cols));
    HYB_TRY(check_address(cuda, "orthogonalize", "x", x, sizeof(float)));
    HYB_TRY(check_address(cuda, "orthogonalize", "the result", out, sizeof(float)));
    return HYB_CUDA_CALL(cuda, orthogonalize, n_rows, n_cols, floats(x), floats(out), hyb_device_pointer(stream));
}

hyb_status hyb_cuda_spectral_bound(hyb_cuda *cuda, size_t n_rows, size_t n_cols, hyb_device_address x,
                                   hyb_device_address bound, hyb_stream stream) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(check_shape(cuda, "spectral_bound", n_rows, n_cols));
    HYB_TRY(check_address(cuda, "spectral_bound", "x", x, sizeof(float)));
    HYB_TRY(check_address(cuda, "spectral_bound", "the result", bound, sizeof(double)));
    return HYB_CUDA_CALL(cuda, spectral_bound, n_rows, n_cols, floats(x), hyb_device_pointer(bound),
                         hyb_device_pointer(stream));
}

/* ---- norms ---- */

hyb_status hyb_cuda_sum_squares(hyb_cuda *cuda, hyb_device_address values, size_t n, hyb_device_address sum,
                                hyb_stream stream) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (n != 0) HYB_TRY(check_address(cuda, "sum_squares", "values", values, sizeof(float)));
    HYB_TRY(check_address(cuda, "sum_squares", "sum", sum, sizeof(double)));
    return HYB_CUDA_CALL(cuda, sum_squares, n, floats(values), hyb_device_pointer(sum), hyb_device_pointer(stream));
}

static hyb_status check_constrain(hyb_cuda *cuda, double radius, size_t n, size_t size, hyb_device_address x,
                                  hyb_device_address out, hyb_device_address norm, hyb_device_address is_active) {
    const char *name = "constrain_norm";
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (!(radius >= 0))
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "GPU, %s: radius is %g; it must be 0 or more", name,
                        radius);
    if (n != 0) HYB_TRY(check_address(cuda, name, "x", x, size));
    if (n != 0) HYB_TRY(check_address(cuda, name, "out", out, size));
    HYB_TRY(check_optional(cuda, name, "norm", norm, sizeof(double)));
    return check_optional(cuda, name, "is_active", is_active, sizeof(int32_t));
}

hyb_status hyb_cuda_constrain_norm_f32(hyb_cuda *cuda, double radius, size_t n, hyb_device_address x,
                                       hyb_device_address out, hyb_device_address norm, hyb_device_address is_active,
                                       hyb_stream stream) {
    HYB_TRY(check_constrain(cuda, radius, n, sizeof(float), x, out, norm, is_active));
    return HYB_CUDA_CALL(cuda, constrain_norm_f32, radius, n, floats(x), floats(out), hyb_device_pointer(norm),
                         hyb_device_pointer(is_active), hyb_device_pointer(stream));
}

hyb_status hyb_cuda_constrain_norm_f64(hyb_cuda *cuda, double radius, size_t n, hyb_device_address x,
                                       hyb_device_address out, hyb_device_address norm, hyb_device_address is_active,
                                       hyb_stream stream) {
    HYB_TRY(check_constrain(cuda, radius, n, sizeof(double), x, out, norm, is_active));
    return HYB_CUDA_CALL(cuda, constrain_norm_f64, radius, n, hyb_device_pointer(x), hyb_device_pointer(out),
                         hyb_device_pointer(norm), hyb_device_pointer(is_active), hyb_device_pointer(stream));
}

/* ---- AdamW ---- */

hyb_status hyb_cuda_adamw_update(hyb_cuda *cuda, const hyb_adamw *adamw, size_t n, hyb_device_address gradient,
                                 hyb_device_address weights, hyb_device_address first_moment,
                                 hyb_device_address second_moment, hyb_stream stream) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (adamw == NULL) return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "adamw: the options are NULL");
    HYB_TRY(hyb_adamw_check(cuda->ctx, adamw));
    if (n == 0) return HYB_OK;
    HYB_TRY(check_address(cuda, "adamw", "gradient", gradient, sizeof(float)));
    HYB_TRY(check_address(cuda, "adamw", "weights", weights, sizeof(float)));
    HYB_TRY(check_address(cuda, "adamw", "first_moment", first_moment, sizeof(float)));
    HYB_TRY(check_address(cuda, "adamw", "second_moment", second_moment, sizeof(float)));
    hyb_adamw_job job = {.n = n};
    hyb_adamw_fold(adamw, &job);
    const hyb_cuda_adam adam = {.gradient_scale = job.gradient_scale,
                                .beta1 = job.beta1,
                                .one_minus_beta1 = job.one_minus_beta1,
                                .beta2 = job.beta2,
                                .one_minus_beta2 = job.one_minus_beta2,
                                .step_size = job.step_size,
                                .inv_sqrt_correction2 = job.inv_sqrt_correction2,
                                .epsilon = job.epsilon,
                                .decay = job.decay};
    return HYB_CUDA_CALL(cuda, adamw, &adam, n, floats(gradient), floats(weights), floats(first_moment),
                         floats(second_moment), hyb_device_pointer(stream));
}

/* ---- trust region ---- */

static hyb_cuda_adam adam_of(const hyb_adam_change_job *job) {
    return (hyb_cuda_adam){.gradient_scale = 1.0f,
                           .beta1 = job->beta1,
                           .one_minus_beta1 = job->one_minus_beta1,
                           .beta2 = job->beta2,
                           .one_minus_beta2 = job->one_minus_beta2,
                           .step_size = job->step_size,
                           .inv_sqrt_correction2 = job->inv_sqrt_correction2,
                           .epsilon = job->epsilon,
                           .limit = job->limit,
                           .decay = job->decay};
}

static hyb_status check_tensor(hyb_cuda *cuda, const hyb_trust_region *o, int is_spectral,
                               const hyb_cuda_trust_tensor *t) {
    const char *name = "trust region";
    int is_matrix = t->kind == HYB_TRUST_MATRIX, is_orthogonal = is_spectral && is_matrix;
    const struct {
        const char *name;
        hyb_device_address address;
        int is_needed;
    } addresses[] = {{"gradient", t->gradient, 1},
                     {"weights", t->weights, 1},
                     {"first_moment", t->first_moment, 1},
                     {"second_moment", t->second_moment, !is_orthogonal},
                     {"change", t->change, is_orthogonal || !is_spectral},
                     {"row_moment", t->row_moment, is_orthogonal && o->row_beta > 0.0f},
                     {"spectral_bound", t->spectral_bound, is_orthogonal}};
    HYB_TRY(check_shape(cuda, name, t->n_rows, t->n_cols));
    if (!is_matrix && t->kind != HYB_TRUST_EMBEDDING && t->kind != HYB_TRUST_GAIN)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "GPU, %s: kind is %d, must be one of hyb_trust_kind",
                        name, (int)t->kind);
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++)
        if (addresses[i].is_needed)
            HYB_TRY(check_address(cuda, name, addresses[i].name, addresses[i].address, sizeof(float)));
    return check_optional(cuda, name, "is_shortened", t->is_shortened, sizeof(int32_t));
}

static hyb_status spectral_step(hyb_cuda *cuda, const hyb_trust_region *o, const hyb_cuda_trust_tensor *t,
                                hyb_stream stream) {
    if (t->kind == HYB_TRUST_MATRIX) return HYB_CUDA_CALL(cuda, matrix_step, o, t, hyb_device_pointer(stream));
    hyb_adam_change_job job = {.n = 0};
    hyb_trust_vector_job(o, t->kind == HYB_TRUST_GAIN, &job);
    const hyb_cuda_adam adam = adam_of(&job);
    return HYB_CUDA_CALL(cuda, vector_step, &adam, t, hyb_device_pointer(stream));
}

/* RMS, a tensor at a time; L2, which needs all of them at once. */
static hyb_status ball_step(hyb_cuda *cuda, const hyb_trust_region *o, int is_one_ball, size_t n_tensors,
                            const hyb_cuda_trust_tensor *tensors, hyb_stream stream) {
    hyb_adam_change_job matrix = {.n = 0}, vector = {.n = 0};
    hyb_trust_change_job(o, 1, &matrix);
    hyb_trust_change_job(o, 0, &vector);
    const hyb_cuda_adam of_matrix = adam_of(&matrix), of_vector = adam_of(&vector);
    return HYB_CUDA_CALL(cuda, ball_step, &of_matrix, &of_vector, is_one_ball, (double)o->radius, n_tensors, tensors,
                         hyb_device_pointer(stream));
}

hyb_status hyb_cuda_trust_region_update(hyb_cuda *cuda, const hyb_trust_region *given, hyb_optimizer optimizer,
                                        size_t n_tensors, const hyb_cuda_trust_tensor *tensors, hyb_stream stream) {
    hyb_trust_region options;
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (given == NULL || (tensors == NULL && n_tensors != 0))
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "GPU, trust region: %s NULL",
                        given == NULL ? "the options are" : "tensors is");
    if (optimizer != HYB_OPTIMIZER_SPECTRAL && optimizer != HYB_OPTIMIZER_RMS && optimizer != HYB_OPTIMIZER_L2)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "GPU, trust region: optimizer is %d; use SPECTRAL, RMS or L2", (int)optimizer);
    HYB_TRY(hyb_trust_region_read(cuda->ctx, given, &options));
    for (size_t i = 0; i < n_tensors; i++)
        HYB_TRY(check_tensor(cuda, &options, optimizer == HYB_OPTIMIZER_SPECTRAL, &tensors[i]));
    if (n_tensors == 0) return HYB_OK;
    if (optimizer != HYB_OPTIMIZER_SPECTRAL)
        return ball_step(cuda, &options, optimizer == HYB_OPTIMIZER_L2, n_tensors, tensors, stream);
    for (size_t i = 0; i < n_tensors; i++) HYB_TRY(spectral_step(cuda, &options, &tensors[i], stream));
    return HYB_OK;
}
