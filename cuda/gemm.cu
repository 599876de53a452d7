/* gemm.cu - fp32 matrix product: by cuBLAS where the loader finds it, else by a tiled kernel.
 *
 * cuBLAS is loaded at run time, so that the module starts without it; it knows columns first: the transposed product
 * C^T = B^T A^T is what it is asked for. The kernel adds up an element's products in ascending order of k, each by a
 * fused multiply-add, to 0 or to C: its bits depend on k only, neither on the tile nor on m or n.
 *
 * Limit of the kernel: one fused multiply-add a lane and clock. Each thread keeps 8 x 8 (or, where larger tiles would
 * leave processors idle, 4 x 4) elements in registers, for 4 (2) floats from shared memory a multiply-add each way.
 */
#include <dlfcn.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "gemm.h"

/* ---- cuBLAS ---- */

/* The few names of cublas_v2.h that are used here; cublasStatus_t 0 is success, 3 a failed allocation. */
typedef int (*cublas_create)(void **handle);
typedef int (*cublas_destroy)(void *handle);
typedef int (*cublas_set_stream)(void *handle, cudaStream_t stream);
typedef int (*cublas_set_math_mode)(void *handle, int mode);
typedef int (*cublas_sgemm)(void *handle, int transpose_a, int transpose_b, int m, int n, int k, const float *alpha,
                            const float *a, int lda, const float *b, int ldb, const float *beta, float *c, int ldc);
enum { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1, CUBLAS_DEFAULT_MATH = 0, CUBLAS_ALLOC_FAILED = 3 };

struct hyb_cuda_blas {
    void *handle;
    cublas_destroy destroy;
    cublas_set_stream set_stream;
    cublas_sgemm sgemm;
};

template <class F> static bool find(void *library, const char *name, F *function) {
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != nullptr;
}

/* HYB_CUBLAS_LIBRARY names another one; where it is empty, none is used. */
static void *load_blas(void) {
    const char *path = getenv("HYB_CUBLAS_LIBRARY");
    if (path != nullptr) return *path != '\0' ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (HYB_EMULATED) return nullptr;
    void *library = dlopen("libcublas.so.13", RTLD_NOW | RTLD_LOCAL);
    return library != nullptr ? library : dlopen("libcublas.so.12", RTLD_NOW | RTLD_LOCAL);
}

/* A library stays loaded: threads of its own may run in it. What cannot be loaded or opened is done without. */
static void open_blas(hyb_cuda_state *state) {
    state->has_tried_blas = true;
    void *library = load_blas();
    hyb_cuda_blas blas = {};
    cublas_create create;
    cublas_set_math_mode set_math_mode;
    if (library == nullptr || !find(library, "cublasCreate_v2", &create) ||
        !find(library, "cublasDestroy_v2", &blas.destroy) || !find(library, "cublasSetStream_v2", &blas.set_stream) ||
        !find(library, "cublasSetMathMode", &set_math_mode) || !find(library, "cublasSgemm_v2", &blas.sgemm))
        return;
    if (create(&blas.handle) != 0) {
        cudaGetLastError();
        return;
    }
    /* The default mode never computes with fewer bits than fp32 has. */
    if (set_math_mode(blas.handle, CUBLAS_DEFAULT_MATH) == 0) state->blas = new (std::nothrow) hyb_cuda_blas(blas);
    if (state->blas == nullptr) blas.destroy(blas.handle);
}

void hyb_cuda_gemm_close(hyb_cuda_state *state) {
    if (state->blas == nullptr) return;
    state->blas->destroy(state->blas->handle);
    delete state->blas;
    state->blas = nullptr;
}

