/* Addresses: where to listen, what to tell others, and what a socket is told when it is made. */
#include "transport/tcp/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

socklen_t coll__tcp_length(const union tcp_address *address)
{
    return address->any.sa_family == AF_INET6 ? sizeof address->v6 : sizeof address->v4;
}

uint16_t coll__tcp_port(const union tcp_address *address)
{
    return ntohs(address->any.sa_family == AF_INET6 ? address->v6.sin6_port : address->v4.sin_port);
}

void coll__tcp_set_port(union tcp_address *address, uint16_t port)
{
    if (address->any.sa_family == AF_INET6)
        address->v6.sin6_port = htons(port);
    else
        address->v4.sin_port = htons(port);
}

/* A numeric host; names are resolved by the layer above, which may block. */
static coll_status parse_host(const char *host, union tcp_address *address)
{
    memset(address, 0, sizeof *address);
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    if (getaddrinfo(host, NULL, &hints, &found) != 0 || !found)
        return coll__error(COLL_INVALID_ARGUMENT, "'%s' is no IPv4 or IPv6 address", host);
    memcpy(address, found->ai_addr,
           found->ai_addrlen < sizeof *address ? found->ai_addrlen : sizeof *address);
    freeaddrinfo(found);
    return COLL_OK;
}

bool coll__tcp_same_host(const union tcp_address *a, const union tcp_address *b)
{
    const struct in6_addr *a6 = &a->v6.sin6_addr, *b6 = &b->v6.sin6_addr;
    bool a_is_4 = a->any.sa_family == AF_INET, b_is_4 = b->any.sa_family == AF_INET;
    if (a_is_4 && b_is_4)
        return a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
    if (!a_is_4 && !b_is_4)
        return memcmp(a6, b6, sizeof *a6) == 0;
    /* A dual-stack listener sees an IPv4 peer as ::ffff:a.b.c.d. */
    const union tcp_address *four = a_is_4 ? a : b;
    const struct in6_addr *six = a_is_4 ? b6 : a6;
    return IN6_IS_ADDR_V4MAPPED(six) &&
           memcmp(six->s6_addr + 12, &four->v4.sin_addr, sizeof four->v4.sin_addr) == 0;
}

coll_status coll__tcp_parse(const char *text, union tcp_address *address)
{
    char host[128];
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    const char *from = text;
    if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
        from++;
        length -= 2;
    }
    char *end = NULL;
    unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    if (!colon || length == 0 || length >= sizeof host || *end || port == 0 || port > 65535)
        return coll__error(COLL_INVALID_ARGUMENT, "'%.100s' is no HOST:PORT", text);
    memcpy(host, from, length);
    host[length] = '\0';
    COLL_TRY(parse_host(host, address));
    coll__tcp_set_port(address, (uint16_t)port);
    return COLL_OK;
}

void coll__tcp_format(const union tcp_address *address, char *text, size_t length)
{
    char host[INET6_ADDRSTRLEN + IF_NAMESIZE + 1];
    if (getnameinfo(&address->any, coll__tcp_length(address), host, sizeof host, NULL, 0,
                    NI_NUMERICHOST) != 0)
        snprintf(host, sizeof host, "?");
    snprintf(text, length, address->any.sa_family == AF_INET6 ? "[%s]:%u" : "%s:%u", host,
             coll__tcp_port(address));
}

static void append(const union tcp_address *address, union tcp_address *list, uint32_t *count)
{
    if (*count < COLL__ADDRESSES)
        list[(*count)++] = *address;
}

static bool usable(const struct ifaddrs *at, bool loopback)
{
    if (!at->ifa_addr || !(at->ifa_flags & IFF_UP) ||
        ((at->ifa_flags & IFF_LOOPBACK) != 0) != loopback)
        return false;
    if (at->ifa_addr->sa_family == AF_INET)
        return true;
    /* Link-local addresses mean nothing to others without a scope of their own. */
    return at->ifa_addr->sa_family == AF_INET6 &&
           !IN6_IS_ADDR_LINKLOCAL(
               &((const struct sockaddr_in6 *)(const void *)at->ifa_addr)->sin6_addr);
}

static void host_addresses(const char *interface, int family, bool loopback,
                           union tcp_address *list, uint32_t *count)
{
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0)
        return;
    for (const struct ifaddrs *at = all; at; at = at->ifa_next) {
        union tcp_address address;
        if (!usable(at, loopback) || (interface && strcmp(at->ifa_name, interface) != 0) ||
            (family != AF_UNSPEC && at->ifa_addr->sa_family != family))
            continue;
        memset(&address, 0, sizeof address);
        memcpy(&address, at->ifa_addr,
               at->ifa_addr->sa_family == AF_INET6 ? sizeof address.v6 : sizeof address.v4);
        append(&address, list, count);
    }
    freeifaddrs(all);
}

