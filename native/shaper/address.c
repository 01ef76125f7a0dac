/* Addresses as text: HOST:PORT and [V6]:PORT, numeric. */
#include "shaper.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

socklen_t shaper_address_length(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                          : sizeof(struct sockaddr_in);
}

/* 0 .. 65535 in digits only; -1: something else. */
static int parse_port(const char *text)
{
    int port = 0;
    for (const char *at = text; *at; at++) {
        if (*at < '0' || *at > '9' || port > 65535)
            return -1;
        port = 10 * port + (*at - '0');
    }
    return *text && port <= 65535 ? port : -1;
}

const char *shaper_address_parse(const char *text, bool any_port, struct sockaddr_storage *address)
{
    char host[SHAPER_ADDRESS];
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    if (length == 0 || length >= sizeof host)
        return "it is not HOST:PORT";
    bool bracketed = text[0] == '[' && text[length - 1] == ']';
    if (bracketed) {
        text++;
        length -= length > 1 ? 2 : 1;
    }
    memcpy(host, text, length);
    host[length] = '\0';
    int port = parse_port(colon + 1);
    if (port < 0 || (port == 0 && !any_port))
        return any_port ? "the port is not 0 to 65535" : "the port is not 1 to 65535";
    memset(address, 0, sizeof *address);
    struct sockaddr_in *v4 = (void *)address;
    struct sockaddr_in6 *v6 = (void *)address;
    if (!bracketed && inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return NULL;
    }
    if (bracketed && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        return NULL;
    }
    return "the host is neither IPv4 nor [IPv6]";
}

void shaper_address_format(const struct sockaddr_storage *address, char text[SHAPER_ADDRESS])
{
    char host[INET6_ADDRSTRLEN] = "?";
    const struct sockaddr_in *v4 = (const void *)address;
    const struct sockaddr_in6 *v6 = (const void *)address;
    if (address->ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        snprintf(text, SHAPER_ADDRESS, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(text, SHAPER_ADDRESS, "%s:%u", host, ntohs(v4->sin_port));
    }
}
