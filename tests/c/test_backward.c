/* test_backward.c - the integer gradient products of a group of layers: against the same products in fp64, bit-equal on
 * every tier and thread count, over chunks of tokens, with a NaN in the gradient, and the memory that they take.
 */
#include "testing.h"

#include <math.h>

#include <hybrid/hybrid.h>

#include "language_model.h"
#include "model_fixture.h"

/* A model whose layer states hold random inputs, random gradients, and the gradient products of one group. */
typedef struct fixture {
    hyb_ctx *ctx;
    hyb_language_model *model;
    hyb_linear_group group;
    size_t n, n_cols;
    float *dy[HYB_GROUP_TENSORS], *dx;
} fixture;

static void fixture_begin(fixture *f, const hyb_language_model_config *config, int which, size_t n_sequences,
                          uint32_t threads, uint32_t isa_mask) {
    hyb_ctx_options options = {.struct_size = sizeof options, .n_threads = 3, .isa_mask = isa_mask};
    uint64_t state = 5;
    memset(f, 0, sizeof *f);
    CHECK_OK(hyb_ctx_create(&options, &f->ctx));
    CHECK_OK(hyb_language_model_create(f->ctx, config, 3, &f->model));
    CHECK_OK(hyb_language_model_set_backward(f->model, HYB_BACKWARD_INT8));
    CHECK_OK(hyb_language_model_prepare(f->model, n_sequences, 32)); /* three threads: a micro-batch holds them all */
    CHECK_OK(hyb_ctx_set_n_threads(f->ctx, threads));
    CHECK_OK(hyb_model_refresh(f->model, NULL, NULL));
    hyb_training *t = f->model->training;
    hyb_training_begin(config, 32, t);
    hyb_layer_state *s = &t->states[0];
    hyb_input *inputs[HYB_N_GROUPS] = {&s->attn_input, &s->out_input, &s->ffn_input, &s->down_input};
    hyb_input *input = inputs[which];
    f->n = n_sequences * 32;
    f->group.n_tensors = hyb_group_tensors(&f->model->layers[0], which, f->group.tensors);
    f->n_cols = f->group.tensors[0]->n_cols;
    f->group.input = input;
    f->group.transposed = &t->int8.transposed[which];
    for (size_t i = 0; i < f->n; i++) {
        float x[64];
        for (size_t c = 0; c < f->n_cols; c++) x[c] = test_random_float(&state) * (1.0f + (float)(i % 9));
        hyb_quantize_token(&f->ctx->kernels, x, f->n_cols, input->codes.codes + i * input->codes.ld, input->codes.ld,
                           &input->codes.sums[i], &input->codes.scales[i]);
    }
    for (size_t i = 0; i < f->group.n_tensors; i++) {
        size_t size = f->n * f->group.tensors[i]->n_rows;
        f->group.dy[i] = f->dy[i] = malloc(size * sizeof(float));
        for (size_t j = 0; j < size; j++) f->dy[i][j] = test_random_float(&state) * 1e-3f * (float)(i + 1);
    }
    f->dx = malloc(f->n * f->n_cols * sizeof(float));
}

static void fixture_run(fixture *f) {
    hyb_backward_int8_refresh(f->model);
    hyb_linear_backward_int8(f->ctx, &f->group, f->n, f->dx, f->model->training);
}

static void fixture_end(fixture *f) {
    free(f->dx);
    for (size_t i = 0; i < f->group.n_tensors; i++) free(f->dy[i]);
    hyb_language_model_destroy(f->model);
    hyb_ctx_destroy(f->ctx);
}

