/* self_test.c - known-answer test of the numerics contract on this build, processor and context: rounding, no
 * contraction into fused multiply-add, no flush to zero, and a digest of what each exact kernel computes.
 *
 * A digest covers one kernel over several sizes, tails included. It must be the same for the portable kernel, for the
 * one that the context chose, and for the one written down here: the bits that every machine gets.
 */
#include <float.h>

#include "common.h"

#define MAX_N 67                 /* four vectors of 16 and a tail */
#define MAX_HEAD 20              /* head_dim of the attention probe */
#define MAX_KEYS 17              /* keys of it */
#define MAX_QUERIES 6            /* queries of the probe of blocks of them */
#define LD (MAX_HEAD + 3)        /* its leading dimension */
#define MAX_K16 5                /* groups of 16 columns of the product's probe */
#define MAX_COLS (16 * MAX_K16)  /* columns of it */
#define ROWS HYB_MATMUL_JOB_ROWS /* rows of it */
#define MAX_TOKENS 5             /* tokens of it */
#define LOOKUP_WORDS HYB_LOOKUP_WORDS(MAX_K16)
/* The portable product by look-ups needs no work memory. */
#define SCRATCH_BYTES (HYB_X86 ? HYB_LOOKUP_SCRATCH_BYTES : HYB_MATMUL_SCRATCH_BYTES(MAX_K16))
#define FIRST_STATE 0x243f6a88u /* of the generator: the first digits of pi */
#define N_SIZES (sizeof sizes / sizeof *sizes)
static const size_t sizes[] = {1, 2, 7, 15, 16, 17, 31, 33, 48, MAX_N};

/* Inputs and outputs of the probes. The first four need alignment to 64, and have sizes that are multiples of it. */
typedef struct fixture {
    uint8_t scratch[SCRATCH_BYTES];
    uint8_t lookup[ROWS * LOOKUP_WORDS * 2];
    uint8_t ternary[ROWS * MAX_COLS / 4];
    uint8_t int8[ROWS * MAX_COLS];
    int8_t x[MAX_TOKENS * MAX_COLS], codes[MAX_N], other_codes[MAX_N];
    int32_t x_sums[MAX_TOKENS], y_i32[MAX_TOKENS * ROWS];
    float x_scales[MAX_TOKENS], row_scales[ROWS], y_f32[MAX_TOKENS * ROWS];
    float a[2 * MAX_N], b[2 * MAX_N], c[2 * MAX_N], y[2 * MAX_N];
    float keys[MAX_KEYS * LD], values[MAX_KEYS * LD], probabilities[MAX_KEYS], out[MAX_HEAD];
    float attention[HYB_ATTENTION_BLOCK_FLOATS(MAX_QUERIES, MAX_KEYS, MAX_HEAD)];
    uint8_t words[4 * HYB_RANS_LANES], symbols[MAX_N * HYB_RANS_LANES];
    uint32_t states[HYB_RANS_LANES], slots[HYB_RANS_SLOTS];
    uint32_t digest;
} fixture;

/* ---- inputs and digests ---- */

/* A linear congruential generator; the upper bits of its state are good enough to fill test inputs. */
static uint32_t draw(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}
/* In [-4, 4), a multiple of 2^-21: exact in binary32. */
static float draw_float(uint32_t *state) { return (float)((int32_t)draw(state) - (1 << 23)) / (float)(1 << 21); }
static int8_t draw_code(uint32_t *state) { return (int8_t)((int32_t)(draw(state) % 255) - 127); }

static void fill_floats(float *values, size_t n, uint32_t *state) {
    for (size_t i = 0; i < n; ++i) values[i] = draw_float(state);
}

static void fill_fixture(fixture *f) {
    uint32_t s = FIRST_STATE;
    memset(f, 0, sizeof *f);
    for (size_t i = 0; i < sizeof f->ternary; ++i)
        for (unsigned p = 0; p < 4; ++p) f->ternary[i] = (uint8_t)(f->ternary[i] | (draw(&s) % 3) << 2 * p);
    for (size_t i = 0; i < sizeof f->int8; ++i) f->int8[i] = (uint8_t)draw_code(&s);
    for (size_t t = 0; t < MAX_TOKENS; ++t) f->x_scales[t] = draw_float(&s);
    for (size_t i = 0; i < sizeof f->x; ++i) f->x[i] = draw_code(&s);
    for (size_t i = 0; i < MAX_N; ++i) f->codes[i] = (int8_t)((int32_t)(draw(&s) % 3) - 1);
    for (size_t i = 0; i < MAX_N; ++i) f->other_codes[i] = (int8_t)((int32_t)(draw(&s) % 3) - 1);
    fill_floats(f->row_scales, ROWS, &s);
    fill_floats(f->a, 2 * MAX_N, &s);
    fill_floats(f->b, 2 * MAX_N, &s);
    fill_floats(f->c, 2 * MAX_N, &s);
    fill_floats(f->keys, MAX_KEYS * LD, &s);
    fill_floats(f->values, MAX_KEYS * LD, &s);
    for (size_t i = 0; i < sizeof f->lookup; i += 2) {
        uint32_t word = 0;
        for (unsigned p = 0; p < 3; ++p) word |= (draw(&s) % 27) << 5 * p;
        f->lookup[i] = (uint8_t)word;
        f->lookup[i + 1] = (uint8_t)(word >> 8);
    }
}

