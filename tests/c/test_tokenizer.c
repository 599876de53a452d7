/* test_tokenizer.c - the tokenizer: pieces of text, merging against a plain oracle, special tokens, the file's section
 * under every truncation and bit flip, failing allocations, threads.
 */
#include "testing.h"

#include <pthread.h>

#include <hybrid/tokenizer.h>

#include "tokenizer_internal.h"
#include "unicode_tables.h"

/* A description under construction, with its arrays. */
typedef struct builder {
    uint8_t bytes[65536];
    uint32_t offsets[2049];
    uint32_t merges[2048][2];
    uint32_t specials[64];
    hyb_tokenizer_description d;
} builder;

static void builder_begin(builder *b) {
    memset(b, 0, sizeof *b);
    b->d.struct_size = sizeof b->d;
    b->d.kind = HYB_TOKENIZER_BPE;
    b->d.pretokenizer = HYB_PRETOKENIZER_NONE;
    b->d.bytes = b->bytes;
    b->d.offsets = b->offsets;
    b->d.merges = b->merges[0];
    b->d.specials = b->specials;
}
static uint32_t builder_token(builder *b, const void *bytes, size_t n) {
    uint32_t token = b->d.vocab_size++, at = b->offsets[token];
    memmove(b->bytes + at, bytes, n);
    b->offsets[token + 1] = at + (uint32_t)n;
    return token;
}
static void builder_bytes(builder *b) {
    for (int i = 0; i < 256; ++i) {
        uint8_t byte = (uint8_t)(255 - i); /* token and byte differ, so that a confusion shows */
        builder_token(b, &byte, 1);
    }
}
static uint32_t builder_merge(builder *b, uint32_t left, uint32_t right) {
    uint8_t joined[4096];
    size_t n_left = b->offsets[left + 1] - b->offsets[left], n_right = b->offsets[right + 1] - b->offsets[right];
    memcpy(joined, b->bytes + b->offsets[left], n_left);
    memcpy(joined + n_left, b->bytes + b->offsets[right], n_right);
    b->merges[b->d.n_merges][0] = left;
    b->merges[b->d.n_merges++][1] = right;
    return builder_token(b, joined, n_left + n_right);
}
static uint32_t builder_special(builder *b, const char *text) {
    return b->specials[b->d.n_specials++] = builder_token(b, text, strlen(text));
}
static uint32_t byte_token(char c) { return 255u - (uint8_t)c; }

/* A vocabulary of random merges over a few letters and the space. */
static void builder_random(builder *b, uint64_t *state, uint32_t n_merges) {
    builder_begin(b);
    builder_bytes(b);
    while (b->d.n_merges < n_merges) {
        uint32_t pair[2];
        for (int i = 0; i < 2; ++i) {
            size_t pick = test_random_below(state, 4 + b->d.n_merges);
            pair[i] = pick < 4 ? byte_token("ab c"[pick]) : 256 + (uint32_t)pick - 4;
        }
        int known = b->offsets[pair[0] + 1] - b->offsets[pair[0]] + b->offsets[pair[1] + 1] - b->offsets[pair[1]] > 24;
        for (uint32_t i = 0; i < b->d.n_merges; ++i) known |= b->merges[i][0] == pair[0] && b->merges[i][1] == pair[1];
        if (!known) builder_merge(b, pair[0], pair[1]);
    }
}

/* ---- pieces ---- */

/* Splits `text` and compares the pieces, joined by '|', with `expected`. */
static void check_pieces(const char *text, size_t n, const char *expected) {
    char joined[512];
    size_t at = 0;
    for (size_t i = 0; i < n;) {
        size_t length = hyb_gpt2_piece((const uint8_t *)text + i, n - i);
        if (i > 0) joined[at++] = '|';
        memcpy(joined + at, text + i, length);
        at += length;
        i += length;
    }
    ++test_checks;
    if (at == strlen(expected) && memcmp(joined, expected, at) == 0) return;
    ++test_failures;
    fprintf(stderr, "\"%s\" gave \"%.*s\"\n", expected, (int)at, joined);
}

