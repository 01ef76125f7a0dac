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

#include "driven/order.h"
#include "settings.h"

static bool address(struct driven_order *order, const char *text, bool any_port,
                    struct sockaddr_storage *parsed)
{
    const char *error = shaper_address_parse(text, any_port, parsed);
    if (error)
        driven_order_reply(order, "error '%s' is no address: %s", SHOWN(text), error);
    return !error;
}

/* ---- commands ---------------------------------------------------------------------------------- */

static void command_route(struct driven_order *order)
{
    struct sockaddr_storage target, listen;
    const char *from = order->words.count > 2 ? driven_order_word(order, 2) : "127.0.0.1:0";
    if (!address(order, driven_order_word(order, 1), false, &target) ||
        !address(order, from, true, &listen))
        return;
    struct shaper_route *route;
    const char *error = shaper_route_add(order->program, &target, &listen, &route);
    if (error) {
        driven_order_reply(order, "error cannot listen on %s: %s", SHOWN(from), error);
        return;
    }
    char text[SHAPER_ADDRESS];
    shaper_address_format(&route->address, text);
    driven_order_reply(order, "ok %llu %s", (unsigned long long)route->id, text);
}

static void command_door(struct driven_order *order)
{
    static const char *const names[] = {"open", "refuse", "ignore"};
    struct shaper_route *route = shaper_route_named(order);
    if (!route)
        return;
    for (int door = 0; door < 3; door++) {
        if (strcmp(driven_order_word(order, 2), names[door]) != 0)
            continue;
        const char *error = shaper_route_set_door(order->program, route, (enum shaper_door)door);
        if (error) {
            driven_order_reply(order, "error the route cannot %s: %s", names[door], error);
            return;
        }
        shaper_connection_accept(order->program, route);
        driven_order_reply(order, "ok");
        return;
    }
    driven_order_reply(order, "error '%s' is not open, refuse or ignore",
                       SHOWN(driven_order_word(order, 2)));
}

/* Reset ends of all live connections. */
static void cut(struct driven_order *order, bool silent)
{
    struct shaper_route *route = shaper_route_named(order);
    uint32_t chosen = route ? driven_order_choice(order, "dialler", "target") : 0;
    if (!chosen)
        return;
    uint64_t count = 0;
    for (struct shaper_connection *at = route->connections, *next; at; at = next, count++) {
        next = at->next;
        if (chosen == 3)
            shaper_connection_close(order->program, at, true);
        else
            shaper_connection_reset_end(order->program, at,
                                        chosen == 1 ? SHAPER_DIALLER : SHAPER_TARGET, silent);
    }
    driven_order_reply(order, "ok %llu", (unsigned long long)count);
}

static void command_reset(struct driven_order *order)
{
    cut(order, false);
}

static void command_half(struct driven_order *order)
{
    cut(order, true);
}

static void command_heal(struct driven_order *order)
{
    struct shaper_route *route = shaper_route_named(order);
    if (!route)
        return;
    const char *error = shaper_route_heal(order->program, route);
    if (error)
        driven_order_reply(order, "error the route cannot listen again: %s", error);
    else
        driven_order_reply(order, "ok");
}

static void command_remove(struct driven_order *order)
{
    struct shaper_route *route = shaper_route_named(order);
    if (!route)
        return;
    shaper_route_remove(order->program, route);
    driven_order_reply(order, "ok");
}

static void describe(const struct shaper_route *route, uint32_t index, char text[DRIVEN_LINE / 2])
{
    static const char *const names[] = {"up", "down"};
    const struct shaper_direction *direction = &route->direction[index];
    const struct shaper_damage *damaged = &direction->damaged;
    unsigned long long queued = 0;
    for (const struct shaper_connection *at = route->connections; at; at = at->next)
        queued += at->flow[index].queue.size;
    const char *name = names[index];
    snprintf(text, DRIVEN_LINE / 2,
             "%s.bytes=%llu %s.queued=%llu %s.dropped=%llu %s.flipped=%llu %s.truncated=%llu "
             "%s.duplicated=%llu",
             name, (unsigned long long)direction->bytes, name, queued, name,
             (unsigned long long)direction->dropped, name, (unsigned long long)damaged->flip, name,
             (unsigned long long)damaged->truncate, name, (unsigned long long)damaged->duplicate);
}

static void command_stats(struct driven_order *order)
{
    const struct shaper *shaper = order->program;
    if (order->words.count < 2) {
        unsigned long long routes = 0, live = 0, starved = 0;
        for (uint64_t i = 0; i < shaper->route_count; i++) {
            const struct shaper_route *route = shaper->routes[i];
            routes += route ? 1 : 0;
            live += route ? route->live : 0;
            starved += route ? route->starved : 0;
        }
        driven_order_reply(order, "ok routes=%llu live=%llu starved=%llu seed=%llu", routes, live,
                           starved, (unsigned long long)shaper->seed);
        return;
    }
    const struct shaper_route *route = shaper_route_named(order);
    if (!route)
        return;
    char up[DRIVEN_LINE / 2], down[DRIVEN_LINE / 2];
    describe(route, SHAPER_UP, up);
    describe(route, SHAPER_DOWN, down);
    driven_order_reply(order, "ok live=%llu accepted=%llu starved=%llu dial_failures=%llu %s %s",
                       (unsigned long long)route->live, (unsigned long long)route->accepted,
                       (unsigned long long)route->starved, (unsigned long long)route->dial_failures,
                       up, down);
}

static const struct driven_command COMMANDS[] = {
    {"bucket", "NAME RATE_BIT_S [BURST_BYTES]", 3, 4, shaper_command_bucket},
    {"route", "TARGET [LISTEN]", 2, 3, command_route},
    {"shape", "ID up|down|both SETTING=VALUE...", 4, DRIVEN_WORDS, shaper_command_shape},
    {"fault", "ID up|down|both hold|drop|carry|flip=N|truncate=N|duplicate=N...", 4, DRIVEN_WORDS,
     shaper_command_fault},
    {"door", "ID open|refuse|ignore", 3, 3, command_door},
    {"reset", "ID dialler|target|both", 3, 3, command_reset},
    {"half", "ID dialler|target|both", 3, 3, command_half},
    {"heal", "ID", 2, 2, command_heal},
    {"remove", "ID", 2, 2, command_remove},
    {"stats", "[ID]", 1, 2, command_stats},
};

void shaper_command(void *program, char *line, char reply[DRIVEN_LINE])
{
    driven_order_run(COMMANDS, sizeof COMMANDS / sizeof *COMMANDS, program, line, reply);
}
