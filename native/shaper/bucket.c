/* Rates as moments: the bucket knows when the next bytes may pass, and each reservation moves that
 * moment by the time its bytes take. After a pause the moment lies at most a burst in the past. */
#include "shaper.h"

#define NANO 1000000000
#define QUANTUM_NS 1000000
#define QUANTUM_MIN 1448 /* what one packet of Ethernet carries */
#define BURST_NS 5000000
#define BURST_MIN 16384

#define FOREVER 1e15 /* ns: eleven days; what takes longer would overflow a moment */

static int64_t duration(const struct shaper_bucket *bucket, uint64_t bytes)
{
    double ns = (double)bytes * 8 * NANO / (double)bucket->rate;
    return (int64_t)(ns < FOREVER ? ns : FOREVER);
}

static uint64_t bytes_in(uint64_t rate, int64_t ns)
{
    return (uint64_t)((double)rate / 8 * (double)ns / NANO);
}

void shaper_bucket_set(struct shaper_bucket *bucket, uint64_t rate, uint64_t burst)
{
    uint64_t usual = bytes_in(rate, BURST_NS);
    bucket->rate = rate;
    bucket->burst = burst ? burst : usual > BURST_MIN ? usual : BURST_MIN;
    bucket->next = 0;
}

size_t shaper_bucket_quantum(const struct shaper_bucket *bucket)
{
    uint64_t quantum = bytes_in(bucket->rate, QUANTUM_NS);
    if (bucket->rate == 0 || quantum > SHAPER_CHUNK)
        return SHAPER_CHUNK;
    return quantum > QUANTUM_MIN ? (size_t)quantum : QUANTUM_MIN;
}

int64_t shaper_bucket_reserve(struct shaper_bucket *bucket, size_t bytes, int64_t now)
{
    if (bucket->rate == 0)
        return now;
    int64_t earliest = now - duration(bucket, bucket->burst);
    int64_t start = bucket->next > earliest ? bucket->next : earliest;
    bucket->next = start + duration(bucket, bytes);
    return start;
}