/* The pattern's alternatives, one by one, give the pieces that the pattern's words say. */
static void test_pretokenize_pieces(void) {
    static const char *const cases[][2] = {
        {"Hello my friend", "Hello| my| friend"},
        {"I'm he'll we've you're it's isn't he'd", "I|'m| he|'ll| we|'ve| you|'re| it|'s| isn|'t| he|'d"},
        {"'S 'Re 'l 'lx ''s 's", "'|S| '|Re| '|l| '|lx| ''|s| '|s"},
        {"'s't'r", "'s|'t|'|r"},
        {"a  b   c", "a| | b|  | c"},
        {"a \n b", "a| \n| b"},
        {"a\n\nb", "a|\n|\n|b"},
        {"a\t b", "a|\t| b"},
        {"a \tb", "a| |\t|b"},
        {"a   ", "a|   "},
        {"   ", "   "},
        {" ", " "},
        {"x1y22", "x|1|y|22"},
        {"3.14 != 2", "3|.|14| !=| 2"},
        {"caf\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87\xe3\x80\x82", "caf\xc3\xa9| \xe4\xb8\xad\xe6\x96\x87|\xe3\x80\x82"},
        {"\xd9\xa3\xe0\xa5\xa7x", "\xd9\xa3\xe0\xa5\xa7|x"}, /* Arabic-Indic, Devanagari digits */
        {"a\xc2\xa0"
         "b\xe3\x80\x80\xe2\x80\xa8"
         "c\xc2\x85",
         "a|\xc2\xa0|b|\xe3\x80\x80|\xe2\x80\xa8|c|\xc2\x85"},
        {"\xf0\x9f\x98\x80\xf0\x9f\x98\x80 \xf0\x9f\x98\x80", "\xf0\x9f\x98\x80\xf0\x9f\x98\x80| \xf0\x9f\x98\x80"},
        {"e\xcc\x81", "e|\xcc\x81"}, /* a combining accent is no letter */
        {"a\xff\xfe"
         "b",
         "a|\xff\xfe|b"},    /* invalid bytes are others */
        {"a\xc3", "a|\xc3"}, /* cut character */
        {"\xe4\xb8", "\xe4\xb8"},
        {"\xc1\x81"
         "A",
         "\xc1\x81|A"},                              /* overlong A: two others, then the A */
        {"\xed\xa0\x80x", "\xed\xa0\x80|x"},         /* surrogate */
        {"\xf4\x90\x80\x80x", "\xf4\x90\x80\x80|x"}, /* above U+10FFFF */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i)
        check_pieces(cases[i][0], strlen(cases[i][0]), cases[i][1]);
}

/* Classes at the edges of ranges, of values that are no code points, and of the whole ASCII table. */
static void test_pretokenize_classes(void) {
    CHECK(hyb_unicode_class(0x7f) == HYB_CHAR_OTHER && hyb_unicode_class(0x80) == HYB_CHAR_OTHER);
    CHECK(hyb_unicode_class(0x85) == HYB_CHAR_SPACE && hyb_unicode_class(0xa0) == HYB_CHAR_SPACE);
    CHECK(hyb_unicode_class(0xaa) == HYB_CHAR_LETTER && hyb_unicode_class(0xb2) == HYB_CHAR_NUMBER);
    CHECK(hyb_unicode_class(0x1c) == HYB_CHAR_OTHER && hyb_unicode_class(0x180e) == HYB_CHAR_OTHER);
    CHECK(hyb_unicode_class(0x2000) == HYB_CHAR_SPACE && hyb_unicode_class(0x200b) == HYB_CHAR_OTHER);
    CHECK(hyb_unicode_class(0x4e00) == HYB_CHAR_LETTER && hyb_unicode_class(0x9fff) == HYB_CHAR_LETTER);
    CHECK(hyb_unicode_class(0x1c89) == HYB_CHAR_LETTER); /* new in Unicode 16 */
    CHECK(hyb_unicode_class(0x10ffff) == HYB_CHAR_OTHER && hyb_unicode_class(0x110000) == HYB_CHAR_OTHER);
    CHECK(hyb_unicode_class(UINT32_MAX) == HYB_CHAR_OTHER);
    for (uint32_t c = 0; c < 128; ++c) {
        int letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'), space = c == ' ' || (c >= 9 && c <= 13);
        int expected = letter                 ? HYB_CHAR_LETTER
                       : space                ? HYB_CHAR_SPACE
                       : c >= '0' && c <= '9' ? HYB_CHAR_NUMBER
                                              : HYB_CHAR_OTHER;
        CHECK(hyb_unicode_class(c) == expected);
    }
}

/* ---- merging ---- */

