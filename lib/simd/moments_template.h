/* moments_template.h - an optimiser's moments in 8 bits, in v16 operations; part of vector_template.h. EXACT: what
 * lib/ref/moments_ref.c does, lane by lane.
 */

V16_FUNCTION v16i v16_noise(v16i u) {
    u = v16i_mul(u, v16i_set1(0x9e3779b1u));
    u = v16i_xor(u, v16i_shift_right(u, 15));
    return v16i_mul(u, v16i_set1(0x85ebca77u));
}

V16_FUNCTION v16i v16_encode_signed(v16 x, v16 inverse, v16i counter) {
    v16 y = v16_min(v16_mul(v16_abs(x), inverse), v16_set1(HYB_SIGNED_TOP));
    v16i bits = v16i_bits(v16_add(y, v16_set1(1.0f)));
    bits = v16i_add(bits, v16i_shift_right(v16_noise(counter), 13));
    bits = v16i_sub(v16i_shift_right(bits, 19), v16i_set1(127u << 4));
    return v16i_add(bits, v16i_shift_left(v16i_shift_right(v16i_bits(x), 31), 7));
}
V16_FUNCTION v16i v16_encode_positive(v16 x, v16 inverse, v16i counter) {
    v16 y = v16_max(v16_mul(x, inverse), v16_set1(HYB_POSITIVE_LEAST));
    v16i bits = v16i_bits(v16_min(y, v16_set1(HYB_POSITIVE_TOP)));
    bits = v16i_add(bits, v16i_shift_right(v16_noise(counter), 12));
    return v16i_sub(v16i_shift_right(bits, 20), v16i_set1(127u << 3));
}
V16_FUNCTION v16 v16_decode_signed(v16i codes, v16 scale) {
    v16i bits = v16i_shift_left(v16i_and(codes, v16i_set1(127)), 19);
    v16 y = v16_sub(v16i_floats(v16i_add(bits, v16i_set1(0x3f800000u))), v16_set1(1.0f));
    v16i sign = v16i_shift_left(v16i_shift_right(codes, 7), 31);
    return v16i_floats(v16i_xor(v16i_bits(v16_mul(y, scale)), sign));
}
V16_FUNCTION v16 v16_decode_positive(v16i codes, v16 scale) {
    v16i bits = v16i_add(v16i_shift_left(codes, 20), v16i_set1(0x3f800000u));
    return v16_mul(v16i_floats(bits), scale);
}

#define V16_ENCODE(name)                                                                                               \
    SIMD_TARGET void SIMD_NAME(name)(const float *x, size_t n, float inverse, uint32_t seed, uint8_t *codes) {         \
        v16 factor = v16_set1(inverse);                                                                                \
        v16i counter = v16i_count(seed), step = v16i_set1(HYB_LANES);                                                  \
        size_t i = 0;                                                                                                  \
        for (; i + HYB_LANES <= n; i += HYB_LANES) {                                                                   \
            v16i_store_bytes(codes + i, v16_##name(v16_load(x + i), factor, counter));                                 \
            counter = v16i_add(counter, step);                                                                         \
        }                                                                                                              \
        if (i == n) return;                                                                                            \
        uint8_t tail[HYB_LANES];                                                                                       \
        v16i_store_bytes(tail, v16_##name(v16_load_part(x + i, n - i), factor, counter));                              \
        memcpy(codes + i, tail, n - i);                                                                                \
    }
#define V16_DECODE(name)                                                                                               \
    SIMD_TARGET void SIMD_NAME(name)(const uint8_t *codes, size_t n, float scale, float *x) {                          \
        v16 factor = v16_set1(scale);                                                                                  \
        size_t i = 0;                                                                                                  \
        for (; i + HYB_LANES <= n; i += HYB_LANES) v16_store(x + i, v16_##name(v16i_load_bytes(codes + i), factor));   \
        if (i == n) return;                                                                                            \
        uint8_t tail[HYB_LANES] = {0};                                                                                 \
        memcpy(tail, codes + i, n - i);                                                                                \
        v16_store_part(x + i, n - i, v16_##name(v16i_load_bytes(tail), factor));                                       \
    }
V16_ENCODE(encode_signed)
V16_ENCODE(encode_positive)
V16_DECODE(decode_signed)
V16_DECODE(decode_positive)
#undef V16_ENCODE
#undef V16_DECODE
