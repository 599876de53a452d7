/* session.cu - passes of a language model over rows of tokens: memory, the order of kernels, and a graph of them.
 *
 * A pass reads what differs from one to the next (tokens, sequences, positions) from device memory, and no size of a
 * launch depends on it. So the pass of a step is captured once per number of rows, and later ones are one launch.
 * The CPU's side: lib/session.c, lib/nn/forward.c, lib/nn/workspace.c.
 */
#include "session.h"

#include <cstring>
#include <new>

#include "device.h"

/* Work memory for attention's scores; longer contexts take fewer rows of a prompt at a time. */
#define SCORE_BYTES ((size_t)64 << 20)
#define LEAST_SCORE_ROWS 4 /* that a prompt needs (attention.cu) */

namespace {

/* What kernels write for the host. */
struct host_results {
    int not_finite;
    uint32_t tokens[1]; /* [n_sequences] */
};

} // namespace

struct hyb_device_session {
    hyb_session_plan plan;
    cudaStream_t stream;
    unsigned char *memory;
    hyb_device_cache *caches; /* host [n_layers] */
    cudaGraphExec_t *graphs;  /* host [n_sequences + 1]: of a step of so many rows, or null */
    host_results *results;    /* pinned */
    uint32_t *rows;           /* [3][max_tokens] */
    uint64_t *picks;          /* [2][n_sequences] */
    float *residual;          /* [max_tokens][dim] */
    float *qkv, *attended;    /* [max_tokens][(n_heads + 2 n_kv_heads) head_dim], [max_tokens][dim] */
    float *gate_up;           /* [max_tokens][2 ffn_dim] */
    hyb_device_input input;   /* of [max_tokens][max(dim, ffn_dim)] */
    float *scores;
    size_t score_rows;
    float *logits; /* [n_sequences][vocab_size] */
    void *sampler_work;
};

/* ---- memory ---- */

static size_t head_dim(const hyb_session_plan &p) { return p.dim / p.n_heads; }
static size_t qkv_width(const hyb_session_plan &p) { return p.dim + 2 * head_dim(p) * p.n_kv_heads; }
static size_t widest(const hyb_session_plan &p) { return p.dim > p.ffn_dim ? p.dim : p.ffn_dim; }
static int linear_format(const hyb_session_plan &p) { return p.layers[0].qkv.format; }

static void place_cache(const hyb_session_plan &p, hyb_cuda_arena &memory, hyb_device_cache *cache) {
    size_t dim = head_dim(p), width = (dim + 15) / 16 * 16, n = p.n_sequences * p.n_kv_heads * p.n_context;
    *cache = {};
    cache->format = p.cache_format;
    cache->n_context = p.n_context;
    cache->n_kv_heads = p.n_kv_heads;
    cache->head_dim = (unsigned)dim;
    cache->width = (unsigned)width;
    size_t n_bytes = n * width * (p.cache_format == HYB_CACHE_INT8 ? 1 : sizeof(float));
    unsigned char *keys, *values;
    memory.take(keys, n_bytes);
    memory.take(values, n_bytes);
    cache->keys = keys;
    cache->values = values;
    if (p.cache_format != HYB_CACHE_INT8) return;
    memory.take(cache->key_scales, n);
    memory.take(cache->value_scales, n);
}

static size_t score_rows(const hyb_session_plan &p) {
    size_t rows = SCORE_BYTES / sizeof(float) / hyb_attention_scores(p.n_heads, p.n_context);
    rows = rows / LEAST_SCORE_ROWS * LEAST_SCORE_ROWS;
    return rows < LEAST_SCORE_ROWS ? LEAST_SCORE_ROWS : rows < p.max_tokens ? rows : p.max_tokens;
}

/* Returns the bytes of the caches, which come first. */
static size_t place(hyb_device_session *s, hyb_cuda_arena &memory) {
    const hyb_session_plan &p = s->plan;
    size_t n = p.max_tokens, has_f32 = linear_format(p) == HYB_FORMAT_F32 || p.head.format == HYB_FORMAT_F32;
    for (uint32_t l = 0; l < p.n_layers; ++l) place_cache(p, memory, &s->caches[l]);
    size_t cache_bytes = memory.used();
    memory.take(s->rows, 3 * n);
    memory.take(s->picks, 2 * p.n_sequences);
    memory.take(s->residual, n * p.dim);
    memory.take(s->qkv, n * qkv_width(p));
    memory.take(s->attended, n * p.dim);
    memory.take(s->gate_up, n * 2 * p.ffn_dim);
    memory.take(s->input.values, has_f32 ? n * widest(p) : 0);
    memory.take(s->input.codes, n * hyb_device_codes_ld(widest(p)));
    memory.take(s->input.sums, n);
    memory.take(s->input.scales, n);
    s->score_rows = score_rows(p);
    memory.take(s->scores, s->score_rows * hyb_attention_scores(p.n_heads, p.n_context));
    memory.take(s->logits, p.n_sequences * p.vocab_size);
    unsigned char *work;
    memory.take(work, p.n_sequences * hyb_sampler_bytes(p.vocab_size));
    s->sampler_work = work;
    return cache_bytes;
}

