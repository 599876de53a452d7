/* attention.cu - causal attention over a key-value cache, with the CPU's bits (lib/kernels.h, hyb_attention_job).
 *
 * Scores first: parallel over keys, a key by 4 threads, each key loaded once for up to 4 queries (heads of a group, or
 * tokens of a prompt). Then a block per query, or 4 of a prompt: largest score, exponentials, and the sum over values,
 * which the contract makes a chain of one addition per key and dimension. Chains run side by side in the threads of a
 * block and in the heads' blocks; values come through shared memory, two tiles ahead, so that the chain and not the
 * memory's latency sets the pace. Bytes: the cache of a sequence once, but values once a head (from L2 but the first).
 *
 * No size of a launch depends on positions: a captured graph serves every token.
 */
#include "device.h"
#include "session.h"
#include "ptx.h"

#define KEY_THREADS 4     /* that share a key: 16 virtual lanes are 4 loads of 4 elements */
#define SCORE_THREADS 128 /* of a block */
#define VALUE_THREADS 128
#define MOST_HEAD_DIM 256
#define DIMS ((MOST_HEAD_DIM + VALUE_THREADS - 1) / VALUE_THREADS) /* of a thread */
#define TILE 32                                                    /* keys whose values are loaded together */
#define STAGES 3
#define MOST_QUERIES 4
#define MOST_GRID_ROWS 65532u /* of a grid's second and third size; a multiple of 4 */

