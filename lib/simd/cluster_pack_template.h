/* cluster_pack_template.h - rows of floats into a panel of K-means, written over v16: 16 x 16 elements are turned in
 * registers. Included after cluster_template.h for floats; doubles are packed by the portable kernel, once a call.
 */
SIMD_TARGET void CLUSTER_NAME(pack)(const void *const *rows, size_t n, size_t d, const void *centre, void *panel) {
    const float *middle = centre;
    float *target = panel;
    for (size_t first = 0; first < HYB_CLUSTER_PANEL; first += HYB_LANES) {
        v16 squares = v16_zero();
        for (size_t j = 0; j < d; j += HYB_LANES) {
            size_t depth = hyb_min_size(HYB_LANES, d - j);
            v16 x[HYB_LANES], m = v16_get(middle + j, depth);
            if (depth == HYB_LANES && first + HYB_LANES <= n) {
                HYB_UNROLL
                for (size_t i = 0; i < HYB_LANES; ++i) {
                    x[i] = v16_sub(v16_load((const float *)rows[first + i] + j), m);
                }
            } else {
                for (size_t i = 0; i < HYB_LANES; ++i) {
                    x[i] = first + i < n ? v16_sub(v16_get((const float *)rows[first + i] + j, depth), m) : v16_zero();
                }
            }
            v16_transpose(x);
            for (size_t i = 0; i < depth; ++i) {
                squares = v16_add(squares, v16_mul(x[i], x[i]));
                v16_store(target + (j + i) * HYB_CLUSTER_PANEL + first, x[i]);
            }
        }
        v16_store(target + d * HYB_CLUSTER_PANEL + first, v16_sqrt(squares));
    }
}