/* Byte-pair encoding as its definition says: search the whole list for the best pair, merge it, begin anew. */
static size_t oracle_piece(const builder *b, const uint8_t *piece, size_t n, uint32_t *tokens) {
    for (size_t i = 0; i < n; ++i) tokens[i] = byte_token((char)piece[i]);
    for (;;) {
        uint32_t best = UINT32_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; ++i)
            for (uint32_t rank = 0; rank < b->d.n_merges && rank < best; ++rank)
                if (b->merges[rank][0] == tokens[i] && b->merges[rank][1] == tokens[i + 1]) {
                    best = rank;
                    at = i;
                }
        if (best == UINT32_MAX) return n;
        uint32_t left = b->merges[best][0], right = b->merges[best][1], joined = 0;
        uint32_t n_left = b->offsets[left + 1] - b->offsets[left], n_right = b->offsets[right + 1] - b->offsets[right];
        for (uint32_t token = 0;; ++token) { /* the first with these bytes */
            const uint8_t *bytes = b->bytes + b->offsets[token];
            if (b->offsets[token + 1] - b->offsets[token] == n_left + n_right &&
                memcmp(bytes, b->bytes + b->offsets[left], n_left) == 0 &&
                memcmp(bytes + n_left, b->bytes + b->offsets[right], n_right) == 0) {
                joined = token;
                break;
            }
        }
        tokens[at] = joined;
        memmove(tokens + at + 1, tokens + at + 2, (n - at - 2) * sizeof *tokens);
        --n;
    }
}

/* Random merges and texts, on both sides of the length where the heap takes over, equal the oracle. */
static void test_encode_oracle(hyb_ctx *ctx) {
    static builder b;
    uint64_t state = 11;
    for (int round = 0; round < 60; ++round) {
        hyb_tokenizer *t = NULL;
        builder_random(&b, &state, 1 + (uint32_t)test_random_below(&state, 60));
        b.d.pretokenizer = round % 2;
        CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
        for (int trial = 0; trial < 20; ++trial) {
            uint8_t text[160];
            uint32_t expected[160], tokens[160];
            size_t n = test_random_below(&state, sizeof text + 1), n_expected = 0, n_tokens = 0;
            for (size_t i = 0; i < n; ++i) text[i] = (uint8_t) "aaabbb c"[test_random_below(&state, 8)];
            for (size_t i = 0; i < n;) {
                size_t length = b.d.pretokenizer ? hyb_gpt2_piece(text + i, n - i) : n;
                n_expected += oracle_piece(&b, text + i, length, expected + n_expected);
                i += length;
            }
            CHECK_OK(hyb_tokenizer_encode(t, (const char *)text, n, tokens, 160, &n_tokens));
            CHECK(n_tokens == n_expected && memcmp(tokens, expected, n_tokens * sizeof *tokens) == 0);
        }
        hyb_tokenizer_destroy(t);
    }
}

/* Any bytes come back: decode(encode(x)) == x, into buffers that end at an unreadable page. */
static void test_encode_decode_any_bytes(hyb_ctx *ctx) {
    static builder b;
    uint64_t state = 12;
    hyb_tokenizer *kinds[3] = {NULL, NULL, NULL};
    hyb_tokenizer_description bytes = {.struct_size = sizeof bytes, .kind = HYB_TOKENIZER_BYTES, .vocab_size = 256};
    builder_random(&b, &state, 40);
    builder_special(&b, "\xff\x00"); /* a special token of one byte, and of letters */
    builder_special(&b, "aa");
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &kinds[0]));
    b.d.pretokenizer = HYB_PRETOKENIZER_GPT2;
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &kinds[1]));
    CHECK_OK(hyb_tokenizer_create(ctx, &bytes, &kinds[2]));
    for (int trial = 0; trial < 600; ++trial) {
        size_t n = test_random_below(&state, 200), n_tokens = 0, n_back = 0;
        uint8_t *text = test_guarded_alloc(n), *back = test_guarded_alloc(n);
        for (size_t i = 0; i < n; ++i)
            text[i] = trial % 2 ? (uint8_t)test_random(&state) : (uint8_t) "ab c\xff"[test_random_below(&state, 5)];
        for (int kind = 0; kind < 3; ++kind) {
            hyb_status status = hyb_tokenizer_encode(kinds[kind], (char *)text, n, NULL, 0, &n_tokens);
            CHECK(status == (n ? HYB_ERROR_TOO_SMALL : HYB_OK));
            uint32_t *tokens = test_guarded_alloc(n_tokens * sizeof *tokens);
            CHECK_OK(hyb_tokenizer_encode(kinds[kind], (char *)text, n, tokens, n_tokens, &n_tokens));
            CHECK_OK(hyb_tokenizer_decode(kinds[kind], tokens, n_tokens, (char *)back, n, &n_back));
            CHECK(n_back == n && memcmp(text, back, n) == 0);
            test_guarded_free(tokens, n_tokens * sizeof *tokens);
        }
        test_guarded_free(text, n);
        test_guarded_free(back, n);
    }
    for (int kind = 0; kind < 3; ++kind) hyb_tokenizer_destroy(kinds[kind]);
}

