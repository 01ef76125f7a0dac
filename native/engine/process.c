/* See process.h. A process is named by BOOT-ID/PID-NAMESPACE/PID/START-TIME: numbers of processes
 * mean something only within one boot and one namespace, and are used again; the start time tells
 * who bears the number now. */
#include "engine/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/engine.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434 /* on every architecture; older headers lack it */
#endif

enum { PREFIX_MAX = 80, STAT_MAX = 1024 };

struct process_watch {
    struct coll__watch watch; /* first: the reactor gives it back */
    struct coll__link *link;
};

static bool read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, text, size - 1);
    close(fd);
    if (length <= 0)
        return false;
    text[length] = '\0';
    return true;
}

/* "BOOT-ID/PID-NAMESPACE/" of this process. */
static bool own_prefix(char prefix[PREFIX_MAX])
{
    char boot[64], self[32];
    struct stat namespace;
    ssize_t length = readlink("/proc/self", self, sizeof self - 1);
    if (length <= 0 || stat("/proc/self/ns/pid", &namespace) < 0 ||
        !read_text("/proc/sys/kernel/random/boot_id", boot, sizeof boot))
        return false;
    self[length] = '\0';
    /* A /proc that was mounted in another namespace speaks of other processes. */
    if (strtol(self, NULL, 10) != (long)getpid())
        return false;
    boot[strcspn(boot, "\n")] = '\0';
    snprintf(prefix, PREFIX_MAX, "%s/%" PRIu64 "/", boot, (uint64_t)namespace.st_ino);
    return true;
}

/* When the process started, in clock ticks since the boot. */
static bool start_time(uint64_t pid, uint64_t *start)
{
    char path[40], text[STAT_MAX];
    snprintf(path, sizeof path, "/proc/%" PRIu64 "/stat", pid);
    if (!read_text(path, text, sizeof text))
        return false;
    /* The second field is the program's name in parentheses, and may hold anything. */
    char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return false;
    *start = strtoull(at + 1, NULL, 10);
    return true;
}

coll_status coll_process_identity(char *buffer, size_t length)
{
    char prefix[PREFIX_MAX];
    uint64_t pid = (uint64_t)getpid(), start;
    if (!own_prefix(prefix) || !start_time(pid, &start))
        return coll__error(COLL_UNSUPPORTED, "/proc does not tell who this process is");
    if (snprintf(buffer, length, "%s%" PRIu64 "/%" PRIu64, prefix, pid, start) >= (int)length)
        return coll__error(COLL_INVALID_ARGUMENT, "a process identity takes up to %d bytes",
                           COLL_PROCESS_IDENTITY_MAX);
    return COLL_OK;
}

static bool parse_number(const char **at, char end, uint64_t *number)
{
    if (**at < '0' || **at > '9')
        return false;
    char *after;
    errno = 0;
    *number = strtoull(*at, &after, 10);
    if (errno != 0 || *after != end)
        return false;
    *at = after + 1;
    return true;
}

/* With COLL_PROCESS_ALIVE, *pidfd is a descriptor that becomes readable when the process dies. */
static enum coll_process_state open_process(const char *identity, int *pidfd)
{
    char prefix[PREFIX_MAX];
    uint64_t pid, start, found;
    if (!own_prefix(prefix) || strncmp(identity, prefix, strlen(prefix)) != 0)
        return COLL_PROCESS_UNKNOWN;
    const char *at = identity + strlen(prefix);
    if (!parse_number(&at, '/', &pid) || !parse_number(&at, '\0', &start) || pid == 0 ||
        pid > INT32_MAX)
        return COLL_PROCESS_UNKNOWN;
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (fd < 0) /* an old kernel or a sandbox may refuse; that proves nothing */
        return errno == ESRCH ? COLL_PROCESS_DEAD : COLL_PROCESS_UNKNOWN;
    /* Asked after the descriptor was opened: then it is that of the process which bears the number
     * now. Another start time may come of a reused number or of a time namespace: no proof. */
    if (!start_time(pid, &found) || found != start) {
        close(fd);
        return COLL_PROCESS_UNKNOWN;
    }
    struct pollfd died = {.fd = fd, .events = POLLIN};
    if (poll(&died, 1, 0) > 0) { /* a zombie */
        close(fd);
        return COLL_PROCESS_DEAD;
    }
    *pidfd = fd;
    return COLL_PROCESS_ALIVE;
}

coll_status coll_process_look(const char *identity, uint32_t *state)
{
    int fd = -1;
    if (!identity || !state)
        return coll__error(COLL_INVALID_ARGUMENT, "identity and state must not be NULL");
    *state = open_process(identity, &fd);
    if (fd >= 0)
        close(fd);
    return COLL_OK;
}

/* ---- watching ------------------------------------------------------------------------------- */

static void report(struct coll__link *link)
{
    coll__link_lost(link, "its process on this host died", COLL_CERTAIN_PROCESS);
}

static void dispose(struct coll__watch *watch)
{
    free(watch);
}

static void process_died(struct coll__watch *watch, uint32_t events)
{
    (void)events;
    struct coll__link *link = ((struct process_watch *)watch)->link;
    link->process_died = true;
    coll__process_unwatch(link);
    report(link);
}

void coll__process_watch(struct coll__link *link, const char *identity)
{
    if (!identity || link->process || link->process_died)
        return;
    int fd = -1;
    enum coll_process_state state = open_process(identity, &fd);
    link->process_died = state == COLL_PROCESS_DEAD;
    if (state != COLL_PROCESS_ALIVE)
        return;
    struct process_watch *made = calloc(1, sizeof *made);
    if (!made) { /* the transport finds out, only later */
        close(fd);
        return;
    }
    made->link = link;
    made->watch = (struct coll__watch){.fd = fd, .ready = process_died, .dispose = dispose};
    if (coll__watch_add(&link->host->reactor, &made->watch, COLL__READABLE) != COLL_OK) {
        close(fd);
        free(made);
        return;
    }
    link->process = &made->watch;
}

void coll__process_unwatch(struct coll__link *link)
{
    if (link->process)
        coll__watch_bury(&link->host->reactor, link->process);
    link->process = NULL;
}

void coll__process_tick(struct coll_engine *engine)
{
    for (struct coll__link *link = engine->host.links; link; link = link->next)
        if (link->process_died)
            report(link);
}

void coll__process_fork_child(struct coll_engine *engine)
{
    for (struct coll__link *link = engine->host.links; link; link = link->next)
        if (link->process)
            close(link->process->fd);
}
