/* tensors.c - what a network does with all its tensors: memory, initial values, quantisation, the optimiser's state.
 */
#include <math.h>

#include "../math_f64.h"
#include "tensor.h"

/* ---- memory ---- */

void *hyb_arena_take(hyb_arena *arena, size_t n, size_t size) {
    if (hyb_mul_overflows(n, size) || n * size > SIZE_MAX / 4 - arena->used) {
        arena->overflow = 1;
        return NULL;
    }
    void *memory = arena->base ? arena->base + arena->used : NULL;
    arena->used += hyb_round_up(n * size, HYB_CACHE_LINE);
    return memory;
}

float *hyb_take_floats(hyb_arena *arena, size_t rows, size_t cols) {
    if (hyb_mul_overflows(rows, cols)) {
        arena->overflow = 1;
        return NULL;
    }
    return hyb_arena_take(arena, rows * cols, sizeof(float));
}

void hyb_take_input(hyb_arena *arena, int format, int own_rows, size_t n, size_t n_cols, float *rows,
                    hyb_input *input) {
    memset(input, 0, sizeof *input);
    if (format == HYB_FORMAT_F32) {
        input->x = own_rows ? hyb_take_floats(arena, n, n_cols) : rows;
        return;
    }
    input->codes.ld = hyb_activations_ld(n_cols);
    input->codes.codes = hyb_arena_take(arena, n, input->codes.ld);
    input->codes.sums = hyb_arena_take(arena, n, sizeof(int32_t));
    input->codes.scales = hyb_arena_take(arena, n, sizeof(float));
}

size_t hyb_tensors_layout(hyb_tensor *tensors, size_t n, int trainable, hyb_arena *arena) {
    size_t packed = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        hyb_tensor *t = &tensors[i];
        int quantized = hyb_tensor_is_quantized(t);
        if (trainable || !quantized) t->values = hyb_arena_take(arena, hyb_tensor_size(t), sizeof(float));
        if (!quantized) continue;
        if (trainable) t->codes = hyb_arena_take(arena, hyb_tensor_size(t), 1);
        t->scales = hyb_arena_take(arena, t->n_scales, sizeof(float));
        if (hyb_tensor_size(t) > largest) largest = hyb_tensor_size(t);
        size_t padded = hyb_round_up(t->n_rows, HYB_BLOCK_ROWS) * hyb_round_up(t->n_cols, HYB_BLOCK_COLS);
        packed += t->quantizer.format == HYB_FORMAT_TERNARY ? padded / 4 : padded;
    }
    return packed + (trainable ? largest : 0);
}

hyb_status hyb_tensors_add_packed(hyb_ctx *ctx, hyb_tensor *tensors, size_t n, int8_t **next_codes) {
    size_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        hyb_tensor *t = &tensors[i];
        if (!hyb_tensor_is_quantized(t)) continue;
        hyb_format format = (hyb_format)t->quantizer.format;
        if (t->values != NULL) /* trained: the codes change in place */
            HYB_TRY(hyb_weights_alloc(ctx, format, t->n_rows, t->n_cols, &t->packed));
        else
            HYB_TRY(hyb_weights_alloc_fixed(ctx, format, t->n_rows, t->n_cols, &t->packed));
        if (hyb_tensor_size(t) > largest) largest = hyb_tensor_size(t);
    }
    if (largest == 0 || next_codes == NULL) return HYB_OK;
    *next_codes = hyb_alloc(ctx, largest, 1);
    return *next_codes != NULL ? HYB_OK : hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %zu codes", largest);
}

/* ---- values ---- */

/* Box-Muller on hashed counters. */
void hyb_draw_normal(uint64_t stream, size_t n, double deviation, float *values) {
    const double two_pi = 6.283185307179586;
    for (size_t i = 0; i < n; i += 2) {
        double u = (double)(hyb_hash64(stream + 2 * i) >> 11) * 0x1p-53 + 0x1p-54; /* in (0, 1) */
        double angle = (double)(hyb_hash64(stream + 2 * i + 1) >> 11) * 0x1p-53 * two_pi;
        double radius = deviation * sqrt(-2.0 * hyb_log_f64(u));
        values[i] = (float)(radius * hyb_cos_f64(angle));
        if (i + 1 < n) values[i + 1] = (float)(radius * hyb_sin_f64(angle));
    }
}

hyb_status hyb_tensors_quantize(hyb_ctx *ctx, hyb_tensor *tensors, size_t n, int8_t *next_codes, uint64_t *n_flipped,
                                uint64_t *n_zeros) {
    for (size_t i = 0; i < n; i++) {
        hyb_tensor *t = &tensors[i];
        if (!hyb_tensor_is_quantized(t)) continue;
        HYB_TRY(
            hyb_tensor_quantize(ctx, t, next_codes, t->is_linear ? n_flipped : NULL, t->is_linear ? n_zeros : NULL));
    }
    return HYB_OK;
}

void hyb_tensors_touch(hyb_tensor *tensors, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (tensors[i].spectral_bound != NULL) *tensors[i].spectral_bound = 0.0f;
}