/* A megabyte in one piece is merged in good time whatever it holds: a quadratic way would take hours. */
static void test_encode_long_piece(hyb_ctx *ctx) {
    static builder b;
    static char text[1 << 20];
    uint32_t *tokens = malloc(sizeof text * sizeof *tokens), last = byte_token('a');
    char *back = malloc(sizeof text);
    size_t n_tokens = 0, n_back = 0;
    hyb_tokenizer *t = NULL;
    uint64_t state = 13;
    builder_begin(&b);
    builder_bytes(&b);
    for (int i = 0; i < 12; ++i) last = builder_merge(&b, last, last); /* a, aa, aaaa, ... 4096 of them */
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
    memset(text, 'a', sizeof text);
    CHECK_OK(hyb_tokenizer_encode(t, text, sizeof text, tokens, sizeof text, &n_tokens));
    CHECK(n_tokens == sizeof text / 4096);
    for (size_t i = 0; i < n_tokens; ++i) CHECK(tokens[i] == last);
    hyb_tokenizer_destroy(t);

    builder_random(&b, &state, 500);
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
    for (size_t i = 0; i < sizeof text; ++i) text[i] = "ab c"[test_random_below(&state, 4)];
    CHECK_OK(hyb_tokenizer_encode(t, text, sizeof text, tokens, sizeof text, &n_tokens));
    CHECK_OK(hyb_tokenizer_decode(t, tokens, n_tokens, back, sizeof text, &n_back));
    CHECK(n_tokens < sizeof text && n_back == sizeof text && memcmp(text, back, n_back) == 0);
    hyb_tokenizer_destroy(t);
    free(tokens);
    free(back);
}

/* ---- special tokens, prefix space, capacities ---- */

static void check_encoding(const hyb_tokenizer *t, const char *text, const uint32_t *expected, size_t n_expected) {
    uint32_t tokens[64];
    size_t n = 0;
    CHECK_OK(hyb_tokenizer_encode(t, text, strlen(text), tokens, 64, &n));
    ++test_checks;
    if (n == n_expected && (n == 0 || memcmp(tokens, expected, n * sizeof *tokens) == 0)) return;
    ++test_failures;
    fprintf(stderr, "encoding of \"%s\" is wrong:", text);
    for (size_t i = 0; i < n; ++i) fprintf(stderr, " %u", (unsigned)tokens[i]);
    fprintf(stderr, "\n");
}

/* Special tokens: the leftmost, then the longest; no merge goes across; each section gets its prefix space. */
static void test_encode_specials(hyb_ctx *ctx) {
    static builder b;
    hyb_tokenizer *t = NULL;
    builder_begin(&b);
    builder_bytes(&b);
    uint32_t ab = builder_merge(&b, byte_token('a'), byte_token('b'));
    uint32_t space_a = builder_merge(&b, byte_token(' '), byte_token('a'));
    uint32_t s = builder_special(&b, "<s>"), sx = builder_special(&b, "<s>xy"), sb = builder_special(&b, "s>xyz!");
    uint32_t a = byte_token('a'), x = byte_token('x'), space = byte_token(' ');
    b.d.pretokenizer = HYB_PRETOKENIZER_GPT2;
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
    check_encoding(t, "", NULL, 0);
    check_encoding(t, "ab<s>ab", (uint32_t[]){ab, s, ab}, 3);
    check_encoding(t, "<s><s>xy<s>x", (uint32_t[]){s, sx, s, x}, 4);
    check_encoding(t, "<s>xyz!", (uint32_t[]){sx, byte_token('z'), byte_token('!')}, 3);
    check_encoding(t, "s>xyz!", (uint32_t[]){sb}, 1);
    check_encoding(t, "a<s>b<s", (uint32_t[]){a, s, byte_token('b'), byte_token('<'), byte_token('s')}, 5);
    hyb_tokenizer_destroy(t);
    b.d.add_prefix_space = 1;
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
    check_encoding(t, "", NULL, 0);
    check_encoding(t, "a", (uint32_t[]){space_a}, 1);
    check_encoding(t, " a", (uint32_t[]){space_a}, 1);
    check_encoding(t, "<s>", (uint32_t[]){s}, 1);
    check_encoding(t, "x<s>a<s> a", (uint32_t[]){space, x, s, space_a, s, space_a}, 6);
    hyb_tokenizer_destroy(t);
}

