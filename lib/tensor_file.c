/* tensor_file.c - tensors of a network to and from a .hyb file: what the files of all networks have in common. */
#include "tensor_file.h"

/* ---- save ---- */

static int is_packed_only(const hyb_tensor *t) { return hyb_tensor_is_quantized(t) && t->codes == NULL; }

size_t hyb_tensors_packed_codes(const hyb_tensor *tensors, size_t n) {
    size_t n_codes = 0;
    for (size_t i = 0; i < n; i++)
        if (is_packed_only(&tensors[i])) n_codes += hyb_tensor_size(&tensors[i]);
    return n_codes;
}

void hyb_tensors_sources(const hyb_tensor *tensors, size_t n, int8_t *unpacked, hyb_file_source *sources) {
    for (size_t i = 0; i < n; i++) {
        const hyb_tensor *t = &tensors[i];
        sources[i] = (hyb_file_source){.name = t->name,
                                       .format = t->quantizer.format,
                                       .granularity = t->quantizer.granularity,
                                       .n_rows = t->n_rows,
                                       .n_cols = t->n_cols,
                                       .values = t->values,
                                       .codes = t->codes,
                                       .scales = t->scales};
        if (!is_packed_only(t)) continue;
        for (size_t r = 0; r < t->n_rows; r++) hyb_weights_unpack_codes(t->packed, r, unpacked + r * t->n_cols);
        sources[i].codes = unpacked;
        unpacked += hyb_tensor_size(t);
    }
}

/* ---- load ---- */

hyb_status hyb_tensors_check_file(hyb_ctx *ctx, const hyb_file *file, const hyb_tensor *tensors, size_t n) {
    if (n != hyb_file_tensor_count(file))
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "the file holds %zu tensors, its configuration needs %zu",
                        hyb_file_tensor_count(file), n);
    for (size_t i = 0; i < n; i++) {
        const hyb_tensor *t = &tensors[i];
        hyb_file_tensor found;
        if (hyb_file_tensor_named(file, t->name, &found) != HYB_OK)
            return hyb_fail(ctx, HYB_ERROR_FORMAT, "the file has no tensor %s", t->name);
        if (found.n_rows != t->n_rows || found.n_cols != t->n_cols || found.format != t->quantizer.format ||
            found.n_scales != t->n_scales)
            return hyb_fail(ctx, HYB_ERROR_FORMAT, "tensor %s: shape or format differ from the configuration", t->name);
    }
    return HYB_OK;
}

static hyb_status load_tensor(hyb_ctx *ctx, const hyb_file *file, hyb_tensor *t, int8_t *codes) {
    hyb_file_tensor found;
    HYB_TRY(hyb_file_tensor_named(file, t->name, &found));
    const uint8_t *payload = found.payload, *scales = found.scales;
    if (!hyb_tensor_is_quantized(t)) {
        for (size_t i = 0; i < hyb_tensor_size(t); i++) t->values[i] = hyb_float_of(hyb_load_u32(payload + 4 * i));
        return HYB_OK;
    }
    for (size_t i = 0; i < t->n_scales; i++)
        t->scales[i] = hyb_float_from_half((uint16_t)(scales[2 * i] | scales[2 * i + 1] << 8));
    HYB_TRY(hyb_unpack(ctx, (hyb_packing)found.packing, payload, hyb_tensor_size(t), codes));
    hyb_weights_fill_rows(ctx, t->packed, codes, t->scales, t->n_scales, 0, hyb_ceil_div(t->n_rows, HYB_BLOCK_ROWS));
    return HYB_OK;
}

hyb_status hyb_tensors_load(hyb_ctx *ctx, const hyb_file *file, hyb_tensor *tensors, size_t n, int8_t *codes) {
    for (size_t i = 0; i < n; i++) HYB_TRY(load_tensor(ctx, file, &tensors[i], codes));
    return HYB_OK;
}

hyb_status hyb_file_copy_metadata(hyb_ctx *ctx, const hyb_file *file, char **metadata, size_t *n_bytes) {
    const char *found = hyb_file_metadata(file, n_bytes);
    if (found == NULL) return HYB_OK;
    *metadata = hyb_alloc_zeroed(ctx, *n_bytes + 1, 1);
    if (*metadata == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for metadata");
    memcpy(*metadata, found, *n_bytes);
    return HYB_OK;
}
