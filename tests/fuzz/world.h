/* What an engine sees of the world while it is fuzzed: sockets in memory, a clock that the input
 * moves, no thread. Every run is a function of its input alone, and takes microseconds.
 *
 * The linker puts the functions of world.c in the place of the system's (CMakeLists.txt lists them);
 * they pass on what is not called from inside a run, for the fuzzer's own run time needs them too.
 */
#ifndef COLL_FUZZ_WORLD_H
#define COLL_FUZZ_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WORLD_SOCKETS = 64, WORLD_SAID = 256 };

struct world_socket {
    bool open, listening, dialed, accepted;
    bool waiting;               /* to be accepted */
    void *watch;                /* what epoll gives back; NULL: not watched */
    uint32_t events;
    uint8_t *in;                /* what will be received */
    size_t in_length, in_at;
    size_t piece;               /* at most so many bytes at once; 0: any number */
    bool closed, reset;         /* by the other side, once everything was received */
    size_t room;                /* bytes that can be sent */
    bool signalled;             /* eventfd */
    uint8_t said[WORLD_SAID];   /* the first bytes that were sent */
    size_t said_length;
    size_t handshake;           /* so many bytes are sent before the first frame */
    uint8_t header[128];        /* of the frame that is being sent */
    size_t header_got, payload_left;
};

/* Begin and end a run; at the end every descriptor must have been closed. */
void world_begin(void);
void world_end(void);
/* A new connection waits to be accepted; NULL: there are too many. */
struct world_socket *world_connect(void);
/* The i-th open socket that a peer may speak on, NULL past the last. */
struct world_socket *world_socket_at(unsigned i);
void world_feed(struct world_socket *to, const void *bytes, size_t length);
/* Whether no descriptor is ready. */
bool world_is_quiet(void);
void world_pass(uint64_t ns);
/* A defect: say where, and abort. */
#define WORLD_CHECK(condition) \
    ((condition) ? (void)0 : world_broken(#condition, __FILE__, __LINE__))
void world_broken(const char *what, const char *file, int line);

#endif
