/* fake_cublas.c - the five functions of cuBLAS that the module calls, on the CPU and column by column as cuBLAS has it:
 * shows, with the emulated module, that the module asks for the right products.
 */
#include <stdlib.h>

typedef struct handle {
    void *stream;
    int math_mode;
} handle;

int fake_cublas_products; /* so far: shows a test that they came here */

int cublasCreate_v2(void **created);
int cublasDestroy_v2(void *destroyed);
int cublasSetStream_v2(void *h, void *stream);
int cublasSetMathMode(void *h, int mode);
int cublasSgemm_v2(void *h, int transpose_a, int transpose_b, int m, int n, int k, const float *alpha, const float *a,
                   int lda, const float *b, int ldb, const float *beta, float *c, int ldc);

int cublasCreate_v2(void **created) {
    handle *h = calloc(1, sizeof *h);
    *created = h;
    if (h != NULL) h->math_mode = -1; /* the module is to say which */
    return h != NULL ? 0 : 3;
}

int cublasDestroy_v2(void *destroyed) {
    free(destroyed);
    return 0;
}

int cublasSetStream_v2(void *h, void *stream) {
    ((handle *)h)->stream = stream;
    return 0;
}

int cublasSetMathMode(void *h, int mode) {
    ((handle *)h)->math_mode = mode;
    return 0;
}

/* C [m][n] = alpha op(A) op(B) + beta C, element (i, j) of a matrix at i + j ld. */
int cublasSgemm_v2(void *h, int transpose_a, int transpose_b, int m, int n, int k, const float *alpha, const float *a,
                   int lda, const float *b, int ldb, const float *beta, float *c, int ldc) {
    if (((handle *)h)->math_mode != 0 || m <= 0 || n <= 0 || k <= 0 || ldc < m) return 7;
    fake_cublas_products++;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            float sum = 0.0f;
            for (int l = 0; l < k; l++) {
                long in_a = transpose_a ? (long)l + (long)i * lda : (long)i + (long)l * lda;
                long in_b = transpose_b ? (long)j + (long)l * ldb : (long)l + (long)j * ldb;
                sum += a[in_a] * b[in_b];
            }
            float *to = c + i + (long)j * ldc;
            *to = *beta == 0.0f ? *alpha * sum : *alpha * sum + *beta * *to;
        }
    return 0;
}