/* Multiplies by 2^32 / golden ratio, and lets the upper bits act on the lower ones. */
static void digest_u32(fixture *f, uint32_t word) {
    f->digest = (f->digest ^ word) * 0x9e3779b1u;
    f->digest ^= f->digest >> 15;
}
static void digest_f32(fixture *f, const float *values, size_t n) {
    for (size_t i = 0; i < n; ++i) digest_u32(f, hyb_bits_of(values[i]));
}
static void digest_i8(fixture *f, const int8_t *values, size_t n) {
    for (size_t i = 0; i < n; ++i) digest_u32(f, (uint32_t)values[i]);
}

/* ---- probes: one call of a kernel with size n, all that it returns into the digest ---- */

static void probe_product(void (*kernel)(const hyb_matmul_job *), const uint8_t *weights, fixture *f, size_t n) {
    hyb_matmul_job job;
    memset(&job, 0, sizeof job);
    job.weights = weights;
    job.n_rows = n <= ROWS ? n : ROWS;
    job.n_k16 = 1 + n % MAX_K16;
    job.n_tokens = 1 + n % MAX_TOKENS;
    job.x = f->x;
    job.ld_x = MAX_COLS;
    for (size_t t = 0; t < job.n_tokens; ++t) {
        f->x_sums[t] = 0;
        for (size_t c = 0; c < 16 * job.n_k16; ++c) f->x_sums[t] += f->x[t * MAX_COLS + c];
    }
    job.x_sums = f->x_sums;
    job.x_scales = f->x_scales;
    job.row_scales = f->row_scales;
    job.ld_y = ROWS;
    job.scratch = f->scratch;
    job.y = f->y_f32;
    kernel(&job);
    job.y = NULL;
    job.y_i32 = f->y_i32;
    kernel(&job);
    for (size_t t = 0; t < job.n_tokens; ++t)
        for (size_t r = 0; r < job.n_rows; ++r) {
            digest_f32(f, f->y_f32 + t * ROWS + r, 1);
            digest_u32(f, (uint32_t)f->y_i32[t * ROWS + r]);
        }
}
static void probe_matmul_ternary(const hyb_kernels *k, fixture *f, size_t n) {
    probe_product(k->matmul_ternary, f->ternary, f, n);
}
static void probe_matmul_int8(const hyb_kernels *k, fixture *f, size_t n) {
    probe_product(k->matmul_int8, f->int8, f, n);
}
static void probe_matmul_lookup(const hyb_kernels *k, fixture *f, size_t n) {
    probe_product(k->matmul_lookup, f->lookup, f, n);
}
static void probe_quantize_i8(const hyb_kernels *k, fixture *f, size_t n) {
    int8_t codes[MAX_N];
    digest_u32(f, (uint32_t)k->quantize_i8(f->a, n, 40.0f, codes)); /* 4 * 40 is beyond 127: some codes are clamped */
    digest_i8(f, codes, n);
}
static void probe_ternarize(const hyb_kernels *k, fixture *f, size_t n) {
    int8_t codes[MAX_N];
    k->ternarize(f->a, n, 1.25f, codes);
    digest_i8(f, codes, n);
}
static void probe_count_flips(const hyb_kernels *k, fixture *f, size_t n) {
    size_t n_zeros = 3;
    digest_u32(f, (uint32_t)k->count_flips(f->codes, f->other_codes, n, &n_zeros));
    digest_u32(f, (uint32_t)n_zeros);
}
/* 256 symbols with 16 slots each, n rows, as far as the words go. */
static void probe_rans_decode(const hyb_kernels *k, fixture *f, size_t n) {
    hyb_rans_job job = {.slots = f->slots, .slot_bits = 12, .states = f->states, .words = f->words, .n_rows = n};
    job.n_words = sizeof f->words / 2;
    job.out = f->symbols;
    for (uint32_t i = 0; i < HYB_RANS_SLOTS; ++i) f->slots[i] = 16 | (i % 16) << 12 | (i / 16) << 24;
    for (uint32_t i = 0; i < sizeof f->words; ++i) f->words[i] = (uint8_t)(i * 167 + n);
    for (uint32_t i = 0; i < HYB_RANS_LANES; ++i) f->states[i] = 65536 + i * 0x2345678u;
    k->rans_decode(&job);
    digest_i8(f, (const int8_t *)f->symbols, (size_t)(job.out - f->symbols));
    for (size_t i = 0; i < HYB_RANS_LANES; ++i) digest_u32(f, f->states[i]);
    digest_u32(f, (uint32_t)job.n_words);
}
static void probe_max_abs_bits(const hyb_kernels *k, fixture *f, size_t n) { digest_u32(f, k->max_abs_bits(f->a, n)); }
static void digest_float(fixture *f, float value) { digest_u32(f, hyb_bits_of(value)); }
static void probe_max_f32(const hyb_kernels *k, fixture *f, size_t n) { digest_float(f, k->max_f32(f->a, n)); }
static void probe_sum_abs_f32(const hyb_kernels *k, fixture *f, size_t n) { digest_float(f, k->sum_abs_f32(f->a, n)); }
static void probe_dot_f32(const hyb_kernels *k, fixture *f, size_t n) { digest_float(f, k->dot_f32(f->a, f->b, n)); }
static void probe_add_f32(const hyb_kernels *k, fixture *f, size_t n) {
    memcpy(f->y, f->a, n * sizeof *f->y);
    k->add_f32(f->y, f->b, n);
    digest_f32(f, f->y, n);
}
static void probe_scale_f32(const hyb_kernels *k, fixture *f, size_t n) {
    k->scale_f32(f->y, f->a, n, 0.3f);
    digest_f32(f, f->y, n);
}
static void probe_dequantize_i8(const hyb_kernels *k, fixture *f, size_t n) {
    k->dequantize_i8(f->x, n, 0.3f, f->y);
    digest_f32(f, f->y, n);
}
static void probe_rms_norm(const hyb_kernels *k, fixture *f, size_t n) {
    digest_float(f, k->rms_norm(f->a, f->b, n, 1e-5f, f->y));
    digest_f32(f, f->y, n);
}
static void probe_exp_sum(const hyb_kernels *k, fixture *f, size_t n) {
    digest_float(f, k->exp_sum(f->a, n, 1.7f, f->y));
    digest_f32(f, f->y, n);
}
static void probe_gated_silu(const hyb_kernels *k, fixture *f, size_t n) {
    k->gated_silu(f->a, f->b, n, f->y);
    digest_f32(f, f->y, n);
}
static void probe_gated_relu2(const hyb_kernels *k, fixture *f, size_t n) {
    k->gated_relu2(f->a, f->b, n, f->y);
    digest_f32(f, f->y, n);
}
static void probe_rotate(const hyb_kernels *k, fixture *f, size_t n) {
    memcpy(f->y, f->a, 2 * n * sizeof *f->y);
    k->rotate(f->y, f->b, f->c, n);
    digest_f32(f, f->y, 2 * n);
}
static void probe_attention(const hyb_kernels *k, fixture *f, size_t n) {
    hyb_attention_job job = {f->b, f->keys, f->values, LD, 1 + n % MAX_KEYS, 0, 0.25f, f->probabilities, f->out};
    job.head_dim = 1 + n % MAX_HEAD;
    k->attention(&job);
    digest_f32(f, f->probabilities, job.n_keys);
    digest_f32(f, f->out, job.head_dim);
}
static void probe_attention_block(const hyb_kernels *k, fixture *f, size_t n) {
    hyb_attention_block_job job = {.q = f->b, .keys = f->keys, .values = f->values, .ld = LD, .scale = 0.25f};
    job.head_dim = job.ld_q = 1 + n % MAX_HEAD;
    job.n_queries = 1 + n % MAX_QUERIES;
    job.first_position = n % (MAX_KEYS - MAX_QUERIES);
    job.scratch = f->attention;
    job.out = f->y;
    k->attention_block(&job);
    digest_f32(f, f->y, job.n_queries * job.head_dim);
}

