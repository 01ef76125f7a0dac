/* The command line's words. Nothing here allocates, and no byte is taken for granted. */
#include "words.h"

#include <string.h>

bool driven_words_split(char *line, struct driven_words *words)
{
    words->count = 0;
    char *rest = NULL;
    for (char *at = strtok_r(line, " \t\r", &rest); at; at = strtok_r(NULL, " \t\r", &rest)) {
        if (words->count == DRIVEN_WORDS)
            return false;
        words->at[words->count++] = at;
    }
    return true;
}

bool driven_words_number(const char *text, uint64_t most, uint64_t *number)
{
    uint64_t value = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        uint64_t digit = (uint64_t)(*text - '0');
        if (value > (most - digit) / 10)
            return false;
        value = 10 * value + digit;
    }
    *number = value;
    return true;
}

char *driven_words_value(char *word, const char *name)
{
    size_t length = strlen(name);
    return strncmp(word, name, length) == 0 && word[length] == '=' ? word + length + 1 : NULL;
}

struct driven_shown driven_words_shown(const char *text)
{
    struct driven_shown fit;
    size_t length = 0;
    for (; text[length] && length + 1 < sizeof fit.shown; length++)
        fit.shown[length] = text[length] > ' ' && text[length] < 127 ? text[length] : '?';
    fit.shown[length] = '\0';
    return fit;
}
