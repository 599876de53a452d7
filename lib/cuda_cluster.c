/* cuda_cluster.c - K-means on a GPU: arguments checked as in cluster.c, then the module's functions (cuda/cluster*.cu).
 */
#include "cluster_internal.h"
#include "cuda.h"

/* What an argument needs to be: [rows][cols] elements of so many bytes, of which only points may have no rows. */
static hyb_status check_array(hyb_cuda *cuda, const char *name, hyb_device_address address, size_t rows, size_t cols,
                              size_t element_bytes) {
    if (address == 0 && rows > 0) return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: %s is 0", name);
    if (address % element_bytes != 0) {
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: %s is not aligned to %zu bytes", name,
                        element_bytes);
    }
    /* twice: work memory of the same shape, padded */
    if (hyb_mul_overflows(rows, cols) || hyb_mul_overflows(rows * cols, 2 * sizeof(double))) {
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "kmeans: %s of %zu x %zu elements exceed the address space", name, rows, cols);
    }
    return HYB_OK;
}

/* Numbers of points are int32 on the device. */
static hyb_status check_points(hyb_cuda *cuda, hyb_device_address points, size_t n, size_t d) {
    if (n > INT32_MAX) {
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: %zu points, on a GPU at most 2147483647", n);
    }
    return check_array(cuda, "points", points, n, d, sizeof(float));
}

hyb_status hyb_cuda_cluster_nearest(hyb_cuda *cuda, hyb_device_address points, size_t n, size_t d,
                                    hyb_device_address centroids, size_t k, hyb_device_address labels,
                                    hyb_device_address squared_distances, hyb_stream stream) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(hyb_cluster_check_sizes(cuda->ctx, d, k));
    HYB_TRY(check_points(cuda, points, n, d));
    HYB_TRY(check_array(cuda, "centroids", centroids, k, d, sizeof(float)));
    HYB_TRY(check_array(cuda, "labels", labels, n, 1, sizeof(int32_t)));
    if (squared_distances != 0) {
        HYB_TRY(check_array(cuda, "squared_distances", squared_distances, n, 1, sizeof(double)));
    }
    if (n == 0) return HYB_OK;
    return HYB_CUDA_CALL(cuda, cluster_nearest, hyb_device_pointer(points), n, d, hyb_device_pointer(centroids), k,
                         hyb_device_pointer(labels), hyb_device_pointer(squared_distances), hyb_device_pointer(stream));
}

/* What the GPU has no code for. */
static hyb_status check_supported(hyb_ctx *ctx, const hyb_kmeans_options *options) {
    if (options->init != HYB_KMEANS_GIVEN) {
        return hyb_fail(ctx, HYB_ERROR_UNSUPPORTED,
                        "kmeans: on a GPU, init must be HYB_KMEANS_GIVEN; draw a start with hyb_kmeans_f32 from a "
                        "sample of the points");
    }
    if (options->batch_size == 0) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_UNSUPPORTED, "kmeans: there are no mini-batches on a GPU; batch_size must be 0");
}

hyb_status hyb_cuda_kmeans(hyb_cuda *cuda, const hyb_kmeans_options *options, hyb_device_address points, size_t n,
                           size_t d, hyb_device_address centroids, hyb_device_address labels, hyb_kmeans_result *result,
                           hyb_stream stream) {
    hyb_kmeans_options complete;
    hyb_kmeans_result found = {0, 0, 0, 0};
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(hyb_cluster_read_options(cuda->ctx, options, n, d, &complete));
    HYB_TRY(check_supported(cuda->ctx, &complete));
    HYB_TRY(check_points(cuda, points, n, d));
    HYB_TRY(check_array(cuda, "centroids", centroids, complete.n_clusters, d, sizeof(float)));
    if (labels != 0) HYB_TRY(check_array(cuda, "labels", labels, n, 1, sizeof(int32_t)));
    int error =
        cuda->table->kmeans(cuda->state, &complete, hyb_device_pointer(points), n, d, hyb_device_pointer(centroids),
                            hyb_device_pointer(labels), &found, hyb_device_pointer(stream));
    if (error == HYB_ERROR_NOT_FINITE) {
        return hyb_fail(cuda->ctx, HYB_ERROR_NOT_FINITE,
                        "kmeans: points, centroids or what a call before read hold a NaN or an infinity");
    }
    if (error == HYB_ERROR_CANCELLED) {
        return hyb_fail(cuda->ctx, HYB_ERROR_CANCELLED, "kmeans: stopped by on_iteration");
    }
    HYB_TRY(hyb_cuda_result(cuda->ctx, cuda->table, error, "kmeans"));
    if (result != NULL) *result = found;
    return HYB_OK;
}
