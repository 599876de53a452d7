/* mlp.h (internal) - what the files that make up the perceptron share with each other. */
#ifndef HYB_MLP_INTERNAL_H
#define HYB_MLP_INTERNAL_H

#include <hybrid/mlp.h>

#include "nn/tensor.h"

typedef struct hyb_mlp_layer {
    hyb_tensor *weight, *bias; /* [n_out][n_in], [1][n_out] */
    hyb_tensor *gain;          /* [1][n_in]; NULL: no norm */
    int residual;
} hyb_mlp_layer;

/* What a layer computes on its way, [n] rows. */
typedef struct hyb_mlp_state {
    float *hidden;   /* [n][n_in]; NULL for the first layer, whose rows are the caller's */
    float *rms;      /* [n] what rms_norm returned; NULL without a norm */
    hyb_input input; /* normalised, quantised */
    float *z;        /* [n][n_out] */
} hyb_mlp_state;

/* Memory of a forward pass over at most max_rows rows, and of the way back. */
typedef struct hyb_mlp_pass {
    void *memory;
    size_t max_rows, n_threads; /* that the per-worker buffers were made for */
    hyb_mlp_state states[HYB_MLP_MAX_LAYERS];
    float *ones;     /* [max(max_rows, widest layer)] */
    double *losses;  /* [max_rows] */
    float *gradient; /* [max_rows][outputs]: of the outputs; in inference what a loss destroys */
    hyb_work work;
    /* training only */
    float *d_z, *d_input, *d_hidden; /* [max_rows][widest]; their roles rotate from layer to layer */
    float *unused;                   /* per worker [work.row_floats]: a derivative that no one wants */
    float *partials;                 /* [hyb_norm_chunks][widest] */
    hyb_update_work update;
    int has_gradients;
    double gradient_norm;
} hyb_mlp_pass;

struct hyb_mlp {
    hyb_ctx *ctx;
    hyb_mlp_config config;
    hyb_mlp_layer layers[HYB_MLP_MAX_LAYERS];
    hyb_tensor *tensors; /* [n_tensors] in the order of the file */
    size_t n_tensors;
    int trainable;
    int stale;     /* master weights changed since they were quantised */
    int optimizer; /* hyb_optimizer of the next prepare */
    hyb_moments moments;
    int8_t *next_codes; /* the largest tensor's codes, for counting flips */
    char *metadata;     /* of the file that it was loaded from, or NULL */
    size_t metadata_bytes;
    void *parameter_memory;  /* one block: values, codes and scales */
    hyb_mlp_pass *training;  /* NULL before prepare */
    hyb_mlp_pass *inference; /* made on demand */
};

HYB_INLINE size_t hyb_mlp_inputs(const hyb_mlp *mlp) { return mlp->config.sizes[0]; }
HYB_INLINE size_t hyb_mlp_outputs(const hyb_mlp *mlp) { return mlp->config.sizes[mlp->config.n_layers]; }

/* ---- mlp.c ---- */
/* Reads an extensible configuration (defaults for what is not given) and checks every field. */
hyb_status hyb_mlp_config_read(hyb_ctx *ctx, const hyb_mlp_config *given, hyb_mlp_config *config);
/* A network with memory for its parameters and packed weights, all zero. */
hyb_status hyb_mlp_alloc(hyb_ctx *ctx, const hyb_mlp_config *config, int trainable, hyb_mlp **mlp);
/* Quantises master weights if they changed. */
hyb_status hyb_mlp_refresh(hyb_mlp *mlp);

/* ---- mlp_pass.c ---- */
/* Memory for passes over at most n_rows rows. */
hyb_status hyb_mlp_pass_create(hyb_mlp *mlp, size_t n_rows, int training, hyb_mlp_pass **pass);
void hyb_mlp_pass_free(hyb_mlp *mlp, hyb_mlp_pass *pass);
/* The outputs of n rows are in the last state's z. */
void hyb_mlp_forward(hyb_mlp *mlp, hyb_mlp_pass *pass, const float *x, size_t n);
/* Gradients of every parameter from pass->gradient and what the forward pass left. */
void hyb_mlp_backward(hyb_mlp *mlp, hyb_mlp_pass *pass, size_t n);

/* ---- mlp_loss.c ---- */
/* The rows of a call, checked: INVALID_ARGUMENT, NOT_FINITE. */
typedef struct hyb_mlp_batch {
    const float *x;          /* [n][inputs] */
    const float *values;     /* [n][outputs], or NULL and */
    const uint32_t *classes; /* [n] */
    size_t n;
} hyb_mlp_batch;
/* Fills in a reconstruction's targets and checks the whole. */
hyb_status hyb_mlp_check_batch(const hyb_mlp *mlp, hyb_mlp_batch *batch);
hyb_status hyb_mlp_check_rows(const hyb_mlp *mlp, const char *name, const float *rows, size_t n, size_t n_cols);
/* Sum of the losses of n rows from `first`, whose outputs are in z: per row the MSE's mean over outputs, or the
 * cross-entropy. With n_all, pass->gradient receives the derivative of the mean over n_all rows; 0: none. */
double hyb_mlp_batch_loss(const hyb_mlp *mlp, hyb_mlp_pass *pass, const float *z, const hyb_mlp_batch *batch,
                          size_t first, size_t n, size_t n_all);

#endif /* HYB_MLP_INTERNAL_H */
