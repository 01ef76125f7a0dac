/* The commands that change figures: buckets, shapes and faults. */
#include <stdlib.h>
#include <string.h>

#include "settings.h"

#define RATE_MAX 1000000000000000u /* bit/s */
#define BYTES_MAX (1u << 30)
#define NS_MAX 3600000000000u /* an hour */
#define COUNT_MAX 1000000000u

struct shaper_route *shaper_route_named(struct driven_order *order)
{
    const struct shaper *shaper = order->program;
    uint64_t id;
    if (driven_words_number(driven_order_word(order, 1), UINT64_MAX, &id) &&
        id < shaper->route_count && shaper->routes[id])
        return shaper->routes[id];
    driven_order_reply(order, "error there is no route '%s'", SHOWN(driven_order_word(order, 1)));
    return NULL;
}

static struct shaper_bucket *bucket_named(const struct shaper *shaper, const char *name)
{
    for (uint64_t i = 0; i < shaper->bucket_count; i++)
        if (strcmp(shaper->buckets[i]->name, name) == 0)
            return shaper->buckets[i];
    return NULL;
}

static struct shaper_bucket *make_bucket(struct driven_order *order)
{
    struct shaper *shaper = order->program;
    const char *name = driven_order_word(order, 1);
    if (strlen(name) >= SHAPER_NAME || strpbrk(name, ",=") || strcmp(name, "-") == 0) {
        driven_order_reply(order, "error '%s' is no name for a bucket: at most %d bytes, no comma",
                           SHOWN(name), SHAPER_NAME - 1);
        return NULL;
    }
    struct shaper_bucket *bucket = calloc(1, sizeof *bucket);
    if (bucket && shaper->bucket_count == shaper->bucket_room) {
        uint64_t room = shaper->bucket_room ? 2 * shaper->bucket_room : 16;
        void *grown = realloc(shaper->buckets, room * sizeof *shaper->buckets);
        if (!grown) {
            free(bucket);
            bucket = NULL;
        } else {
            shaper->buckets = grown;
            shaper->bucket_room = room;
        }
    }
    if (!bucket) {
        driven_order_reply(order, "error no memory");
        return NULL;
    }
    strcpy(bucket->name, name);
    return shaper->buckets[shaper->bucket_count++] = bucket;
}

void shaper_command_bucket(struct driven_order *order)
{
    struct shaper *shaper = order->program;
    uint64_t rate, burst = 0;
    if (!driven_order_number(order, "the rate", driven_order_word(order, 2), RATE_MAX, &rate))
        return;
    if (order->words.count > 3 &&
        !driven_order_number(order, "the burst", driven_order_word(order, 3), BYTES_MAX, &burst))
        return;
    struct shaper_bucket *bucket = bucket_named(shaper, driven_order_word(order, 1));
    if (!bucket && !(bucket = make_bucket(order)))
        return;
    shaper_bucket_set(bucket, rate, burst);
    for (uint64_t i = 0; i < shaper->route_count; i++)
        if (shaper->routes[i])
            shaper_route_apply(shaper, shaper->routes[i]);
    driven_order_reply(order, "ok");
}

/* The buckets that a list names, into `direction`. */
static bool share(struct driven_order *order, char *list, struct shaper_direction *direction)
{
    direction->shared_count = 0;
    if (strcmp(list, "-") == 0)
        return true;
    char *rest = NULL;
    for (char *at = strtok_r(list, ",", &rest); at; at = strtok_r(NULL, ",", &rest)) {
        struct shaper_bucket *bucket = bucket_named(order->program, at);
        if (!bucket) {
            driven_order_reply(order, "error there is no bucket '%s'", SHOWN(at));
            return false;
        }
        if (direction->shared_count == SHAPER_BUCKETS) {
            driven_order_reply(order, "error a direction has at most %d buckets", SHAPER_BUCKETS);
            return false;
        }
        direction->shared[direction->shared_count++] = bucket;
    }
    return true;
}

/* Take one setting into `direction`. */
static bool setting(struct driven_order *order, char *text, struct shaper_direction *direction)
{
    uint64_t value = 0;
    char *found;
    if ((found = driven_words_value(text, "buckets")))
        return share(order, found, direction);
    if ((found = driven_words_value(text, "rate_bit_s"))) {
        if (!driven_order_number(order, "rate_bit_s", found, RATE_MAX, &value))
            return false;
        shaper_bucket_set(&direction->own, value, 0);
    } else if ((found = driven_words_value(text, "burst_bytes"))) {
        if (!driven_order_number(order, "burst_bytes", found, BYTES_MAX, &value))
            return false;
        shaper_bucket_set(&direction->own, direction->own.rate, value);
    } else if ((found = driven_words_value(text, "delay_ns"))) {
        if (!driven_order_number(order, "delay_ns", found, NS_MAX, &value))
            return false;
        direction->delay = (int64_t)value;
    } else if ((found = driven_words_value(text, "jitter_ns"))) {
        if (!driven_order_number(order, "jitter_ns", found, NS_MAX, &value))
            return false;
        direction->jitter = (int64_t)value;
    } else if ((found = driven_words_value(text, "queue_bytes"))) {
        if (!driven_order_number(order, "queue_bytes", found, BYTES_MAX, &value))
            return false;
        direction->queue = value < SHAPER_QUEUE_MIN ? SHAPER_QUEUE_MIN : (size_t)value;
    } else {
        driven_order_reply(order, "error there is no setting '%s'", SHOWN(text));
        return false;
    }
    return true;
}

static bool fault(struct driven_order *order, char *text, struct shaper_direction *direction)
{
    struct shaper_damage *damage = &direction->damage;
    const char *found;
    if (strcmp(text, "hold") == 0)
        return direction->hold = true;
    if (strcmp(text, "drop") == 0)
        return direction->drop = true;
    if (strcmp(text, "carry") == 0) {
        direction->hold = direction->drop = false;
        return true;
    }
    if ((found = driven_words_value(text, "flip")))
        return driven_order_number(order, "flip", found, COUNT_MAX, &damage->flip);
    if ((found = driven_words_value(text, "truncate")))
        return driven_order_number(order, "truncate", found, COUNT_MAX, &damage->truncate);
    if ((found = driven_words_value(text, "duplicate")))
        return driven_order_number(order, "duplicate", found, COUNT_MAX, &damage->duplicate);
    driven_order_reply(order, "error there is no fault '%s'", SHOWN(text));
    return false;
}

/* Change directions of a route by the words from the third on: all of them, or nothing. */
static void change(struct driven_order *order,
                   bool (*one)(struct driven_order *, char *, struct shaper_direction *))
{
    struct shaper_route *route = shaper_route_named(order);
    uint32_t chosen = route ? driven_order_choice(order, "up", "down") : 0;
    if (!chosen)
        return;
    struct shaper_direction changed[SHAPER_DIRECTIONS];
    memcpy(changed, route->direction, sizeof changed);
    for (int i = 0; i < SHAPER_DIRECTIONS; i++)
        for (size_t at = 3; (chosen >> i & 1) && at < order->words.count; at++) {
            char text[DRIVEN_LINE]; /* a list is cut in place, and may be read twice */
            strcpy(text, order->words.at[at]);
            if (!one(order, text, &changed[i]))
                return;
        }
    memcpy(route->direction, changed, sizeof changed);
    shaper_route_apply(order->program, route);
    driven_order_reply(order, "ok");
}

void shaper_command_shape(struct driven_order *order)
{
    change(order, setting);
}

void shaper_command_fault(struct driven_order *order)
{
    change(order, fault);
}
