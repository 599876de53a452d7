/* model_file.c - a model to and from a .hyb file: the tensors of language_model.c in the containers of file.h.
 */
#include "language_model.h"

#include "file_data.h"
#include "tensor_file.h"

/* ---- save ---- */

static hyb_status write_model(hyb_language_model *m, const char *path, const char *metadata, size_t metadata_bytes,
                              hyb_file_source *sources, int8_t *unpacked, uint8_t *tokenizer, size_t tokenizer_bytes) {
    hyb_tensors_sources(m->tensors, m->n_tensors, unpacked, sources);
    hyb_file_contents contents = {.struct_size = sizeof contents,
                                  .config = &m->config,
                                  .tokenizer = tokenizer,
                                  .tokenizer_bytes = tokenizer_bytes,
                                  .metadata = metadata,
                                  .metadata_bytes = metadata_bytes,
                                  .tensors = sources,
                                  .n_tensors = m->n_tensors};
    return hyb_file_write(m->ctx, path, &contents);
}

hyb_status hyb_language_model_save(hyb_language_model *model, const char *path, const char *metadata,
                                   size_t metadata_bytes) {
    if (model == NULL || path == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "model and path must not be NULL");
    hyb_ctx *ctx = model->ctx;
    HYB_TRY(hyb_model_refresh(model, NULL, NULL));
    size_t tokenizer_bytes = 0, n_codes = hyb_tensors_packed_codes(model->tensors, model->n_tensors);
    (void)hyb_tokenizer_serialize(model->tokenizer, NULL, 0, &tokenizer_bytes);
    uint8_t *tokenizer = hyb_alloc(ctx, tokenizer_bytes, 1);
    int8_t *unpacked = hyb_alloc(ctx, n_codes, 1);
    hyb_file_source *sources = hyb_alloc(ctx, model->n_tensors, sizeof *sources);
    hyb_status status = HYB_OK;
    if (tokenizer == NULL || unpacked == NULL || sources == NULL)
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to write the model");
    if (status == HYB_OK)
        status = hyb_tokenizer_serialize(model->tokenizer, tokenizer, tokenizer_bytes, &tokenizer_bytes);
    if (status == HYB_OK)
        status = write_model(model, path, metadata, metadata_bytes, sources, unpacked, tokenizer, tokenizer_bytes);
    hyb_free(ctx, sources);
    hyb_free(ctx, unpacked);
    hyb_free(ctx, tokenizer);
    return status;
}

/* ---- load ---- */

/* The directory must hold exactly the tensors that the configuration plans, in any order. Checked before any memory is
 * taken for them, so that a hostile configuration cannot ask for more than the file holds. */
static hyb_status check_directory(hyb_ctx *ctx, const hyb_file *file, const hyb_language_model_config *config) {
    size_t n = hyb_tensors_plan(config, NULL, NULL, NULL);
    if (n != hyb_file_tensor_count(file)) /* also a bound of the memory for the list */
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "the file holds %zu tensors, its configuration needs %zu",
                        hyb_file_tensor_count(file), n);
    hyb_tensor *tensors = hyb_alloc(ctx, n, sizeof *tensors);
    hyb_layer *layers = hyb_alloc(ctx, config->n_layers, sizeof *layers);
    hyb_status status = HYB_OK;
    if (tensors == NULL || layers == NULL)
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the tensor list");
    else
        hyb_tensors_plan(config, tensors, layers, NULL);
    if (status == HYB_OK) status = hyb_tensors_check_file(ctx, file, tensors, n);
    hyb_free(ctx, layers);
    hyb_free(ctx, tensors);
    return status;
}

static hyb_status load_sections(hyb_language_model *m, const hyb_file *file) {
    size_t n = 0;
    const uint8_t *tokenizer = hyb_file_tokenizer(file, &n);
    if (tokenizer != NULL)
        HYB_TRY(hyb_tokenizer_deserialize(m->ctx, tokenizer, n, &m->tokenizer));
    else
        HYB_TRY(hyb_model_default_tokenizer(m));
    if (hyb_tokenizer_vocab_size(m->tokenizer) > m->config.vocab_size)
        return hyb_fail(m->ctx, HYB_ERROR_FORMAT, "the file's tokenizer has %u tokens, its model %u",
                        hyb_tokenizer_vocab_size(m->tokenizer), m->config.vocab_size);
    return hyb_file_copy_metadata(m->ctx, file, &m->metadata, &m->metadata_bytes);
}

static hyb_status load_model(hyb_ctx *ctx, const hyb_file *file, hyb_language_model **model) {
    hyb_language_model_config config = {.struct_size = sizeof config};
    hyb_language_model *m = NULL;
    HYB_TRY(hyb_file_config(file, &config));
    HYB_TRY(check_directory(ctx, file, &config));
    HYB_TRY(hyb_model_alloc(ctx, &config, 0, &m));
    hyb_status status = hyb_tensors_add_packed(ctx, m->tensors, m->n_tensors, NULL);
    if (status == HYB_OK) status = hyb_tensors_load(ctx, file, m->tensors, m->n_tensors);
    if (status == HYB_OK) status = load_sections(m, file);
    if (status != HYB_OK) {
        hyb_language_model_destroy(m);
        return status;
    }
    *model = m;
    return HYB_OK;
}

static hyb_status load_and_close(hyb_ctx *ctx, hyb_file *file, hyb_language_model **model) {
    hyb_status status = load_model(ctx, file, model);
    if (status != HYB_OK) status = hyb_file_fail(file, status);
    hyb_file_close(file);
    return status;
}

hyb_status hyb_language_model_load(hyb_ctx *ctx, const char *path, hyb_language_model **model) {
    hyb_file *file = NULL;
    if (ctx == NULL || path == NULL || model == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "no argument may be NULL");
    HYB_TRY(hyb_file_begin(ctx, path, &file));
    return load_and_close(ctx, file, model);
}

hyb_status hyb_language_model_load_memory(hyb_ctx *ctx, const void *bytes, size_t n_bytes, hyb_language_model **model) {
    hyb_file *file = NULL;
    if (ctx == NULL || bytes == NULL || model == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "no argument may be NULL");
    HYB_TRY(hyb_file_begin_memory(ctx, bytes, n_bytes, &file));
    return load_and_close(ctx, file, model);
}