namespace {

bool fits(size_t value) { return value <= 0x7fffffff; }

int blas_gemm(const hyb_cuda_blas *blas, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a,
              size_t lda, const float *b, size_t ldb, int accumulate, float *c, size_t ldc, void *stream) {
    const float one = 1.0f, beta = accumulate ? 1.0f : 0.0f;
    int error = blas->set_stream(blas->handle, (cudaStream_t)stream);
    if (error == 0)
        error = blas->sgemm(blas->handle, transpose == HYB_GEMM_NT ? CUBLAS_OP_T : CUBLAS_OP_N,
                            transpose == HYB_GEMM_TN ? CUBLAS_OP_T : CUBLAS_OP_N, (int)n, (int)m, (int)k, &one, b,
                            (int)ldb, a, (int)lda, &beta, c, (int)ldc);
    return error == 0 ? 0 : error == CUBLAS_ALLOC_FAILED ? HYB_ERROR_OUT_OF_MEMORY : HYB_ERROR_DEVICE;
}

/* ---- the kernel ---- */

#define GEMM_THREADS 256 /* 16 x 16 */
#define GEMM_DEPTH 8     /* of k that a tile holds: a sector of 32 bytes where k runs along the row */

struct gemm_problem {
    size_t m, n, k, lda, ldb, ldc;
    const float *a, *b;
    float *c;
    int accumulate;
};

/* This thread's share of a tile [GEMM_DEPTH][SIDE] of op(A)^T or op(B), which begins at `first` and `key`: values
 * beyond the matrix are 0. Threads next to each other read values next to each other. KEYS_FIRST: stored with k as the
 * row. */
template <bool KEYS_FIRST, int SIDE>
__device__ __forceinline__ void read_tile(const float *x, size_t ld, size_t first, size_t n, size_t key, size_t n_keys,
                                          float *values) {
    constexpr int ACROSS = KEYS_FIRST ? SIDE : GEMM_DEPTH, DOWN = GEMM_THREADS / ACROSS;
    int row = (int)threadIdx.x / ACROSS, col = (int)threadIdx.x % ACROSS;
    int n_left = (int)(n - first < SIDE ? n - first : SIDE);
    int keys_left = (int)(key >= n_keys ? 0 : n_keys - key < GEMM_DEPTH ? n_keys - key : GEMM_DEPTH);
    int rows_left = KEYS_FIRST ? keys_left : n_left, cols_left = KEYS_FIRST ? n_left : keys_left;
    const float *at = x + ((KEYS_FIRST ? key : first) + (size_t)row) * ld + (KEYS_FIRST ? first : key) + (size_t)col;
#pragma unroll
    for (int v = 0; v < SIDE * GEMM_DEPTH / GEMM_THREADS; ++v, at += DOWN * ld)
        values[v] = row + v * DOWN < rows_left && col < cols_left ? __ldg(at) : 0.0f;
}

/* Rows are SIDE + 4 floats apart: threads of a warp that write columns meet at no bank, and a row stays aligned. */
template <bool KEYS_FIRST, int SIDE>
__device__ __forceinline__ void store_tile(const float *values, float (*tile)[SIDE + 4]) {
#pragma unroll
    for (int v = 0; v < SIDE * GEMM_DEPTH / GEMM_THREADS; ++v) {
        int place = v * GEMM_THREADS + (int)threadIdx.x;
        if (KEYS_FIRST)
            tile[place / SIDE][place % SIDE] = values[v];
        else
            tile[place % GEMM_DEPTH][place / GEMM_DEPTH] = values[v];
    }
}

/* A thread's values of a row of a tile: groups of 4, 64 apart. */
template <int PER> __device__ __forceinline__ void read_row(const float *row, int group, float *values) {
#pragma unroll
    for (int g = 0; g < PER / 4; ++g) {
        float4 four = *reinterpret_cast<const float4 *>(row + 64 * g + 4 * group);
        values[4 * g] = four.x;
        values[4 * g + 1] = four.y;
        values[4 * g + 2] = four.z;
        values[4 * g + 3] = four.w;
    }
}

/* visit(place in C, i, j) for a thread's elements that are in C. */
template <int PER, class Visit>
__device__ __forceinline__ void visit_elements(const gemm_problem &p, size_t row, size_t col, Visit visit) {
    row += 4 * (threadIdx.x / 16);
    col += 4 * (threadIdx.x % 16);
    float *to = p.c + row * p.ldc + col;
#pragma unroll
    for (int i = 0; i < PER; ++i) {
        int down = i / 4 * 64 + i % 4;
        if (row + (size_t)down >= p.m) continue;
#pragma unroll
        for (int j = 0; j < PER; ++j) {
            int across = j / 4 * 64 + j % 4;
            if (col + (size_t)across < p.n) visit(to + (size_t)down * p.ldc + across, i, j);
        }
    }
}

/* A block makes a tile of 16 PER x 16 PER elements; the next tiles of A and B are on their way while it multiplies. */
template <int PER, bool A_KEYS_FIRST, bool B_KEYS_FIRST>
__global__ void __launch_bounds__(GEMM_THREADS, PER == 8 ? 2 : 4) gemm_kernel(gemm_problem p) {
    constexpr int SIDE = 16 * PER, N_READ = SIDE * GEMM_DEPTH / GEMM_THREADS;
    alignas(16) __shared__ float a_tile[GEMM_DEPTH][SIDE + 4];
    alignas(16) __shared__ float b_tile[GEMM_DEPTH][SIDE + 4];
    size_t n_down = (p.m + SIDE - 1) / SIDE, row = blockIdx.x % n_down * SIDE, col = blockIdx.x / n_down * SIDE;
    int down = (int)threadIdx.x / 16, across = (int)threadIdx.x % 16;
    float sums[PER][PER] = {}, a_next[N_READ], b_next[N_READ];
    if (p.accumulate) visit_elements<PER>(p, row, col, [&](float *c, int i, int j) { sums[i][j] = *c; });
    read_tile<A_KEYS_FIRST, SIDE>(p.a, p.lda, row, p.m, 0, p.k, a_next);
    read_tile<B_KEYS_FIRST, SIDE>(p.b, p.ldb, col, p.n, 0, p.k, b_next);
    for (size_t key = 0; key < p.k; key += GEMM_DEPTH) {
        store_tile<A_KEYS_FIRST, SIDE>(a_next, a_tile);
        store_tile<B_KEYS_FIRST, SIDE>(b_next, b_tile);
        __syncthreads();
        read_tile<A_KEYS_FIRST, SIDE>(p.a, p.lda, row, p.m, key + GEMM_DEPTH, p.k, a_next);
        read_tile<B_KEYS_FIRST, SIDE>(p.b, p.ldb, col, p.n, key + GEMM_DEPTH, p.k, b_next);
#pragma unroll 2 /* more would spill registers on some devices */
        for (int d = 0; d < GEMM_DEPTH; ++d) {
            float a[PER], b[PER];
            read_row<PER>(a_tile[d], down, a);
            read_row<PER>(b_tile[d], across, b);
#pragma unroll
            for (int i = 0; i < PER; ++i)
#pragma unroll
                for (int j = 0; j < PER; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
        __syncthreads();
    }
    visit_elements<PER>(p, row, col, [&](float *c, int i, int j) { *c = sums[i][j]; });
}

typedef void (*gemm_function)(gemm_problem);

template <int PER> gemm_function kernel_of(hyb_transpose transpose) {
    return transpose == HYB_GEMM_NN   ? gemm_kernel<PER, false, true>
           : transpose == HYB_GEMM_NT ? gemm_kernel<PER, false, false>
                                      : gemm_kernel<PER, true, true>;
}

int plain_gemm(const hyb_cuda_state *state, hyb_transpose transpose, const gemm_problem &problem, void *stream) {
    size_t large_tiles = hyb_blocks_for(problem.m, 128) * hyb_blocks_for(problem.n, 128);
    bool is_large = large_tiles >= 2 * (size_t)state->n_multiprocessors;
    size_t side = is_large ? 128 : 64;
    gemm_function kernel = is_large ? kernel_of<8>(transpose) : kernel_of<4>(transpose);
    size_t n_tiles = hyb_blocks_for(problem.m, side) * hyb_blocks_for(problem.n, side);
    HYB_LAUNCH(kernel, (unsigned)n_tiles, GEMM_THREADS, 0, stream, problem);
    return (int)cudaGetLastError();
}

} // namespace

/* ---- the table's and other files' ---- */

int hyb_cuda_gemm_f32(hyb_cuda_state *state, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a,
                      size_t lda, const float *b, size_t ldb, int accumulate, float *c, size_t ldc, void *stream) {
    if (m == 0 || n == 0 || (k == 0 && accumulate)) return 0;
    if (!state->has_tried_blas) open_blas(state);
    if (state->blas != nullptr && k != 0 && fits(m) && fits(n) && fits(k) && fits(lda) && fits(ldb) && fits(ldc))
        return blas_gemm(state->blas, transpose, m, n, k, a, lda, b, ldb, accumulate, c, ldc, stream);
    return plain_gemm(state, transpose, {m, n, k, lda, ldb, ldc, a, b, c, accumulate}, stream);
}

int hyb_module_gemm(hyb_cuda_state *state, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a,
                    size_t lda, const float *b, size_t ldb, int accumulate, float *c, size_t ldc, void *stream) {
    HYB_CUDA_BEGIN(state);
    return hyb_cuda_gemm_f32(state, transpose, m, n, k, a, lda, b, ldb, accumulate, c, ldc, stream);
}
