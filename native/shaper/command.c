/* The commands: one line each, one reply line each, `ok ...` or `error WHAT WAS WRONG`.
 *
 *     bucket NAME RATE_BIT_S [BURST_BYTES]    make a shared bucket, or change it; rate 0: unlimited
 *     route TARGET [LISTEN]                   ok ID ADDRESS
 *     shape ID DIRECTION [rate_bit_s=N] [burst_bytes=N] [delay_ns=N] [jitter_ns=N]
 *                        [queue_bytes=N] [buckets=NAME,NAME|-]
 *     fault ID DIRECTION hold|drop|carry|flip=N|truncate=N|duplicate=N
 *     door ID open|refuse|ignore
 *     reset ID END, half ID END               ok CONNECTIONS
 *     heal ID, remove ID
 *     stats [ID]                              ok NAME=NUMBER ...
 *
 * DIRECTION is up (from who dials to the target), down or both; END is dialler, target or both. */
#include <stdio.h>
#include <string.h>

#include "order.h"

static bool address(struct shaper_order *order, const char *text, bool any_port,
                    struct sockaddr_storage *parsed)
{
    const char *error = shaper_address_parse(text, any_port, parsed);
    if (error)
        shaper_order_reply(order, "error '%s' is no address: %s", SHOWN(text), error);
    return !error;
}

/* ---- commands ---------------------------------------------------------------------------------- */

static void command_route(struct shaper_order *order)
{
    struct sockaddr_storage target, listen;
    const char *from = order->words.count > 2 ? shaper_order_word(order, 2) : "127.0.0.1:0";
    if (!address(order, shaper_order_word(order, 1), false, &target) ||
        !address(order, from, true, &listen))
        return;
    struct shaper_route *route;
    const char *error = shaper_route_add(order->shaper, &target, &listen, &route);
    if (error) {
        shaper_order_reply(order, "error cannot listen on %s: %s", SHOWN(from), error);
        return;
    }
    char text[SHAPER_ADDRESS];
    shaper_address_format(&route->address, text);
    shaper_order_reply(order, "ok %llu %s", (unsigned long long)route->id, text);
}

static void command_door(struct shaper_order *order)
{
    static const char *const names[] = {"open", "refuse", "ignore"};
    struct shaper_route *route = shaper_order_route(order);
    if (!route)
        return;
    for (int door = 0; door < 3; door++) {
        if (strcmp(shaper_order_word(order, 2), names[door]) != 0)
            continue;
        const char *error = shaper_route_set_door(order->shaper, route, (enum shaper_door)door);
        if (error) {
            shaper_order_reply(order, "error the route cannot %s: %s", names[door], error);
            return;
        }
        shaper_connection_accept(order->shaper, route);
        shaper_order_reply(order, "ok");
        return;
    }
    shaper_order_reply(order, "error '%s' is not open, refuse or ignore",
                       SHOWN(shaper_order_word(order, 2)));
}

/* Reset ends of all live connections. */
static void cut(struct shaper_order *order, bool silent)
{
    struct shaper_route *route = shaper_order_route(order);
    uint32_t chosen = route ? shaper_order_choice(order, "dialler", "target") : 0;
    if (!chosen)
        return;
    uint64_t count = 0;
    for (struct shaper_connection *at = route->connections, *next; at; at = next, count++) {
        next = at->next;
        if (chosen == 3)
            shaper_connection_close(order->shaper, at, true);
        else
            shaper_connection_reset_end(order->shaper, at,
                                        chosen == 1 ? SHAPER_DIALLER : SHAPER_TARGET, silent);
    }
    shaper_order_reply(order, "ok %llu", (unsigned long long)count);
}

static void command_reset(struct shaper_order *order)
{
    cut(order, false);
}

static void command_half(struct shaper_order *order)
{
    cut(order, true);
}

static void command_heal(struct shaper_order *order)
{
    struct shaper_route *route = shaper_order_route(order);
    if (!route)
        return;
    const char *error = shaper_route_heal(order->shaper, route);
    if (error)
        shaper_order_reply(order, "error the route cannot listen again: %s", error);
    else
        shaper_order_reply(order, "ok");
}

