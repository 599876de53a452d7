/* hybrid-run - generates text from a .hyb model, in C alone: hybrid-run model.hyb "prompt" [options].
 * An example of the public API as well: everything it needs is in <hybrid/hybrid.h>.
 */
#include <hybrid/hybrid.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: hybrid-run MODEL.hyb PROMPT [--tokens N] [--temperature T] [--top-k K] [--top-p P] [--seed S]\n"
    "                  [--threads N] [--cache f32|int8] [--stop TEXT]\n"
    "Generates text that continues PROMPT and prints both. Temperature 0 takes the most likely token.\n";

static int print_text(void *user, size_t sequence, const char *text, size_t n_bytes, uint32_t token, int finished,
                      int stop_reason) {
    (void)user, (void)sequence, (void)token, (void)finished, (void)stop_reason;
    fwrite(text, 1, n_bytes, stdout);
    fflush(stdout);
    return 0;
}

typedef struct settings {
    hyb_generate_options generate;
    hyb_ctx_options context;
    hyb_cache_format cache;
    const char *stop;
} settings;

/* Reads the options; 0 if one is unknown or lacks its value. */
static int parse(int argc, char **argv, settings *s) {
    for (int i = 3; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--tokens") == 0)
            s->generate.max_tokens = strtoul(value, NULL, 10);
        else if (strcmp(name, "--temperature") == 0)
            s->generate.sampler.temperature = strtof(value, NULL);
        else if (strcmp(name, "--top-k") == 0)
            s->generate.sampler.top_k = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--top-p") == 0)
            s->generate.sampler.top_p = strtof(value, NULL);
        else if (strcmp(name, "--seed") == 0)
            s->generate.sampler.seed = strtoull(value, NULL, 10);
        else if (strcmp(name, "--threads") == 0)
            s->context.n_threads = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--cache") == 0)
            s->cache = strcmp(value, "int8") == 0 ? HYB_CACHE_INT8 : HYB_CACHE_F32;
        else if (strcmp(name, "--stop") == 0)
            s->stop = value;
        else
            return 0;
    }
    return argc % 2 == 1;
}

static hyb_status run(hyb_ctx *ctx, const char *path, const char *prompt, settings *s) {
    hyb_language_model *model = NULL;
    hyb_session *session = NULL;
    hyb_language_model_config config = {.struct_size = sizeof config};
    uint32_t *tokens = NULL;
    size_t n = 0;
    hyb_status status = hyb_language_model_load(ctx, path, &model);
    if (status != HYB_OK) return status;
    (void)hyb_language_model_get_config(model, &config);
    (void)hyb_tokenizer_encode(hyb_language_model_tokenizer(model), prompt, strlen(prompt), NULL, 0, &n);
    if (n > config.max_context) n = config.max_context; /* the session below refuses a prompt that is too long */
    tokens = malloc((n + 1) * sizeof *tokens);
    if (tokens == NULL) status = HYB_ERROR_OUT_OF_MEMORY;
    if (status == HYB_OK)
        status = hyb_tokenizer_encode(hyb_language_model_tokenizer(model), prompt, strlen(prompt), tokens, n, &n);
    if (status == HYB_ERROR_TOO_SMALL)
        fprintf(stderr, "hybrid-run: the prompt has %zu tokens, the model takes %u\n", n, config.max_context);
    if (status == HYB_OK) status = hyb_session_create(model, 1, config.max_context, s->cache, &session);
    if (status == HYB_OK) {
        const uint32_t *prompts[1] = {tokens};
        s->generate.stop = &s->stop;
        s->generate.n_stop = s->stop != NULL;
        fputs(prompt, stdout);
        status = hyb_generate(session, prompts, &n, 1, &s->generate, NULL, NULL);
        fputc('\n', stdout);
    }
    hyb_session_destroy(session);
    free(tokens);
    hyb_language_model_destroy(model);
    return status;
}

int main(int argc, char **argv) {
    settings s = {.cache = HYB_CACHE_F32};
    hyb_ctx *ctx = NULL;
    s.context.struct_size = sizeof s.context;
    s.generate.struct_size = sizeof s.generate;
    s.generate.sampler.struct_size = sizeof s.generate.sampler;
    s.generate.sampler.temperature = 0.8f;
    s.generate.max_tokens = 200;
    s.generate.stop_token = -1;
    s.generate.shift_context = 1;
    s.generate.callback = print_text;
    if (argc < 3 || !parse(argc, argv, &s)) {
        fputs(usage, stderr);
        return 2;
    }
    hyb_status status = hyb_ctx_create(&s.context, &ctx);
    if (status == HYB_OK) status = run(ctx, argv[1], argv[2], &s);
    if (status != HYB_OK)
        fprintf(stderr, "hybrid-run: %s%s%s\n", hyb_status_string(status), ctx ? ": " : "",
                ctx ? hyb_ctx_last_error(ctx) : "");
    hyb_ctx_destroy(ctx);
    return status == HYB_OK ? 0 : 1;
}
