/* CRC-32C (Castagnoli, reflected polynomial 0x82F63B78, as in iSCSI, RFC 3720 B.4). */
#ifndef COLL_WIRE_CRC32C_H
#define COLL_WIRE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continue `crc` (0 to start) over `length` bytes. Picks the fastest way this CPU has. */
uint32_t coll__crc32c(uint32_t crc, const void *data, size_t length);
/* The same, fused with a copy: the data is read once. No overlap. */
uint32_t coll__crc32c_copy(uint32_t crc, void *destination, const void *source, size_t length);

#endif
