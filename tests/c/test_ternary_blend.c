/* test_ternary_blend.c - training steps between master and quantised weights: the products against the blend in fp64,
 * the ends of the range, threads, memory, evaluation, and wrong use.
 */
#include "testing.h"

#include <math.h>

#include <hybrid/hybrid.h>

#include "language_model.h"
#include "model_fixture.h"

typedef struct fixture {
    hyb_ctx *ctx;
    hyb_language_model *model;
} fixture;

/* A model prepared with the blend. */
static fixture make_model(const hyb_language_model_config *config, hyb_ctx_options options, hyb_backward backward,
                          float blend, size_t n_sequences) {
    fixture f = {NULL, NULL};
    options.struct_size = sizeof options;
    CHECK_OK(hyb_ctx_create(&options, &f.ctx));
    CHECK_OK(hyb_language_model_create(f.ctx, config, 3, &f.model));
    CHECK_OK(hyb_language_model_set_backward(f.model, backward));
    CHECK_OK(hyb_language_model_set_ternary_blend(f.model, blend));
    CHECK_OK(hyb_language_model_prepare(f.model, n_sequences, 32));
    return f;
}

static void drop_model(fixture *f) {
    hyb_language_model_destroy(f->model);
    hyb_ctx_destroy(f->ctx);
}

/* Gradients of random tokens, another batch for each seed; returns the status. */
static hyb_status step(hyb_language_model *model, size_t n_sequences, uint64_t seed, double *loss) {
    hyb_gradient_statistics statistics = {0.0, 0.0};
    uint32_t *tokens = malloc(n_sequences * 33 * sizeof *tokens);
    for (size_t i = 0; i < n_sequences * 33; i++)
        tokens[i] = (uint32_t)test_random_below(&seed, model->config.vocab_size);
    hyb_status status = hyb_language_model_gradients(model, tokens, n_sequences, 32, &statistics);
    free(tokens);
    *loss = statistics.loss;
    return status;
}

static void update(hyb_language_model *model, uint64_t number) {
    hyb_adamw options = {.learning_rate = 0.01f, .beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1e-8f};
    options.gradient_scale = 1.0f;
    options.step = number;
    CHECK_OK(hyb_language_model_apply(model, &options, 0.0f, NULL));
}

static int same_gradients(const hyb_language_model *a, const hyb_language_model *b) {
    int same = 1;
    for (size_t i = 0; i < a->n_tensors; i++)
        same &= memcmp(a->tensors[i].gradient, b->tensors[i].gradient,
                       hyb_tensor_size(&a->tensors[i]) * sizeof(float)) == 0;
    return same;
}

/* A layer's product with share b of the quantised weights, of dequantised inputs, in fp64. */
static void exact_product(const hyb_tensor *t, const hyb_activations *x, size_t n, double blend, double *y) {
    for (size_t i = 0; i < n; i++)
        for (size_t r = 0; r < t->n_rows; r++) {
            double sum = 0.0;
            for (size_t c = 0; c < t->n_cols; c++) {
                double master = t->values[r * t->n_cols + c];
                double quantized = (double)t->scales[t->n_scales > 1 ? r : 0] * t->codes[r * t->n_cols + c];
                sum += (double)x->scales[i] * x->codes[i * x->ld + c] * (master + blend * (quantized - master));
            }
            y[i * t->n_rows + r] = sum;
        }
}

