/* mlp_file.c - a perceptron to and from a .hyb file: the tensors of mlp.c in the containers of file.h. */
#include <stdio.h>

#include "file_data.h"
#include "file_layout.h"
#include "mlp.h"
#include "tensor_file.h"

/* ---- save ---- */

hyb_status hyb_mlp_save(hyb_mlp *mlp, const char *path, const char *metadata, size_t metadata_bytes) {
    if (mlp == NULL || path == NULL)
        return hyb_fail(mlp ? mlp->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "network and path must not be NULL");
    hyb_ctx *ctx = mlp->ctx;
    HYB_TRY(hyb_mlp_refresh(mlp));
    int8_t *unpacked = hyb_alloc(ctx, hyb_tensors_packed_codes(mlp->tensors, mlp->n_tensors), 1);
    hyb_file_source *sources = hyb_alloc(ctx, mlp->n_tensors, sizeof *sources);
    hyb_file_contents contents = {.struct_size = sizeof contents,
                                  .mlp = &mlp->config,
                                  .metadata = metadata,
                                  .metadata_bytes = metadata_bytes,
                                  .tensors = sources,
                                  .n_tensors = mlp->n_tensors};
    hyb_status status = HYB_OK;
    if (unpacked == NULL || sources == NULL) {
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to write the network");
    } else {
        hyb_tensors_sources(mlp->tensors, mlp->n_tensors, unpacked, sources);
        status = hyb_file_write(ctx, path, &contents);
    }
    hyb_free(ctx, sources);
    hyb_free(ctx, unpacked);
    return status;
}

/* ---- load ---- */

/* The configuration with the sizes of the tensors, which the file's length bounds: so a hostile configuration cannot
 * ask for more memory than a small multiple of what the file holds. */
static hyb_status read_config(hyb_ctx *ctx, const hyb_file *file, hyb_mlp_config *config) {
    if (hyb_file_architecture(file) != HYB_ARCHITECTURE_MLP)
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "the file holds a language model: hyb_language_model_load");
    hyb_mlp_config found = hyb_file_get_mlp(hyb_file_config_bytes(file)); /* checked when the file was opened */
    for (uint32_t l = 0; l < found.n_layers; l++) {
        char name[HYB_FILE_NAME_BYTES];
        hyb_file_tensor weight;
        (void)snprintf(name, sizeof name, "layer.%u.weight", l);
        if (hyb_file_tensor_named(file, name, &weight) != HYB_OK)
            return hyb_fail(ctx, HYB_ERROR_FORMAT, "the file has no tensor %s", name);
        if (l > 0 && weight.n_cols != found.sizes[l])
            return hyb_fail(ctx, HYB_ERROR_FORMAT, "tensor %s has %u columns, the layer before has %u rows", name,
                            weight.n_cols, found.sizes[l]);
        found.sizes[l] = weight.n_cols;
        found.sizes[l + 1] = weight.n_rows;
    }
    hyb_status status = hyb_mlp_config_read(ctx, &found, config);
    return status == HYB_ERROR_INVALID_ARGUMENT ? HYB_ERROR_FORMAT : status; /* the detail names the field */
}

static hyb_status load_network(hyb_ctx *ctx, const hyb_file *file, hyb_mlp **mlp) {
    hyb_mlp_config config;
    hyb_mlp *m = NULL;
    HYB_TRY(read_config(ctx, file, &config));
    HYB_TRY(hyb_mlp_alloc(ctx, &config, 0, &m));
    hyb_status status = hyb_tensors_check_file(ctx, file, m->tensors, m->n_tensors);
    if (status == HYB_OK) status = hyb_tensors_load(ctx, file, m->tensors, m->n_tensors);
    if (status == HYB_OK) status = hyb_file_copy_metadata(ctx, file, &m->metadata, &m->metadata_bytes);
    if (status != HYB_OK) {
        hyb_mlp_destroy(m);
        return status;
    }
    *mlp = m;
    return HYB_OK;
}

static hyb_status load_and_close(hyb_ctx *ctx, hyb_file *file, hyb_mlp **mlp) {
    hyb_status status = load_network(ctx, file, mlp);
    if (status != HYB_OK) status = hyb_file_fail(file, status);
    hyb_file_close(file);
    return status;
}

hyb_status hyb_mlp_load(hyb_ctx *ctx, const char *path, hyb_mlp **mlp) {
    hyb_file *file = NULL;
    if (ctx == NULL || path == NULL || mlp == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "no argument may be NULL");
    HYB_TRY(hyb_file_begin(ctx, path, &file));
    return load_and_close(ctx, file, mlp);
}

hyb_status hyb_mlp_load_memory(hyb_ctx *ctx, const void *bytes, size_t n_bytes, hyb_mlp **mlp) {
    hyb_file *file = NULL;
    if (ctx == NULL || bytes == NULL || mlp == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "no argument may be NULL");
    HYB_TRY(hyb_file_begin_memory(ctx, bytes, n_bytes, &file));
    return load_and_close(ctx, file, mlp);
}

const char *hyb_mlp_metadata(const hyb_mlp *mlp, size_t *n_bytes) {
    if (n_bytes != NULL) *n_bytes = mlp ? mlp->metadata_bytes : 0;
    return mlp && mlp->metadata ? mlp->metadata : "";
}