namespace {

/* What the kernels of a layer need. A block's queries are `token_step` rows and `head_step` heads apart: one is 0. */
struct attention_job {
    hyb_device_rows rows;
    const float *qkv;
    size_t ld;
    hyb_device_cache cache;
    unsigned n_heads, group;
    unsigned token_step, head_step;
    float scale;
    float *scores; /* [row][head][ld_scores] */
    size_t ld_scores;
    float *out;
    size_t ld_out;
};

/* The queries of a block. */
struct query_place {
    unsigned token, head, kv_head;
    size_t cache_row; /* the first of the sequence and head */
};
__device__ __forceinline__ query_place place_of(const attention_job &job, unsigned n_queries) {
    query_place p;
    p.token = blockIdx.z * (job.token_step != 0 ? n_queries : 1);
    p.head = blockIdx.y * (job.head_step != 0 ? n_queries : 1);
    p.kv_head = p.head / job.group;
    p.cache_row = ((size_t)job.rows.sequences[p.token] * job.cache.n_kv_heads + p.kv_head) * job.cache.n_context;
    return p;
}

/* Keys of query i; 0 for those beyond the last row. */
__device__ __forceinline__ unsigned keys_of(const attention_job &job, const query_place &p, unsigned i) {
    unsigned token = p.token + i * job.token_step;
    return token < job.rows.n ? job.rows.positions[token] + 1 : 0;
}

__device__ __forceinline__ float *scores_of(const attention_job &job, const query_place &p, unsigned i) {
    size_t row = (size_t)(p.token + i * job.token_step) * job.n_heads + p.head + i * job.head_step;
    return job.scores + row * job.ld_scores;
}

/* ---- scores ---- */

/* Elements 16 k + 4 part .. + 3 of a key. */
template <bool IS_INT8>
__device__ __forceinline__ float4 load_key(const hyb_device_cache &cache, size_t row, unsigned column, float scale) {
    size_t at = row * cache.width + column;
    if (!IS_INT8) return *reinterpret_cast<const float4 *>(static_cast<const float *>(cache.keys) + at);
    char4 codes = *reinterpret_cast<const char4 *>(static_cast<const int8_t *>(cache.keys) + at);
    return make_float4((float)codes.x * scale, (float)codes.y * scale, (float)codes.z * scale, (float)codes.w * scale);
}

/* The tree over 16 lanes, of which each of 4 neighbouring threads has 4 side by side: lane + 8 is two threads on. Each
 * thread gives away the half that its partner finishes, so that 5 exchanges do; the sum is in all of them. */
__device__ __forceinline__ float sum_of_lanes(float4 s, unsigned part) {
    bool high = (part & 2) != 0;
    float give0 = high ? s.x : s.z, give1 = high ? s.y : s.w;
    float u0 = (high ? s.z : s.x) + __shfl_xor_sync(HYB_FULL_MASK, give0, 2);
    float u1 = (high ? s.w : s.y) + __shfl_xor_sync(HYB_FULL_MASK, give1, 2);
    bool odd = (part & 1) != 0; /* now lane + 4 is one thread on */
    float v = (odd ? u1 : u0) + __shfl_xor_sync(HYB_FULL_MASK, odd ? u0 : u1, 1);
    v += __shfl_xor_sync(HYB_FULL_MASK, v, 2);
    return v + __shfl_xor_sync(HYB_FULL_MASK, v, 1);
}

template <int QUERIES, bool IS_INT8> __global__ void __launch_bounds__(SCORE_THREADS) scores_kernel(attention_job job) {
    __shared__ float4 queries[QUERIES][MOST_HEAD_DIM / 4];
    query_place p = place_of(job, QUERIES);
    unsigned n_keys = 0, seen[QUERIES], width = job.cache.width, part = threadIdx.x % KEY_THREADS;
#pragma unroll
    for (unsigned i = 0; i < QUERIES; ++i) {
        unsigned n = seen[i] = keys_of(job, p, i);
        n_keys = n > n_keys ? n : n_keys;
        const float *q = job.qkv + (p.token + (size_t)i * job.token_step) * job.ld +
                         (size_t)(p.head + i * job.head_step) * job.cache.head_dim;
        float *to = reinterpret_cast<float *>(queries[i]);
        for (unsigned d = threadIdx.x; d < width; d += SCORE_THREADS)
            to[d] = n != 0 && d < job.cache.head_dim ? q[d] : 0.0f;
    }
    __syncthreads();
    unsigned first = (blockIdx.x * SCORE_THREADS + threadIdx.x / HYB_WARP * HYB_WARP) / KEY_THREADS;
    for (; first < n_keys; first += gridDim.x * SCORE_THREADS / KEY_THREADS) { /* the same for all of a warp */
        unsigned key = first + threadIdx.x % HYB_WARP / KEY_THREADS;
        size_t row = p.cache_row + (key < n_keys ? key : n_keys - 1);
        float scale = IS_INT8 ? job.cache.key_scales[row] : 1.0f;
        float4 sums[QUERIES];
#pragma unroll
        for (int i = 0; i < QUERIES; ++i) sums[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
        for (unsigned k = 0; k < width / 16; ++k) {
            float4 x = load_key<IS_INT8>(job.cache, row, 16 * k + 4 * part, scale);
#pragma unroll
            for (int i = 0; i < QUERIES; ++i) {
                float4 q = queries[i][4 * k + part];
                sums[i].x += q.x * x.x;
                sums[i].y += q.y * x.y;
                sums[i].z += q.z * x.z;
                sums[i].w += q.w * x.w;
            }
        }
#pragma unroll
        for (unsigned i = 0; i < QUERIES; ++i) {
            float score = sum_of_lanes(sums[i], part) * job.scale;
            if (part == 0 && key < seen[i]) scores_of(job, p, i)[key] = score;
        }
    }
}

/* ---- values ---- */

/* Floats as integers of the same order, and back. */
__device__ __forceinline__ uint32_t ordered(float x) {
    uint32_t bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_ordered(uint32_t bits) {
    return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

/* The largest score of a query, with +0 for a zero (lib/ref, hyb_max_f32_ref). */
__device__ float largest_score(const float *scores, unsigned n_keys) {
    uint32_t largest = 0;
#pragma unroll 4
    for (unsigned j = threadIdx.x; j < n_keys; j += VALUE_THREADS) {
        uint32_t score = ordered(scores[j]);
        largest = score > largest ? score : largest;
    }
    return from_ordered(hyb_max_block(largest)) + 0.0f;
}

template <bool IS_INT8>
__device__ void load_tile(const attention_job &job, size_t cache_row, unsigned first, unsigned n_keys,
                          unsigned char *stage) {
    size_t row_bytes = (size_t)job.cache.width * (IS_INT8 ? 1 : sizeof(float));
    unsigned n = first < n_keys ? n_keys - first : 0;
    n = n < TILE ? n : TILE;
    const unsigned char *from = static_cast<const unsigned char *>(job.cache.values) + (cache_row + first) * row_bytes;
    for (unsigned at = 16 * threadIdx.x; at < n * row_bytes; at += 16 * VALUE_THREADS)
        hyb_copy_async_16(stage + at, from + at, true);
    hyb_copies_commit();
}

/* A tile's contribution to the dimensions of a thread, key by key. */
template <int QUERIES, bool IS_INT8>
__device__ __forceinline__ void add_tile(const attention_job &job, const unsigned char *stage, const float (*p)[TILE],
                                         const float *scales, unsigned n, float (*sums)[QUERIES]) {
#pragma unroll
    for (unsigned s = 0; s < DIMS; ++s) {
        unsigned d = threadIdx.x + s * VALUE_THREADS;
        if (d >= job.cache.head_dim) continue;
#pragma unroll 8
        for (unsigned j = 0; j < n; ++j) {
            unsigned at = j * job.cache.width + d;
            float value = IS_INT8 ? (float)reinterpret_cast<const int8_t *>(stage)[at] * scales[j]
                                  : reinterpret_cast<const float *>(stage)[at];
#pragma unroll
            for (int i = 0; i < QUERIES; ++i) sums[s][i] += p[i][j] * value;
        }
    }
}

/* A key that a query does not see has a weight of 0, which changes no sum: sums are never -0. */
template <int QUERIES, bool IS_INT8> __global__ void __launch_bounds__(VALUE_THREADS) values_kernel(attention_job job) {
    HYB_DYNAMIC_SHARED(unsigned char, stages);
    __shared__ float p[2][QUERIES][TILE], scales[2][TILE], inverse[QUERIES];
    query_place place = place_of(job, QUERIES);
    unsigned n_keys = 0, stage_bytes = TILE * job.cache.width * (IS_INT8 ? 1 : sizeof(float));
    static_assert(QUERIES * TILE <= VALUE_THREADS, "a thread makes one weight of a tile");
    unsigned seen[QUERIES], own = threadIdx.x / TILE; /* the query whose weights it makes, where there is one */
    float own_largest = 0.0f, sums[DIMS][QUERIES], lane_sum = 0.0f;
    unsigned own_seen = own < QUERIES ? keys_of(job, place, own) : 0;
    const float *own_scores = scores_of(job, place, own);
#pragma unroll
    for (unsigned i = 0; i < QUERIES; ++i) {
        unsigned n = seen[i] = keys_of(job, place, i);
        n_keys = n > n_keys ? n : n_keys;
#pragma unroll
        for (unsigned s = 0; s < DIMS; ++s) sums[s][i] = 0.0f;
    }
    for (unsigned t = 0; t < STAGES - 1; ++t)
        load_tile<IS_INT8>(job, place.cache_row, t * TILE, n_keys, stages + t * stage_bytes);
#pragma unroll
    for (unsigned i = 0; i < QUERIES; ++i) {
        float largest = largest_score(scores_of(job, place, i), seen[i]);
        own_largest = i == own ? largest : own_largest;
    }
    for (unsigned tile = 0; tile * TILE < n_keys; ++tile) {
        unsigned first = tile * TILE, n = n_keys - first < TILE ? n_keys - first : TILE, now = tile % 2;
        unsigned key = first + threadIdx.x % TILE;
        if (own < QUERIES)
            p[now][own][threadIdx.x % TILE] = key < own_seen ? hyb_exp_device(own_scores[key] - own_largest) : 0.0f;
        if (IS_INT8 && threadIdx.x < n)
            scales[now][threadIdx.x] = job.cache.value_scales[place.cache_row + first + threadIdx.x];
        hyb_copies_wait<STAGES - 2>();
        __syncthreads(); /* the tile is here, and everyone has done with the one before */
        load_tile<IS_INT8>(job, place.cache_row, first + (STAGES - 1) * TILE, n_keys,
                           stages + (tile + STAGES - 1) % STAGES * stage_bytes);
        if (threadIdx.x < 16 * QUERIES)
            for (unsigned j = threadIdx.x % 16; j < TILE; j += 16) lane_sum += p[now][threadIdx.x / 16][j];
        add_tile<QUERIES, IS_INT8>(job, stages + tile % STAGES * stage_bytes, p[now], scales[now], n, sums);
    }
    lane_sum = hyb_sum_16_lanes(lane_sum);
    if (threadIdx.x < 16 * QUERIES && threadIdx.x % 16 == 0) inverse[threadIdx.x / 16] = 1.0f / lane_sum;
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < QUERIES; ++i) {
        if (seen[i] == 0) continue;
        float *out = job.out + (place.token + (size_t)i * job.token_step) * job.ld_out +
                     (size_t)(place.head + i * job.head_step) * job.cache.head_dim;
#pragma unroll
        for (unsigned s = 0; s < DIMS; ++s) {
            unsigned d = threadIdx.x + s * VALUE_THREADS;
            if (d < job.cache.head_dim) out[d] = sums[s][i] * inverse[i];
        }
    }
}

/* ---- launches ---- */

size_t tile_bytes(const hyb_device_cache *cache) {
    return (size_t)STAGES * TILE * cache->width * (cache->format == HYB_CACHE_INT8 ? 1 : sizeof(float));
}

template <int QUERIES, bool IS_INT8> int allow_shared(size_t n_bytes) {
    auto kernel = values_kernel<QUERIES, IS_INT8>;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
}

} // namespace

/* More than 48 KiB must be asked for; the largest head in fp32 takes 96 KiB, which every processor from 8.0 on has. */
int hyb_attention_prepare(const hyb_device_cache *cache) {
    size_t n_bytes = tile_bytes(cache);
    if (cache->format == HYB_CACHE_INT8) {
        HYB_CUDA_TRY((allow_shared<1, true>(n_bytes)));
        return allow_shared<MOST_QUERIES, true>(n_bytes);
    }
    HYB_CUDA_TRY((allow_shared<1, false>(n_bytes)));
    return allow_shared<MOST_QUERIES, false>(n_bytes);
}

/* Blocks along the keys: enough to fill the device when few rows do not. */
static unsigned score_blocks(const hyb_cuda_state *state, size_t n_context, size_t others) {
    size_t useful = hyb_blocks_for(n_context, SCORE_THREADS / KEY_THREADS);
    size_t wanted = hyb_blocks_for((size_t)state->n_multiprocessors * 8, others);
    return (unsigned)(useful < wanted ? useful : wanted);
}

template <int QUERIES, bool IS_INT8>
static int launch_scores(const hyb_cuda_state *state, attention_job job, void *stream) {
    unsigned y = job.head_step != 0 ? job.n_heads / QUERIES : job.n_heads;
    unsigned z = job.token_step != 0 ? (job.rows.n + QUERIES - 1) / QUERIES : job.rows.n;
    dim3 grid(score_blocks(state, job.cache.n_context, (size_t)y * z), y, z);
    auto kernel = scores_kernel<QUERIES, IS_INT8>;
    HYB_LAUNCH(kernel, grid, SCORE_THREADS, 0, stream, job);
    return (int)cudaGetLastError();
}

template <int QUERIES, bool IS_INT8> static int launch_values(attention_job job, void *stream) {
    dim3 grid(1, job.n_heads, (job.rows.n + QUERIES - 1) / QUERIES);
    auto kernel = values_kernel<QUERIES, IS_INT8>;
    HYB_LAUNCH(kernel, grid, VALUE_THREADS, tile_bytes(&job.cache), stream, job);
    return (int)cudaGetLastError();
}

/* Rows of a prompt share their keys and values by fours; heads of a group share their keys. */
template <bool IS_INT8>
static int launch_part(const hyb_cuda_state *state, attention_job job, int is_feed, void *stream) {
    job.token_step = is_feed != 0;
    job.head_step = is_feed == 0;
    if (is_feed) {
        HYB_CUDA_TRY((launch_scores<MOST_QUERIES, IS_INT8>(state, job, stream)));
        return launch_values<MOST_QUERIES, IS_INT8>(job, stream);
    }
    if (job.group % 4 == 0)
        HYB_CUDA_TRY((launch_scores<4, IS_INT8>(state, job, stream)));
    else if (job.group % 2 == 0)
        HYB_CUDA_TRY((launch_scores<2, IS_INT8>(state, job, stream)));
    else
        HYB_CUDA_TRY((launch_scores<1, IS_INT8>(state, job, stream)));
    return launch_values<1, IS_INT8>(job, stream);
}

int hyb_launch_attention(const hyb_cuda_state *state, const hyb_session_plan *plan, const hyb_device_rows *rows,
                         int is_feed, const float *qkv, size_t ld, const hyb_device_cache *cache, float *scores,
                         size_t score_rows, float *out, size_t ld_out, void *stream) {
    attention_job job = {};
    job.ld = ld;
    job.cache = *cache;
    job.n_heads = plan->n_heads;
    job.group = plan->n_heads / plan->n_kv_heads;
    job.scale = plan->attention_scale;
    job.scores = scores;
    job.ld_scores = hyb_attention_scores(1, cache->n_context);
    job.ld_out = ld_out;
    if (score_rows > MOST_GRID_ROWS) score_rows = MOST_GRID_ROWS;
    for (size_t first = 0; first < rows->n; first += score_rows) {
        size_t n = rows->n - first < score_rows ? rows->n - first : score_rows;
        job.rows = {rows->tokens + first, rows->sequences + first, rows->positions + first, (unsigned)n};
        job.qkv = qkv + first * ld;
        job.out = out + first * ld_out;
        if (cache->format == HYB_CACHE_INT8)
            HYB_CUDA_TRY(launch_part<true>(state, job, is_feed, stream));
        else
            HYB_CUDA_TRY(launch_part<false>(state, job, is_feed, stream));
    }
    return 0;
}
