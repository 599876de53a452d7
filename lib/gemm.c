/* gemm.c - fp32 matrix product: checks at the public edge, and the split of C into blocks for the threads. The
 * arithmetic is the kernel's (ref/gemm_ref.c, simd/gemm_template.h): an element's order of additions depends on k only,
 * so a block may lie anywhere.
 */
#include "gemm.h"

/* Blocks end at multiples of these, which the kernels' tiles divide: 8 and 6 rows; 48 and 16 columns. */
#define ROW_STEP 24
#define COL_STEP 48
/* Fewer multiply-adds than these are not worth waking another thread for. */
#define MIN_BLOCK_WORK ((size_t)1 << 18)
/* More blocks than threads even out what else the machine does, but each block packs its operands anew, which costs
 * about 24 / side of its time: only sides of at least this many elements are cut for it. */
#define BLOCKS_PER_THREAD 2
#define MIN_SPARE_SIDE 256

typedef struct gemm_grid {
    const hyb_kernels *kernels;
    hyb_gemm_job whole;
    size_t block_rows, block_cols;
    size_t n_row_blocks;
} gemm_grid;

size_t hyb_gemm_scratch_bytes(const hyb_ctx *ctx) { return (size_t)ctx->options.n_threads * HYB_GEMM_SCRATCH_BYTES; }

static void gemm_block(void *argument, size_t index, size_t worker) {
    const gemm_grid *grid = argument;
    hyb_gemm_job job = grid->whole;
    size_t row = index % grid->n_row_blocks * grid->block_rows, col = index / grid->n_row_blocks * grid->block_cols;
    job.m = hyb_min_size(grid->block_rows, job.m - row);
    job.n = hyb_min_size(grid->block_cols, job.n - col);
    job.a += job.transpose == HYB_GEMM_TN ? row : row * job.lda;
    job.b += job.transpose == HYB_GEMM_NT ? col * job.ldb : col;
    job.c += row * job.ldc + col;
    job.scratch = (uint8_t *)job.scratch + worker * HYB_GEMM_SCRATCH_BYTES;
    grid->kernels->gemm(&job);
}

/* Cuts the longer side of C, and the other one too where that does not give every thread a block. */
static void choose_grid(gemm_grid *grid, size_t n_threads) {
    const hyb_gemm_job *job = &grid->whole;
    int by_rows = job->m >= job->n;
    size_t area = job->m * job->n; /* of C, which is in memory: no overflow */
    size_t work = hyb_mul_overflows(area, job->k) ? SIZE_MAX : area * job->k;
    size_t n_blocks = hyb_min_size(n_threads, work / MIN_BLOCK_WORK), longer = by_rows ? job->m : job->n;
    size_t longer_cuts = 1, shorter_cuts = 1;
    if (n_blocks > 1) {
        longer_cuts = hyb_min_size(n_blocks * BLOCKS_PER_THREAD, longer / MIN_SPARE_SIDE);
        if (longer_cuts < n_blocks) {
            longer_cuts = hyb_min_size(n_blocks, hyb_ceil_div(longer, by_rows ? ROW_STEP : COL_STEP));
            shorter_cuts = hyb_ceil_div(n_blocks, longer_cuts);
        }
    }
    grid->block_rows = hyb_round_up(hyb_ceil_div(job->m, by_rows ? longer_cuts : shorter_cuts), ROW_STEP);
    grid->block_cols = hyb_round_up(hyb_ceil_div(job->n, by_rows ? shorter_cuts : longer_cuts), COL_STEP);
}

static void clear_c(size_t m, size_t n, float *c, size_t ldc) {
    for (size_t i = 0; i < m; ++i) memset(c + i * ldc, 0, n * sizeof *c);
}

void hyb_gemm_parallel(hyb_ctx *ctx, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a, size_t lda,
                       const float *b, size_t ldb, int accumulate, float *c, size_t ldc, void *scratch) {
    if (m == 0 || n == 0) return;
    if (k == 0) {
        if (!accumulate) clear_c(m, n, c, ldc);
        return;
    }
    gemm_grid grid = {.kernels = &ctx->kernels,
                      .whole = {(int)transpose, m, n, k, a, lda, b, ldb, accumulate, c, ldc, scratch}};
    choose_grid(&grid, ctx->options.n_threads);
    grid.n_row_blocks = hyb_ceil_div(m, grid.block_rows);
    size_t n_blocks = grid.n_row_blocks * hyb_ceil_div(n, grid.block_cols);
    if (n_blocks == 1) {
        ctx->kernels.gemm(&grid.whole);
    } else {
        hyb_parallel(ctx, n_blocks, gemm_block, &grid);
    }
}

/* A matrix [n_rows][ld] of n_cols columns: pointer, leading dimension and size make sense. */
static hyb_status check_matrix(hyb_ctx *ctx, const char *name, const float *data, size_t n_rows, size_t n_cols,
                               size_t ld) {
    if (n_rows == 0 || n_cols == 0) return HYB_OK;
    if (data == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "gemm: %s is NULL", name);
    if (ld < n_cols) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "gemm: the leading dimension of %s is %zu elements; its rows have %zu", name, ld, n_cols);
    }
    if (ld > SIZE_MAX / sizeof(float) / n_rows) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "gemm: %s of %zu rows of %zu elements is larger than memory",
                        name, n_rows, ld);
    }
    return HYB_OK;
}

hyb_status hyb_gemm_check(hyb_ctx *ctx, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a,
                          size_t lda, const float *b, size_t ldb, const float *c, size_t ldc) {
    if (transpose != HYB_GEMM_NN && transpose != HYB_GEMM_NT && transpose != HYB_GEMM_TN) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "gemm: transpose is %d; use HYB_GEMM_NN, NT or TN",
                        (int)transpose);
    }
    int a_is_transposed = transpose == HYB_GEMM_TN, b_is_transposed = transpose == HYB_GEMM_NT;
    HYB_TRY(check_matrix(ctx, "A", a, a_is_transposed ? k : m, a_is_transposed ? m : k, lda));
    HYB_TRY(check_matrix(ctx, "B", b, b_is_transposed ? n : k, b_is_transposed ? k : n, ldb));
    return check_matrix(ctx, "C", c, m, n, ldc);
}

hyb_status hyb_gemm(hyb_ctx *ctx, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a, size_t lda,
                    const float *b, size_t ldb, int accumulate, float *c, size_t ldc) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(hyb_gemm_check(ctx, transpose, m, n, k, a, lda, b, ldb, c, ldc));
    void *scratch = hyb_scratch(ctx, hyb_gemm_scratch_bytes(ctx));
    if (scratch == NULL) {
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "gemm: no memory for %zu bytes of work memory",
                        hyb_gemm_scratch_bytes(ctx));
    }
    hyb_gemm_parallel(ctx, transpose, m, n, k, a, lda, b, ldb, accumulate, c, ldc, scratch);
    return HYB_OK;
}