static void command_remove(struct shaper_order *order)
{
    struct shaper_route *route = shaper_order_route(order);
    if (!route)
        return;
    shaper_route_remove(order->shaper, route);
    shaper_order_reply(order, "ok");
}

static void describe(const struct shaper_route *route, uint32_t index, char text[SHAPER_LINE / 2])
{
    static const char *const names[] = {"up", "down"};
    const struct shaper_direction *direction = &route->direction[index];
    const struct shaper_damage *damaged = &direction->damaged;
    unsigned long long queued = 0;
    for (const struct shaper_connection *at = route->connections; at; at = at->next)
        queued += at->flow[index].queue.size;
    const char *name = names[index];
    snprintf(text, SHAPER_LINE / 2,
             "%s.bytes=%llu %s.queued=%llu %s.dropped=%llu %s.flipped=%llu %s.truncated=%llu "
             "%s.duplicated=%llu",
             name, (unsigned long long)direction->bytes, name, queued, name,
             (unsigned long long)direction->dropped, name, (unsigned long long)damaged->flip, name,
             (unsigned long long)damaged->truncate, name, (unsigned long long)damaged->duplicate);
}

static void command_stats(struct shaper_order *order)
{
    const struct shaper *shaper = order->shaper;
    if (order->words.count < 2) {
        unsigned long long routes = 0, live = 0, starved = 0;
        for (uint64_t i = 0; i < shaper->route_count; i++) {
            const struct shaper_route *route = shaper->routes[i];
            routes += route ? 1 : 0;
            live += route ? route->live : 0;
            starved += route ? route->starved : 0;
        }
        shaper_order_reply(order, "ok routes=%llu live=%llu starved=%llu seed=%llu", routes, live,
                           starved, (unsigned long long)shaper->seed);
        return;
    }
    const struct shaper_route *route = shaper_order_route(order);
    if (!route)
        return;
    char up[SHAPER_LINE / 2], down[SHAPER_LINE / 2];
    describe(route, SHAPER_UP, up);
    describe(route, SHAPER_DOWN, down);
    shaper_order_reply(order, "ok live=%llu accepted=%llu starved=%llu dial_failures=%llu %s %s",
                       (unsigned long long)route->live, (unsigned long long)route->accepted,
                       (unsigned long long)route->starved, (unsigned long long)route->dial_failures,
                       up, down);
}

static const struct {
    const char *name, *usage;
    size_t least, most; /* words, the name among them */
    void (*carry_out)(struct shaper_order *);
} COMMANDS[] = {
    {"bucket", "NAME RATE_BIT_S [BURST_BYTES]", 3, 4, shaper_command_bucket},
    {"route", "TARGET [LISTEN]", 2, 3, command_route},
    {"shape", "ID up|down|both SETTING=VALUE...", 4, SHAPER_WORDS, shaper_command_shape},
    {"fault", "ID up|down|both hold|drop|carry|flip=N|truncate=N|duplicate=N...", 4, SHAPER_WORDS,
     shaper_command_fault},
    {"door", "ID open|refuse|ignore", 3, 3, command_door},
    {"reset", "ID dialler|target|both", 3, 3, command_reset},
    {"half", "ID dialler|target|both", 3, 3, command_half},
    {"heal", "ID", 2, 2, command_heal},
    {"remove", "ID", 2, 2, command_remove},
    {"stats", "[ID]", 1, 2, command_stats},
};

void shaper_command(struct shaper *shaper, char *line, char text[SHAPER_LINE])
{
    struct shaper_order order = {.shaper = shaper, .reply = text};
    if (!shaper_words_split(line, &order.words)) {
        shaper_order_reply(&order, "error a command has at most %d words", SHAPER_WORDS);
        return;
    }
    const char *name = shaper_order_word(&order, 0);
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++) {
        if (strcmp(name, COMMANDS[i].name) != 0)
            continue;
        if (order.words.count < COMMANDS[i].least || order.words.count > COMMANDS[i].most)
            shaper_order_reply(&order, "error it is: %s %s", name, COMMANDS[i].usage);
        else
            COMMANDS[i].carry_out(&order);
        return;
    }
    shaper_order_reply(&order, "error there is no command '%s'", SHOWN(name));
}
