/* The owner's side: command lines on standard input, reply lines on standard output. */
#ifndef SHAPER_TALK_H
#define SHAPER_TALK_H

#include "shaper.h"

struct shaper_talk {
    enum shaper_source commands, replies; /* what epoll points at */
    char in[SHAPER_LINE];
    size_t in_size;
    bool overlong; /* the rest of the line at hand is thrown away */
    char out[64 * SHAPER_LINE];
    size_t out_size;
};

bool shaper_talk_open(struct shaper *shaper, struct shaper_talk *talk);
/* Read and carry out what the owner says; false: it is gone. */
bool shaper_talk_hear(struct shaper *shaper, struct shaper_talk *talk);
/* Write what is left of the replies; false: the owner is gone. */
bool shaper_talk_answer(struct shaper *shaper, struct shaper_talk *talk);

#endif
