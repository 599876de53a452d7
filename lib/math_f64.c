/* math_f64.c - exp, log, sin, cos in double precision, the same bits everywhere. Each reduces its argument with
 * constants split into exact pieces (Cody & Waite 1980), then sums a Taylor series that is long enough for the rest.
 */
#include "math_f64.h"

#include <stdint.h>
#include <string.h>

#include "common.h"

#define ROUND_MAGIC 6755399441055744.0 /* 1.5 * 2^52: adding and subtracting it rounds to an integer, ties to even */

/* log(2) in two pieces: the first has 42 bits, so that its product with an exponent (11 bits) is exact. */
#define LN2_HIGH 0x1.62e42fefa3800p-1
#define LN2_LOW 0x1.ef35793c76730p-45

/* pi / 2 in three pieces: the first two have 30 bits, so that products with integers below 2^22 are exact. */
#define HALF_PI_HIGH 0x1.921fb54p+0
#define HALF_PI_MIDDLE 0x1.10b46118p-30
#define HALF_PI_LOW 0x1.313198a2e0370p-61

static double of_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* 2^n for -1022 <= n <= 1023. */
static double power_of_two(int n) { return of_bits((uint64_t)(n + 1023) << 52); }

static double infinity(void) { return of_bits(0x7ff0000000000000u); }
static double not_a_number(void) { return of_bits(0x7ff8000000000000u); }

/* Value of a polynomial by Horner's rule; the highest power comes first. */
static double polynomial(const double *coefficients, int n, double x) {
    double sum = coefficients[0];
    for (int i = 1; i < n; ++i) sum = sum * x + coefficients[i];
    return sum;
}

double hyb_exp_f64(double x) {
    /* 1 / 13!, ..., 1 / 2!: for |r| <= log(2) / 2 the first term left out is below 5e-18. */
    static const double series[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                                    1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
                                    1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        1.0 / 2.0};
    if (x != x) return x;
    if (x > 709.8) return infinity();
    if (x < -745.2) return 0.0;
    double n = (x * 0x1.71547652b82fep+0 + ROUND_MAGIC) - ROUND_MAGIC; /* 1 / log(2) */
    double high = x - n * LN2_HIGH, low = n * LN2_LOW, r = high - low;
    double tail = r * r * polynomial(series, (int)(sizeof series / sizeof *series), r);
    double value = 1.0 + (high - (low - tail));
    int whole = (int)n, half = whole / 2; /* two steps: 2^n alone may be no double where the result is one */
    return value * power_of_two(half) * power_of_two(whole - half);
}

double hyb_log_f64(double x) {
    /* 1 / 23, ..., 1 / 3 of atanh(s) / s in powers of s^2 <= 0.0295: the first term left out is below 2e-20. */
    static const double series[] = {1.0 / 23.0, 1.0 / 21.0, 1.0 / 19.0, 1.0 / 17.0, 1.0 / 15.0, 1.0 / 13.0,
                                    1.0 / 11.0, 1.0 / 9.0,  1.0 / 7.0,  1.0 / 5.0,  1.0 / 3.0};
    if (x != x || x == infinity()) return x;
    if (x == 0.0) return -infinity();
    if (x < 0.0) return not_a_number();
    int exponent = 0;
    if (x < 0x1p-1022) { /* a subnormal number becomes a normal one */
        x *= 0x1p54;
        exponent = -54;
    }
    uint64_t bits = bits_of(x);
    exponent += (int)(bits >> 52) - 1023;
    double m = of_bits((bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent += 1;
    }
    /* log(m) = 2 atanh(s) = f - s (f - 2 s^2 q) with f = m - 1, s = f / (2 + f): f is exact and carries the digits. */
    double f = m - 1.0, s = f / (2.0 + f), z = s * s;
    double q = polynomial(series, (int)(sizeof series / sizeof *series), z);
    double n = (double)exponent;
    return n * LN2_HIGH + (f - (s * (f - 2.0 * z * q) - n * LN2_LOW));
}

/* Sine of |r| <= pi / 4 (and a little more). */
static double sine(double r) {
    static const double series[] = {
        1.0 / 355687428096000.0, -1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0,
        1.0 / 362880.0,          -1.0 / 5040.0,          1.0 / 120.0,        -1.0 / 6.0};
    double z = r * r;
    return r + r * z * polynomial(series, (int)(sizeof series / sizeof *series), z);
}

static double cosine(double r) {
    static const double series[] = {1.0 / 20922789888000.0, -1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0,
                                    1.0 / 40320.0,          -1.0 / 720.0,         1.0 / 24.0};
    double z = r * r, half = 0.5 * z, w = 1.0 - half;
    return w + (((1.0 - w) - half) + z * z * polynomial(series, (int)(sizeof series / sizeof *series), z));
}

/* Sine of x + quarters * pi / 2. */
static double shifted_sine(double x, uint64_t quarters) {
    if (!(x >= -2097152.0 && x <= 2097152.0)) return not_a_number();
    double n = (x * 0x1.45f306dc9c883p-1 + ROUND_MAGIC) - ROUND_MAGIC; /* 2 / pi */
    double r = ((x - n * HALF_PI_HIGH) - n * HALF_PI_MIDDLE) - n * HALF_PI_LOW;
    quarters += (uint64_t)(int64_t)n;
    double value = quarters & 1u ? cosine(r) : sine(r);
    return quarters & 2u ? -value : value;
}

double hyb_sin_f64(double x) { return shifted_sine(x, 0); }
double hyb_cos_f64(double x) { return shifted_sine(x, 1); }

double hyb_pow_f64(double base, double exponent) {
    if (exponent == 0.0) return 1.0;
    if (base == 1.0) return 1.0;
    return hyb_exp_f64(exponent * hyb_log_f64(base));
}
