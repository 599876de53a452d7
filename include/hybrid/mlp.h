/* mlp.h - a multilayer perceptron whose linear layers are ternary, over rows of float features: create, train with a
 * built-in loss or one of your own, predict, save, load.
 *
 * For a row x:  h_0 = x;  z_l = W_l n_l + b_l with n_l = h_l, or rms_norm(h_l) * gain_l where the layer has a norm;
 *   h_(l+1) = act(z_l), or h_l + act(z_l) where the layer is residual;  the last z is the output.
 * A layer is residual where it is neither the first nor the last and has as many inputs as outputs.
 * Every W works on int8 activations (absmax per row) unless its format is F32; biases and gains are fp32. The first
 * layer has no norm, so that the size of a row is not lost: give features of similar sizes, since one scale a row
 * quantises them all (standardise columns that differ much).
 *
 * Training keeps fp32 master weights and quantises them before every forward pass; gradients pass the quantisers
 * unchanged (straight-through estimator) and are fp32 products. C owns the step, the caller the loop:
 *     hyb_mlp_gradients(...) or hyb_mlp_gradients_with(...)  ->  look at the loss  ->  hyb_mlp_apply(...)
 *
 * Sources: Wang et al. 2023 (BitLinear); Ma et al. 2024 (BitNet b1.58); He et al. 2015 (initial weights), 2016
 * (residual layers); Zhang & Sennrich 2019 (RMS norm); Bengio et al. 2013 (straight-through estimator).
 */
#ifndef HYBRID_MLP_H
#define HYBRID_MLP_H

#include <hybrid/base.h>
#include <hybrid/language_model.h>
#include <hybrid/optimize.h>
#include <hybrid/quantize.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

#define HYB_MLP_MAX_LAYERS 32

/* The built-in losses; n rows, m outputs.
 *   MSE            mean over all n * m elements of (output - target)^2
 *   CROSS_ENTROPY  mean over rows of -log softmax(output)[class], in nats; with soft targets t, which are >= 0,
 *                  -sum_j t_j log softmax(output)_j */
typedef enum hyb_loss { HYB_LOSS_MSE = 0, HYB_LOSS_CROSS_ENTROPY = 1 } hyb_loss;

/* Which layers' inputs go through an RMS norm with gains.
 *   RESIDUAL  those of residual layers: what keeps deep networks trainable; the size of a row reaches the output
 *   HIDDEN    those of all layers but the first: the size of a row is lost behind the first layer
 *   NONE      no layer's */
typedef enum hyb_mlp_norm { HYB_MLP_NORM_RESIDUAL = 0, HYB_MLP_NORM_HIDDEN = 1, HYB_MLP_NORM_NONE = 2 } hyb_mlp_norm;

/* Shape and formats of a network. */
typedef struct hyb_mlp_config {
    size_t struct_size;
    uint32_t n_layers;  /* linear layers: 1 .. HYB_MLP_MAX_LAYERS */
    uint32_t sizes[33]; /* inputs, hidden layers, outputs: [n_layers + 1], each 1 .. 65536; the rest is not looked at */
    int32_t loss;       /* hyb_loss (MSE) */
    int32_t activation; /* hyb_activation (RELU) */
    int32_t norm;       /* hyb_mlp_norm (RESIDUAL) */
    int32_t residual;   /* 1: layers of equal width are residual; 0: none is (1) */
    float norm_epsilon; /* > 0 (1e-5) */
    int32_t format;     /* hyb_format of the matrices (TERNARY); F32 for the fp32 twin */
    int32_t granularity;  /* hyb_granularity (PER_TENSOR) */
    int32_t threshold;    /* hyb_threshold (ABSMEAN) */
    int32_t first_format; /* hyb_format of the first layer's matrix; -1: as `format` (-1) */
    int32_t last_format;  /* the same of the last layer's, unless it is the first (-1) */
} hyb_mlp_config;

/* A network. Made by create it has fp32 master weights and can be trained; made by load it has packed weights only. */
typedef struct hyb_mlp hyb_mlp;

/* HYB_OK if the configuration is valid; else INVALID_ARGUMENT, and the detail names the field and its range. */
HYB_API hyb_status hyb_mlp_config_check(hyb_ctx *ctx, const hyb_mlp_config *config);

/* Creates a trainable network. Matrices are drawn from N(0, 2 / n_cols), the last one from N(0, 1 / n_cols), residual
 * layers' also divided by the root of their number; biases are 0, gains 1; the generator is seeded by `seed` and
 * portable. The network keeps a reference to ctx. The caller destroys *mlp. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_mlp_create(hyb_ctx *ctx, const hyb_mlp_config *config, uint64_t seed, hyb_mlp **mlp);

/* Frees a network. NULL is allowed. */
HYB_API void hyb_mlp_destroy(hyb_mlp *mlp);

/* The configuration (struct_size of *config must be set). */
HYB_API hyb_status hyb_mlp_get_config(const hyb_mlp *mlp, hyb_mlp_config *config);

/* ---- parameters ---- */

