/* Hosts: the devices that packets come from and go to. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "wan.h"

#define DEVICE "/dev/net/tun"
#define READS 64 /* of one host, until it is another one's turn */
#define IP_HEADER 20
#define IP_TARGET 16 /* where the header has the target's address */

/* Make a device in the namespace that the calling thread is in; -1: errno says why. */
static int open_device(char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int device = open(DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    strcpy(request.ifr_name, "wan%d");
    if (device >= 0 && ioctl(device, TUNSETIFF, &request) != 0) {
        int error = errno;
        close(device);
        errno = error;
        return -1;
    }
    memcpy(name, request.ifr_name, IFNAMSIZ);
    return device;
}

/* The same in another one. The process stays there: it needs no network of its own. */
static int open_device_in(const char *namespace, char *name)
{
    int there = open(namespace, O_RDONLY | O_CLOEXEC);
    if (there < 0)
        return -1;
    int entered = setns(there, CLONE_NEWNET);
    int error = errno;
    close(there);
    errno = error;
    return entered == 0 ? open_device(name) : -1;
}

const char *wan_host_add(struct wan *wan, uint32_t address, const char *namespace, char *name)
{
    uint8_t number = (uint8_t)address;
    if (wan->network && wan->network != address >> 8)
        return "the first three bytes of its address differ from those of the others";
    if (wan->hosts[number])
        return "there is a host of this address";
    struct wan_host *host = calloc(1, sizeof *host);
    if (!host)
        return "no memory";
    host->source = WAN_DEVICE;
    host->number = number;
    host->device = open_device_in(namespace, name);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = host};
    if (host->device < 0 || epoll_ctl(wan->epoll, EPOLL_CTL_ADD, host->device, &event) != 0) {
        int error = errno;
        if (host->device >= 0)
            close(host->device);
        free(host);
        return strerror(error);
    }
    wan->network = address >> 8;
    wan->hosts[number] = host;
    return NULL;
}

struct wan_path *wan_path_between(struct wan *wan, struct wan_host *from, uint8_t to)
{
    struct wan_path *path = from->to[to];
    if (!path && (path = calloc(1, sizeof *path))) {
        /* Of its own, so that what one path draws does not depend on the others' traffic. */
        path->random.state = wan->seed ^ ((uint64_t)from->number << 40) ^ ((uint64_t)to << 32);
        path->random.state = driven_random_next(&path->random);
        from->to[to] = path;
    }
    return path;
}

static void hold(struct wan *wan, struct wan_path *path, int device, size_t length, int64_t release)
{
    struct wan_packet *packet = NULL;
    if (wan->held + length <= WAN_HELD_MAX && driven_timers_register(&wan->timers)) {
        packet = malloc(sizeof *packet + length);
        if (!packet)
            wan->timers.room--;
    }
    if (!packet) {
        wan->refused++;
        return;
    }
    wan->held += length;
    packet->timer = (struct driven_timer){0};
    packet->path = path;
    packet->device = device;
    packet->serial = path->serial++;
    packet->length = length;
    memcpy(packet->bytes, wan->scratch, length);
    driven_timers_set(&wan->timers, &packet->timer, release);
}

static void route(struct wan *wan, struct wan_host *host, size_t length, int64_t now)
{
    const uint8_t *target = wan->scratch + IP_TARGET;
    bool ours = length >= IP_HEADER && wan->scratch[0] >> 4 == 4 &&
                (uint32_t)(target[0] << 16 | target[1] << 8 | target[2]) == wan->network;
    const struct wan_host *to = ours ? wan->hosts[target[3]] : NULL;
    struct wan_path *path = to ? wan_path_between(wan, host, to->number) : NULL;
    if (!path) {
        wan->foreign++;
        return;
    }
    int64_t release[WAN_COPIES];
    unsigned copies = wan_path_admit(path, length, now, release);
    for (unsigned i = 0; i < copies; i++)
        hold(wan, path, to->device, length, release[i]);
}

void wan_host_read(struct wan *wan, struct wan_host *host)
{
    int64_t now = wan_now();
    for (int i = 0; i < READS; i++) {
        ssize_t length = read(host->device, wan->scratch, sizeof wan->scratch);
        if (length <= 0)
            return;
        route(wan, host, (size_t)length, now);
    }
}

void wan_deliver(struct wan *wan)
{
    int64_t now = wan_now();
    struct driven_timer *first;
    while ((first = driven_timers_first(&wan->timers)) && first->due <= now) {
        struct wan_packet *packet = (struct wan_packet *)(void *)first;
        driven_timers_unregister(&wan->timers, first);
        wan_path_deliver(packet->path, packet->serial, packet->length);
        if (write(packet->device, packet->bytes, packet->length) < 0)
            wan->refused++;
        wan->held -= packet->length;
        free(packet);
    }
}