/* dX and dW of the dequantised operands in fp64; returns the larger relative error of ours. */
static double error_of(const fixture *f) {
    const hyb_activations *codes = &f->group.input->codes;
    size_t n_cols = f->n_cols;
    double worst = 0.0, *dx = calloc(f->n * n_cols, sizeof(double));
    for (size_t i = 0; i < f->group.n_tensors; i++) {
        const hyb_tensor *tensor = f->group.tensors[i];
        size_t n_rows = tensor->n_rows;
        double *dw = calloc(n_rows * n_cols, sizeof(double));
        for (size_t t = 0; t < f->n; t++)
            for (size_t r = 0; r < n_rows; r++)
                for (size_t c = 0; c < n_cols; c++) {
                    double dy = f->dy[i][t * n_rows + r], scale = tensor->scales[tensor->n_scales > 1 ? r : 0];
                    dx[t * n_cols + c] += dy * scale * tensor->codes[r * n_cols + c];
                    dw[r * n_cols + c] += dy * (double)codes->scales[t] * codes->codes[t * codes->ld + c];
                }
        double error = relative_error(dw, tensor->gradient, n_rows * n_cols);
        if (error > worst) worst = error;
        free(dw);
    }
    double error = relative_error(dx, f->dx, f->n * n_cols);
    free(dx);
    return error > worst ? error : worst;
}

/* Uniform gradients of n outputs, rounded to 1 / 127 of the largest: the relative error of a code is
 * (1 / 127) sqrt(1 / 12) / sqrt(1 / 3) = 0.004, and of a sum of many the same. The input's scale varies ninefold
 * between tokens and is folded in before rounding: twice that. */
static void test_products_are_close_to_exact(void) {
    static const int formats[4] = {HYB_FORMAT_TERNARY, HYB_FORMAT_BINARY, HYB_FORMAT_INT4, HYB_FORMAT_INT8};
    for (int which = 0; which < HYB_N_GROUPS; which++)
        for (int i = 0; i < 8; i++) {
            hyb_language_model_config config = make_config(1, formats[i / 2], i % 2);
            fixture f;
            fixture_begin(&f, &config, which, 3, 1, 0);
            fixture_run(&f);
            CHECK(error_of(&f) < 0.009);
            fixture_end(&f);
        }
}

/* Integer sums, and roundings that the contract fixes: no tier and no thread count changes a bit. 17 x 32 tokens are
 * two whole chunks and a short one. */
static void test_products_are_the_same_everywhere(void) {
    static const uint32_t masks[4] = {HYB_ISA_MASK_SCALAR, HYB_ISA_AVX2, HYB_ISA_AVX2 | HYB_ISA_AVX512, 0};
    static const size_t n_sequences[2] = {3, 17};
    for (int i = 0; i < 2; i++)
        for (int which = 0; which < HYB_N_GROUPS; which++) {
            hyb_language_model_config config = make_config(1, HYB_FORMAT_TERNARY, which % 2);
            fixture first;
            fixture_begin(&first, &config, which, n_sequences[i], 1, masks[0]);
            fixture_run(&first);
            if (i == 1) CHECK(first.n > first.model->training->int8.chunk && error_of(&first) < 0.009);
            for (int m = 1; m < 4; m++) {
                fixture f;
                fixture_begin(&f, &config, which, n_sequences[i], m == 3 ? 3 : 1, masks[m]);
                fixture_run(&f);
                CHECK(memcmp(f.dx, first.dx, f.n * f.n_cols * sizeof(float)) == 0);
                for (size_t k = 0; k < f.group.n_tensors; k++)
                    CHECK(memcmp(f.group.tensors[k]->gradient, first.group.tensors[k]->gradient,
                                 hyb_tensor_size(f.group.tensors[k]) * sizeof(float)) == 0);
                fixture_end(&f);
            }
            fixture_end(&first);
        }
}

/* A NaN or an infinity in dY spoils its token of dX and its row of dW, which is how a step finds it, and no more. A
 * token and an output of zeros give zeros. */
