/* sampler.c - drawing the next token from logits: temperature, top-k, top-p, with a counter-based generator.
 *
 * Probabilities are fp64 from the library's own exp, in a fixed order, so that the draw is the same on every machine.
 */
#include "language_model.h"
#include "math_f64.h"

#include <stdlib.h>

typedef struct candidate {
    float logit;
    uint32_t token;
} candidate;

/* Higher logit first, then lower id: a total order. */
static int compare_candidates(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

static void sift_down(candidate *heap, size_t n, size_t i) {
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && compare_candidates(&heap[child + 1], &heap[child]) > 0) child++;
        if (compare_candidates(&heap[i], &heap[child]) >= 0) return;
        candidate swap = heap[i];
        heap[i] = heap[child];
        heap[child] = swap;
    }
}

/* The k best candidates, in order. The heap's root is its worst member. */
static void select_best(const float *logits, size_t vocab_size, candidate *best, size_t k) {
    for (size_t i = 0; i < k; i++) best[i] = (candidate){logits[i], (uint32_t)i};
    if (k < vocab_size) {
        for (size_t i = k / 2; i-- > 0;) sift_down(best, k, i);
        for (size_t i = k; i < vocab_size; i++) {
            candidate next = {logits[i], (uint32_t)i};
            if (compare_candidates(&next, &best[0]) >= 0) continue;
            best[0] = next;
            sift_down(best, k, 0);
        }
    }
    qsort(best, k, sizeof *best, compare_candidates);
}

static size_t most_likely(const float *logits, size_t vocab_size) {
    size_t best = 0;
    for (size_t i = 1; i < vocab_size; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static double weight_of(float logit, float max, float temperature) {
    return hyb_exp_f64(((double)logit - (double)max) / (double)temperature);
}

/* Number of leading candidates whose probability together reaches top_p. */
static size_t cut_top_p(const candidate *best, size_t k, const hyb_sampler *sampler) {
    if (!(sampler->top_p > 0.0f) || sampler->top_p >= 1.0f) return k;
    double total = 0.0, sum = 0.0;
    for (size_t i = 0; i < k; i++) total += weight_of(best[i].logit, best[0].logit, sampler->temperature);
    for (size_t i = 0; i < k; i++) {
        sum += weight_of(best[i].logit, best[0].logit, sampler->temperature);
        if (sum >= (double)sampler->top_p * total) return i + 1;
    }
    return k;
}

/* Walks the candidates (or the whole vocabulary when best is NULL) until the drawn share of their weight is reached. */
static uint32_t draw(const float *logits, const candidate *best, size_t n, float max, float temperature, double share) {
    double total = 0.0, sum = 0.0;
    for (size_t i = 0; i < n; i++) total += weight_of(best ? best[i].logit : logits[i], max, temperature);
    for (size_t i = 0; i < n; i++) {
        sum += weight_of(best ? best[i].logit : logits[i], max, temperature);
        if (sum > share * total) return best ? best[i].token : (uint32_t)i;
    }
    return best ? best[0].token : (uint32_t)most_likely(logits, n); /* rounding left nothing: the surest choice */
}

hyb_status hyb_sampler_check(hyb_ctx *ctx, const hyb_sampler *given, hyb_sampler *sampler) {
    *sampler = (hyb_sampler){.struct_size = sizeof *sampler};
    HYB_TRY(hyb_read_struct(ctx, "hyb_sampler", sampler, given, sizeof *sampler));
    if (!(sampler->temperature >= 0.0f) || !hyb_is_finite(sampler->temperature))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "temperature is %g, must be 0 or more", sampler->temperature);
    if (!(sampler->top_p >= 0.0f && sampler->top_p <= 1.0f))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "top_p is %g, must be 0 to 1", sampler->top_p);
    return HYB_OK;
}

hyb_sampler_kind hyb_sampler_kind_of(const hyb_sampler *sampler, size_t vocab_size) {
    if (sampler->temperature == 0.0f || sampler->top_k == 1) return HYB_SAMPLER_GREEDY;
    int cuts_k = sampler->top_k != 0 && sampler->top_k < vocab_size;
    int cuts_p = sampler->top_p > 0.0f && sampler->top_p < 1.0f;
    return cuts_k || cuts_p ? HYB_SAMPLER_CUT : HYB_SAMPLER_WHOLE;
}

hyb_status hyb_sample(hyb_ctx *ctx, const hyb_sampler *given, const float *logits, size_t vocab_size, uint64_t stream,
                      uint64_t position, uint32_t *token) {
    hyb_sampler sampler;
    if (ctx == NULL || given == NULL || logits == NULL || token == NULL || vocab_size == 0 || vocab_size > UINT32_MAX)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "sampler, token and at least one logit are needed");
    HYB_TRY(hyb_sampler_check(ctx, given, &sampler));
    if (ctx->kernels.max_abs_bits(logits, vocab_size) >= 0x7f800000u)
        return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "the logits are not finite");
    size_t first = most_likely(logits, vocab_size);
    hyb_sampler_kind kind = hyb_sampler_kind_of(&sampler, vocab_size);
    if (kind == HYB_SAMPLER_GREEDY) {
        *token = (uint32_t)first;
        return HYB_OK;
    }
    uint64_t bits = hyb_hash64(hyb_hash64(hyb_hash64(sampler.seed) + stream) + position);
    double share = (double)(bits >> 11) * 0x1p-53;
    if (kind == HYB_SAMPLER_WHOLE) {
        *token = draw(logits, NULL, vocab_size, logits[first], sampler.temperature, share);
        return HYB_OK;
    }
    size_t k = sampler.top_k == 0 ? vocab_size : hyb_min_size(sampler.top_k, vocab_size);
    candidate *best = hyb_scratch(ctx, k * sizeof *best);
    if (best == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %zu candidates", k);
    select_best(logits, vocab_size, best, k);
    k = cut_top_p(best, k, &sampler);
    *token = draw(NULL, best, k, best[0].logit, sampler.temperature, share);
    return HYB_OK;
}
