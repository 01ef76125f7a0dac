/* A command line, taken apart: words, numbers and name=value pairs. */
#ifndef DRIVEN_WORDS_H
#define DRIVEN_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DRIVEN_WORDS 12

struct driven_words {
    char *at[DRIVEN_WORDS];
    size_t count;
};

/* Cut the line at its blanks, in place; false: there are more than DRIVEN_WORDS. */
bool driven_words_split(char *line, struct driven_words *words);
/* A decimal number of digits only, at most `most`. */
bool driven_words_number(const char *text, uint64_t most, uint64_t *number);
/* If `word` is NAME=..., what follows the sign; else NULL. */
char *driven_words_value(char *word, const char *name);
/* The first bytes of `text`, fit to be printed in a reply. */
struct driven_shown {
    char shown[41];
};
struct driven_shown driven_words_shown(const char *text);

#endif
