/* unicode_tables.h - the class of a character, as the GPT-2 splitting pattern sees it. The table is generated
 * (tools/gen_unicode.py says from which Unicode version, and why).
 */
#ifndef HYB_UNICODE_TABLES_H
#define HYB_UNICODE_TABLES_H

#include <stddef.h>
#include <stdint.h>

enum {
    HYB_CHAR_OTHER = 0,  /* [^\s\p{L}\p{N}] */
    HYB_CHAR_LETTER = 1, /* \p{L} */
    HYB_CHAR_NUMBER = 2, /* \p{N} */
    HYB_CHAR_SPACE = 3   /* \s: White_Space */
};

extern const uint8_t hyb_unicode_ascii[128];

/* Class of any 32-bit value; what is not a code point is OTHER. */
int hyb_unicode_class(uint32_t code_point);

#endif /* HYB_UNICODE_TABLES_H */
