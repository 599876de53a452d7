/* test_mlp.c - the perceptron through its public API: gradients against finite differences, the forward pass against
 * the same sums written out, training falls, the same bits for any thread count and instruction set, losses of the
 * caller's, and bad input.
 */
#include "testing.h"

#include <math.h>

#include "mlp_fixture.h"

/* ---- in double, with effective weights and no quantised activations ---- */

static double act(int activation, double z) {
    if (activation == HYB_ACTIVATION_SILU) return z / (1.0 + exp(-z));
    double p = z > 0.0 ? z : 0.0;
    return activation == HYB_ACTIVATION_RELU ? p : p * p;
}

typedef struct network {
    hyb_mlp_config config;
    double weights[5][20 * 20], biases[5][20], gains[5][20];
    int has_gain[5];
} network;

static void read_network(hyb_mlp *mlp, network *net) {
    memset(net, 0, sizeof *net);
    net->config.struct_size = sizeof net->config;
    CHECK_OK(hyb_mlp_get_config(mlp, &net->config));
    for (size_t i = 0; i < hyb_mlp_parameter_count(mlp); i++) {
        hyb_parameter p;
        float values[20 * 20];
        CHECK_OK(hyb_mlp_parameter(mlp, i, &p));
        CHECK_OK(hyb_mlp_effective(mlp, i, values));
        int layer = p.name[6] - '0', is_gain = strstr(p.name, "gain") != NULL;
        double *to = strstr(p.name, "weight") ? net->weights[layer] : is_gain ? net->gains[layer] : net->biases[layer];
        net->has_gain[layer] |= is_gain;
        for (size_t j = 0; j < (size_t)p.n_rows * p.n_cols; j++) to[j] = (double)values[j];
    }
}

static void forward(const network *net, const float *x, double *out) {
    const hyb_mlp_config *c = &net->config;
    double hidden[20], input[20], z[20];
    for (uint32_t i = 0; i < c->sizes[0]; i++) hidden[i] = (double)x[i];
    for (uint32_t l = 0; l < c->n_layers; l++) {
        uint32_t n_in = c->sizes[l], n_out = c->sizes[l + 1];
        double squares = 0.0;
        for (uint32_t i = 0; i < n_in; i++) squares += hidden[i] * hidden[i];
        double r = net->has_gain[l] ? 1.0 / sqrt(squares / n_in + (double)c->norm_epsilon) : 1.0;
        for (uint32_t i = 0; i < n_in; i++) input[i] = hidden[i] * r * (net->has_gain[l] ? net->gains[l][i] : 1.0);
        for (uint32_t o = 0; o < n_out; o++) {
            z[o] = net->biases[l][o];
            for (uint32_t i = 0; i < n_in; i++) z[o] += net->weights[l][o * n_in + i] * input[i];
        }
        int residual = c->residual && l > 0 && l + 1 < c->n_layers && n_in == n_out;
        for (uint32_t o = 0; o < n_out; o++)
            if (l + 1 == c->n_layers)
                out[o] = z[o];
            else
                hidden[o] = act(c->activation, z[o]) + (residual ? hidden[o] : 0.0);
    }
}

static double loss_of(const network *net, const rows *r, int soft) {
    uint32_t n_in = net->config.sizes[0], n_out = net->config.sizes[net->config.n_layers];
    double total = 0.0, out[20];
    for (size_t i = 0; i < ROWS; i++) {
        double sum = 0.0, row = 0.0, most = -1e300;
        forward(net, r->x + i * n_in, out);
        for (uint32_t o = 0; o < n_out; o++) most = fmax(most, out[o]);
        for (uint32_t o = 0; o < n_out; o++) sum += exp(out[o] - most);
        for (uint32_t o = 0; o < n_out; o++) {
            double target = (double)r->values[i * n_out + o];
            if (net->config.loss == HYB_LOSS_MSE)
                row += (out[o] - target) * (out[o] - target) / n_out;
            else
                row += (soft ? target : r->classes[i] == o ? 1.0 : 0.0) * (log(sum) + most - out[o]);
        }
        total += row;
    }
    return total / ROWS;
}

/* ---- gradients ---- */

static double *value_at(network *net, const char *name, size_t index) {
    int layer = name[6] - '0';
    return (strstr(name, "weight") ? net->weights[layer]
            : strstr(name, "gain") ? net->gains[layer]
                                   : net->biases[layer]) +
           index;
}