/* Two roundings a weight and one a product and a sum of at most 50: 60 * 2^-24 = 4e-6. */
static void test_products_are_those_of_the_blend(void) {
    static const int formats[5] = {HYB_FORMAT_TERNARY, HYB_FORMAT_BINARY, HYB_FORMAT_INT2, HYB_FORMAT_INT4,
                                   HYB_FORMAT_INT8};
    static const float blends[4] = {0.0f, 0.25f, 0.9f, 1.0f};
    enum { N = 7, COLS = 50 };
    for (int i = 0; i < 10; i++)
        for (int b = 0; b < 4; b++) {
            hyb_language_model_config config = make_config(2, formats[i / 2], i % 2);
            fixture f = make_model(&config, (hyb_ctx_options){.n_threads = 2}, HYB_BACKWARD_INT8, 0.0f, 4);
            CHECK_OK(hyb_model_refresh(f.model, NULL, NULL));
            hyb_training *t = f.model->training;
            const hyb_tensor *down = f.model->layers[1].ffn_down;
            hyb_input *input = &t->states[1].down_input;
            uint64_t state = 5;
            float x[COLS], y[N * 36];
            double exact[N * 36];
            for (size_t n = 0; n < N; n++) {
                for (size_t c = 0; c < COLS; c++) x[c] = test_random_float(&state);
                hyb_quantize_token(&f.ctx->kernels, x, COLS, input->codes.codes + n * input->codes.ld, input->codes.ld,
                                   &input->codes.sums[n], &input->codes.scales[n]);
            }
            t->work.master_share = 1.0f - blends[b];
            hyb_linear_forward(f.ctx, down, input, N, &t->work, 0, y);
            exact_product(down, &input->codes, N, (double)blends[b], exact);
            CHECK(relative_error(exact, y, (size_t)N * 36) < 4e-6);
            drop_model(&f);
        }
}

/* Where the master weights are what they are quantised to, the blend does not matter: losses are equal up to the
 * rounding of the products (and codes that fall on the other side of a tie: 1 / 127 of one of 36 or 50 inputs). */
static void test_blend_of_equal_weights_changes_nothing(void) {
    hyb_language_model_config config = make_config(2, HYB_FORMAT_BINARY, HYB_SCALE_PER_TENSOR);
    fixture f = make_model(&config, (hyb_ctx_options){.n_threads = 1}, HYB_BACKWARD_F32, 0.0f, 4);
    double losses[3], norms[3];
    for (size_t i = 0; i < f.model->n_tensors; i++)
        for (size_t j = 0; f.model->tensors[i].is_linear && j < hyb_tensor_size(&f.model->tensors[i]); j++)
            f.model->tensors[i].values[j] = f.model->tensors[i].values[j] < 0.0f ? -0.125f : 0.125f;
    CHECK_OK(hyb_language_model_touch(f.model));
    for (int b = 0; b < 3; b++) {
        CHECK_OK(hyb_language_model_set_ternary_blend(f.model, 0.5f * (float)b));
        CHECK_OK(step(f.model, 4, 7, &losses[b]));
        norms[b] = f.model->training->gradient_norm;
    }
    for (int b = 0; b < 2; b++) {
        CHECK(fabs(losses[b] / losses[2] - 1.0) < 1e-4);
        CHECK(fabs(norms[b] / norms[2] - 1.0) < 1e-3);
    }
    drop_model(&f);
}

/* A blend that came back to 1 leaves no trace: the same bits as in a model that never had one, before and after an
 * update, in both backward modes. */
