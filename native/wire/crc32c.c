/* CRC-32C: eight table look-ups per eight bytes where the CPU has nothing better, else the crc32
 * instruction (see crc32c_sse42.c). */
#include <pthread.h>
#include <string.h>

#include "collectives.h"
#include "wire/crc32c.h"

/* table[k][byte]: what `byte` adds to the CRC when k more bytes follow it in the group. */
static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void make_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc & 1u) != 0 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
        }
        table[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            const uint32_t crc = table[k - 1][byte];
            table[k][byte] = crc >> 8 ^ table[0][crc & 0xFFu];
        }
    }
}

static uint32_t crc_table(uint32_t crc, const uint8_t *p, size_t length)
{
    (void)pthread_once(&table_once, make_table);
    crc = ~crc;
    for (; length >= 8; p += 8, length -= 8) {
        const uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                                    (uint32_t)p[3] << 24);
        crc = table[7][low & 0xFFu] ^ table[6][low >> 8 & 0xFFu] ^ table[5][low >> 16 & 0xFFu] ^
              table[4][low >> 24] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^
              table[0][p[7]];
    }
    for (; length > 0; p++, length--) {
        crc = crc >> 8 ^ table[0][(crc ^ *p) & 0xFFu];
    }
    return ~crc;
}

uint32_t coll__crc32c(uint32_t crc, const void *data, size_t length)
{
    return coll_crc32c(crc, data, length, COLL_ISA_AUTO);
}

uint32_t coll__crc32c_copy(uint32_t crc, void *destination, const void *source, size_t length)
{
    return coll_crc32c_copy(crc, destination, source, length, COLL_ISA_AUTO);
}

uint32_t coll_crc32c(uint32_t crc, const void *data, size_t length, uint32_t isa)
{
    (void)isa;
    return crc_table(crc, data, length);
}

uint32_t coll_crc32c_copy(uint32_t crc, void *destination, const void *source, size_t length,
                          uint32_t isa)
{
    (void)isa;
    if (length > 0) {
        memcpy(destination, source, length);
    }
    return crc_table(crc, source, length);
}
