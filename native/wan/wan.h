/* The emulator of a wide-area network: IP packets between network namespaces get the rate, the
 * delay, the losses and the order of another network, so that the kernel's own TCP meets them.
 *
 *      namespace of host 1                                        namespace of host 2
 *      TCP ──► tun device ──► path 1→2: queue, loss, delay ──► tun device ──► TCP
 *      TCP ◄── tun device ◄── path 2→1: queue, loss, delay ◄── tun device ◄── TCP
 *
 * A host is a namespace with a device and an IPv4 address; hosts share the first three bytes of
 * it. Each ordered pair of hosts has a path. A packet that is let onto a path is kept in the heap
 * of timers until its time has come. One thread, one epoll. */
#ifndef WAN_WAN_H
#define WAN_WAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driven/random.h"
#include "driven/talk.h"
#include "driven/timers.h"

#define WAN_HOSTS 256             /* by the last byte of the address */
#define WAN_NAME 64               /* a line's name, with its zero */
#define WAN_PACKET 65536          /* bytes of the largest packet */
#define WAN_HELD_MAX (512u << 20) /* bytes under way in all; what comes beyond is dropped */

/* ---- paths: path.c, pure ------------------------------------------------------------------ */

/* A transmitter with its queue: a path's own, or one that several paths share. */
struct wan_line {
    char name[WAN_NAME];
    uint64_t rate;  /* bit/s of IP packets; 0: unlimited */
    uint64_t queue; /* bytes that may wait; what comes beyond is dropped */
    int64_t next;   /* when it has sent all that waits, ns */
};

/* Shares are in millionths. */
struct wan_shape {
    int64_t delay, jitter; /* ns */
    uint64_t loss;
    uint64_t burst;   /* packets lost in a row, on average; 0 and 1: each for itself */
    uint64_t reorder; /* late without holding back those behind */
    uint64_t duplicate;
    struct wan_line own;
    struct wan_line *shared; /* NULL: none */
    bool cut;
};

struct wan_counts {
    uint64_t sent; /* by the host; each is then cut, overflown, lost or under way */
    uint64_t cut, overflown, lost, duplicated;
    uint64_t delivered, reordered, bytes;
};

struct wan_path {
    struct wan_shape shape;
    struct wan_counts counts;
    struct driven_random random;
    bool losing;           /* in the midst of a burst */
    int64_t last;          /* release of the packet that those behind may not overtake */
    uint64_t serial;       /* of the next packet */
    uint64_t delivered_to; /* one more than the highest serial delivered */
};

#define WAN_COPIES 2

/* Decide on a packet of `length` bytes. Returns how many copies of it are released, and when. */
unsigned wan_path_admit(struct wan_path *path, size_t length, int64_t now,
                        int64_t release[WAN_COPIES]);
/* The packet of this serial arrives. */
void wan_path_deliver(struct wan_path *path, uint64_t serial, size_t length);

/* ---- hosts and packets: host.c ------------------------------------------------------------- */

/* What an epoll event points at. */
enum wan_source { WAN_COMMANDS, WAN_REPLIES, WAN_CLOCK, WAN_OWNER, WAN_DEVICE };

struct wan_host {
    enum wan_source source; /* the first member: what epoll points at */
    uint8_t number;         /* last byte of the address */
    int device;
    struct wan_path *to[WAN_HOSTS]; /* NULL: not asked for yet */
};

struct wan_packet {
    struct driven_timer timer; /* the first member: what the heap holds */
    struct wan_path *path;
    int device; /* where it goes */
    uint64_t serial;
    size_t length;
    uint8_t bytes[];
};

struct wan {
    int epoll;
    uint64_t seed;
    uint32_t network; /* the first three bytes of all addresses, once there is a host */
    struct driven_timers timers;
    struct wan_host *hosts[WAN_HOSTS];
    struct wan_line **lines;
    uint64_t line_count;
    uint64_t held;    /* bytes under way */
    uint64_t foreign; /* packets that were for nobody here */
    uint64_t refused; /* packets that a device did not take, or for which there was no memory */
    uint8_t scratch[WAN_PACKET];
};

int64_t wan_now(void);

/* Open a device in the namespace and make a host of it. NULL, or a sentence that says what was
 * wrong; `name` is the device's, of IFNAMSIZ bytes. */
const char *wan_host_add(struct wan *wan, uint32_t address, const char *namespace, char *name);
/* Make the path if there is none yet; NULL: no memory. */
struct wan_path *wan_path_between(struct wan *wan, struct wan_host *from, uint8_t to);
/* Read what the host sends, some packets at most. */
void wan_host_read(struct wan *wan, struct wan_host *host);
/* Deliver what is due. */
void wan_deliver(struct wan *wan);

/* ---- commands: command.c -------------------------------------------------------------------- */

/* For a driven_talk; `program` is the wan. */
void wan_command(void *program, char *line, char reply[DRIVEN_LINE]);

#endif
