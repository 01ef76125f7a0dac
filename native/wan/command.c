/* The commands: one line each, one reply line each, `ok ...` or `error WHAT WAS WRONG`.
 *
 *     host ADDRESS NAMESPACE        ok DEVICE; NAMESPACE is a path, as /proc/PID/ns/net
 *     line NAME RATE_BIT_S QUEUE_BYTES        make a line that paths share, or change it
 *     shape FROM TO [rate_bit_s=N] [queue_bytes=N] [delay_ns=N] [jitter_ns=N] [loss=N] [burst=N]
 *                   [reorder=N] [duplicate=N] [line=NAME|-]
 *     cut FROM TO on|off
 *     stats [FROM TO]               ok NAME=NUMBER ...
 *
 * FROM and TO are addresses of hosts; shares of packets are in millionths. */
#include <arpa/inet.h>
#include <linux/if.h>
#include <stdlib.h>
#include <string.h>

#include "driven/order.h"
#include "wan.h"

#define RATE_MAX 1000000000000000u /* bit/s */
#define QUEUE_MAX (1u << 30)       /* bytes */
#define NS_MAX 3600000000000u      /* an hour */
#define BURST_MAX 100000u          /* packets */
#define MILLION 1000000u

static bool address(struct driven_order *order, size_t index, uint32_t *parsed)
{
    const char *text = driven_order_word(order, index);
    struct in_addr found;
    if (inet_pton(AF_INET, text, &found) != 1) {
        driven_order_reply(order, "error '%s' is no IPv4 address", SHOWN(text));
        return false;
    }
    *parsed = ntohl(found.s_addr);
    return true;
}

static struct wan_host *host(struct driven_order *order, size_t index)
{
    struct wan *wan = order->program;
    uint32_t where = 0;
    if (!address(order, index, &where))
        return NULL;
    struct wan_host *found = where >> 8 == wan->network ? wan->hosts[(uint8_t)where] : NULL;
    if (!found)
        driven_order_reply(order, "error there is no host '%s'",
                           SHOWN(driven_order_word(order, index)));
    return found;
}

/* The path that the first two arguments name, or NULL. */
static struct wan_path *path(struct driven_order *order)
{
    struct wan_host *from = host(order, 1);
    struct wan_host *to = from ? host(order, 2) : NULL;
    if (!to)
        return NULL;
    struct wan_path *found = wan_path_between(order->program, from, to->number);
    if (!found)
        driven_order_reply(order, "error no memory");
    return found;
}

static struct wan_line *line_named(const struct wan *wan, const char *name)
{
    for (uint64_t i = 0; i < wan->line_count; i++)
        if (strcmp(wan->lines[i]->name, name) == 0)
            return wan->lines[i];
    return NULL;
}

static void command_host(struct driven_order *order)
{
    uint32_t where = 0;
    char name[IFNAMSIZ];
    if (!address(order, 1, &where))
        return;
    const char *error = wan_host_add(order->program, where, driven_order_word(order, 2), name);
    if (error)
        driven_order_reply(order, "error cannot make host %s: %s",
                           SHOWN(driven_order_word(order, 1)), error);
    else
        driven_order_reply(order, "ok %.*s", IFNAMSIZ, name);
}

static struct wan_line *make_line(struct driven_order *order, const char *name)
{
    struct wan *wan = order->program;
    if (strlen(name) >= WAN_NAME || strchr(name, '=') || strcmp(name, "-") == 0) {
        driven_order_reply(order, "error '%s' is no name for a line: at most %d bytes, no sign",
                           SHOWN(name), WAN_NAME - 1);
        return NULL;
    }
    void *grown = realloc(wan->lines, (wan->line_count + 1) * sizeof *wan->lines);
    struct wan_line *line = calloc(1, sizeof *line);
    if (grown)
        wan->lines = grown;
    if (!grown || !line) {
        free(line);
        driven_order_reply(order, "error no memory");
        return NULL;
    }
    strcpy(line->name, name);
    return wan->lines[wan->line_count++] = line;
}

/* What waits goes on at the time that it was given; only what comes is sent at the new rate. */
static void set_rate(struct wan_line *line, uint64_t rate)
{
    line->rate = rate;
    line->next = 0;
}

static void command_line(struct driven_order *order)
{
    const char *name = driven_order_word(order, 1);
    uint64_t rate, queue;
    if (!driven_order_number(order, "the rate", driven_order_word(order, 2), RATE_MAX, &rate) ||
        !driven_order_number(order, "the queue", driven_order_word(order, 3), QUEUE_MAX, &queue))
        return;
    struct wan_line *line = line_named(order->program, name);
    if (!line && !(line = make_line(order, name)))
        return;
    set_rate(line, rate);
    line->queue = queue;
    driven_order_reply(order, "ok");
}