/* The probes, and the digests that every machine gives. */
static const struct {
    size_t index;
    void (*probe)(const hyb_kernels *kernels, fixture *f, size_t n);
    uint32_t digest;
} probes[] = {
#define PROBE(name, digest) {HYB_KERNEL_##name, probe_##name, digest},
    /* clang-format off */
    PROBE(matmul_ternary, 0x7cf31273u)
    PROBE(matmul_int8, 0xa8222402u)
    PROBE(matmul_lookup, 0x51267354u)
    PROBE(quantize_i8, 0xf2fd51d3u)
    PROBE(ternarize, 0x7990e3f3u)
    PROBE(count_flips, 0x882515e0u)
    PROBE(rans_decode, 0xf3030a14u)
    PROBE(max_abs_bits, 0x269e7280u)
    PROBE(max_f32, 0x43df2cebu)
    PROBE(sum_abs_f32, 0x643da091u)
    PROBE(dot_f32, 0x91be2dbcu)
    PROBE(add_f32, 0x73295272u)
    PROBE(scale_f32, 0xfa3886b3u)
    PROBE(dequantize_i8, 0x45089687u)
    PROBE(rms_norm, 0x4ef4badcu)
    PROBE(exp_sum, 0xe0a118edu)
    PROBE(gated_silu, 0xa1aca0e7u)
    PROBE(gated_relu2, 0x206d284du)
    PROBE(rotate, 0x10b48ec0u)
    PROBE(attention, 0x97b20ef2u)
    PROBE(attention_block, 0x50061f88u)
/* clang-format on */
#undef PROBE
};