/* ---- life ---- */

int hyb_module_session_destroy(hyb_cuda_state *state, hyb_device_session *s) {
    if (s == nullptr) return 0;
    hyb_device_scope scope(state);
    if (s->stream != nullptr) cudaStreamSynchronize(s->stream);
    for (size_t n = 0; s->graphs != nullptr && n <= s->plan.n_sequences; ++n)
        if (s->graphs[n] != nullptr) cudaGraphExecDestroy(s->graphs[n]);
    if (s->stream != nullptr) cudaStreamDestroy(s->stream);
    cudaFree(s->memory);
    cudaFreeHost(s->results);
    cudaGetLastError();
    delete[] s->graphs;
    delete[] s->caches;
    delete s;
    return 0;
}

/* Caches begin as zeros: the padding of their rows stays so. */
static int create_memory(hyb_device_session *s, size_t *cache_bytes) {
    hyb_cuda_arena counted(nullptr);
    place(s, counted);
    HYB_CUDA_TRY(cudaMalloc(reinterpret_cast<void **>(&s->memory), counted.used()));
    hyb_cuda_arena memory(s->memory);
    *cache_bytes = place(s, memory);
    void *results = nullptr;
    size_t results_bytes = sizeof(host_results) + s->plan.n_sequences * sizeof(uint32_t);
    HYB_CUDA_TRY(cudaMallocHost(&results, results_bytes));
    s->results = static_cast<host_results *>(results);
    memset(results, 0, results_bytes);
    HYB_CUDA_TRY(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
    HYB_CUDA_TRY(hyb_attention_prepare(&s->caches[0]));
    HYB_CUDA_TRY(cudaMemsetAsync(s->memory, 0, *cache_bytes, s->stream));
    return cudaStreamSynchronize(s->stream);
}

int hyb_module_session_create(hyb_cuda_state *state, const hyb_session_plan *plan, hyb_device_session **session,
                              size_t *cache_bytes) {
    HYB_CUDA_BEGIN(state);
    hyb_device_session *s = new (std::nothrow) hyb_device_session();
    if (s == nullptr) return HYB_ERROR_OUT_OF_MEMORY;
    s->plan = *plan;
    s->caches = new (std::nothrow) hyb_device_cache[plan->n_layers]();
    s->graphs = new (std::nothrow) cudaGraphExec_t[plan->n_sequences + 1]();
    int error = HYB_ERROR_OUT_OF_MEMORY;
    if (s->caches != nullptr && s->graphs != nullptr) error = create_memory(s, cache_bytes);
    if (error != 0) {
        hyb_module_session_destroy(state, s);
        return error;
    }
    *session = s;
    return 0;
}

/* Session streams do not wait for the default stream. */
int hyb_module_session_upload(hyb_cuda_state *state, void *to, const void *host, size_t n_bytes) {
    HYB_CUDA_BEGIN(state);
    HYB_CUDA_TRY(cudaMemcpyAsync(to, host, n_bytes, cudaMemcpyHostToDevice, nullptr));
    return cudaStreamSynchronize(nullptr);
}

/* ---- a pass ---- */

/* Rows to the input of a matrix, and its product. y += instead with accumulate. */
static int multiply(hyb_cuda_state *state, hyb_device_session *s, const hyb_device_source &source,
                    const hyb_device_weights &weights, size_t n, float *y, int accumulate) {
    hyb_device_activations x = {s->input.codes, hyb_device_codes_ld(weights.n_cols), s->input.sums, s->input.scales};
    HYB_CUDA_TRY(
        hyb_launch_input(&source, n, weights.n_cols, weights.format, &s->input, &s->results->not_finite, s->stream));
    if (weights.format == HYB_FORMAT_F32)
        return hyb_launch_matmul_f32(state, &weights, s->input.values, n, y, weights.n_rows, accumulate, s->stream);
    return hyb_launch_matmul(state, &weights, &x, n, y, nullptr, weights.n_rows, accumulate, s->stream);
}

static hyb_device_source rows_of(const hyb_device_session *s, const float *x, const float *gain) {
    hyb_device_source source = {};
    source.x = x;
    source.ld = s->plan.dim;
    source.gain = gain;
    source.epsilon = s->plan.norm_epsilon;
    return source;
}

static int run_layer(hyb_cuda_state *state, hyb_device_session *s, const hyb_device_rows &rows, int is_feed,
                     uint32_t index) {
    const hyb_session_plan &p = s->plan;
    const hyb_device_layer &layer = p.layers[index];
    const hyb_device_cache *cache = &s->caches[index];
    size_t n = rows.n, width = qkv_width(p);
    HYB_CUDA_TRY(multiply(state, s, rows_of(s, s->residual, layer.attn_norm), layer.qkv, n, s->qkv, 0));
    HYB_CUDA_TRY(hyb_launch_rotate_store(&p, &rows, s->qkv, width, cache, &s->results->not_finite, s->stream));
    HYB_CUDA_TRY(hyb_launch_attention(state, &p, &rows, is_feed, s->qkv, width, cache, s->scores, s->score_rows,
                                      s->attended, p.dim, s->stream));
    HYB_CUDA_TRY(multiply(state, s, rows_of(s, s->attended, layer.attn_sub_norm), layer.output, n, s->residual, 1));
    HYB_CUDA_TRY(multiply(state, s, rows_of(s, s->residual, layer.ffn_norm), layer.gate_up, n, s->gate_up, 0));
    hyb_device_source gated = rows_of(s, nullptr, layer.ffn_sub_norm);
    gated.gate = s->gate_up;
    gated.up = s->gate_up + p.ffn_dim;
    gated.ld = 2 * (size_t)p.ffn_dim;
    gated.activation = p.activation;
    return multiply(state, s, gated, layer.down, n, s->residual, 1);
}

/* The rows are on the device. */
static int run_rows(hyb_cuda_state *state, hyb_device_session *s, size_t n, int is_feed, int has_logits) {
    const hyb_session_plan &p = s->plan;
    hyb_device_rows rows = {s->rows, s->rows + n, s->rows + 2 * n, (unsigned)n};
    HYB_CUDA_TRY(hyb_launch_embedding(&p.embedding, &rows, s->residual, s->stream));
    for (uint32_t l = 0; l < p.n_layers; ++l) HYB_CUDA_TRY(run_layer(state, s, rows, is_feed, l));
    if (!has_logits) return 0;
    size_t first = is_feed ? n - 1 : 0;
    return multiply(state, s, rows_of(s, s->residual + first * p.dim, p.final_norm), p.head, n - first, s->logits, 0);
}

/* Captures a step of n rows. Where that fails, steps go on kernel by kernel. */
static void capture(hyb_cuda_state *state, hyb_device_session *s, size_t n) {
    cudaGraph_t graph = nullptr;
    if (cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess) {
        int error = run_rows(state, s, n, 0, 1);
        if (cudaStreamEndCapture(s->stream, &graph) == cudaSuccess && graph != nullptr) {
            if (error == 0 && cudaGraphInstantiate(&s->graphs[n], graph, 0) != cudaSuccess) s->graphs[n] = nullptr;
            cudaGraphDestroy(graph);
        }
    }
    cudaGetLastError();
}

int hyb_module_session_run(hyb_cuda_state *state, hyb_device_session *s, const hyb_session_pass *pass) {
    HYB_CUDA_BEGIN(state);
    size_t n = pass->n;
    HYB_CUDA_TRY(cudaMemcpyAsync(s->rows, pass->rows, 3 * n * sizeof(uint32_t), cudaMemcpyHostToDevice, s->stream));
    int is_step = pass->has_logits && (!pass->is_feed || n == 1);
    if (is_step && s->graphs[n] != nullptr) return cudaGraphLaunch(s->graphs[n], s->stream);
    HYB_CUDA_TRY(run_rows(state, s, n, pass->is_feed && n > 1, pass->has_logits));
    /* After the first step: by then every kernel has been loaded, which a capture need not allow. */
    if (is_step) capture(state, s, n);
    return 0;
}

/* ---- results ---- */

static int wait_for_results(hyb_device_session *s, int *not_finite) {
    HYB_CUDA_TRY(cudaStreamSynchronize(s->stream));
    *not_finite = s->results->not_finite;
    s->results->not_finite = 0;
    return 0;
}

int hyb_module_session_logits(hyb_cuda_state *state, hyb_device_session *s, size_t n, float *logits, int *not_finite) {
    HYB_CUDA_BEGIN(state);
    size_t n_bytes = n * s->plan.vocab_size * sizeof(float);
    if (logits != nullptr) HYB_CUDA_TRY(cudaMemcpyAsync(logits, s->logits, n_bytes, cudaMemcpyDeviceToHost, s->stream));
    return wait_for_results(s, not_finite);
}

int hyb_module_session_draw(hyb_cuda_state *state, hyb_device_session *s, const hyb_device_draw *draw,
                            const uint64_t *picks, size_t n, uint32_t *tokens, int *not_finite) {
    HYB_CUDA_BEGIN(state);
    HYB_CUDA_TRY(cudaMemcpyAsync(s->picks, picks, 2 * n * sizeof *picks, cudaMemcpyHostToDevice, s->stream));
    HYB_CUDA_TRY(hyb_launch_sampler(draw, s->logits, s->plan.vocab_size, n, s->picks, s->sampler_work,
                                    s->results->tokens, &s->results->not_finite, s->stream));
    HYB_CUDA_TRY(wait_for_results(s, not_finite));
    memcpy(tokens, s->results->tokens, n * sizeof *tokens);
    return 0;
}