void hyb_tensor_describe(const hyb_tensor *t, hyb_parameter *parameter) {
    memset(parameter, 0, sizeof *parameter);
    memcpy(parameter->name, t->name, sizeof parameter->name);
    parameter->n_rows = t->n_rows;
    parameter->n_cols = t->n_cols;
    parameter->format = t->quantizer.format;
    parameter->granularity = t->quantizer.granularity;
    parameter->values = t->values;
    parameter->gradient = t->gradient;
    parameter->first_moment = t->first_moment;
    parameter->second_moment = t->second_moment;
    parameter->last_change = t->last_change;
    parameter->row_moment = t->row_moment;
    parameter->spectral_bound = t->spectral_bound;
}

hyb_status hyb_tensors_gradient_norm(hyb_ctx *ctx, const hyb_tensor *tensors, size_t n, double *norm) {
    double total = 0.0, sum;
    for (size_t i = 0; i < n; i++) {
        if (hyb_sum_squares(ctx, tensors[i].gradient, hyb_tensor_size(&tensors[i]), &sum) != HYB_OK)
            return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "the gradient of %s is not finite", tensors[i].name);
        total += sum;
    }
    *norm = sqrt(total);
    return HYB_OK;
}

/* ---- the state of an optimiser ---- */

static float *take_state(hyb_arena *arena, int needed, size_t n) {
    return needed ? hyb_arena_take(arena, n, sizeof(float)) : NULL;
}

static void take_codes(hyb_arena *arena, const hyb_tensor *t, uint8_t **codes, float **scales) {
    *codes = hyb_arena_take(arena, hyb_tensor_size(t), 1);
    *scales = hyb_take_floats(arena, t->n_rows, hyb_state_blocks(t->n_cols));
}

void hyb_moments_layout(hyb_tensor *tensors, size_t n_tensors, int optimizer, int is_8bit, hyb_arena *arena) {
    for (size_t i = 0; i < n_tensors; i++) {
        hyb_tensor *t = &tensors[i];
        size_t n = hyb_tensor_size(t);
        int is_orthogonal = optimizer == HYB_OPTIMIZER_SPECTRAL && t->is_linear;
        int has_change = optimizer == HYB_OPTIMIZER_RMS || optimizer == HYB_OPTIMIZER_L2 || is_orthogonal;
        memset(&t->state, 0, sizeof t->state);
        t->gradient = take_state(arena, 1, n);
        t->first_moment = take_state(arena, !is_8bit, n);
        t->second_moment = take_state(arena, !is_8bit && !is_orthogonal, n);
        if (is_8bit) take_codes(arena, t, &t->state.first_codes, &t->state.first_scales);
        if (is_8bit && !is_orthogonal) take_codes(arena, t, &t->state.second_codes, &t->state.second_scales);
        t->last_change = take_state(arena, has_change, n);
        t->row_moment = take_state(arena, is_orthogonal, t->n_rows);
        t->spectral_bound = take_state(arena, is_orthogonal, 1);
        t->row_multipliers = take_state(arena, t->is_linear, t->n_rows);
    }
}

hyb_status hyb_moments_prepare(hyb_ctx *ctx, hyb_tensor *tensors, size_t n, int optimizer, int is_8bit,
                               hyb_moments *moments) {
    hyb_arena arena = {NULL, 0, 0};
    void **memory = &moments->memory[optimizer][is_8bit]; /* the others stay: pointers to them are valid */
    if (*memory != NULL && moments->optimizer == optimizer && moments->is_8bit == is_8bit) return HYB_OK;
    hyb_moments_layout(tensors, n, optimizer, is_8bit, &arena);
    size_t n_bytes = arena.used;
    int fits = !arena.overflow;
    if (*memory != NULL)
        memset(*memory, 0, n_bytes);
    else if (fits)
        *memory = hyb_alloc_zeroed(ctx, 1, n_bytes);
    if (*memory != NULL) {
        moments->optimizer = optimizer;
        moments->is_8bit = is_8bit;
        for (size_t i = 0; i < n; i++) tensors[i].has_row_multipliers = 0;
    }
    /* Those before, where memory is out. */
    arena = (hyb_arena){moments->memory[moments->optimizer][moments->is_8bit], 0, 0};
    hyb_moments_layout(tensors, n, moments->optimizer, moments->is_8bit, &arena);
    if (*memory != NULL) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for gradients and moments (%zu bytes)", n_bytes);
}

/* Elements so far below the largest of their tensor change no step. */
#define NEGLIGIBLE 1e-12f

void hyb_moments_flush(hyb_ctx *ctx, hyb_tensor *tensors, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float *moment = tensors[i].first_moment;
        size_t size = hyb_tensor_size(&tensors[i]);
        float least = NEGLIGIBLE * hyb_float_of(ctx->kernels.max_abs_bits(moment, size));
        for (size_t j = 0; j < size; j++) moment[j] = fabsf(moment[j]) < least ? 0.0f : moment[j];
    }
}

void hyb_moments_free(hyb_ctx *ctx, hyb_moments *moments) {
    for (int i = 0; i < HYB_N_OPTIMIZERS; i++)
        for (int bits = 0; bits < 2; bits++) hyb_free(ctx, moments->memory[i][bits]);
}
