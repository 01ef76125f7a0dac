/* A command line, taken apart: words, numbers and name=value pairs. */
#ifndef SHAPER_WORDS_H
#define SHAPER_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHAPER_WORDS 12

struct shaper_words {
    char *at[SHAPER_WORDS];
    size_t count;
};

/* Cut the line at its blanks, in place; false: there are more than SHAPER_WORDS. */
bool shaper_words_split(char *line, struct shaper_words *words);
/* A decimal number of digits only, at most `most`. */
bool shaper_words_number(const char *text, uint64_t most, uint64_t *number);
/* If `word` is NAME=..., what follows the sign; else NULL. */
char *shaper_words_value(char *word, const char *name);
/* The first bytes of `text`, fit to be printed in a reply. */
struct shaper_shown {
    char shown[41];
};
struct shaper_shown shaper_words_shown(const char *text);

#endif
