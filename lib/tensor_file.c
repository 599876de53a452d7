/* tensor_file.c - tensors of a network to and from a .hyb file: what the files of all networks have in common. */
#include "tensor_file.h"

#include "file_data.h"

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

/* Pieces become rows; the beginning of a row that a piece ends in waits for the next. codes: [HYB_PIECE_CODES + n_cols]
 * of work memory. */
static hyb_status load_codes(hyb_file_data *data, hyb_tensor *t, int8_t *codes) {
    size_t row = 0, held = 0;
    for (size_t left = hyb_tensor_size(t), n; left > 0; left -= n) {
        n = hyb_min_size(left, HYB_PIECE_CODES);
        HYB_TRY(hyb_file_data_codes(data, n, codes + held));
        const int8_t *from = codes;
        for (held += n; held >= t->n_cols; held -= t->n_cols, from += t->n_cols)
            hyb_weights_fill_row(t->packed, row++, from);
        memmove(codes, from, held);
    }
    return HYB_OK;
}

static hyb_status load_tensor(hyb_file_data *data, hyb_tensor *t, int8_t *codes) {
    hyb_file_tensor found;
    HYB_TRY(hyb_file_data_next(data, &found));
    if (!hyb_tensor_is_quantized(t)) return hyb_file_data_values(data, t->values);
    HYB_TRY(load_codes(data, t, codes));
    HYB_TRY(hyb_file_data_scales(data, t->scales));
    hyb_weights_set_scales(t->packed, t->scales, t->n_scales);
    return HYB_OK;
}

/* The tensors in the order of the file, in which they must be read. */
static hyb_status load_in_order(hyb_file_data *data, hyb_tensor *const *tensors, size_t n, int8_t *codes) {
    for (size_t i = 0; i < n; i++) HYB_TRY(load_tensor(data, tensors[i], codes));
    return hyb_file_data_end(data);
}

hyb_status hyb_tensors_load(hyb_ctx *ctx, const hyb_file *file, hyb_tensor *tensors, size_t n) {
    size_t most_cols = 0;
    for (size_t i = 0; i < n; i++)
        if (hyb_tensor_is_quantized(&tensors[i]) && tensors[i].n_cols > most_cols) most_cols = tensors[i].n_cols;
    hyb_file_data *data = NULL;
    hyb_tensor **order = hyb_alloc(ctx, n, sizeof *order);
    int8_t *codes = hyb_alloc(ctx, HYB_PIECE_CODES + most_cols, 1);
    hyb_status status = HYB_OK;
    if (order == NULL || codes == NULL)
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to read %zu tensors", n);
    if (status == HYB_OK) status = hyb_file_data_begin(file, &data);
    if (status == HYB_OK) {
        for (size_t i = 0; i < n; i++) order[hyb_file_tensor_index(file, tensors[i].name)] = &tensors[i];
        status = load_in_order(data, order, n, codes);
    }
    hyb_file_data_free(data);
    hyb_free(ctx, codes);
    hyb_free(ctx, order);
    return status;
}

hyb_status hyb_file_copy_metadata(hyb_ctx *ctx, const hyb_file *file, char **metadata, size_t *n_bytes) {
    const char *found = hyb_file_metadata(file, n_bytes);
    if (found == NULL) return HYB_OK;
    *metadata = hyb_alloc_zeroed(ctx, *n_bytes + 1, 1);
    if (*metadata == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for metadata");
    memcpy(*metadata, found, *n_bytes);
    return HYB_OK;
}
