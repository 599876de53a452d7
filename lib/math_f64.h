/* math_f64.h - elementary functions in double precision that give the same bits on every machine: built from + - * /
 * only, each rounded by itself, never from the C library's. For rotary tables, initial weights, sampling and
 * log-sum-exp. Relative error below 1e-15 or so where not said otherwise. NaN in, NaN out.
 */
#ifndef HYB_MATH_F64_H
#define HYB_MATH_F64_H

/* e^x: infinity above 709.782..., gradual underflow to 0. */
double hyb_exp_f64(double x);

/* Natural logarithm; -infinity for 0, NaN below. */
double hyb_log_f64(double x);

/* Sine and cosine of an angle in radians, |x| <= 2^21; NaN beyond. */
double hyb_sin_f64(double x);
double hyb_cos_f64(double x);

/* base^exponent for base >= 0, as exp(exponent * log(base)): the relative error grows with |exponent * log(base)| and
 * is below 1e-13 in the range of doubles. NaN for a negative base; x^0 is 1. */
double hyb_pow_f64(double base, double exponent);

#endif /* HYB_MATH_F64_H */
