/* singular_values.h - singular values of small matrices in fp64, for tests. */
#ifndef HYB_TEST_SINGULAR_VALUES_H
#define HYB_TEST_SINGULAR_VALUES_H

#include <math.h>
#include <stdlib.h>

/* Singular values of x, ascending order not promised: eigenvalues of the smaller Gram matrix by cyclic Jacobi rotations
 * in fp64. values [min(n_rows, n_cols)]. */
static void singular_values(size_t n_rows, size_t n_cols, const double *x, double *values) {
    size_t m = n_rows < n_cols ? n_rows : n_cols, length = n_rows < n_cols ? n_cols : n_rows;
    size_t step_m = n_rows < n_cols ? n_cols : 1, step_l = n_rows < n_cols ? 1 : n_cols;
    double *a = malloc(m * m * sizeof *a);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < m; j++) {
            double sum = 0.0;
            for (size_t l = 0; l < length; l++) sum += x[i * step_m + l * step_l] * x[j * step_m + l * step_l];
            a[i * m + j] = sum;
        }
    for (int sweep = 0; sweep < 12; sweep++)
        for (size_t p = 0; p < m; p++)
            for (size_t q = p + 1; q < m; q++) {
                double off = a[p * m + q];
                if (off == 0.0) continue;
                double theta = (a[q * m + q] - a[p * m + p]) / (2.0 * off);
                double t = (theta < 0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1.0));
                double c = 1.0 / sqrt(t * t + 1.0), s = t * c;
                for (size_t k = 0; k < m; k++) {
                    double kp = a[k * m + p], kq = a[k * m + q];
                    a[k * m + p] = c * kp - s * kq;
                    a[k * m + q] = s * kp + c * kq;
                }
                for (size_t k = 0; k < m; k++) {
                    double pk = a[p * m + k], qk = a[q * m + k];
                    a[p * m + k] = c * pk - s * qk;
                    a[q * m + k] = s * pk + c * qk;
                }
            }
    for (size_t i = 0; i < m; i++) values[i] = sqrt(fmax(a[i * m + i], 0.0));
    free(a);
}

static double largest_of(size_t n_rows, size_t n_cols, const double *x) {
    size_t m = n_rows < n_cols ? n_rows : n_cols;
    double *values = malloc(m * sizeof *values), most = 0.0;
    singular_values(n_rows, n_cols, x, values);
    for (size_t i = 0; i < m; i++) most = fmax(most, values[i]);
    free(values);
    return most;
}

#endif /* HYB_TEST_SINGULAR_VALUES_H */
