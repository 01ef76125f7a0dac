/* One command being carried out, and its arguments. Each of the functions that take an argument
 * replies itself if it cannot make sense of the word. */
#ifndef DRIVEN_ORDER_H
#define DRIVEN_ORDER_H

#include "words.h"

struct driven_order {
    void *program;             /* whose command it is */
    struct driven_words words; /* the first is the command's name */
    char *reply;               /* room for DRIVEN_LINE bytes */
};

struct driven_command {
    const char *name, *usage;
    size_t least, most; /* words, the name among them */
    void (*carry_out)(struct driven_order *);
};

#define SHOWN(word) driven_words_shown(word).shown

/* Carry out one line by a table of commands. */
void driven_order_run(const struct driven_command *commands, size_t count, void *program,
                      char *line, char *reply);

void driven_order_reply(struct driven_order *order, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The word at an index; empty if there are fewer. */
const char *driven_order_word(const struct driven_order *order, size_t index);
/* A number from 0 to `most`; `what` names it in the reply. */
bool driven_order_number(struct driven_order *order, const char *what, const char *text,
                         uint64_t most, uint64_t *value);
/* The second argument as a set of bits: 1 for `first`, 2 for `second`, 3 for both; 0: neither. */
uint32_t driven_order_choice(struct driven_order *order, const char *first, const char *second);

#endif
