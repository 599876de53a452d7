/* levels_template.h - rounding to 3 or 5 levels, written once for floats and doubles. A file of lib/x86 or lib/arm
 * defines, and this file undefines:
 *   LEVELS_OP                    quantize_levels_f32 or _f64
 *   LEVELS_SCALAR, _VECTOR, _LANES
 *   LEVELS_LOAD, _STORE, _SET, _MAX, _MIN, _MUL, _OR, _ROUND
 *     MAX(a, b) and MIN(a, b) give b where b is a NaN; ROUND goes to whole numbers, ties to even, zeros keeping their
 *     sign
 * and for both: LEVELS_NAME(op), LEVELS_REF(op), LEVELS_TARGET.
 *
 * Memory is the limit beyond the caches; stores that go past them were no faster, not even for 64 MB.
 */
#ifndef LEVELS_OP
#error "include through a file of lib/x86 or lib/arm"
#endif

LEVELS_TARGET int LEVELS_NAME(LEVELS_OP)(const LEVELS_SCALAR *x, size_t n, LEVELS_SCALAR steps, LEVELS_SCALAR scale,
                                         LEVELS_SCALAR *out) {
    const LEVELS_VECTOR vector_steps = LEVELS_SET(steps), inverse = LEVELS_SET(1 / steps);
    const LEVELS_VECTOR vector_scale = LEVELS_SET(scale);
    LEVELS_VECTOR seen = LEVELS_SET(0);
    LEVELS_SCALAR lanes[LEVELS_LANES];
    size_t i = 0;
    int is_nan = 0;
    for (; i + LEVELS_LANES <= n; i += LEVELS_LANES) {
        LEVELS_VECTOR value = LEVELS_MIN(LEVELS_SET(1), LEVELS_MAX(LEVELS_SET(-1), LEVELS_LOAD(x + i)));
        seen = LEVELS_OR(seen, value); /* the exponent's highest bit comes from a NaN only */
        value = LEVELS_ROUND(LEVELS_MUL(value, vector_steps));
        LEVELS_STORE(out + i, LEVELS_MUL(LEVELS_MUL(value, inverse), vector_scale));
    }
    LEVELS_STORE(lanes, seen);
    for (size_t l = 0; l < LEVELS_LANES; ++l) is_nan |= !(lanes[l] > -2 && lanes[l] < 2);
    return is_nan | LEVELS_REF(LEVELS_OP)(x + i, n - i, steps, scale, out + i);
}

#undef LEVELS_OP
#undef LEVELS_SCALAR
#undef LEVELS_VECTOR
#undef LEVELS_LANES
#undef LEVELS_LOAD
#undef LEVELS_STORE
#undef LEVELS_SET
#undef LEVELS_MAX
#undef LEVELS_MIN
#undef LEVELS_MUL
#undef LEVELS_OR
#undef LEVELS_ROUND