static void test_not_finite_gradients_show(void) {
    for (int infinite = 0; infinite < 2; infinite++) {
        hyb_language_model_config config = make_config(1, HYB_FORMAT_TERNARY, infinite);
        fixture f;
        fixture_begin(&f, &config, HYB_GROUP_GATE_UP, 3, 2, 0);
        for (size_t r = 0; r < 50; r++) f.dy[0][70 * 50 + r] = f.dy[1][70 * 50 + r] = 0.0f;
        for (size_t t = 0; t < f.n; t++) f.dy[0][t * 50 + 11] = 0.0f;
        f.dy[1][33 * 50 + 7] = hyb_float_of(infinite ? 0xff800000u : 0x7fc00000u);
        fixture_run(&f);
        for (size_t i = 0; i < f.n * f.n_cols; i++) CHECK(hyb_is_finite(f.dx[i]) == (i / f.n_cols != 33));
        for (size_t c = 0; c < f.n_cols; c++) CHECK(f.dx[70 * f.n_cols + c] == 0.0f);
        for (size_t i = 0; i < 50 * f.n_cols; i++) {
            CHECK(hyb_is_finite(f.group.tensors[0]->gradient[i]));
            CHECK(hyb_is_finite(f.group.tensors[1]->gradient[i]) == (i / f.n_cols != 7));
        }
        for (size_t c = 0; c < f.n_cols; c++) CHECK(f.group.tensors[0]->gradient[11 * f.n_cols + c] == 0.0f);
        fixture_end(&f);
    }
}