static uint32_t digest_of(size_t probe, const hyb_kernels *kernels, fixture *f) {
    f->digest = 0;
    for (size_t i = 0; i < N_SIZES; ++i) probes[probe].probe(kernels, f, sizes[i]);
    return f->digest;
}

/* ---- the test ---- */

/* What is wrong with the processor's mode or the compiler's flags; NULL if nothing is. Volatile: computed at run time.
 */
static const char *check_arithmetic(void) {
    volatile float one = 1.0f, half_ulp = 0x1p-24f, tiny = FLT_MIN, a = 1.0f + 0x1p-12f, c = -(1.0f + 0x1p-11f);
    volatile float below = one + half_ulp, above = one + 3.0f * half_ulp, negative = -one - half_ulp;
    if (below != 1.0f || above != 1.0f + 0x1p-22f || negative != -1.0f)
        return "floats are not rounded to the nearest, ties to even: reset the rounding mode (fesetround)";
    volatile float subnormal = tiny * 0.5f, back = subnormal * 2.0f;
    if (hyb_bits_of(subnormal) == 0 || hyb_bits_of(back) != hyb_bits_of(tiny))
        return "subnormal floats are flushed to zero: reset the processor's FTZ and DAZ modes, and do not link code "
               "built with -ffast-math";
    /* a * a is 1 + 2^-11 + 2^-24, which rounds to 1 + 2^-11; fused, the 2^-24 survives. The same in double below. */
    volatile float rounded = a * a + c;
    volatile double d = 1.0 + 0x1p-27, e = -(1.0 + 0x1p-26), rounded_f64 = d * d + e;
    if (rounded != 0.0f || rounded_f64 != 0.0)
        return "a * b + c was contracted into a fused multiply-add: build with -ffp-contract=off";
    return NULL;
}

hyb_status hyb_ctx_self_test(hyb_ctx *ctx) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    const char *complaint = check_arithmetic();
    if (complaint != NULL) return hyb_fail(ctx, HYB_ERROR_UNSUPPORTED, "%s", complaint);
    fixture *f = hyb_alloc(ctx, 1, sizeof *f);
    if (f == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the self-test");
    fill_fixture(f);
    hyb_kernels reference;
    hyb_kernels_select(&reference, HYB_ISA_SCALAR);
    hyb_status status = HYB_OK;
    for (size_t i = 0; i < sizeof probes / sizeof *probes && status == HYB_OK; ++i) {
        const char *name = hyb_ctx_kernel_name(ctx, probes[i].index);
        uint32_t portable = digest_of(i, &reference, f), chosen = digest_of(i, &ctx->kernels, f);
        if (portable != probes[i].digest)
            status = hyb_fail(ctx, HYB_ERROR_UNSUPPORTED, "portable kernel %s: digest %08lx, not %08lx", name,
                              (unsigned long)portable, (unsigned long)probes[i].digest);
        else if (chosen != portable)
            status = hyb_fail(ctx, HYB_ERROR_UNSUPPORTED,
                              "kernel %s (%s) differs from the portable one; HYB_ISA=scalar avoids it", name,
                              hyb_ctx_kernel_tier(ctx, probes[i].index));
    }
    hyb_free(ctx, f);
    return status;
}
