/* One command being carried out, and its arguments. Each of the functions that take an argument
 * replies itself if it cannot make sense of the word. */
#ifndef SHAPER_ORDER_H
#define SHAPER_ORDER_H

#include "shaper.h"
#include "words.h"

struct shaper_order {
    struct shaper *shaper;
    struct shaper_words words; /* the first is the command's name */
    char *reply;
};

#define SHOWN(word) shaper_words_shown(word).shown

void shaper_order_reply(struct shaper_order *order, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The word at an index; empty if there are fewer. */
const char *shaper_order_word(const struct shaper_order *order, size_t index);
/* A number from 0 to `most`; `what` names it in the reply. */
bool shaper_order_number(struct shaper_order *order, const char *what, const char *text,
                         uint64_t most, uint64_t *value);
/* The route that the first argument names, or NULL. */
struct shaper_route *shaper_order_route(struct shaper_order *order);
/* The second argument as a set of bits: 1 for `first`, 2 for `second`, 3 for both; 0: neither. */
uint32_t shaper_order_choice(struct shaper_order *order, const char *first, const char *second);

/* The commands that change figures: settings.c. */
void shaper_command_bucket(struct shaper_order *order);
void shaper_command_shape(struct shaper_order *order);
void shaper_command_fault(struct shaper_order *order);

#endif
