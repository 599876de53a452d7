/* crc32c.h (internal) - the variants of hyb_crc32c, for the tests. Each continues from `crc` as hyb_crc32c does. */
#ifndef HYB_CRC32C_H
#define HYB_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* crc32c.c: any processor, eight bytes a turn. */
uint32_t hyb_crc32c_portable(uint32_t crc, const uint8_t *bytes, size_t n_bytes);
/* x86/crc32c_sse42.c: the processor's own instruction; only where HYB_HAS_SSE42() says so. */
uint32_t hyb_crc32c_sse42(uint32_t crc, const uint8_t *bytes, size_t n_bytes);

#endif /* HYB_CRC32C_H */
