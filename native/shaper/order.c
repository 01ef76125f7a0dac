/* What the commands have in common. */
#include "order.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void shaper_order_reply(struct shaper_order *order, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(order->reply, SHAPER_LINE - 1, format, arguments);
    va_end(arguments);
    strcat(order->reply, "\n");
}

const char *shaper_order_word(const struct shaper_order *order, size_t index)
{
    return index < order->words.count ? order->words.at[index] : "";
}

bool shaper_order_number(struct shaper_order *order, const char *what, const char *text,
                         uint64_t most, uint64_t *value)
{
    if (shaper_words_number(text, most, value))
        return true;
    shaper_order_reply(order, "error %s is '%s', it must be a number from 0 to %llu", what,
                       SHOWN(text), (unsigned long long)most);
    return false;
}

struct shaper_route *shaper_order_route(struct shaper_order *order)
{
    struct shaper *shaper = order->shaper;
    uint64_t id;
    if (shaper_words_number(shaper_order_word(order, 1), UINT64_MAX, &id) &&
        id < shaper->route_count && shaper->routes[id])
        return shaper->routes[id];
    shaper_order_reply(order, "error there is no route '%s'", SHOWN(shaper_order_word(order, 1)));
    return NULL;
}

uint32_t shaper_order_choice(struct shaper_order *order, const char *first, const char *second)
{
    const char *text = shaper_order_word(order, 2);
    if (strcmp(text, first) == 0)
        return 1;
    if (strcmp(text, second) == 0)
        return 2;
    if (strcmp(text, "both") == 0)
        return 3;
    shaper_order_reply(order, "error '%s' is not %s, %s or both", SHOWN(text), first, second);
    return 0;
}
