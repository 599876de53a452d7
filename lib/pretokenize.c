/* pretokenize.c - GPT-2's splitting pattern, by hand: pieces of text that BPE never merges across.
 *
 *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * section of text -> hyb_gpt2_piece, again and again -> bpe.c. One pass, no backtracking: a piece costs its length and
 * at most one character more. Source: Radford et al. 2019 (the pattern of the released encoder).
 */
#include "tokenizer_internal.h"
#include "unicode_tables.h"

/* Length of the UTF-8 character at p [n], n >= 1, and its class. An invalid byte is a character of class OTHER. */
static size_t multibyte_class(const uint8_t *p, size_t n, int *class) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000}; /* anything below is an overlong form */
    uint8_t lead = p[0];
    size_t length = lead >= 0xf0 && lead < 0xf8   ? 4
                    : lead >= 0xe0 && lead < 0xf0 ? 3
                    : lead >= 0xc0 && lead < 0xe0 ? 2
                                                  : 0;
    uint32_t code_point;
    *class = HYB_CHAR_OTHER;
    if (length == 0 || length > n) return 1;
    code_point = (uint32_t)lead & (0x7fu >> length);
    for (size_t i = 1; i < length; ++i) {
        if ((p[i] & 0xc0) != 0x80) return 1;
        code_point = code_point << 6 | (p[i] & 0x3fu);
    }
    if (code_point < smallest[length] || code_point > 0x10ffff || (code_point >= 0xd800 && code_point < 0xe000))
        return 1;
    *class = hyb_unicode_class(code_point);
    return length;
}

HYB_INLINE size_t char_class(const uint8_t *p, size_t n, int *class) {
    if (p[0] >= 128) return multibyte_class(p, n, class);
    *class = hyb_unicode_ascii[p[0]];
    return 1;
}

/* Length of an English contraction's ending at text, 0 if there is none. Lower case only, as in the pattern. */
static size_t contraction(const uint8_t *text, size_t n) {
    if (n < 2 || text[0] != '\'') return 0;
    if (text[1] == 's' || text[1] == 't' || text[1] == 'm' || text[1] == 'd') return 2;
    if (n < 3) return 0;
    return (text[1] == 'r' && text[2] == 'e') || (text[1] == 'v' && text[2] == 'e') ||
                   (text[1] == 'l' && text[2] == 'l')
               ? 3
               : 0;
}

/* White space, text[0] included: the whole run at the end of the text; else all but its last character, which is left
 * for the next piece (a space joins the word behind it); a single character is a piece of its own. */
static size_t space_piece(const uint8_t *text, size_t n) {
    size_t end = 0, last = 0;
    while (end < n) {
        int class;
        size_t length = char_class(text + end, n - end, &class);
        if (class != HYB_CHAR_SPACE) return last > 0 ? last : end;
        last = end;
        end += length;
    }
    return n;
}

size_t hyb_gpt2_piece(const uint8_t *text, size_t n_bytes) {
    int class, next;
    size_t end = contraction(text, n_bytes);
    if (end > 0) return end;
    end = char_class(text, n_bytes, &class);
    if (text[0] == ' ' && n_bytes > 1) {
        size_t length = char_class(text + 1, n_bytes - 1, &class);
        end += class == HYB_CHAR_SPACE ? 0 : length;
    }
    if (class == HYB_CHAR_SPACE) return space_piece(text, n_bytes);
    while (end < n_bytes) {
        size_t length = char_class(text + end, n_bytes - end, &next);
        if (next != class) break;
        end += length;
    }
    return end;
}