/* The fp32 twin's gradients are the central differences of the loss in double: exact to the square of the step where
 * the activation is smooth; the ReLUs' few kinks lie further than 1e-5 from any z here. */
static void check_gradients(int loss, int soft, int activation, int norm) {
    hyb_ctx *ctx = make_ctx(0, 2);
    hyb_mlp_config config = deep_config(loss, HYB_FORMAT_F32);
    hyb_mlp *mlp = NULL;
    static rows r;
    static network net;
    hyb_gradient_statistics statistics;
    config.activation = activation;
    config.norm = norm;
    fill_rows(&r, 5);
    CHECK_OK(hyb_mlp_create(ctx, &config, 5, &mlp));
    CHECK_OK(hyb_mlp_prepare(mlp, ROWS));
    for (size_t i = 0; i < hyb_mlp_parameter_count(mlp); i++) { /* biases and gains that are not all the same */
        hyb_parameter p;
        CHECK_OK(hyb_mlp_parameter(mlp, i, &p));
        for (size_t c = 0; p.n_rows == 1 && c < p.n_cols; c++) p.values[c] += 0.1f * (float)((c * 7) % 5) - 0.2f;
    }
    CHECK_OK(hyb_mlp_touch(mlp));
    read_network(mlp, &net);
    int classes = loss == HYB_LOSS_CROSS_ENTROPY && !soft;
    CHECK_OK(hyb_mlp_gradients(mlp, r.x, classes ? NULL : r.values, classes ? r.classes : NULL, ROWS, &statistics));
    CHECK(fabs(statistics.loss - loss_of(&net, &r, soft)) < 1e-5 * statistics.loss);
    double squares = 0.0;
    for (size_t i = 0; i < hyb_mlp_parameter_count(mlp); i++) {
        hyb_parameter p;
        double difference = 0.0, size = 0.0;
        CHECK_OK(hyb_mlp_parameter(mlp, i, &p));
        for (size_t j = 0; j < (size_t)p.n_rows * p.n_cols; j++) {
            double *value = value_at(&net, p.name, j), kept = *value, step = 1e-5;
            *value = kept + step;
            double above = loss_of(&net, &r, soft);
            *value = kept - step;
            double slope = (above - loss_of(&net, &r, soft)) / (2.0 * step);
            *value = kept;
            difference += ((double)p.gradient[j] - slope) * ((double)p.gradient[j] - slope);
            size += slope * slope;
        }
        squares += size;
        CHECK(sqrt(difference) < 2e-4 * sqrt(size) + 1e-7);
    }
    CHECK(fabs(statistics.gradient_norm - sqrt(squares)) < 1e-4 * sqrt(squares));
    hyb_mlp_destroy(mlp);
    hyb_ctx_destroy(ctx);
}

static void test_gradients_are_those_of_the_loss(void) {
    for (int norm = HYB_MLP_NORM_RESIDUAL; norm <= HYB_MLP_NORM_NONE; norm++) {
        check_gradients(HYB_LOSS_MSE, 0, HYB_ACTIVATION_RELU, norm);
        check_gradients(HYB_LOSS_CROSS_ENTROPY, 0, HYB_ACTIVATION_SILU, norm);
        check_gradients(HYB_LOSS_CROSS_ENTROPY, 1, HYB_ACTIVATION_SQUARED_RELU, norm);
    }
}

/* ---- the forward pass ---- */

/* A ternary layer's output is bias + (sum of code * code as an integer) * (row's scale * weight's scale), bit by bit.
 */
