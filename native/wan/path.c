/* What happens to a packet on its path. In this order: the cut, the queues, the losses, the delay.
 *
 * A queue is no list: the line knows when it will have sent all that waits, which says how much
 * that is. So the rate is exact however late the process wakes up. */
#include "wan.h"

#define NANO 1000000000.0
#define MILLION 1000000u
#define LATER 4 /* a packet out of order is late by up to a quarter of the delay, and the jitter */

static int64_t duration(const struct wan_line *line, uint64_t bytes)
{
    return (int64_t)((double)bytes * 8 * NANO / (double)line->rate);
}

static bool has_room(const struct wan_line *line, size_t length, int64_t now)
{
    if (line->rate == 0 || line->next <= now)
        return true; /* nothing waits: however small the queue, one packet passes */
    double waiting = (double)(line->next - now) * (double)line->rate / 8 / NANO;
    return waiting + (double)length <= (double)line->queue;
}

/* When the line has sent it. */
static int64_t send_on(struct wan_line *line, size_t length, int64_t now)
{
    if (line->rate == 0)
        return now;
    int64_t begin = line->next > now ? line->next : now;
    return line->next = begin + duration(line, length);
}

static bool chance(struct driven_random *random, uint64_t millionths)
{
    return millionths > 0 && driven_random_below(random, MILLION) < millionths;
}

static int64_t up_to(struct driven_random *random, int64_t most)
{
    return most > 0 ? (int64_t)driven_random_below(random, (uint64_t)most + 1) : 0;
}

/* Gilbert's model: in a burst all packets are lost; how bursts begin and end gives the share of
 * losses and their mean length (E. N. Gilbert, Capacity of a burst-noise channel, 1960). */
static bool is_lost(struct wan_path *path)
{
    const struct wan_shape *shape = &path->shape;
    if (shape->burst <= 1 || shape->loss >= MILLION)
        return chance(&path->random, shape->loss);
    if (path->losing)
        path->losing = driven_random_below(&path->random, shape->burst) != 0;
    else
        path->losing = chance(&path->random,
                              shape->loss * MILLION / (MILLION - shape->loss) / shape->burst);
    return path->losing;
}

/* When what was sent at `departure` arrives. */
static int64_t arrival(struct wan_path *path, int64_t departure)
{
    const struct wan_shape *shape = &path->shape;
    int64_t release = departure + shape->delay + up_to(&path->random, shape->jitter);
    /* Never at one time, as the heap would then not keep their order. */
    if (release <= path->last)
        release = path->last + 1;
    if (chance(&path->random, shape->reorder))
        return release + up_to(&path->random, shape->delay / LATER + shape->jitter);
    return path->last = release;
}

unsigned wan_path_admit(struct wan_path *path, size_t length, int64_t now,
                        int64_t release[WAN_COPIES])
{
    struct wan_shape *shape = &path->shape;
    path->counts.sent++;
    if (shape->cut) {
        path->counts.cut++;
        return 0;
    }
    if (!has_room(&shape->own, length, now) ||
        (shape->shared && !has_room(shape->shared, length, now))) {
        path->counts.overflown++;
        return 0;
    }
    int64_t departure = send_on(&shape->own, length, now);
    if (shape->shared) {
        int64_t later = send_on(shape->shared, length, now);
        departure = later > departure ? later : departure;
    }
    if (is_lost(path)) {
        path->counts.lost++;
        return 0;
    }
    release[0] = arrival(path, departure);
    if (!chance(&path->random, shape->duplicate))
        return 1;
    path->counts.duplicated++;
    release[1] = arrival(path, departure);
    return 2;
}

void wan_path_deliver(struct wan_path *path, uint64_t serial, size_t length)
{
    path->counts.delivered++;
    path->counts.bytes += length;
    if (serial < path->delivered_to)
        path->counts.reordered++;
    else
        path->delivered_to = serial + 1;
}
