/* An engine's birth and death, and what becomes of it in a forked child. */
#include "engine/engine.h"
#include "engine/process.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* All engines of the process, so that a forked child can close their descriptors: a child that
 * holds a dead parent's sockets open would hide the death. */
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct coll_engine *all;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
    pthread_mutex_lock(&all_lock);
    /* A descriptor that is just moving from one list to another would escape the child. */
    for (struct coll_engine *engine = all; engine; engine = engine->next)
        coll__lock(engine);
}

static void after_fork_in_parent(void)
{
    for (struct coll_engine *engine = all; engine; engine = engine->next)
        coll__unlock(engine);
    pthread_mutex_unlock(&all_lock);
}

static void after_fork_in_child(void)
{
    /* Only this thread exists here. The engines' locks stay taken: nobody may use them. */
    for (struct coll_engine *engine = all; engine; engine = engine->next) {
        atomic_store(&engine->forked, true);
        for (uint32_t i = 0; coll__transports[i]; i++)
            coll__transports[i]->fork_child(&engine->host);
        coll__process_fork_child(engine);
        close(engine->host.reactor.wake.fd);
        close(engine->host.reactor.epoll_fd);
        for (struct coll_group *group = engine->groups; group; group = group->next)
            close(group->event_fd);
        close(engine->serving.fd);
    }
    all = NULL;
    pthread_mutex_unlock(&all_lock);
}

static void install_fork_handlers(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static coll_status copy_string(const char *from, char **to)
{
    if (!from)
        return COLL_OK;
    *to = strdup(from);
    return *to ? COLL_OK : COLL_NO_MEMORY;
}

static coll_status start_thread(struct coll_engine *engine)
{
    /* The caller's signals are the caller's: none is handled on the progress thread. */
    sigset_t every, before;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    int failed = pthread_create(&engine->thread, NULL, coll__progress_thread, engine);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return coll__error(COLL_SYSTEM_ERROR, "cannot start the progress thread: %s",
                           strerror(failed));
    return COLL_OK;
}

static coll_status init(struct coll_engine *engine, const struct coll_engine_options *options,
                        const uint8_t peer_id[16])
{
    pthread_mutex_init(&engine->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&engine->changed, &monotonic);
    pthread_cond_init(&engine->thread_wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    engine->serving.fd = -1;
    engine->host.reactor.epoll_fd = engine->host.reactor.wake.fd = -1;
    memcpy(engine->host.peer_id, peer_id, sizeof engine->host.peer_id);
    if (options)
        engine->host.options = *options;
    COLL_TRY(copy_string(engine->host.options.bind, &engine->bind));
    COLL_TRY(copy_string(engine->host.options.interface, &engine->interface));
    COLL_TRY(copy_string(engine->host.options.congestion, &engine->congestion));
    engine->host.options.bind = engine->bind;
    engine->host.options.interface = engine->interface;
    engine->host.options.congestion = engine->congestion;
    if (engine->host.options.heartbeat_ns == 0)
        engine->host.options.heartbeat_ns = 250000000;
    if (engine->host.options.detection_ns == 0)
        engine->host.options.detection_ns = 5000000000;
    if (engine->host.options.recovery_ns == 0)
        engine->host.options.recovery_ns = 10000000000;
    if (engine->host.options.stall_ns == 0)
        engine->host.options.stall_ns = 10000000000;
    engine->serving.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine->serving.fd < 0)
        return coll__error(COLL_SYSTEM_ERROR, "cannot make an eventfd: raise the limit of open "
                                              "files (ulimit -n)");
    COLL_TRY(coll__reactor_init(&engine->host.reactor));
    for (uint32_t i = 0; coll__transports[i]; i++)
        COLL_TRY(coll__transports[i]->start(&engine->host));
    return COLL_OK;
}

static void dispose(struct coll_engine *engine)
{
    coll__lock(engine); /* somebody may release an operation whose slices wait there */
    coll__links_close(engine);
    coll__unlock(engine);
    for (uint32_t i = 0; coll__transports[i]; i++)
        coll__transports[i]->stop(&engine->host);
    coll__reactor_close(&engine->host.reactor);
    coll__serving_close(engine);
    free(engine->moment);
    free(engine->bind);
    free(engine->interface);
    free(engine->congestion);
    coll__lock(engine);
    engine->destroyed = true;
    coll__engine_let_go(engine);
}

void coll__engine_let_go(struct coll_engine *engine)
{
    bool last = engine->destroyed && engine->operations == 0;
    coll__unlock(engine);
    if (!last)
        return;
    coll__pools_free(engine);
    pthread_cond_destroy(&engine->changed);
    pthread_cond_destroy(&engine->thread_wake);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

coll_status coll__engine_create(const struct coll_engine_options *options,
                                const uint8_t peer_id[16], struct coll_engine **out)
{
    struct coll_engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return COLL_NO_MEMORY;
    pthread_once(&fork_once, install_fork_handlers);
    /* A fork waits meanwhile: its child must find every descriptor in the list. */
    pthread_mutex_lock(&all_lock);
    coll_status status = init(engine, options, peer_id);
    if (status == COLL_OK)
        status = start_thread(engine);
    if (status == COLL_OK) {
        engine->next = all;
        all = engine;
    }
    pthread_mutex_unlock(&all_lock);
    if (status != COLL_OK) {
        dispose(engine);
        return status;
    }
    *out = engine;
    return COLL_OK;
}

void coll__engine_destroy(struct coll_engine *engine)
{
    pthread_mutex_lock(&all_lock);
    for (struct coll_engine **at = &all; *at; at = &(*at)->next) {
        if (*at == engine) {
            *at = engine->next;
            break;
        }
    }
    pthread_mutex_unlock(&all_lock);
    coll__lock(engine);
    engine->stopping = true;
    pthread_cond_broadcast(&engine->thread_wake);
    coll__reactor_wake(&engine->host.reactor);
    /* Who waits for an operation in another thread finds it finished, once he wakes. */
    while (engine->callers > 0) {
        pthread_cond_broadcast(&engine->changed);
        pthread_cond_wait(&engine->changed, &engine->lock);
    }
    coll__unlock(engine);
    pthread_join(engine->thread, NULL);
    dispose(engine);
}
