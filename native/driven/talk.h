/* The owner's side of a program that somebody drives: command lines on standard input, reply lines
 * on standard output, and when to end. The program's loop is its own; it is told what to watch. */
#ifndef DRIVEN_TALK_H
#define DRIVEN_TALK_H

#include <stdbool.h>
#include <stddef.h>

#define DRIVEN_LINE 1024 /* a command or a reply, with its end */

struct driven_talk {
    int epoll;
    void *commands, *replies; /* what epoll's events carry */
    /* Carry out one command line (without its end) and write one reply line (with it). */
    void (*carry_out)(void *program, char *line, char reply[DRIVEN_LINE]);
    void *program;

    char in[DRIVEN_LINE];
    size_t in_size;
    bool overlong; /* the rest of the line at hand is thrown away */
    char out[64 * DRIVEN_LINE];
    size_t out_size;
};

/* Begin to listen; all fields down to `program` are set. false: errno says why. */
bool driven_talk_open(struct driven_talk *talk);
/* Have `source` told when the owner's process has ended: its children may hold the pipe. Where the
 * kernel has no pidfd, the end of standard input must do. */
void driven_talk_watch_owner(const struct driven_talk *talk, void *source);
/* Read and carry out what the owner says; false: it is gone. */
bool driven_talk_hear(struct driven_talk *talk);
/* Write what is left of the replies; false: the owner is gone. */
bool driven_talk_answer(struct driven_talk *talk);

#endif