/* As hyb_language_model_parameter, _effective and _touch. Names: layer.N. + weight, bias, gain. */
HYB_API size_t hyb_mlp_parameter_count(const hyb_mlp *mlp);
HYB_API hyb_status hyb_mlp_parameter(hyb_mlp *mlp, size_t index, hyb_parameter *parameter);
HYB_API hyb_status hyb_mlp_effective(hyb_mlp *mlp, size_t index, float *values);
HYB_API hyb_status hyb_mlp_touch(hyb_mlp *mlp);

/* ---- training ---- */

/* Chooses the optimiser (default ADAMW) from the next hyb_mlp_prepare on. Errors: INVALID_ARGUMENT. */
HYB_API hyb_status hyb_mlp_set_optimizer(hyb_mlp *mlp, hyb_optimizer optimizer);

/* Allocates gradients, the optimiser's state (zero) and activations for batches of at most n_rows. After it a step
 * allocates nothing. May be called again with another size (the state is kept, unless the optimiser changed).
 * Errors: INVALID_ARGUMENT, STATE (a loaded network), OUT_OF_MEMORY. */
HYB_API hyb_status hyb_mlp_prepare(hyb_mlp *mlp, size_t n_rows);

/* Forward and backward over x fp32 [n_rows][inputs], with the configured loss. Targets are values fp32
 * [n_rows][outputs], or with CROSS_ENTROPY classes uint32 [n_rows]; where both are NULL, x itself (reconstruction: MSE,
 * as many outputs as inputs). Replaces the gradients. Errors: INVALID_ARGUMENT (sizes beyond prepare, targets that do
 * not fit the loss), STATE (no prepare), NOT_FINITE (x, targets, loss or gradient; the detail names it). On an error
 * the weights are unchanged. */
HYB_API hyb_status hyb_mlp_gradients(hyb_mlp *mlp, const float *x, const float *values, const uint32_t *classes,
                                     size_t n_rows, hyb_gradient_statistics *statistics);

/* A loss of the caller's: from outputs fp32 [n_rows][n_outputs] it fills gradient, the derivative of the loss by each
 * output, and *loss. Returns 0 to go on, anything else to give up. It must not use the network's context. */
typedef int (*hyb_mlp_loss_callback)(void *user, const float *outputs, size_t n_rows, size_t n_outputs, float *gradient,
                                     double *loss);

/* hyb_mlp_gradients with any loss. Errors: CANCELLED (the callback gave up), NOT_FINITE (also what it filled in). */
HYB_API hyb_status hyb_mlp_gradients_with(hyb_mlp *mlp, const float *x, size_t n_rows, hyb_mlp_loss_callback callback,
                                          void *user, hyb_gradient_statistics *statistics);

/* As hyb_language_model_apply, _apply_trust_region and _alignment: weight decay applies to the matrices only, biases
 * take the steps of embeddings. */
HYB_API hyb_status hyb_mlp_apply(hyb_mlp *mlp, const hyb_adamw *adamw, float clip_norm,
                                 hyb_update_statistics *statistics);
HYB_API hyb_status hyb_mlp_apply_trust_region(hyb_mlp *mlp, const hyb_trust_region *options,
                                              hyb_trust_statistics *statistics);
HYB_API hyb_status hyb_mlp_alignment(hyb_mlp *mlp, double *cosine);

/* ---- inference ---- */

/* Outputs fp32 [n_rows][outputs] (with CROSS_ENTROPY logits) for x fp32 [n_rows][inputs]; n_rows may be 0. The same
 * bits on every processor, thread count and compiler, whatever rows are given together.
 * Errors: INVALID_ARGUMENT, NOT_FINITE (x), OUT_OF_MEMORY. */
HYB_API hyb_status hyb_mlp_predict(hyb_mlp *mlp, const float *x, size_t n_rows, float *outputs);

/* The configured loss over n_rows >= 1 rows, with the inference path; targets as in hyb_mlp_gradients. */
HYB_API hyb_status hyb_mlp_evaluate(hyb_mlp *mlp, const float *x, const float *values, const uint32_t *classes,
                                    size_t n_rows, double *loss);

/* ---- file ---- */

/* Writes the network as a .hyb file (file.h) with `metadata` (UTF-8, may be NULL). A trainable network is quantised
 * first. Errors: those of hyb_file_write, NOT_FINITE (a weight; the detail names the tensor). */
HYB_API hyb_status hyb_mlp_save(hyb_mlp *mlp, const char *path, const char *metadata, size_t metadata_bytes);

/* Loads a .hyb file for inference, in pieces like a language model. Errors: those of hyb_file_open, and FORMAT (another
 * kind of network; a tensor is missing or misshapen). */
HYB_API hyb_status hyb_mlp_load(hyb_ctx *ctx, const char *path, hyb_mlp **mlp);
HYB_API hyb_status hyb_mlp_load_memory(hyb_ctx *ctx, const void *bytes, size_t n_bytes, hyb_mlp **mlp);

/* The metadata of the file that the network was loaded from; "" otherwise. Owned by the network. */
HYB_API const char *hyb_mlp_metadata(const hyb_mlp *mlp, size_t *n_bytes);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_MLP_H */