static void test_blend_of_one_is_no_blend(void) {
    for (int backward = HYB_BACKWARD_INT8; backward <= HYB_BACKWARD_F32; backward++) {
        hyb_language_model_config config = make_config(2, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
        hyb_ctx_options options = {.n_threads = 2};
        fixture plain = make_model(&config, options, (hyb_backward)backward, 1.0f, 9);
        fixture blended = make_model(&config, options, (hyb_backward)backward, 0.0f, 9);
        double losses[2];
        CHECK_OK(step(blended.model, 9, 1, &losses[1])); /* gradients are replaced */
        CHECK_OK(hyb_language_model_set_ternary_blend(blended.model, 1.0f));
        for (uint64_t i = 1; i < 4; i++) {
            CHECK_OK(step(plain.model, 9, i, &losses[0]));
            CHECK_OK(step(blended.model, 9, i, &losses[1]));
            CHECK(losses[0] == losses[1] && same_gradients(plain.model, blended.model));
            update(plain.model, i);
            update(blended.model, i);
        }
        drop_model(&plain);
        drop_model(&blended);
    }
}

/* The backward option decides over the gradients of the matrices alone: all that goes back through blended weights is
 * fp32. An output's dY is rounded to 1 / 127 of its largest over the tokens, up to 10 deviations: the relative error is
 * 10 / 127 sqrt(1 / 12) = 2.3 %. */
static void test_backward_option_is_for_the_matrices(void) {
    for (int granularity = 0; granularity < 2; granularity++) {
        hyb_language_model_config config = make_config(2, HYB_FORMAT_TERNARY, granularity);
        fixture a = make_model(&config, (hyb_ctx_options){.n_threads = 1}, HYB_BACKWARD_INT8, 0.3f, 9);
        fixture b = make_model(&config, (hyb_ctx_options){.n_threads = 1}, HYB_BACKWARD_F32, 0.3f, 9);
        double losses[2], exact[50 * 36];
        CHECK_OK(step(a.model, 9, 1, &losses[0]));
        CHECK_OK(step(b.model, 9, 1, &losses[1]));
        CHECK(losses[0] == losses[1]);
        for (size_t i = 0; i < a.model->n_tensors; i++) {
            const hyb_tensor *t = &a.model->tensors[i], *other = &b.model->tensors[i];
            size_t n = hyb_tensor_size(t);
            int same = memcmp(t->gradient, other->gradient, n * sizeof(float)) == 0;
            CHECK(same != t->is_linear);
            for (size_t j = 0; t->is_linear && j < n; j++) exact[j] = (double)other->gradient[j];
            if (t->is_linear) CHECK(relative_error(exact, t->gradient, n) < 0.023);
        }
        drop_model(&a);
        drop_model(&b);
    }
}

/* Threads, slices and micro-batches change no bit, at the start of a ramp and on it. */
static void test_steps_do_not_depend_on_threads(void) {
    for (int i = 0; i < 2; i++) {
        hyb_language_model_config config = make_config(2, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
        config.sub_norms = i;
        config.tied_embeddings = !i;
        fixture f[3];
        double losses[3];
        for (uint32_t m = 0; m < 3; m++) {
            hyb_ctx_options options = {.n_threads = m == 0 ? 1 : 3};
            f[m] = make_model(&config, options, HYB_BACKWARD_INT8, i ? 0.0f : 0.3f, 20);
            if (m == 2) f[m].model->training->max_slice = 1;
            CHECK_OK(step(f[m].model, 20, 1, &losses[m]));
            CHECK(losses[m] == losses[0] && same_gradients(f[m].model, f[0].model));
        }
        for (int m = 0; m < 3; m++) drop_model(&f[m]);
    }
}

/* Loss, logits and effective weights are of the quantised weights, whatever the blend. */
static void test_evaluation_is_of_the_quantized_weights(void) {
    hyb_language_model_config config = make_config(2, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
    fixture f = make_model(&config, (hyb_ctx_options){.n_threads = 1}, HYB_BACKWARD_INT8, 1.0f, 1);
    uint32_t tokens[33];
    float effective[2][36 * 36];
    double losses[2];
    for (uint32_t i = 0; i < 33; i++) tokens[i] = i * 7 % 40;
    for (int b = 0; b < 2; b++) {
        CHECK_OK(hyb_language_model_set_ternary_blend(f.model, b == 0 ? 1.0f : 0.25f));
        CHECK_OK(hyb_language_model_loss(f.model, tokens, 1, 32, &losses[b]));
        CHECK_OK(hyb_language_model_effective(f.model, 2, effective[b])); /* blk.0.attn_q */
    }
    CHECK(losses[0] == losses[1] && memcmp(effective[0], effective[1], sizeof effective[0]) == 0);
    drop_model(&f);
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

/* The estimate is what prepare allocates, more than without a blend; a blended step allocates nothing. */
static void test_memory_comes_from_prepare(void) {
    size_t n_bytes = 0;
    uint64_t weight_bytes, training_bytes[2];
    double loss;
    hyb_ctx_options options = {.struct_size = sizeof options,
                               .allocate = counting_allocate,
                               .release = counting_release,
                               .allocator_user = &n_bytes,
                               .n_threads = 2};
    hyb_language_model_config config = make_config(2, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
    fixture f = make_model(&config, options, HYB_BACKWARD_INT8, 1.0f, 1);
    for (int blends = 0; blends < 2; blends++) {
        hyb_training_kind kind = {sizeof kind, HYB_BACKWARD_INT8, HYB_OPTIMIZER_RMS, blends, 32};
        CHECK_OK(hyb_language_model_memory_for(f.ctx, &config, &kind, 30, 32, &weight_bytes, &training_bytes[blends]));
    }
    CHECK(training_bytes[1] > training_bytes[0]);
    CHECK_OK(hyb_language_model_set_ternary_blend(f.model, 0.0f));
    CHECK_OK(hyb_language_model_set_optimizer(f.model, HYB_OPTIMIZER_RMS)); /* its state is made now, too */
    n_bytes = 0;
    CHECK_OK(hyb_language_model_prepare(f.model, 30, 32));
    CHECK(n_bytes >= training_bytes[1] && n_bytes < training_bytes[1] + 4096);
    for (int b = 2; b >= 0; b--) { /* the context's scratch and threads come with an ordinary step */
        CHECK_OK(hyb_language_model_set_ternary_blend(f.model, 0.5f * (float)b));
        n_bytes = 0;
        CHECK_OK(step(f.model, 30, 1, &loss));
        CHECK(b == 2 || n_bytes == 0);
    }
    drop_model(&f);
}

static void test_wrong_use_is_refused(void) {
    static const uint32_t bad_bits[5] = {0x7fc00000u, 0x7f800000u, 0xff800000u, 0x3f800001u, 0xb0000000u};
    hyb_language_model_config config = make_config(2, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
    fixture f = make_model(&config, (hyb_ctx_options){.n_threads = 1}, HYB_BACKWARD_INT8, 1.0f, 4);
    double losses[2];
    CHECK_STATUS(hyb_language_model_set_ternary_blend(NULL, 0.5f), HYB_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < 5; i++) /* NaN, infinities, just outside */
        CHECK_STATUS(hyb_language_model_set_ternary_blend(f.model, hyb_float_of(bad_bits[i])),
                     HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(step(f.model, 4, 1, &losses[0])); /* refused values changed nothing */
    CHECK_OK(hyb_language_model_set_ternary_blend(f.model, 0.5f));
    CHECK_STATUS(step(f.model, 4, 1, &losses[1]), HYB_ERROR_STATE);
    CHECK(strstr(hyb_ctx_last_error(f.ctx), "prepare") != NULL);
    CHECK_OK(hyb_language_model_prepare(f.model, 4, 32));
    CHECK_OK(step(f.model, 4, 1, &losses[1]));
    CHECK(losses[0] != losses[1]);
    /* More threads: prepared again, with the memory that was asked for, though the blend is 1 at this moment. */
    CHECK_OK(hyb_language_model_set_ternary_blend(f.model, 1.0f));
    CHECK_OK(hyb_ctx_set_n_threads(f.ctx, 3));
    CHECK_OK(step(f.model, 4, 1, &losses[0]));
    CHECK_OK(hyb_language_model_set_ternary_blend(f.model, 0.5f));
    CHECK_OK(step(f.model, 4, 1, &losses[0]));
    CHECK(losses[0] == losses[1]);
    drop_model(&f);
}

/* Without quantised matrices there is nothing to blend. */
static void test_fp32_matrices_take_no_part(void) {
    hyb_language_model_config config = make_config(2, HYB_FORMAT_F32, HYB_SCALE_PER_TENSOR);
    fixture a = make_model(&config, (hyb_ctx_options){.n_threads = 1}, HYB_BACKWARD_INT8, 1.0f, 4);
    fixture b = make_model(&config, (hyb_ctx_options){.n_threads = 1}, HYB_BACKWARD_INT8, 0.5f, 4);
    double losses[2];
    CHECK_OK(step(a.model, 4, 1, &losses[0]));
    CHECK_OK(step(b.model, 4, 1, &losses[1]));
    CHECK(losses[0] == losses[1] && same_gradients(a.model, b.model));
    drop_model(&a);
    drop_model(&b);
}

int main(void) {
    test_products_are_those_of_the_blend();
    test_blend_of_equal_weights_changes_nothing();
    test_blend_of_one_is_no_blend();
    test_backward_option_is_for_the_matrices();
    test_steps_do_not_depend_on_threads();
    test_evaluation_is_of_the_quantized_weights();
    test_memory_comes_from_prepare();
    test_wrong_use_is_refused();
    test_fp32_matrices_take_no_part();
    return TEST_RESULT();
}
