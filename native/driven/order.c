/* What the commands have in common. */
#include "order.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "talk.h"

void driven_order_run(const struct driven_command *commands, size_t count, void *program,
                      char *line, char *reply)
{
    struct driven_order order = {.program = program, .reply = reply};
    if (!driven_words_split(line, &order.words)) {
        driven_order_reply(&order, "error a command has at most %d words", DRIVEN_WORDS);
        return;
    }
    const char *name = driven_order_word(&order, 0);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, commands[i].name) != 0)
            continue;
        if (order.words.count < commands[i].least || order.words.count > commands[i].most)
            driven_order_reply(&order, "error it is: %s %s", name, commands[i].usage);
        else
            commands[i].carry_out(&order);
        return;
    }
    driven_order_reply(&order, "error there is no command '%s'", SHOWN(name));
}

void driven_order_reply(struct driven_order *order, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(order->reply, DRIVEN_LINE - 1, format, arguments);
    va_end(arguments);
    strcat(order->reply, "\n");
}

const char *driven_order_word(const struct driven_order *order, size_t index)
{
    return index < order->words.count ? order->words.at[index] : "";
}

bool driven_order_number(struct driven_order *order, const char *what, const char *text,
                         uint64_t most, uint64_t *value)
{
    if (driven_words_number(text, most, value))
        return true;
    driven_order_reply(order, "error %s is '%s', it must be a number from 0 to %llu", what,
                       SHOWN(text), (unsigned long long)most);
    return false;
}

uint32_t driven_order_choice(struct driven_order *order, const char *first, const char *second)
{
    const char *text = driven_order_word(order, 2);
    if (strcmp(text, first) == 0)
        return 1;
    if (strcmp(text, second) == 0)
        return 2;
    if (strcmp(text, "both") == 0)
        return 3;
    driven_order_reply(order, "error '%s' is not %s, %s or both", SHOWN(text), first, second);
    return 0;
}
