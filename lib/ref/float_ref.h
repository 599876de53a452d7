/* float_ref.h - what the float references share: the 16-lane sum and the library's exp. Private to lib/ref. */
#ifndef HYB_FLOAT_REF_H
#define HYB_FLOAT_REF_H

/* Sum of 16 lanes as a tree: lane[l] += lane[l + 8] for l < 8, then 4, 2, 1. */
float hyb_lanes_sum(const float *lanes);

/* exp as kernels.h spells it out. */
float hyb_exp_f32(float x);

#endif /* HYB_FLOAT_REF_H */