static void test_ternary_layer_is_exact(void) {
    static const uint32_t sizes[2] = {37, 6};
    hyb_ctx *ctx = make_ctx(0, 1);
    hyb_mlp_config config = make_config(1, sizes, HYB_LOSS_MSE, HYB_FORMAT_TERNARY);
    hyb_quantizer quantizer = {HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR, HYB_THRESHOLD_ABSMEAN, 0.0f};
    hyb_mlp *mlp = NULL;
    hyb_parameter weight, bias;
    static rows r;
    int8_t codes[6 * 37], x_codes[ROWS * 37];
    float scale, x_scales[ROWS], found[ROWS * 6];
    fill_rows(&r, 6);
    CHECK_OK(hyb_mlp_create(ctx, &config, 1, &mlp));
    CHECK_OK(hyb_mlp_parameter(mlp, 0, &weight));
    CHECK_OK(hyb_mlp_parameter(mlp, 1, &bias));
    for (int o = 0; o < 6; o++) bias.values[o] = 0.3f * (float)o - 0.7f;
    CHECK_OK(hyb_mlp_predict(mlp, r.x, ROWS, found));
    CHECK_OK(hyb_quantize(ctx, &quantizer, weight.values, 6, 37, codes, &scale));
    CHECK_OK(hyb_quantize_activations(ctx, r.x, ROWS, 37, x_codes, x_scales));
    for (int i = 0; i < ROWS; i++)
        for (int o = 0; o < 6; o++) {
            int32_t sum = 0;
            for (int c = 0; c < 37; c++) sum += codes[o * 37 + c] * x_codes[i * 37 + c];
            float product = (float)sum * (x_scales[i] * scale), expected = bias.values[o] + product;
            CHECK(found[i * 6 + o] == expected);
        }
    hyb_mlp_destroy(mlp);
    hyb_ctx_destroy(ctx);
}

/* Every optimiser brings the loss of a few rows down by half, with ternary weights. */
static void test_training_learns(void) {
    static rows r;
    fill_rows(&r, 5);
    for (int optimizer = HYB_OPTIMIZER_ADAMW; optimizer <= HYB_OPTIMIZER_L2; optimizer++) {
        hyb_ctx *ctx = make_ctx(0, 1);
        hyb_mlp_config config = deep_config(HYB_LOSS_CROSS_ENTROPY, HYB_FORMAT_TERNARY);
        hyb_mlp *mlp = NULL;
        double first = 0.0, last = 0.0, cosine = 2.0;
        CHECK_OK(hyb_mlp_create(ctx, &config, 2, &mlp));
        CHECK_OK(train(mlp, (hyb_optimizer)optimizer, &r, 120, &first, &last));
        CHECK(last < 0.5 * first);
        CHECK_STATUS(hyb_mlp_alignment(mlp, &cosine), HYB_ERROR_STATE); /* the gradients were used */
        hyb_mlp_destroy(mlp);
        hyb_ctx_destroy(ctx);
    }
}

/* Weights after training do not depend on the number of threads, outputs on nothing at all. */
static void test_the_same_everywhere(void) {
    static const uint32_t masks[4] = {0, HYB_ISA_MASK_SCALAR, HYB_ISA_AVX2, HYB_ISA_NEON};
    static rows r;
    fill_rows(&r, 5);
    for (int format = HYB_FORMAT_F32; format <= HYB_FORMAT_INT8; format++) {
        float trained[20 * 20], expected[ROWS * 5], found[ROWS * 5];
        hyb_parameter p;
        for (uint32_t threads = 1; threads <= 5; threads += 2) {
            hyb_ctx *ctx = make_ctx(0, threads);
            hyb_mlp_config config = deep_config(HYB_LOSS_CROSS_ENTROPY, format);
            hyb_mlp *mlp = NULL;
            double loss;
            config.norm = format % 3;
            config.granularity = format % 2;
            CHECK_OK(hyb_mlp_create(ctx, &config, 9, &mlp));
            CHECK_OK(train(mlp, HYB_OPTIMIZER_SPECTRAL, &r, 5, &loss, &loss));
            CHECK_OK(hyb_mlp_parameter(mlp, 2, &p)); /* layer.1.weight or its gain */
            CHECK_OK(hyb_mlp_predict(mlp, r.x, ROWS, threads == 1 ? expected : found));
            size_t n = (size_t)p.n_rows * p.n_cols;
            if (threads == 1) memcpy(trained, p.values, n * sizeof(float));
            CHECK(memcmp(trained, p.values, n * sizeof(float)) == 0);
            CHECK(threads == 1 || memcmp(expected, found, sizeof found) == 0);
            for (size_t m = 0; threads == 1 && m < 4; m++) { /* the same weights in other hands */
                hyb_ctx *other = make_ctx(masks[m], 3);
                hyb_mlp *copy = NULL;
                CHECK_OK(hyb_mlp_create(other, &config, 1, &copy));
                for (size_t i = 0; i < hyb_mlp_parameter_count(mlp); i++) {
                    hyb_parameter from, to;
                    CHECK_OK(hyb_mlp_parameter(mlp, i, &from));
                    CHECK_OK(hyb_mlp_parameter(copy, i, &to));
                    memcpy(to.values, from.values, (size_t)from.n_rows * from.n_cols * sizeof(float));
                }
                CHECK_OK(hyb_mlp_touch(copy));
                for (size_t first = 0; first < ROWS; first += 7) /* in any portions */
                    CHECK_OK(hyb_mlp_predict(copy, r.x + first * 11, first + 7 < ROWS ? 7 : ROWS - first,
                                             found + first * 5));
                CHECK(memcmp(expected, found, sizeof found) == 0);
                hyb_mlp_destroy(copy);
                hyb_ctx_destroy(other);
            }
            hyb_mlp_destroy(mlp);
            hyb_ctx_destroy(ctx);
        }
    }
}

