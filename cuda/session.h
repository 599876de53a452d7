/* session.h - a language model that generates on a device: what lib/cuda_session.c hands to the module, and what the
 * module's files share of it.
 *
 * Data flow of a pass over rows (tokens, each at a position of a sequence):
 *   inference.cu: embedding -> per layer: norm and quantise -> matmul -> rotate and store keys, values ->
 *   attention.cu -> norm and quantise -> matmul -> ... -> logits -> sampler.cu; session.cu puts them in order.
 */
#ifndef HYB_CUDA_SESSION_H
#define HYB_CUDA_SESSION_H

#include <hybrid/language_model.h>

#include "matmul.h"
#include "module.h"

/* Matrices that read the same input are one, with the rows of the first on top. Pointers are to device memory. */
typedef struct hyb_device_layer {
    hyb_device_weights qkv, output, gate_up, down;
    const float *attn_norm, *attn_sub_norm, *ffn_norm, *ffn_sub_norm; /* gains; sub-norms may be NULL */
} hyb_device_layer;

/* A model on a device, and what a session on it holds. */
struct hyb_session_plan {
    uint32_t vocab_size, dim, n_layers, n_heads, n_kv_heads, ffn_dim;
    float norm_epsilon, attention_scale;
    int32_t activation;             /* hyb_activation: SILU or SQUARED_RELU */
    int32_t cache_format;           /* hyb_cache_format */
    size_t n_sequences, n_context;  /* of the caches */
    size_t max_tokens;              /* rows of a pass, at least n_sequences */
    const hyb_device_layer *layers; /* host memory [n_layers], which must stay */
    hyb_device_weights embedding, head;
    const float *final_norm;
    const float *cosines, *sines; /* [n_context][head_dim / 2] */
};

/* A pass over n rows. Host memory, free to change afterwards. */
struct hyb_session_pass {
    const uint32_t *rows; /* tokens [n], sequences [n], positions [n] */
    size_t n;             /* at most max_tokens; at most n_sequences unless is_feed */
    int is_feed;          /* the rows follow one another in one sequence, and only the last one has logits */
    int has_logits;
};

/* How session_draw draws. */
struct hyb_device_draw {
    float temperature; /* 0: the first of the largest logits */
    uint64_t seed;
};

#ifdef __cplusplus

/* ---- inference.cu ---- */

/* Quantised or fp32 rows for a matrix, whichever its format takes. */
struct hyb_device_input {
    float *values; /* [n][n_cols] */
    int8_t *codes; /* as in hyb_device_activations */
    int32_t *sums;
    float *scales;
};

/* What an input is made of: rows of x, or act(gate) * up, which then replaces gate. Then rms_norm, if there is a gain.
 */
struct hyb_device_source {
    const float *x;
    float *gate;
    const float *up;
    size_t ld; /* elements from a row to the next */
    const float *gain;
    float epsilon;
    int activation;
};

/* The rows that a pass works on, in device memory. */
struct hyb_device_rows {
    const uint32_t *tokens, *sequences, *positions;
    unsigned n;
};

/* Keys and values of a layer. Rows of head_dim elements are padded with zeros to `width`, a multiple of 16, so that
 * loads of 16 bytes are aligned and virtual lanes need no tail: [sequence][head][position][width], and for INT8 a
 * scale each: [sequence][head][position]. */
struct hyb_device_cache {
    int format;
    size_t n_context;
    unsigned n_kv_heads, head_dim, width;
    void *keys, *values;
    float *key_scales, *value_scales;
};

/* x [n][dim] = rows of the embedding. */
int hyb_launch_embedding(const hyb_device_weights *embedding, const hyb_device_rows *rows, float *x, void *stream);

/* Makes an input of n_cols columns: codes for an integer format, values for F32. *not_finite = 1 where a row to be
 * quantised holds a NaN or an infinity. */
int hyb_launch_input(const hyb_device_source *source, size_t n_rows, size_t n_cols, int32_t format,
                     const hyb_device_input *input, int *not_finite, void *stream);

/* Rotates queries in place, and writes rotated keys and values to the cache. qkv [n][ld]: heads of q, k and v. */
int hyb_launch_rotate_store(const hyb_session_plan *plan, const hyb_device_rows *rows, float *qkv, size_t ld,
                            const hyb_device_cache *cache, int *not_finite, void *stream);

/* ---- attention.cu ---- */

/* Floats of work memory for the scores of a row's heads. */
inline size_t hyb_attention_scores(size_t n_heads, size_t n_context) { return n_heads * ((n_context + 31) / 32 * 32); }

/* Allows the kernels the shared memory that they need on this device. */
int hyb_attention_prepare(const hyb_device_cache *cache);

/* out [n][ld_out] from rotated queries in qkv [n][ld] and the cache. scores: work memory of hyb_attention_scores for as
 * many rows as score_rows; with is_feed at least 4. */
int hyb_launch_attention(const hyb_cuda_state *state, const hyb_session_plan *plan, const hyb_device_rows *rows,
                         int is_feed, const float *qkv, size_t ld, const hyb_device_cache *cache, float *scores,
                         size_t score_rows, float *out, size_t ld_out, void *stream);

/* ---- sampler.cu ---- */

/* Work memory for each row of logits. */
size_t hyb_sampler_bytes(size_t vocab_size);

/* tokens [n] (host memory that kernels see) from logits [n][vocab_size]; streams and positions select the random
 * numbers: device uint64 [2][n]. */
int hyb_launch_sampler(const hyb_device_draw *draw, const float *logits, size_t vocab_size, size_t n,
                       const uint64_t *picks, void *work, uint32_t *tokens, int *not_finite, void *stream);

#endif /* __cplusplus */

#endif /* HYB_CUDA_SESSION_H */
