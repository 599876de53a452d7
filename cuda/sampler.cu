/* sampler.cu - draws the next tokens from logits on the device: the largest, or from the whole vocabulary by
 * temperature, with the CPU's sums and random numbers (lib/sampler.c, lib/math_f64.c).
 *
 * The CPU adds up the weights one after the other, so a single thread does here too, while the block makes the next
 * weights: about as long as the chain of additions takes. What is kept of the running sum are its values at the ends of
 * chunks: the drawn token is in the first chunk whose end exceeds the target, since sums of positive numbers never
 * fall.
 */
#include "device.h"
#include "session.h"

#define THREADS 256
#define CHUNK 1024                         /* weights that are made together; two sets of them */
#define ROUND_MAGIC_F64 6755399441055744.0 /* 1.5 * 2^52 */

size_t hyb_sampler_bytes(size_t vocab_size) { return (vocab_size + CHUNK - 1) / CHUNK * sizeof(double); }

/* ---- the library's functions ---- */

namespace {

__device__ __forceinline__ double power_of_two(int n) {
    return __longlong_as_double((long long)((unsigned long long)(n + 1023) << 52));
}

/* hyb_exp_f64 for x <= 0. */
__device__ double exp_f64(double x) {
    const double series[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                             1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
                             1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        1.0 / 2.0};
    if (x < -745.2) return 0.0;
    double n = (x * 0x1.71547652b82fep+0 + ROUND_MAGIC_F64) - ROUND_MAGIC_F64;
    double high = x - n * 0x1.62e42fefa3800p-1, low = n * 0x1.ef35793c76730p-45, r = high - low;
    double sum = series[0];
    for (int i = 1; i < 12; ++i) sum = sum * r + series[i];
    double tail = r * r * sum;
    double value = 1.0 + (high - (low - tail));
    int whole = (int)n, half = whole / 2;
    return value * power_of_two(half) * power_of_two(whole - half);
}

/* hyb_hash64 */
__device__ __forceinline__ uint64_t hash64(uint64_t value) {
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

/* ---- the largest logit ---- */

/* An order of logits with equal zeros, then lower tokens first: the largest key is the first of the largest. */
__device__ __forceinline__ uint64_t key_of(float logit, uint32_t token) {
    uint32_t bits = __float_as_uint(logit + 0.0f); /* -0 is +0 */
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)~token;
}

/* The token, in all threads; *not_finite = 1 where a logit is none. */
__device__ uint32_t most_likely(const float *logits, uint32_t vocab_size, int *not_finite) {
    uint64_t best = 0;
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < vocab_size; i += THREADS) {
        float logit = logits[i];
        uint64_t key = key_of(logit, i);
        best = key > best ? key : best;
        if (!hyb_is_finite(logit)) *not_finite = 1;
    }
    return ~(uint32_t)hyb_max_block(best);
}

/* ---- drawing ---- */

struct weights_of {
    const float *logits;
    uint32_t vocab_size;
    double max, temperature;
};

/* Weights of a chunk, by all threads; returns how many there are. */
__device__ uint32_t make_chunk(const weights_of &w, uint32_t chunk, double *weights) {
    uint32_t first = chunk * CHUNK, n = w.vocab_size - first < CHUNK ? w.vocab_size - first : CHUNK;
    for (uint32_t i = threadIdx.x; i < n; i += THREADS)
        weights[i] = exp_f64(((double)w.logits[first + i] - w.max) / w.temperature);
    return n;
}

/* The running sum at the end of each chunk to `ends`; returns the whole sum, in all threads. */
__device__ double add_weights(const weights_of &w, double (*weights)[CHUNK], double *ends) {
    __shared__ double total;
    uint32_t n_chunks = (w.vocab_size + CHUNK - 1) / CHUNK;
    double sum = 0.0;
    for (uint32_t c = 0; c < n_chunks; ++c) {
        uint32_t n = make_chunk(w, c, weights[c % 2]);
        __syncthreads();
        if (threadIdx.x != 0) continue;
#pragma unroll 8
        for (uint32_t i = 0; i < n; ++i) sum += weights[c % 2][i];
        ends[c] = sum;
    }
    if (threadIdx.x == 0) total = sum;
    __syncthreads();
    return total;
}

/* The first token at which the running sum exceeds the target; `otherwise` where there is none. */
__device__ uint32_t find_token(const weights_of &w, double (*weights)[CHUNK], const double *ends, double target,
                               uint32_t otherwise) {
    __shared__ uint32_t found;
    uint32_t n_chunks = (w.vocab_size + CHUNK - 1) / CHUNK;
    if (threadIdx.x == 0) found = n_chunks;
    __syncthreads();
    for (uint32_t c = threadIdx.x; c < n_chunks; c += THREADS)
        if (ends[c] > target) {
            atomicMin(&found, c);
            break;
        }
    __syncthreads();
    uint32_t chunk = found;
    if (chunk == n_chunks) return otherwise;
    uint32_t n = make_chunk(w, chunk, weights[0]), i = 0;
    __syncthreads();
    if (threadIdx.x != 0) return otherwise;
    for (double sum = chunk != 0 ? ends[chunk - 1] : 0.0; i < n; ++i) {
        sum += weights[0][i];
        if (sum > target) break;
    }
    return chunk * CHUNK + i;
}

__global__ void __launch_bounds__(THREADS)
    sampler_kernel(hyb_device_draw draw, const float *logits, uint32_t vocab_size, const uint64_t *picks,
                   unsigned char *work, size_t work_bytes, uint32_t *tokens, int *not_finite) {
    __shared__ double weights[2][CHUNK];
    size_t row = blockIdx.x;
    weights_of w = {logits + row * vocab_size, vocab_size, 0.0, (double)draw.temperature};
    uint32_t token = most_likely(w.logits, vocab_size, not_finite);
    if (draw.temperature != 0.0f) {
        double *ends = reinterpret_cast<double *>(work + row * work_bytes);
        uint64_t bits = hash64(hash64(hash64(draw.seed) + picks[row]) + picks[gridDim.x + row]);
        w.max = (double)w.logits[token];
        double total = add_weights(w, weights, ends);
        token = find_token(w, weights, ends, (double)(bits >> 11) * 0x1p-53 * total, token);
    }
    if (threadIdx.x == 0) tokens[row] = token;
}

} // namespace

int hyb_launch_sampler(const hyb_device_draw *draw, const float *logits, size_t vocab_size, size_t n,
                       const uint64_t *picks, void *work, uint32_t *tokens, int *not_finite, void *stream) {
    hyb_device_draw d = *draw;
    uint32_t vocab = (uint32_t)vocab_size;
    size_t work_bytes = hyb_sampler_bytes(vocab_size);
    unsigned char *bytes = static_cast<unsigned char *>(work);
    HYB_LAUNCH(sampler_kernel, (unsigned)n, THREADS, 0, stream, d, logits, vocab, picks, bytes, work_bytes, tokens,
               not_finite);
    return (int)cudaGetLastError();
}