/* ---- losses ---- */

typedef struct own_loss {
    const float *targets;
    int fails;
    float poison;
} own_loss;

static int mse(void *user, const float *outputs, size_t n_rows, size_t n_outputs, float *gradient, double *loss) {
    const own_loss *own = user;
    size_t n = n_rows * n_outputs;
    *loss = 0.0;
    for (size_t i = 0; i < n; i++) {
        double difference = (double)outputs[i] - (double)own->targets[i];
        *loss += difference * difference / (double)n;
        gradient[i] = (float)(2.0 * difference / (double)n) + own->poison;
    }
    return own->fails;
}

/* A loss of the caller's gives the gradients of the same one built in; one that gives up or gives NaN is reported. */
static void test_any_loss(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    hyb_mlp_config config = deep_config(HYB_LOSS_MSE, HYB_FORMAT_TERNARY);
    hyb_mlp *mlp = NULL;
    hyb_parameter p;
    static rows r;
    float expected[20 * 11];
    hyb_gradient_statistics ours, theirs;
    double loss = 0.0;
    fill_rows(&r, 5);
    own_loss own = {r.values, 0, 0.0f};
    CHECK_OK(hyb_mlp_create(ctx, &config, 2, &mlp));
    CHECK_OK(hyb_mlp_prepare(mlp, ROWS));
    CHECK_OK(hyb_mlp_gradients(mlp, r.x, r.values, NULL, ROWS, &ours));
    CHECK_OK(hyb_mlp_evaluate(mlp, r.x, r.values, NULL, ROWS, &loss));
    CHECK(fabs(loss - ours.loss) < 1e-6 * loss);
    CHECK_OK(hyb_mlp_parameter(mlp, 0, &p));
    memcpy(expected, p.gradient, sizeof expected);
    CHECK_OK(hyb_mlp_gradients_with(mlp, r.x, ROWS, mse, &own, &theirs));
    CHECK(fabs(ours.loss - theirs.loss) < 1e-6 * ours.loss);
    for (size_t i = 0; i < 20 * 11; i++) CHECK(fabsf(p.gradient[i] - expected[i]) < 1e-5f);
    own.fails = 1;
    CHECK_STATUS(hyb_mlp_gradients_with(mlp, r.x, ROWS, mse, &own, &theirs), HYB_ERROR_CANCELLED);
    CHECK_STATUS(hyb_mlp_apply(mlp, &(hyb_adamw){.step = 1}, 0.0f, NULL), HYB_ERROR_STATE);
    own.fails = 0;
    own.poison = (float)NAN;
    CHECK_STATUS(hyb_mlp_gradients_with(mlp, r.x, ROWS, mse, &own, &theirs), HYB_ERROR_NOT_FINITE);
    hyb_mlp_destroy(mlp);
    hyb_ctx_destroy(ctx);
}

/* ---- bad input ---- */

static void check_config_refused(hyb_ctx *ctx, hyb_mlp_config config, const char *name) {
    hyb_mlp *mlp = NULL;
    CHECK_STATUS(hyb_mlp_create(ctx, &config, 0, &mlp), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), name) != NULL);
}

static void test_bad_configurations_are_named(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    hyb_mlp_config good = deep_config(HYB_LOSS_MSE, HYB_FORMAT_TERNARY), c;
    check_config_refused(ctx, (c = good, c.n_layers = 0, c), "n_layers");
    check_config_refused(ctx, (c = good, c.n_layers = 33, c), "n_layers");
    check_config_refused(ctx, (c = good, c.sizes[2] = 0, c), "sizes[2]");
    check_config_refused(ctx, (c = good, c.sizes[5] = 65537, c), "sizes[5]");
    check_config_refused(ctx, (c = good, c.loss = 2, c), "loss");
    check_config_refused(ctx, (c = good, c.activation = -1, c), "activation");
    check_config_refused(ctx, (c = good, c.norm = 3, c), "norm");
    check_config_refused(ctx, (c = good, c.format = 6, c), "format");
    check_config_refused(ctx, (c = good, c.last_format = -2, c), "last_format");
    check_config_refused(ctx, (c = good, c.norm_epsilon = 0.0f, c), "norm_epsilon");
    hyb_ctx_destroy(ctx);
}

