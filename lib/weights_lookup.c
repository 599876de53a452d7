/* weights_lookup.c - codes of ternary weights to and from the layout for table look-ups (kernels.h).
 *
 * A word is three indices of 5 bits, and an index is 13 + c0 + 3 c1 + 9 c2 with codes c in -1, 0, 1. So the whole word
 * is a fixed one, all codes 0, plus a sum of products.
 */
#include "matmul.h"

#define WORD_OF_ZEROS (13 + (13 << 5) + (13 << 10))
#define ROW_STEP ((size_t)2 * HYB_LOOKUP_BLOCK_ROWS) /* bytes from one word of a row to the next */

static void store_word(uint8_t *to, const int8_t *c) {
    int low = c[0] + 3 * c[1] + 9 * c[2], middle = c[3] + 3 * c[4] + 9 * c[5], high = c[6] + 3 * c[7] + 9 * c[8];
    int word = WORD_OF_ZEROS + low + 32 * middle + 1024 * high;
    to[0] = (uint8_t)word;
    to[1] = (uint8_t)(word >> 8);
}

void hyb_lookup_fill_row(uint8_t *words, const int8_t *codes, size_t n_cols) {
    size_t n_whole = n_cols / HYB_LOOKUP_WORD_COLS, n_rest = n_cols % HYB_LOOKUP_WORD_COLS;
    for (size_t w = 0; w < n_whole; ++w) store_word(words + w * ROW_STEP, codes + w * HYB_LOOKUP_WORD_COLS);
    if (n_rest != 0) {
        int8_t last[HYB_LOOKUP_WORD_COLS] = {0};
        memcpy(last, codes + n_whole * HYB_LOOKUP_WORD_COLS, n_rest);
        store_word(words + n_whole * ROW_STEP, last);
    }
}

void hyb_lookup_unpack(const uint8_t *words, size_t first, size_t n, int8_t *codes) {
    static const uint8_t powers[] = {1, 3, 9};
    for (size_t i = 0; i < n; ++i) {
        size_t column = first + i, in_word = column % HYB_LOOKUP_WORD_COLS;
        const uint8_t *word = words + column / HYB_LOOKUP_WORD_COLS * ROW_STEP;
        unsigned index = ((unsigned)word[0] | (unsigned)word[1] << 8) >> (in_word / 3 * 5) & 31;
        codes[i] = (int8_t)((int)(index / powers[in_word % 3] % 3) - 1);
    }
}

void hyb_lookup_clear(uint8_t *words, size_t n_words) {
    const int8_t zeros[HYB_LOOKUP_WORD_COLS] = {0};
    for (size_t i = 0; i < n_words; ++i) store_word(words + 2 * i, zeros);
}
