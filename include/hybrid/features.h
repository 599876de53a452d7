/* features.h - what a window of tokens is about, as a few numbers: for clustering, and for finding repeated text.
 *
 * Window w is the tokens [w * window, (w + 1) * window); what is left at the end of a text is not used. Windows are
 * independent: a long text may be given in pieces, each a multiple of the window. Token arrays are unsigned integers
 * of token_bytes 1, 2 or 4, aligned to that. All functions are parallel and give the same bits on every processor and
 * for any number of threads.
 *
 * Hashes: t(i) = mix(seed + token i) with mix the finaliser of splitmix64; a run of n tokens from i has the polynomial
 * P = sum over j < n of t(i + j) * 0x9e3779b97f4a7c15^(n-1-j) modulo 2^64, and the hash h = mix(P + n).
 *
 * Sources: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning" (hashed counts with signs are
 * a random projection); Arandjelovic & Zisserman 2012 (square roots of counts: Hellinger distances become Euclidean);
 * Broder 1997, "On the resemblance and containment of documents" (minima of hashed shingles); Steele et al. 2014,
 * "Fast splittable pseudorandom number generators" (splitmix64).
 */
#ifndef HYBRID_FEATURES_H
#define HYBRID_FEATURES_H

#include <hybrid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* Which runs of tokens are counted; bits. */
typedef enum hyb_ngrams { HYB_NGRAMS_1 = 1, HYB_NGRAMS_2 = 2, HYB_NGRAMS_3 = 4 } hyb_ngrams;

/* How windows become features. */
typedef struct hyb_window_hashing {
    uint32_t window;     /* tokens, 1 to 2^24 */
    uint32_t n_features; /* 1 to 2^24 */
    uint32_t ngrams;     /* bits of hyb_ngrams */
    uint64_t seed;
} hyb_window_hashing;

/* Minima in a signature. */
#define HYB_MINHASHES 16

/* Hashed n-gram counts of each window, projected:
 *   features[w][h_hi * n_features >> 32] += (h odd ? -1 : +1) * sqrt(count) over the distinct n-grams of window w, h_hi
 *   the upper 32 bits of h; then the row is divided by sqrt(number of n-grams), the Euclidean norm of the square roots.
 * An inner product of two rows estimates that of the unprojected ones (Bhattacharyya coefficient of the n-gram
 * frequencies, 0 to 1) without bias, with a deviation of about 1 / sqrt(n_features).
 *   tokens    [n_tokens]
 *   features  fp32 [n_tokens / window][n_features]
 * Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_window_features(hyb_ctx *ctx, const hyb_window_hashing *hashing, const void *tokens,
                                       size_t token_bytes, size_t n_tokens, float *features);

/* Mean embedding of each window's tokens, added in their order in fp32.
 *   embeddings  fp32 [vocab_size][dim]
 *   features    fp32 [n_tokens / window][dim]
 * Errors: INVALID_ARGUMENT (also for a token of vocab_size or more). */
HYB_API hyb_status hyb_window_embeddings(hyb_ctx *ctx, const float *embeddings, size_t vocab_size, size_t dim,
                                         size_t window, const void *tokens, size_t token_bytes, size_t n_tokens,
                                         float *features);

/* Signature of each window: signatures[w][k] = minimum of (h * a_k) >> 32 over its runs of `shingle` tokens, with a_k
 * = mix(seed + k) | 1. The share of equal numbers in two signatures estimates the Jaccard similarity of the windows'
 * sets of shingles.
 *   window >= shingle >= 1; signatures  uint32 [n_tokens / window][HYB_MINHASHES]
 * Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_window_minhash(hyb_ctx *ctx, size_t window, size_t shingle, uint64_t seed, const void *tokens,
                                      size_t token_bytes, size_t n_tokens, uint32_t *signatures);

/* Hash h of every run of `shingle` tokens of a text, windows or not.
 *   n_tokens >= shingle >= 1; hashes  uint64 [n_tokens - shingle + 1]
 * Errors: INVALID_ARGUMENT. */
HYB_API hyb_status hyb_shingle_hashes(hyb_ctx *ctx, size_t shingle, uint64_t seed, const void *tokens,
                                      size_t token_bytes, size_t n_tokens, uint64_t *hashes);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_FEATURES_H */