/* After an update the transposed weights are those of the new codes. */
static void test_new_weights_are_used(void) {
    hyb_language_model_config config = make_config(1, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
    fixture f;
    fixture_begin(&f, &config, HYB_GROUP_QKV, 3, 1, 0);
    fixture_run(&f);
    for (size_t i = 0; i < hyb_tensor_size(f.group.tensors[2]); i++)
        f.group.tensors[2]->values[i] *= i % 3 ? -1.0f : 2.0f;
    CHECK_OK(hyb_language_model_touch(f.model));
    CHECK_OK(hyb_model_refresh(f.model, NULL, NULL));
    fixture_run(&f);
    CHECK(error_of(&f) < 0.009);
    fixture_end(&f);
}

/* Gradients of a batch of random tokens; returns the loss. */
static double gradients_of(hyb_language_model *model, size_t n_sequences, size_t n_context) {
    uint64_t state = 11;
    hyb_gradient_statistics statistics;
    uint32_t *tokens = malloc(n_sequences * (n_context + 1) * sizeof *tokens);
    for (size_t i = 0; i < n_sequences * (n_context + 1); i++)
        tokens[i] = (uint32_t)test_random_below(&state, model->config.vocab_size);
    CHECK_OK(hyb_language_model_gradients(model, tokens, n_sequences, n_context, &statistics));
    free(tokens);
    return statistics.loss;
}

static void check_step_sizes(const hyb_language_model_config *config, hyb_backward backward, const size_t *prepared,
                             const size_t *used) {
    hyb_language_model *models[3];
    hyb_ctx *contexts[3];
    double losses[3];
    for (uint32_t m = 0; m < 3; m++) {
        hyb_ctx_options options = {.struct_size = sizeof options, .n_threads = m == 0 ? 1 : 3};
        CHECK_OK(hyb_ctx_create(&options, &contexts[m]));
        CHECK_OK(hyb_language_model_create(contexts[m], config, 3, &models[m]));
        CHECK_OK(hyb_language_model_set_backward(models[m], backward));
        CHECK_OK(hyb_language_model_prepare(models[m], prepared[0], prepared[1]));
        if (m == 2) models[m]->training->max_slice = 1;
        losses[m] = gradients_of(models[m], used[0], used[1]);
    }
    for (int m = 0; m < 3; m++) {
        CHECK(losses[m] == losses[0]);
        for (size_t k = 0; m > 0 && k < models[0]->n_tensors; k++)
            CHECK(memcmp(models[0]->tensors[k].gradient, models[m]->tensors[k].gradient,
                         hyb_tensor_size(&models[0]->tensors[k]) * sizeof(float)) == 0);
    }
    for (int m = 0; m < 3; m++) {
        hyb_language_model_destroy(models[m]);
        hyb_ctx_destroy(contexts[m]);
    }
}

/* A group with fewer outputs than another may need more room for a token's codes: 1024 lie 1088 apart, 1056 do not. */
static void test_widest_codes_fit(void) {
    hyb_language_model_config config = make_config(1, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
    double losses[2], norms[2];
    config.dim = 352;
    config.n_heads = config.n_kv_heads = 11;
    config.ffn_dim = 512;
    for (int backward = HYB_BACKWARD_INT8; backward <= HYB_BACKWARD_F32; backward++) {
        hyb_ctx *ctx = NULL;
        hyb_language_model *model = NULL;
        CHECK_OK(hyb_ctx_create(NULL, &ctx));
        CHECK_OK(hyb_language_model_create(ctx, &config, 3, &model));
        CHECK_OK(hyb_language_model_set_backward(model, (hyb_backward)backward));
        CHECK_OK(hyb_language_model_prepare(model, 8, 32));
        losses[backward == HYB_BACKWARD_F32] = gradients_of(model, 8, 32);
        norms[backward == HYB_BACKWARD_F32] = model->training->gradient_norm;
        hyb_language_model_destroy(model);
        hyb_ctx_destroy(ctx);
    }
    CHECK(losses[0] == losses[1] && fabs(norms[0] / norms[1] - 1.0) < 0.02);
}

/* Micro-batches of one scope, of three in one slice and of three in slices of one; scopes of several sequences, of one,
 * and of a long one in pieces, and a call with other sizes than those prepared: the same bits. */
static void test_steps_do_not_depend_on_threads(void) {
    static const size_t sizes[4][2] = {{20, 32}, {7, 100}, {3, 300}, {6, 60}}; /* the last: prepared for 7 x 100 */
    for (int i = 0; i < 4; i++)
        for (int backward = HYB_BACKWARD_INT8; backward <= HYB_BACKWARD_F32; backward++)
            for (uint32_t variant = 0; variant < 4; variant++) {
                hyb_language_model_config config = make_config(1, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
                config.max_context = 300;
                config.n_layers = 2;
                config.sub_norms = variant == 1 || variant == 3;
                if (variant >= 2) config.linear_format = config.embedding_format = HYB_FORMAT_F32;
                config.tied_embeddings = variant != 3;
                check_step_sizes(&config, (hyb_backward)backward, sizes[i == 3 ? 1 : i], sizes[i]);
            }
}

static void *counting_allocate(void *user, size_t bytes, size_t alignment) {
    void *memory = NULL;
    *(size_t *)user += bytes;
    return posix_memalign(&memory, alignment, bytes ? bytes : 1) == 0 ? memory : NULL;
}
static void counting_release(void *user, void *memory) {
    (void)user;
    free(memory);
}

/* The estimate of either mode is what prepare allocates, up to the rotary tables and the struct itself. */
static void test_memory_is_estimated(void) {
    for (int backward = HYB_BACKWARD_INT8; backward <= HYB_BACKWARD_F32; backward++) {
        size_t n_bytes = 0;
        uint64_t weight_bytes, training_bytes;
        hyb_ctx_options options = {.struct_size = sizeof options,
                                   .allocate = counting_allocate,
                                   .release = counting_release,
                                   .allocator_user = &n_bytes,
                                   .n_threads = 2};
        hyb_language_model_config config = make_config(1, HYB_FORMAT_TERNARY, HYB_SCALE_PER_ROW);
        hyb_ctx *ctx = NULL;
        hyb_language_model *model = NULL;
        CHECK_OK(hyb_ctx_create(&options, &ctx));
        CHECK_OK(hyb_language_model_create(ctx, &config, 1, &model));
        CHECK_OK(hyb_language_model_set_backward(model, (hyb_backward)backward));
        hyb_training_kind kind = {sizeof kind, (int32_t)backward, HYB_OPTIMIZER_ADAMW, 0, 32};
        CHECK_OK(hyb_language_model_memory_for(ctx, &config, &kind, 300, 32, &weight_bytes, &training_bytes));
        n_bytes = 0;
        CHECK_OK(hyb_language_model_prepare(model, 300, 32));
        CHECK(n_bytes >= training_bytes && n_bytes < training_bytes + 4096);
        CHECK_STATUS(hyb_language_model_set_backward(model, (hyb_backward)2), HYB_ERROR_INVALID_ARGUMENT);
        hyb_language_model_destroy(model);
        hyb_ctx_destroy(ctx);
    }
}

int main(void) {
    test_products_are_close_to_exact();
    test_products_are_the_same_everywhere();
    test_not_finite_gradients_show();
    test_new_weights_are_used();
    test_widest_codes_fit();
    test_steps_do_not_depend_on_threads();
    test_memory_is_estimated();
    return TEST_RESULT();
}
