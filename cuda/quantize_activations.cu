/* quantize_activations.cu - a token's floats to int8 codes with a scale, as hyb_quantize_token of lib/matmul.c: what
 * every product with packed weights begins with.
 *
 * A block a token, in two sweeps: the second reads from the level-1 cache. The limit is memory, 5 bytes a value, or for
 * few tokens the time of a launch.
 */
#include "quantize.h"
#include "fours.h"

#define BATCH 4 /* loads of 16 bytes of a thread that are on their way together */
#define MAX_THREADS 256

namespace {

__device__ uint32_t largest_bits(const float *x, size_t n, bool is_aligned) {
    uint32_t bits = 0;
    for (size_t first = threadIdx.x; 4 * first < n; first += BATCH * blockDim.x) {
        hyb_four v[BATCH];
        hyb_load_fours(x, first, blockDim.x, n, is_aligned, v);
        for (int k = 0; k < BATCH; ++k) bits = max(bits, hyb_max_bits(v[k]));
    }
    return hyb_max_block(bits);
}

__global__ void __launch_bounds__(MAX_THREADS)
    activations_kernel(const float *activations, size_t n_cols, size_t ld_codes, int8_t *all_codes, int32_t *sums,
                       float *scales, volatile int *not_finite) {
    size_t token = blockIdx.x;
    const float *x = activations + token * n_cols;
    int8_t *codes = all_codes + token * ld_codes;
    bool is_aligned = hyb_is_aligned(x, 16), can_store = hyb_is_aligned(codes, 4);
    uint32_t bits = largest_bits(x, n_cols, is_aligned);
    hyb_token_scale scale = hyb_token_scale_of(bits);
    int sum = 0;
    for (size_t i = 4 * threadIdx.x; i < ld_codes; i += 4 * blockDim.x) {
        size_t n_left = i < n_cols ? n_cols - i : 0;
        hyb_four v = is_aligned ? hyb_load_four<true>(x + i, n_left) : hyb_load_four<false>(x + i, n_left);
        int a = hyb_token_code(v.at[0], scale), b = hyb_token_code(v.at[1], scale);
        int c = hyb_token_code(v.at[2], scale), d = hyb_token_code(v.at[3], scale);
        sum += a + b + c + d;
        uint32_t word = (uint32_t)(a & 255) | (uint32_t)(b & 255) << 8 | (uint32_t)(c & 255) << 16 | (uint32_t)d << 24;
        if (can_store && i + 4 <= ld_codes)
            *reinterpret_cast<uint32_t *>(codes + i) = word;
        else
            for (size_t k = 0; k < 4 && i + k < ld_codes; ++k) codes[i + k] = (int8_t)(word >> (8 * k));
    }
    sum = hyb_sum_block(sum);
    if (threadIdx.x != 0) return;
    scales[token] = scale.scale;
    if (sums != nullptr) sums[token] = sum;
    if (bits >= HYB_INFINITE) *not_finite = 1;
}

} // namespace

int hyb_launch_quantize_activations(hyb_cuda_state *state, const float *activations, size_t n_tokens, size_t n_cols,
                                    size_t ld_codes, int8_t *codes, int32_t *sums, float *scales, void *stream) {
    /* A batch of loads for each thread, or less: a warp for a head, eight for a layer's input. */
    unsigned n_threads = n_cols <= 512 ? 32 : n_cols <= 2048 ? 128 : MAX_THREADS;
    volatile int *not_finite = state->not_finite;
    HYB_LAUNCH(activations_kernel, (unsigned)n_tokens, n_threads, 0, stream, activations, n_cols, ld_codes, codes, sums,
               scales, not_finite);
    return (int)cudaGetLastError();
}

int hyb_module_quantize_activations(hyb_cuda_state *state, const float *activations, size_t n_tokens, size_t n_cols,
                                    size_t ld_codes, int8_t *codes, int32_t *sums, float *scales, void *stream) {
    HYB_CUDA_BEGIN(state);
    return hyb_launch_quantize_activations(state, activations, n_tokens, n_cols, ld_codes, codes, sums, scales, stream);
}
