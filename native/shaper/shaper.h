/* The shaping proxy: TCP connections that pass through it get the rate, the delay and the damage
 * of another network than the machine has.
 *
 *      dialler ──► [end 0]  flow "up":   queue, delay, rate, damage  ──► [end 1] ──► target
 *      dialler ◄── [end 0] ◄──  flow "down": queue, delay, rate, damage   [end 1] ◄── target
 *
 * A route is a listener and a target; each connection that it accepts is dialled onward and has
 * two flows, which read what one end sends and hand it to the other when its time has come. What a
 * direction of a route is told applies to its live connections too. One thread, one epoll; a
 * program of its own, which knows nothing of the engine. */
#ifndef SHAPER_SHAPER_H
#define SHAPER_SHAPER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driven/random.h"
#include "driven/talk.h"
#include "driven/timers.h"
#include "queue.h"

enum { SHAPER_UP, SHAPER_DOWN, SHAPER_DIRECTIONS };
enum { SHAPER_DIALLER, SHAPER_TARGET, SHAPER_ENDS };

#define SHAPER_BUCKETS 4       /* shared buckets per direction */
#define SHAPER_NAME 32         /* a bucket's name, with its zero */
#define SHAPER_ADDRESS 80      /* an address as text, with its zero */
#define SHAPER_QUEUE_MIN 4096  /* bytes; damage needs some room */
#define SHAPER_CHUNK (1 << 18) /* bytes of one read; with the same again it stays in L2 */

/* ---- rates: bucket.c ------------------------------------------------------------------- */

/* Where bytes wait their turn. Each flow reserves one quantum at a time, and gets the next moment
 * that nobody has: so flows that share a bucket take turns. */
struct shaper_bucket {
    char name[SHAPER_NAME];
    uint64_t rate;  /* bit/s; 0: unlimited */
    uint64_t burst; /* bytes that may pass at once after a pause */
    int64_t next;   /* when the next reservation begins, ns */
};

/* Change the rate; `burst` 0: a default that hides the lateness of a timer. Reservations made
 * before are void: the caller clears those of its flows. */
void shaper_bucket_set(struct shaper_bucket *bucket, uint64_t rate, uint64_t burst);
/* How many bytes to reserve at a time. */
size_t shaper_bucket_quantum(const struct shaper_bucket *bucket);
/* Reserve; returns when the bytes may pass, which may be in the past. */
int64_t shaper_bucket_reserve(struct shaper_bucket *bucket, size_t bytes, int64_t now);

/* ---- damage: damage.c ------------------------------------------------------------------ */

struct shaper_damage {
    uint64_t flip, truncate, duplicate; /* chunks */
};

#define SHAPER_DAMAGE_ROOM 16 /* bytes that damage may add to a chunk */

/* Do to a chunk what is pending, and count it in `done`. Returns the new length, at most
 * SHAPER_DAMAGE_ROOM more. */
size_t shaper_damage_apply(struct shaper_damage *pending, struct shaper_damage *done,
                           struct driven_random *random, uint8_t *bytes, size_t length);

/* ---- connections: flow.c, connection.c -------------------------------------------------- */

/* What an epoll event points at; the first member of it. */
enum shaper_source {
    SHAPER_COMMANDS,
    SHAPER_REPLIES,
    SHAPER_CLOCK,
    SHAPER_OWNER,
    SHAPER_LISTENER,
    SHAPER_END
};

/* One direction of a route: what it is told, and what it has done. */
struct shaper_direction {
    struct shaper_bucket own; /* shared by the route's connections */
    struct shaper_bucket *shared[SHAPER_BUCKETS];
    uint32_t shared_count;
    int64_t delay, jitter; /* ns */
    size_t queue;          /* bytes on the way, per connection */
    bool hold, drop;
    struct shaper_damage damage; /* still to do */

    struct shaper_damage damaged;
    uint64_t bytes;   /* handed over */
    uint64_t dropped; /* bytes read and thrown away */
};

/* What a timer belongs to. */
enum shaper_timer_kind { SHAPER_TIMER_FLOW, SHAPER_TIMER_ROUTE };

struct shaper_connection;

struct shaper_end {
    enum shaper_source source;
    struct shaper_connection *connection;
    int fd;         /* -1: closed */
    bool connected; /* a dial has succeeded */
    bool readable;  /* until a read would block */
    bool writable;
    bool dead; /* was reset, or cannot be reached */
};

/* How a direction ends, once its bytes are delivered. */
enum shaper_ending { SHAPER_ENDING_NONE, SHAPER_ENDING_FIN, SHAPER_ENDING_RESET };

struct shaper_flow {
    struct driven_timer timer;
    struct shaper_connection *connection;
    struct shaper_direction *direction;
    struct shaper_end *from, *to;
    struct shaper_queue queue;
    struct driven_random random;
    int64_t last_release; /* release times never go back, as bytes do not overtake */
    size_t granted;       /* bytes reserved in the buckets */
    int64_t granted_at;
    bool exhausted; /* nothing more comes from `from` */
    bool finished;  /* the ending was delivered, or there is nobody to deliver to */
    enum shaper_ending ending;
    int64_t ending_at;
};

