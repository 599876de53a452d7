/* test_math.c - the library's own exp, log, sin, cos and pow against the C library's, and pinned bits. */
#include "testing.h"

#include <math.h>

#include "math_f64.h"

static double random_unit(uint64_t *state) { return (double)(test_random(state) >> 11) * 0x1p-53; }

/* Relative error, or absolute error below 1. */
static double relative(double value, double expected) { return fabs(value - expected) / fabs(expected); }

/* exp, log and pow agree with the C library's within 1e-14 relative over their whole ranges. */
static void test_exp_log_pow(void) {
    uint64_t state = 1;
    double worst_exp = 0, worst_log = 0, worst_pow = 0;
    for (int i = 0; i < 200000; ++i) {
        double x = (random_unit(&state) - 0.5) * 1400.0, small = (random_unit(&state) - 0.5) * 1e-3;
        worst_exp = fmax(worst_exp, fmax(relative(hyb_exp_f64(x), exp(x)), relative(hyb_exp_f64(small), exp(small))));
        double y = exp(x), near_one = 1.0 + small;
        if (near_one == 1.0) continue;
        worst_log = fmax(worst_log, relative(hyb_log_f64(y), log(y)));
        worst_log = fmax(worst_log, relative(hyb_log_f64(near_one), log(near_one)));
        double base = 1.0 + random_unit(&state) * 1e6, power = (random_unit(&state) - 0.5) * 4.0;
        worst_pow = fmax(worst_pow, relative(hyb_pow_f64(base, power), pow(base, power)));
    }
    printf("worst relative error: exp %.2g, log %.2g, pow %.2g\n", worst_exp, worst_log, worst_pow);
    CHECK(worst_exp < 1e-15);
    CHECK(worst_log < 1e-15);
    CHECK(worst_pow < 1e-14);
}

/* sin and cos agree within 1e-15 absolute up to 2^21, and relatively beside the zeros of the sine. */
static void test_sin_cos(void) {
    uint64_t state = 2;
    double worst = 0, worst_zero = 0;
    for (int i = 0; i < 200000; ++i) {
        double range = i % 2 == 0 ? 10.0 : 4194304.0, x = (random_unit(&state) - 0.5) * range;
        worst = fmax(worst, fmax(fabs(hyb_sin_f64(x) - sin(x)), fabs(hyb_cos_f64(x) - cos(x))));
        double zero = (double)(test_random(&state) % 600000) * 3.141592653589793;
        if (zero > 0) worst_zero = fmax(worst_zero, relative(hyb_sin_f64(zero), sin(zero)));
    }
    for (double x = 1.0; x <= 2097152.0; x += 1.0)
        if ((int64_t)x % 7 == 0) worst = fmax(worst, fabs(hyb_sin_f64(x) - sin(x)));
    printf("worst absolute error of sin, cos: %.2g; relative at zeros of sin: %.2g\n", worst, worst_zero);
    CHECK(worst < 1e-15);
    CHECK(worst_zero < 1e-12);
}

/* Infinities, zeros, subnormals and values out of range give what the header says. */
static void test_special_values(void) {
    CHECK(hyb_exp_f64(0.0) == 1.0 && hyb_exp_f64(-0.0) == 1.0);
    CHECK(isinf(hyb_exp_f64(710.0)) && hyb_exp_f64(-746.0) == 0.0);
    CHECK(isinf(hyb_exp_f64(INFINITY)) && hyb_exp_f64(-INFINITY) == 0.0 && isnan(hyb_exp_f64(NAN)));
    CHECK(isfinite(hyb_exp_f64(709.78)) && isinf(hyb_exp_f64(709.79)));
    CHECK(hyb_exp_f64(-745.0) == exp(-745.0));
    CHECK(hyb_log_f64(1.0) == 0.0 && hyb_log_f64(0.0) == -INFINITY && isnan(hyb_log_f64(-1.0)));
    CHECK(isinf(hyb_log_f64(INFINITY)) && isnan(hyb_log_f64(NAN)));
    CHECK(relative(hyb_log_f64(5e-324), log(5e-324)) < 1e-15);
    CHECK(hyb_sin_f64(0.0) == 0.0 && hyb_cos_f64(0.0) == 1.0);
    CHECK(isnan(hyb_sin_f64(INFINITY)) && isnan(hyb_cos_f64(NAN)) && isnan(hyb_sin_f64(2097153.0)));
    CHECK(hyb_pow_f64(0.0, 2.0) == 0.0 && hyb_pow_f64(0.0, 0.0) == 1.0 && isinf(hyb_pow_f64(0.0, -1.0)));
    CHECK(isnan(hyb_pow_f64(-1.0, 2.0)) && hyb_pow_f64(7.0, 0.0) == 1.0);
}

/* A hash over many results is the same on every machine and build: the promise of these functions. */
static void test_same_bits(void) {
    uint64_t state = 3, hash = 0;
    for (int i = 0; i < 20000; ++i) {
        double x = (random_unit(&state) - 0.5) * 100.0;
        double values[4] = {hyb_exp_f64(x), hyb_log_f64(fabs(x)), hyb_sin_f64(x * 1000.0), hyb_cos_f64(x)};
        for (int j = 0; j < 4; ++j) {
            uint64_t bits;
            memcpy(&bits, &values[j], sizeof bits);
            hash = (hash ^ bits) * 0x100000001b3u;
        }
    }
    printf("hash %016llx\n", (unsigned long long)hash);
    CHECK(hash == 0xe3cfb5f35f95f0f8u);
}

int main(void) {
    test_exp_log_pow();
    test_sin_cos();
    test_special_values();
    test_same_bits();
    return TEST_RESULT();
}