bool coll__tcp_source(const char *interface, int family, union tcp_address *source)
{
    union tcp_address list[COLL__ADDRESSES];
    uint32_t count = 0;
    host_addresses(interface, family, false, list, &count);
    host_addresses(interface, family, true, list, &count);
    if (count == 0)
        return false;
    *source = list[0];
    coll__tcp_set_port(source, 0);
    return true;
}

coll_status coll__tcp_bind_list(const char *bind, const char *interface, union tcp_address *list,
                                uint32_t *count)
{
    *count = 0;
    if (bind && *bind) {
        char *copy = strdup(bind), *rest = NULL;
        coll_status status = copy ? COLL_OK : COLL_NO_MEMORY;
        for (char *one = copy ? strtok_r(copy, ",", &rest) : NULL; one && status == COLL_OK;
             one = strtok_r(NULL, ",", &rest)) {
            union tcp_address address;
            status = parse_host(one, &address);
            if (status == COLL_OK)
                append(&address, list, count);
        }
        free(copy);
        return status;
    }
    if (interface && *interface) {
        host_addresses(interface, AF_UNSPEC, false, list, count);
        host_addresses(interface, AF_UNSPEC, true, list, count);
        if (*count == 0)
            return coll__error(COLL_INVALID_ARGUMENT,
                               "network interface '%s' does not exist, is down or has no address; "
                               "`ip address` lists those there are",
                               interface);
        return COLL_OK;
    }
    union tcp_address any = {.v6 = {.sin6_family = AF_INET6}};
    append(&any, list, count); /* dual-stack; listen.c falls back to IPv4 alone */
    return COLL_OK;
}

void coll__tcp_expand(const union tcp_address *listening, union tcp_address *list, uint32_t *count)
{
    uint32_t before = *count;
    int family = listening->any.sa_family;
    if (family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&listening->v6.sin6_addr))
        family = AF_UNSPEC;
    else if (family == AF_INET6 || listening->v4.sin_addr.s_addr != htonl(INADDR_ANY)) {
        append(listening, list, count);
        return;
    }
    host_addresses(NULL, family, false, list, count);
    host_addresses(NULL, family, true, list, count);
    for (uint32_t i = before; i < *count; i++)
        coll__tcp_set_port(&list[i], coll__tcp_port(listening));
}

/* ---- what a socket is told -------------------------------------------------------------- */

static void set(int fd, int level, int name, int value)
{
    /* None of these is needed for correctness; a kernel that lacks one goes without. */
    setsockopt(fd, level, name, &value, sizeof value);
}

/* Bytes that wait in a socket beyond what is under way: enough for the time until the engine comes
 * round again, and no more for a small operation to queue behind. */
enum { UNSENT_MOST = 256 << 10 };

void coll__tcp_socket_options(struct coll__host *host, int fd)
{
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MOST);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 5);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 2);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 5);
    uint64_t patience = host->options.detection_ns / 1000000 * 3;
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, patience < 600000 ? (int)patience : 600000);
    const char *wanted = host->options.congestion;
    if (wanted)
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, wanted, (socklen_t)strlen(wanted));
}

/* What the kernel offers, on one line; "" if it does not say. */
static void list_congestion(char *names, size_t length)
{
    names[0] = '\0';
    FILE *file = fopen("/proc/sys/net/ipv4/tcp_available_congestion_control", "re");
    if (!file)
        return;
    if (fgets(names, (int)length, file))
        names[strcspn(names, "\n")] = '\0';
    fclose(file);
}

coll_status coll__tcp_check_congestion(const struct coll__host *host)
{
    const char *wanted = host->options.congestion;
    if (!wanted)
        return COLL_OK;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return COLL_OK; /* a host without IPv4; connections go without */
    int failed = setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, wanted, (socklen_t)strlen(wanted));
    int error = errno;
    close(fd);
    if (!failed)
        return COLL_OK;
    char names[200];
    list_congestion(names, sizeof names);
    return coll__error(COLL_UNSUPPORTED, "congestion control '%.32s': %s; this kernel has: %s",
                       wanted, error == ENOENT ? "there is none of this name" : strerror(error),
                       names[0] ? names : "(it does not say)");
}

uint64_t coll__tcp_round_trip(int fd)
{
    struct tcp_info info;
    socklen_t length = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0
               ? (uint64_t)info.tcpi_rtt * 1000
               : 0;
}

void coll__tcp_choose_congestion(struct coll__host *host, int fd)
{
    if (host->options.congestion)
        return;
    /* On a LAN, BBR's pacing only holds back what there is room for; over a long path cubic takes
     * every lost packet for congestion. A name that the kernel lacks leaves its default. */
    const char *chosen = coll__tcp_round_trip(fd) < 5000000 ? "cubic" : "bbr";
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, chosen, (socklen_t)strlen(chosen));
}