/* A special token with the bytes of an ordinary one takes over in the text, but never as the result of a merge. */
static void test_encode_equal_tokens(hyb_ctx *ctx) {
    static builder b;
    hyb_tokenizer *t = NULL;
    builder_begin(&b);
    uint32_t special = builder_special(&b, "bc");
    for (int i = 0; i < 256; ++i) builder_token(&b, (uint8_t[]){(uint8_t)i}, 1);
    uint32_t bc = builder_merge(&b, 1 + 'b', 1 + 'c');
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
    check_encoding(t, "abc", (uint32_t[]){1 + 'a', special}, 2);
    hyb_tokenizer_destroy(t);
    b.d.n_specials = 0; /* now token 0 is an ordinary one, and the first with these bytes */
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
    check_encoding(t, "abc", (uint32_t[]){1 + 'a', special}, 2);
    hyb_tokenizer_destroy(t);
    b.d.n_specials = 1;
    builder_special(&b, "b");
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
    CHECK(t->table.results[0] == bc && t->byte_tokens['b'] == 1 + 'b');
    hyb_tokenizer_destroy(t);
}

/* Too small buffers: the count that is needed, what fits is written, nothing behind it. */
static void test_encode_decode_too_small(hyb_ctx *ctx) {
    hyb_tokenizer *t = NULL;
    hyb_tokenizer_description d = {.struct_size = sizeof d, .kind = HYB_TOKENIZER_BYTES, .vocab_size = 256};
    uint32_t tokens[4] = {7, 7, 7, 7};
    char text[4] = "....";
    size_t n = 0;
    CHECK_OK(hyb_tokenizer_create(ctx, &d, &t));
    CHECK_STATUS(hyb_tokenizer_encode(t, "abc", 3, tokens, 2, &n), HYB_ERROR_TOO_SMALL);
    CHECK(n == 3 && tokens[0] == 'a' && tokens[1] == 'b' && tokens[2] == 7);
    CHECK_OK(hyb_tokenizer_encode(t, "abc", 3, tokens, 3, &n));
    CHECK_STATUS(hyb_tokenizer_decode(t, tokens, 3, text, 2, &n), HYB_ERROR_TOO_SMALL);
    CHECK(n == 3 && memcmp(text, "ab..", 4) == 0);
    tokens[1] = 256;
    n = 99;
    CHECK_STATUS(hyb_tokenizer_decode(t, tokens, 3, text, 4, &n), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(n == 99 && memcmp(text, "ab..", 4) == 0);
    CHECK_STATUS(hyb_tokenizer_encode(NULL, "a", 1, tokens, 1, &n), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_tokenizer_encode(t, NULL, 1, tokens, 1, &n), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_tokenizer_encode(t, "a", 1, NULL, 1, &n), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_tokenizer_encode(t, "a", 1, tokens, 1, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_tokenizer_decode(NULL, tokens, 1, text, 1, &n), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_tokenizer_decode(t, NULL, 1, text, 1, &n), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_tokenizer_decode(t, tokens, 1, NULL, 1, &n), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(hyb_tokenizer_kind_of(t) == HYB_TOKENIZER_BYTES && hyb_tokenizer_vocab_size(t) == 256);
    CHECK(hyb_tokenizer_vocab_size(NULL) == 0);
    hyb_tokenizer_destroy(t);
    hyb_tokenizer_destroy(NULL);
}

/* ---- creation ---- */

/* Creates with a changed description: the status must be the expected one, and an error must leave a detail. */
static void check_create(hyb_ctx *ctx, const hyb_tokenizer_description *d, hyb_status expected) {
    hyb_tokenizer *t = NULL;
    CHECK_STATUS(hyb_tokenizer_create(ctx, d, &t), expected);
    CHECK((t != NULL) == (expected == HYB_OK));
    if (expected != HYB_OK) CHECK(hyb_ctx_last_error(ctx)[0] != '\0');
    hyb_tokenizer_destroy(t);
}

/* Each wrong field of a description is refused. */
static void test_create_invalid(hyb_ctx *ctx) {
    const hyb_status invalid = HYB_ERROR_INVALID_ARGUMENT;
    static builder b, broken;
    builder_begin(&b);
    builder_bytes(&b);
    builder_merge(&b, byte_token('a'), byte_token('b'));
    builder_special(&b, "<s>");
    check_create(ctx, &b.d, HYB_OK);
    check_create(ctx, NULL, invalid);
#define BROKEN(change, status)                                                                                         \
    do {                                                                                                               \
        broken = b;                                                                                                    \
        broken.d.bytes = broken.bytes;                                                                                 \
        broken.d.offsets = broken.offsets;                                                                             \
        broken.d.merges = broken.merges[0];                                                                            \
        broken.d.specials = broken.specials;                                                                           \
        change;                                                                                                        \
        check_create(ctx, &broken.d, status);                                                                          \
    } while (0)
    BROKEN(broken.d.struct_size = 0, HYB_ERROR_STRUCT_SIZE);
    BROKEN(broken.d.kind = 3, invalid);
    BROKEN(broken.d.kind = -1, invalid);
    BROKEN(broken.d.kind = HYB_TOKENIZER_BYTES, invalid);
    BROKEN(broken.d.kind = HYB_TOKENIZER_DECODE_ONLY, invalid);
    BROKEN(broken.d.pretokenizer = 2, invalid);
    BROKEN(broken.d.add_prefix_space = 2, invalid);
    BROKEN(broken.d.vocab_size = 0, invalid);
    BROKEN(broken.d.vocab_size = HYB_MAX_VOCAB + 1, invalid);
    BROKEN(broken.d.n_merges = UINT32_MAX, invalid);
    BROKEN(broken.d.n_specials = UINT32_MAX, invalid);
    BROKEN(broken.d.bytes = NULL, invalid);
    BROKEN(broken.d.offsets = NULL, invalid);
    BROKEN(broken.d.merges = NULL, invalid);
    BROKEN(broken.d.specials = NULL, invalid);
    BROKEN(broken.offsets[0] = 1, invalid);
    BROKEN(broken.offsets[9] = 5, invalid);
    BROKEN(broken.bytes[9] = 'z', invalid);                     /* a byte is missing */
    BROKEN(broken.merges[0][1] = broken.d.vocab_size, invalid); /* no such token */
    BROKEN(broken.merges[0][1] = byte_token('c'), invalid);     /* ac is not in the vocabulary */
    BROKEN(
        (broken.d.n_merges = 2, broken.merges[1][0] = broken.merges[0][0], broken.merges[1][1] = broken.merges[0][1]),
        invalid);
    BROKEN(broken.specials[0] = broken.d.vocab_size, invalid);
    BROKEN((broken.d.n_specials = 2, broken.specials[1] = broken.specials[0]), invalid);
    BROKEN(broken.specials[0] = builder_token(&broken, "", 0), invalid);
    BROKEN((void)builder_token(&broken, "", 0), HYB_OK); /* a hole in the vocabulary is an empty token */
#undef BROKEN
}

/* A decode-only vocabulary decodes, and says that it does not encode. */
static void test_create_decode_only(hyb_ctx *ctx) {
    const uint32_t offsets[] = {0, 2, 2, 5};
    hyb_tokenizer_description d = {.struct_size = sizeof d, .kind = HYB_TOKENIZER_DECODE_ONLY, .vocab_size = 3};
    hyb_tokenizer *t = NULL;
    char text[8];
    uint32_t token;
    size_t n = 0;
    d.offsets = offsets;
    d.bytes = (const uint8_t *)"abcde";
    CHECK_OK(hyb_tokenizer_create(ctx, &d, &t));
    CHECK_OK(hyb_tokenizer_decode(t, (uint32_t[]){2, 1, 0}, 3, text, 8, &n));
    CHECK(n == 5 && memcmp(text, "cdeab", 5) == 0);
    CHECK_STATUS(hyb_tokenizer_encode(t, "ab", 2, &token, 1, &n), HYB_ERROR_UNSUPPORTED);
    CHECK(hyb_tokenizer_kind_of(t) == HYB_TOKENIZER_DECODE_ONLY && hyb_tokenizer_vocab_size(t) == 3);
    hyb_tokenizer_destroy(t);
}

/* ---- the section ---- */

static uint8_t *section_of(const hyb_tokenizer *t, size_t *n) {
    CHECK_STATUS(hyb_tokenizer_serialize(t, NULL, 0, n), HYB_ERROR_TOO_SMALL);
    uint8_t *bytes = malloc(*n);
    CHECK_STATUS(hyb_tokenizer_serialize(t, bytes, *n - 1, n), HYB_ERROR_TOO_SMALL);
    CHECK_OK(hyb_tokenizer_serialize(t, bytes, *n, n));
    return bytes;
}

/* Reads a section; what is accepted must serve: it is written again, equal, and encodes and decodes. */
static hyb_status use_section(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes) {
    static const char text[] = "abc <s> aab\xff";
    hyb_tokenizer *t = NULL;
    uint32_t tokens[32];
    char back[64];
    size_t n = 0, n_back = 0;
    hyb_status status = hyb_tokenizer_deserialize(ctx, bytes, n_bytes, &t);
    CHECK((t != NULL) == (status == HYB_OK));
    if (t == NULL) return status;
    uint8_t *again = section_of(t, &n);
    CHECK(n == n_bytes && memcmp(again, bytes, n) == 0);
    free(again);
    if (hyb_tokenizer_encode(t, text, sizeof text - 1, tokens, 32, &n) == HYB_OK) {
        CHECK_OK(hyb_tokenizer_decode(t, tokens, n, back, sizeof back, &n_back));
        CHECK(n_back >= sizeof text - 1 && memcmp(back + n_back - 4, text + sizeof text - 5, 4) == 0);
    }
    hyb_tokenizer_destroy(t);
    return status;
}

/* Every truncation, every flipped bit and random mutations of a section give a status or a tokenizer that serves. */
static void test_deserialize_hostile(hyb_ctx *ctx) {
    static builder b;
    hyb_tokenizer *t = NULL;
    size_t n = 0, n_accepted = 0;
    uint64_t state = 14;
    builder_begin(&b);
    builder_bytes(&b);
    builder_merge(&b, byte_token('a'), byte_token('b'));
    builder_merge(&b, byte_token('a'), 256);
    builder_special(&b, "<s>");
    b.d.pretokenizer = HYB_PRETOKENIZER_GPT2;
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
    uint8_t *good = section_of(t, &n);
    hyb_tokenizer_destroy(t);
    CHECK_OK(use_section(ctx, good, n));
    for (size_t cut = 0; cut < n; ++cut) {
        uint8_t *part = test_guarded_alloc(cut);
        memcpy(part, good, cut);
        CHECK_STATUS(use_section(ctx, part, cut), HYB_ERROR_TRUNCATED);
        test_guarded_free(part, cut);
    }
    uint8_t *bad = test_guarded_alloc(n);
    for (size_t bit = 0; bit < 8 * n; ++bit) {
        memcpy(bad, good, n);
        bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
        n_accepted += use_section(ctx, bad, n) == HYB_OK;
    }
    CHECK(n_accepted > 0); /* such as a change of the special token's letters */
    for (int trial = 0; trial < 20000; ++trial) {
        memcpy(bad, good, n);
        size_t span = trial % 2 ? 32 : n; /* half of them in the header alone */
        for (size_t i = test_random_below(&state, 4) + 1; i-- > 0;) {
            size_t at = test_random_below(&state, span);
            bad[at] = trial % 3 ? (uint8_t)test_random(&state) : (uint8_t)(0xff * (test_random(&state) & 1));
        }
        (void)use_section(ctx, bad, n);
    }
    test_guarded_free(bad, n);
    uint8_t *longer = calloc(n + 1, 1);
    memcpy(longer, good, n);
    CHECK_STATUS(use_section(ctx, longer, n + 1), HYB_ERROR_FORMAT);
    CHECK_STATUS(hyb_tokenizer_deserialize(ctx, NULL, n, &t), HYB_ERROR_INVALID_ARGUMENT);
    free(longer);
    free(good);
}

/* The section of a byte tokenizer is its header, byte for byte as file.h says. */
static void test_serialize_bytes_kind(hyb_ctx *ctx) {
    static const uint8_t expected[32] = {[13] = 1};
    hyb_tokenizer_description d = {.struct_size = sizeof d, .kind = HYB_TOKENIZER_BYTES, .vocab_size = 256};
    hyb_tokenizer *t = NULL;
    size_t n = 0;
    CHECK_OK(hyb_tokenizer_create(ctx, &d, &t));
    uint8_t *bytes = section_of(t, &n);
    CHECK(n == 32 && memcmp(bytes, expected, 32) == 0);
    CHECK_OK(use_section(ctx, bytes, n));
    free(bytes);
    hyb_tokenizer_destroy(t);
}

/* Merges whose pairs are chosen to share one hash slot are indexed with another seed, not probed for ever. */
static void test_create_collisions(hyb_ctx *ctx) {
    enum { N = 1500 };
    static builder b;
    hyb_tokenizer *t = NULL;
    uint32_t tokens[4];
    size_t n = 0;
    builder_begin(&b);
    builder_bytes(&b);
    /* The first seed's table has 4096 slots (N merges): take pairs of "aa" tokens that fall into its first 32. */
    for (int i = 0; i < 1500; ++i) builder_token(&b, "a", 1);
    builder_token(&b, "aa", 2);
    for (uint32_t left = 256; left < 256 + N && b.d.n_merges < N; ++left)
        for (uint32_t right = 256; right < 256 + N && b.d.n_merges < N; ++right)
            if ((((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u) >> 52 < 32) {
                b.merges[b.d.n_merges][0] = left;
                b.merges[b.d.n_merges++][1] = right;
            }
    CHECK(b.d.n_merges == N);
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
    CHECK(t->table.seed != 0x9e3779b97f4a7c15u);
    CHECK_OK(hyb_tokenizer_encode(t, "aa", 2, tokens, 4, &n));
    CHECK(n == 2 && tokens[0] == byte_token('a'));
    hyb_tokenizer_destroy(t);
}

/* ---- allocation and threads ---- */

typedef struct failing_allocator {
    size_t until_failure;
    size_t n_live;
} failing_allocator;
static void *failing_allocate(void *user, size_t bytes, size_t alignment) {
    failing_allocator *state = user;
    void *memory = NULL;
    if (state->until_failure == 0 ||
        posix_memalign(&memory, alignment < sizeof(void *) ? sizeof(void *) : alignment, bytes ? bytes : 1) != 0)
        return NULL;
    --state->until_failure;
    ++state->n_live;
    return memory;
}
static void failing_release(void *user, void *memory) {
    failing_allocator *state = user;
    state->n_live -= memory != NULL;
    free(memory);
}

/* Whichever allocation fails, the status says so and nothing leaks. */
static void test_out_of_memory(void) {
    static builder b;
    failing_allocator state = {SIZE_MAX, 0};
    hyb_ctx_options options = {.struct_size = sizeof options};
    hyb_ctx *ctx = NULL;
    uint64_t random_state = 15;
    char text[100];
    uint32_t tokens[200];
    options.allocate = failing_allocate;
    options.release = failing_release;
    options.allocator_user = &state;
    CHECK_OK(hyb_ctx_create(&options, &ctx));
    size_t before = state.n_live;
    builder_random(&b, &random_state, 30);
    builder_special(&b, "<s>");
    b.d.add_prefix_space = 1;
    memset(text, 'a', sizeof text);
    for (size_t allowed = 0, done = 0; !done; ++allowed) {
        hyb_tokenizer *t = NULL;
        size_t n = 0;
        state.until_failure = allowed;
        hyb_status status = hyb_tokenizer_create(ctx, &b.d, &t);
        if (status == HYB_OK) {
            status = hyb_tokenizer_encode(t, text, sizeof text, tokens, 200, &n);
            done = status == HYB_OK;
        }
        CHECK(done || status == HYB_ERROR_OUT_OF_MEMORY);
        hyb_tokenizer_destroy(t);
        CHECK(state.n_live == before);
        CHECK(allowed < 100);
        if (allowed >= 100) break;
    }
    state.until_failure = SIZE_MAX;
    hyb_ctx_destroy(ctx);
}

typedef struct shared_job {
    const hyb_tokenizer *tokenizer;
    const char *text;
    size_t n_bytes;
    uint32_t tokens[4096];
    size_t n_tokens;
    hyb_status status;
} shared_job;
static void *encode_job(void *argument) {
    shared_job *job = argument;
    for (int i = 0; i < 20 && job->status == HYB_OK; ++i)
        job->status = hyb_tokenizer_encode(job->tokenizer, job->text, job->n_bytes, job->tokens, 4096, &job->n_tokens);
    return NULL;
}

/* Four threads encode with one tokenizer at once, and get what one thread gets. */
static void test_encode_threads(hyb_ctx *ctx) {
    static builder b;
    static char text[4000];
    static shared_job jobs[5];
    pthread_t threads[4];
    hyb_tokenizer *t = NULL;
    uint64_t state = 16;
    builder_random(&b, &state, 200);
    CHECK_OK(hyb_tokenizer_create(ctx, &b.d, &t));
    for (size_t i = 0; i < sizeof text; ++i) text[i] = "ab c"[test_random_below(&state, 4)];
    for (int i = 0; i < 5; ++i) jobs[i] = (shared_job){.tokenizer = t, .text = text, .n_bytes = sizeof text};
    encode_job(&jobs[4]);
    for (int i = 0; i < 4; ++i) CHECK(pthread_create(&threads[i], NULL, encode_job, &jobs[i]) == 0);
    for (int i = 0; i < 4; ++i) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK_OK(jobs[i].status);
        CHECK(jobs[i].n_tokens == jobs[4].n_tokens);
        CHECK(memcmp(jobs[i].tokens, jobs[4].tokens, jobs[4].n_tokens * sizeof(uint32_t)) == 0);
    }
    hyb_tokenizer_destroy(t);
}

int main(void) {
    hyb_ctx *ctx = NULL;
    CHECK_OK(hyb_ctx_create(NULL, &ctx));
    test_pretokenize_pieces();
    test_pretokenize_classes();
    test_encode_oracle(ctx);
    test_encode_decode_any_bytes(ctx);
    test_encode_long_piece(ctx);
    test_encode_specials(ctx);
    test_encode_equal_tokens(ctx);
    test_encode_decode_too_small(ctx);
    test_create_invalid(ctx);
    test_create_decode_only(ctx);
    test_deserialize_hostile(ctx);
    test_serialize_bytes_kind(ctx);
    test_create_collisions(ctx);
    test_out_of_memory();
    test_encode_threads(ctx);
    hyb_ctx_destroy(ctx);
    return TEST_RESULT();
}
