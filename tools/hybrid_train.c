/* hybrid-train - trains a tiny ternary byte-level model on a text file, in C alone: hybrid-train TEXT MODEL.hyb
 * [STEPS]. The whole training loop of the public API in one page: gradients, look, apply, save.
 */
#include <hybrid/hybrid.h>

#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 8, CONTEXT = 64 };

/* Reads a file of at least one training window; NULL with a message if that fails. */
static unsigned char *read_text(const char *path, size_t *n_bytes) {
    FILE *file = fopen(path, "rb");
    long size = 0;
    unsigned char *bytes = NULL;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    if (size > CONTEXT + 1) bytes = malloc((size_t)size);
    if (bytes != NULL && (fseek(file, 0, SEEK_SET) != 0 || fread(bytes, 1, (size_t)size, file) != (size_t)size)) {
        free(bytes);
        bytes = NULL;
    }
    if (bytes == NULL) fprintf(stderr, "hybrid-train: cannot read %d bytes or more from %s\n", CONTEXT + 2, path);
    if (file != NULL) fclose(file);
    *n_bytes = (size_t)size;
    return bytes;
}

/* A batch of windows that begin at random places: tokens [BATCH][CONTEXT + 1]. */
static void draw_batch(const unsigned char *text, size_t n_bytes, uint64_t *state, uint32_t *tokens) {
    for (size_t s = 0; s < BATCH; s++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u; /* Knuth's linear congruential generator */
        size_t start = (size_t)(*state >> 33) % (n_bytes - CONTEXT);
        for (size_t i = 0; i <= CONTEXT; i++) tokens[s * (CONTEXT + 1) + i] = text[start + i];
    }
}

static hyb_status train(hyb_language_model *model, const unsigned char *text, size_t n_bytes, uint64_t steps) {
    uint32_t tokens[BATCH * (CONTEXT + 1)];
    uint64_t state = 1;
    hyb_schedule schedule = {.shape = HYB_SCHEDULE_LINEAR, .total_steps = steps, .warmup_steps = (steps + 19) / 20};
    hyb_trust_region options;
    hyb_trust_region_defaults(&options);
    hyb_status status = hyb_language_model_set_optimizer(model, HYB_OPTIMIZER_SPECTRAL);
    if (status == HYB_OK) status = hyb_language_model_prepare(model, BATCH, CONTEXT);
    for (uint64_t step = 1; status == HYB_OK && step <= steps; step++) {
        hyb_gradient_statistics gradients = {0};
        hyb_trust_statistics update = {0};
        double multiplier = 0.0;
        draw_batch(text, n_bytes, &state, tokens);
        status = hyb_language_model_gradients(model, tokens, BATCH, CONTEXT, &gradients);
        if (status == HYB_OK) status = hyb_schedule_multiplier(&schedule, step, &multiplier);
        options.learning_rate = options.radius = (float)(0.07 * multiplier);
        options.step = step;
        if (status == HYB_OK) status = hyb_language_model_apply_trust_region(model, &options, &update);
        if (status == HYB_OK && (step == 1 || step % 50 == 0 || step == steps))
            printf("step %llu: loss %.4f nats, %.2f %% of the weights flipped, %.1f %% are zero\n",
                   (unsigned long long)step, gradients.loss, 100 * update.flipped_share, 100 * update.zero_share);
    }
    return status;
}

int main(int argc, char **argv) {
    hyb_ctx *ctx = NULL;
    hyb_language_model *model = NULL;
    size_t n_bytes = 0;
    uint64_t steps = argc > 3 ? strtoull(argv[3], NULL, 10) : 200;
    hyb_language_model_config config = {.struct_size = sizeof config,
                                        .vocab_size = 256,
                                        .dim = 64,
                                        .n_layers = 2,
                                        .n_heads = 2,
                                        .n_kv_heads = 2,
                                        .ffn_dim = 192,
                                        .max_context = 256,
                                        .rope_theta = 10000.0f,
                                        .norm_epsilon = 1e-5f,
                                        .tied_embeddings = 1,
                                        .linear_format = HYB_FORMAT_TERNARY,
                                        .embedding_format = HYB_FORMAT_INT8};
    if (argc < 3 || argc > 4 || steps == 0) {
        fputs("usage: hybrid-train TEXT MODEL.hyb [STEPS]\n", stderr);
        return 2;
    }
    unsigned char *text = read_text(argv[1], &n_bytes);
    if (text == NULL) return 1;
    hyb_status status = hyb_ctx_create(NULL, &ctx);
    if (status == HYB_OK) status = hyb_language_model_create(ctx, &config, 1, &model);
    if (status == HYB_OK) status = train(model, text, n_bytes, steps);
    if (status == HYB_OK) status = hyb_language_model_save(model, argv[2], "{\"made by\": \"hybrid-train\"}", 27);
    if (status != HYB_OK)
        fprintf(stderr, "hybrid-train: %s: %s\n", hyb_status_string(status), ctx ? hyb_ctx_last_error(ctx) : "");
    else
        printf("wrote %s\n", argv[2]);
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
    free(text);
    return status == HYB_OK ? 0 : 1;
}