static bool number(struct driven_order *order, char *word, const char *name, uint64_t most,
                   uint64_t *value, bool *known)
{
    const char *text = driven_words_value(word, name);
    *known = text != NULL;
    return text && driven_order_number(order, name, text, most, value);
}

/* Take one setting into `shape`; false: the reply says what is wrong. */
static bool setting(struct driven_order *order, char *word, struct wan_shape *shape)
{
    const struct {
        const char *name;
        uint64_t most;
        uint64_t *value;
        int64_t *time;
    } settings[] = {
        {"queue_bytes", QUEUE_MAX, &shape->own.queue, NULL},
        {"delay_ns", NS_MAX, NULL, &shape->delay},
        {"jitter_ns", NS_MAX, NULL, &shape->jitter},
        {"loss", MILLION, &shape->loss, NULL},
        {"burst", BURST_MAX, &shape->burst, NULL},
        {"reorder", MILLION, &shape->reorder, NULL},
        {"duplicate", MILLION, &shape->duplicate, NULL},
    };
    bool known;
    uint64_t value = 0;
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        bool understood = number(order, word, settings[i].name, settings[i].most, &value, &known);
        if (understood && settings[i].value)
            *settings[i].value = value;
        else if (understood)
            *settings[i].time = (int64_t)value;
        if (known)
            return understood;
    }
    bool rate = number(order, word, "rate_bit_s", RATE_MAX, &value, &known);
    if (rate)
        set_rate(&shape->own, value);
    if (known)
        return rate;
    const char *name = driven_words_value(word, "line");
    if (!name) {
        driven_order_reply(order, "error there is no setting '%s'", SHOWN(word));
        return false;
    }
    shape->shared = strcmp(name, "-") == 0 ? NULL : line_named(order->program, name);
    if (!shape->shared && strcmp(name, "-") != 0) {
        driven_order_reply(order, "error there is no line '%s'", SHOWN(name));
        return false;
    }
    return true;
}

/* All settings, or nothing. */
static void command_shape(struct driven_order *order)
{
    struct wan_path *found = path(order);
    if (!found)
        return;
    struct wan_shape changed = found->shape;
    for (size_t i = 3; i < order->words.count; i++)
        if (!setting(order, order->words.at[i], &changed))
            return;
    found->shape = changed;
    driven_order_reply(order, "ok");
}

static void command_cut(struct driven_order *order)
{
    struct wan_path *found = path(order);
    const char *how = driven_order_word(order, 3);
    bool on = strcmp(how, "on") == 0;
    if (!found)
        return;
    if (!on && strcmp(how, "off") != 0) {
        driven_order_reply(order, "error '%s' is not on or off", SHOWN(how));
        return;
    }
    found->shape.cut = on;
    driven_order_reply(order, "ok");
}

static void command_stats(struct driven_order *order)
{
    const struct wan *wan = order->program;
    if (order->words.count == 1) {
        driven_order_reply(order, "ok under_way=%llu held=%llu foreign=%llu refused=%llu seed=%llu",
                           (unsigned long long)wan->timers.count, (unsigned long long)wan->held,
                           (unsigned long long)wan->foreign, (unsigned long long)wan->refused,
                           (unsigned long long)wan->seed);
        return;
    }
    const struct wan_path *found = path(order);
    if (!found)
        return;
    const struct wan_counts *counts = &found->counts;
    driven_order_reply(order,
                       "ok sent=%llu cut=%llu overflown=%llu lost=%llu duplicated=%llu "
                       "delivered=%llu reordered=%llu bytes=%llu",
                       (unsigned long long)counts->sent, (unsigned long long)counts->cut,
                       (unsigned long long)counts->overflown, (unsigned long long)counts->lost,
                       (unsigned long long)counts->duplicated,
                       (unsigned long long)counts->delivered, (unsigned long long)counts->reordered,
                       (unsigned long long)counts->bytes);
}

static const struct driven_command COMMANDS[] = {
    {"host", "ADDRESS NAMESPACE", 3, 3, command_host},
    {"line", "NAME RATE_BIT_S QUEUE_BYTES", 4, 4, command_line},
    {"shape", "FROM TO SETTING=VALUE...", 4, DRIVEN_WORDS, command_shape},
    {"cut", "FROM TO on|off", 4, 4, command_cut},
    {"stats", "[FROM TO]", 1, 3, command_stats},
};

void wan_command(void *program, char *line, char reply[DRIVEN_LINE])
{
    driven_order_run(COMMANDS, sizeof COMMANDS / sizeof *COMMANDS, program, line, reply);
}