static void test_bad_input_is_named(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    hyb_mlp_config config = deep_config(HYB_LOSS_CROSS_ENTROPY, HYB_FORMAT_TERNARY);
    hyb_mlp *mlp = NULL;
    static rows r;
    hyb_gradient_statistics s;
    hyb_adamw adamw = {.learning_rate = 1e-3f, .epsilon = 1e-8f, .gradient_scale = 1.0f, .step = 1};
    hyb_trust_region trust;
    float outputs[ROWS * 5];
    fill_rows(&r, 5);
    hyb_trust_region_defaults(&trust);
    trust.step = 1;
    CHECK_OK(hyb_mlp_create(ctx, &config, 0, &mlp));
    CHECK_STATUS(hyb_mlp_gradients(mlp, r.x, NULL, r.classes, 4, &s), HYB_ERROR_STATE);
    CHECK_STATUS(hyb_mlp_prepare(mlp, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_mlp_prepare(mlp, 4));
    CHECK_STATUS(hyb_mlp_apply(mlp, &adamw, 0.0f, NULL), HYB_ERROR_STATE);
    CHECK_STATUS(hyb_mlp_gradients(mlp, r.x, NULL, r.classes, 5, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_mlp_gradients(mlp, r.x, NULL, r.classes, 0, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_mlp_gradients(mlp, NULL, NULL, r.classes, 4, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_mlp_gradients(mlp, r.x, r.values, r.classes, 4, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_mlp_gradients(mlp, r.x, NULL, NULL, 4, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "reconstruction") != NULL);
    r.classes[2] = 5;
    CHECK_STATUS(hyb_mlp_gradients(mlp, r.x, NULL, r.classes, 4, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "row 2 is of class 5") != NULL);
    r.values[7] = -0.5f;
    CHECK_STATUS(hyb_mlp_gradients(mlp, r.x, r.values, NULL, 4, &s), HYB_ERROR_INVALID_ARGUMENT);
    r.classes[2] = 0;
    CHECK_OK(hyb_mlp_gradients(mlp, r.x, NULL, r.classes, 4, &s));
    CHECK_STATUS(hyb_mlp_apply_trust_region(mlp, &trust, NULL), HYB_ERROR_STATE);
    CHECK_STATUS(hyb_mlp_apply(mlp, &adamw, -1.0f, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_mlp_apply(mlp, &adamw, 0.0f, NULL));
    r.x[2 * 11 + 3] = (float)NAN;
    CHECK_STATUS(hyb_mlp_gradients(mlp, r.x, NULL, r.classes, 4, &s), HYB_ERROR_NOT_FINITE);
    CHECK(strstr(hyb_ctx_last_error(ctx), "row 2, column 3 is NaN") != NULL);
    CHECK_STATUS(hyb_mlp_predict(mlp, r.x, 4, outputs), HYB_ERROR_NOT_FINITE);
    CHECK_OK(hyb_mlp_predict(mlp, NULL, 0, NULL));
    hyb_parameter p;
    CHECK_STATUS(hyb_mlp_parameter(mlp, 99, &p), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_mlp_parameter(mlp, 0, &p));
    p.values[4] = (float)INFINITY;
    CHECK_OK(hyb_mlp_touch(mlp));
    CHECK_STATUS(hyb_mlp_predict(mlp, r.x, 1, outputs), HYB_ERROR_NOT_FINITE);
    CHECK(strstr(hyb_ctx_last_error(ctx), "layer.0.weight") != NULL);
    hyb_mlp_destroy(mlp);
    hyb_mlp_destroy(NULL);
    hyb_ctx_destroy(ctx);
}

int main(void) {
    test_gradients_are_those_of_the_loss();
    test_ternary_layer_is_exact();
    test_training_learns();
    test_the_same_everywhere();
    test_any_loss();
    test_bad_configurations_are_named();
    test_bad_input_is_named();
    return TEST_RESULT();
}