struct shaper_connection {
    struct shaper_route *route;
    struct shaper_connection *next, **link; /* of the route, or of the doomed */
    struct shaper_end end[SHAPER_ENDS];
    struct shaper_flow flow[SHAPER_DIRECTIONS];
    bool half_open; /* one end was reset, the other hears nothing of it */
};

enum shaper_door {
    SHAPER_DOOR_OPEN,
    SHAPER_DOOR_REFUSE, /* as if nobody listened */
    SHAPER_DOOR_IGNORE, /* as if the host were gone: dialling gets no answer */
};

struct shaper_route {
    enum shaper_source source;
    uint64_t id;
    struct shaper_route *next; /* of the removed */
    struct driven_timer timer; /* when to accept again after descriptors ran out */
    int guard;                 /* holds the port while nobody listens on it */
    int listener;              /* -1 while refusing */
    enum shaper_door door;
    struct sockaddr_storage address, target;
    struct shaper_direction direction[SHAPER_DIRECTIONS];
    struct shaper_connection *connections;
    uint64_t live, accepted, starved, dial_failures;
};

struct shaper {
    int epoll;
    int64_t now; /* CLOCK_MONOTONIC, ns; taken after each wait */
    uint64_t seed, serial;
    struct driven_timers timers;
    struct shaper_route **routes; /* by id; NULL: removed */
    uint64_t route_count, route_room;
    struct shaper_bucket **buckets;
    uint64_t bucket_count, bucket_room;
    /* Freed after the events at hand, which may name them. */
    struct shaper_connection *doomed;
    struct shaper_route *removed;
    uint8_t scratch[SHAPER_CHUNK + SHAPER_DAMAGE_ROOM];
};

/* Take the time anew; returns it. */
int64_t shaper_now(struct shaper *shaper);

/* Nothing more reaches `to`: what is on its way, and what still comes, is thrown away. */
void shaper_flow_finish(struct shaper *shaper, struct shaper_flow *flow);
/* Nothing more comes from `from`; `to` hears of it after the delay. */
void shaper_flow_end(struct shaper *shaper, struct shaper_flow *flow, enum shaper_ending ending);
/* Void what the flow reserved: its buckets are others now. */
void shaper_flow_release(struct shaper_flow *flow);
/* Read and hand over what can be now, and set the timer for the rest. */
void shaper_flow_pump(struct shaper *shaper, struct shaper_flow *flow);

/* Accept what waits on the route's listener. */
void shaper_connection_accept(struct shaper *shaper, struct shaper_route *route);
void shaper_connection_event(struct shaper *shaper, struct shaper_end *end, uint32_t events);
/* The end was reset by its owner, or cannot be reached: the other one is told, in its time. */
void shaper_connection_lose(struct shaper *shaper, struct shaper_end *end);
/* Close both ends, by a reset where asked. */
void shaper_connection_close(struct shaper *shaper, struct shaper_connection *connection,
                             bool reset);
/* Reset one end; the other one is closed in order after what is on its way (`silent`: it hears
 * nothing, and what it sends is swallowed). */
void shaper_connection_reset_end(struct shaper *shaper, struct shaper_connection *connection,
                                 uint32_t end, bool silent);
void shaper_connection_pump(struct shaper *shaper, struct shaper_connection *connection);
/* Free the connections that were closed. */
void shaper_connection_reap(struct shaper *shaper);

/* ---- routes: route.c, address.c ----------------------------------------------------------- */

/* Functions that can fail return NULL, or a sentence that says what was wrong. */
const char *shaper_route_add(struct shaper *shaper, const struct sockaddr_storage *target,
                             const struct sockaddr_storage *listen, struct shaper_route **added);
/* Reset its connections and close its port; shaper_route_reap frees it. */
void shaper_route_remove(struct shaper *shaper, struct shaper_route *route);
void shaper_route_reap(struct shaper *shaper);
const char *shaper_route_set_door(struct shaper *shaper, struct shaper_route *route,
                                  enum shaper_door door);
/* Whether new connections wait: with one direction cut no handshake would come to its end. */
bool shaper_route_waits(const struct shaper_route *route);
/* Apply what was changed to the live connections and to the listener. */
void shaper_route_apply(struct shaper *shaper, struct shaper_route *route);
const char *shaper_route_heal(struct shaper *shaper, struct shaper_route *route);

const char *shaper_address_parse(const char *text, bool any_port, struct sockaddr_storage *address);
void shaper_address_format(const struct sockaddr_storage *address, char text[SHAPER_ADDRESS]);
socklen_t shaper_address_length(const struct sockaddr_storage *address);

/* ---- commands: command.c, settings.c ------------------------------------- */

/* Carry out one command line; `program` is the shaper. For a driven_talk. */
void shaper_command(void *program, char *line, char reply[DRIVEN_LINE]);

#endif
