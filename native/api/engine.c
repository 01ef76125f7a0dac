/* Public functions on engines and groups: argument checks and the lock. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/moment.h"
#include "wire/bytes.h"

/* A handle that came through fork() is dead: its locks may be held by threads that do not exist
 * in this process. */
#define ENTER(engine)                                                                          \
    do {                                                                                       \
        if (atomic_load(&(engine)->forked))                                                    \
            return coll__error(COLL_FORKED, "this handle belongs to the parent process; join " \
                                            "anew in the child");                              \
        coll__lock(engine);                                                                    \
    } while (0)

coll_status coll_engine_create(const struct coll_engine_options *options, const uint8_t peer_id[16],
                               struct coll_engine **engine)
{
    if (!peer_id || !engine)
        return coll__error(COLL_INVALID_ARGUMENT, "peer_id and engine must not be NULL");
    if (options) {
        if (options->connections > 64)
            return coll__error(COLL_INVALID_ARGUMENT, "connections is %u, at most 64 are allowed",
                               options->connections);
        if (options->slice_bytes != 0 &&
            (options->slice_bytes < 4096 || options->slice_bytes > COLL__PAYLOAD_MAX))
            return coll__error(COLL_INVALID_ARGUMENT, "slice_bytes is %u, allowed are 4096 to %d",
                               options->slice_bytes, COLL__PAYLOAD_MAX);
        if (!coll_isa_available(options->isa))
            return coll__error(COLL_UNSUPPORTED, "this CPU lacks instruction set %u", options->isa);
        if (options->transport > COLL_TRANSPORT_TCP)
            return coll__error(COLL_INVALID_ARGUMENT, "%u is no transport", options->transport);
        if (options->port_low > options->port_high)
            return coll__error(COLL_INVALID_ARGUMENT, "the port range %u-%u is empty",
                               options->port_low, options->port_high);
    }
    return coll__engine_create(options, peer_id, engine);
}

void coll_engine_destroy(struct coll_engine *engine)
{
    /* In a forked child there is nothing to join, and the memory is the price of the fork. */
    if (engine && !atomic_load(&engine->forked))
        coll__engine_destroy(engine);
}

coll_status coll_engine_address(struct coll_engine *engine, uint32_t i, char *buffer, size_t length)
{
    ENTER(engine);
    coll_status status = COLL_INVALID_ARGUMENT;
    for (uint32_t t = 0, at = i; coll__transports[t] && status != COLL_OK; t++) {
        /* The i-th over all transports, one after the other. */
        for (uint32_t own = 0;
             coll__transports[t]->address(&engine->host, own, buffer, length) == COLL_OK; own++) {
            if (at-- == 0) {
                status = COLL_OK;
                break;
            }
        }
    }
    coll__unlock(engine);
    return status;
}

void coll_engine_get_counters(struct coll_engine *engine, struct coll_counters *counters)
{
    if (atomic_load(&engine->forked)) {
        memset(counters, 0, sizeof *counters);
        return;
    }
    coll__lock(engine);
    *counters = engine->host.counters;
    coll__unlock(engine);
}

/* ---- groups ------------------------------------------------------------------------------ */

coll_status coll_group_open(struct coll_engine *engine, uint32_t id, const char *name,
                            struct coll_group **out)
{
    if (!name || !out)
        return coll__error(COLL_INVALID_ARGUMENT, "name and group must not be NULL");
    struct coll_group *group = calloc(1, sizeof *group);
    if (!group)
        return coll__error(COLL_NO_MEMORY, "no memory for a group");
    group->references = 1;
    group->engine = engine;
    group->id = id;
    strncpy(group->name, name, sizeof group->name - 1);
    if (atomic_load(&engine->forked)) {
        free(group);
        return coll__error(COLL_FORKED, "this engine belongs to the parent process");
    }
    coll__lock(engine);
    for (struct coll_group *other = engine->groups; other; other = other->next) {
        if (other->id == id) {
            coll__unlock(engine);
            free(group);
            return coll__error(COLL_INVALID_ARGUMENT, "group %u is open already", id);
        }
    }
    coll_status status = coll__events_open(group); /* locked: a fork finds the descriptor */
    if (status == COLL_OK) {
        group->next = engine->groups;
        engine->groups = group;
        *out = group;
    } else {
        free(group);
    }
    coll__unlock(engine);
    return status;
}

int coll_group_event_fd(struct coll_group *group)
{
    return group->event_fd;
}

coll_status coll_group_next_event(struct coll_group *group, struct coll_event *event)
{
    ENTER(group->engine);
    coll_status status = COLL_IN_PROGRESS;
    if (group->event_count > 0) {
        *event = group->events[group->event_head];
        group->event_head = (group->event_head + 1) % COLL__EVENT_QUEUE;
        status = COLL_OK;
        if (--group->event_count == 0) {
            uint64_t count;
            ssize_t ignored = read(group->event_fd, &count, sizeof count);
            (void)ignored;
        }
    }
    coll__unlock(group->engine);
    return status;
}

coll_status coll_group_prepare(struct coll_group *group, const struct coll_view *view)
{
    if (!view || view->size == 0 || view->rank >= view->size || !view->peers ||
        view->first_operation == 0)
        return coll__error(COLL_INVALID_ARGUMENT,
                           "a view needs peers, a rank below its size, and operations from 1");
    if (memcmp(view->peers[view->rank].id, group->engine->host.peer_id, 16) != 0)
        return coll__error(COLL_INVALID_ARGUMENT, "rank %u of the view is another peer",
                           view->rank);
    ENTER(group->engine);
    coll_status status = coll__group_prepare(group, view);
    coll__wake_driver(group->engine);
    coll__unlock(group->engine);
    return status;
}

coll_status coll_group_commit(struct coll_group *group, uint64_t term, uint64_t number,
                              uint64_t first_operation, const struct coll_topology *topology)
{
    if (first_operation == 0)
        return coll__error(COLL_INVALID_ARGUMENT, "operations are numbered from 1");
    ENTER(group->engine);
    coll_status status = coll__group_commit(group, term, number, first_operation, topology);
    coll__unlock(group->engine);
    return status;
}

coll_status coll_group_choose(struct coll_group *group, const struct coll_choice *choices,
                              uint32_t count)
{
    ENTER(group->engine);
    coll_status status = coll__group_choose(group, choices, count);
    coll__unlock(group->engine);
    return status;
}

coll_status coll_group_nearby(struct coll_group *group, uint8_t *flags, uint32_t size)
{
    ENTER(group->engine);
    const struct coll__view *view = group->prepared;
    coll_status status = view && view->size == size
                             ? COLL_OK
                             : coll__error(COLL_INVALID_ARGUMENT, "no view of %u peers is prepared",
                                           size);
    for (uint32_t rank = 0; status == COLL_OK && rank < size; rank++) {
        const struct coll__link *link = view->members[rank].link;
        flags[rank] = !link || link->transport->local;
    }
    coll__unlock(group->engine);
    return status;
}

void coll_group_discard(struct coll_group *group)
{
    if (atomic_load(&group->engine->forked))
        return;
    coll__lock(group->engine);
    coll__group_discard(group);
    coll__unlock(group->engine);
}

void coll_group_out(struct coll_group *group, coll_status status, const char *text)
{
    if (atomic_load(&group->engine->forked))
        return;
    coll__lock(group->engine);
    if (group->committed)
        coll__group_out(group, status, text ? text : "");
    coll__unlock(group->engine);
}

coll_status coll_group_break(struct coll_group *group, coll_status status, const char *text)
{
    if (status <= COLL_IN_PROGRESS || status > COLL_UNDECIDED)
        return coll__error(COLL_INVALID_ARGUMENT, "%d is no error to break a group with",
                           (int)status);
    ENTER(group->engine);
    const struct coll__view *view = group->committed;
    coll_status done = COLL_OK;
    if (!view)
        done = coll__error(COLL_CLOSED, "the group has no committed view");
    else if (!view->fixed)
        done = coll__error(COLL_INVALID_ARGUMENT, "the view is not fixed: its members are decided "
                                                  "about, and go on without those who are lost");
    else
        coll__fixed_break(group, status, (int32_t)view->rank, text ? text : "");
    coll__unlock(group->engine);
    return done;
}

coll_status coll_group_state(struct coll_group *group, uint8_t culprit[16])
{
    ENTER(group->engine);
    coll_status status = group->committed ? group->broken : COLL_CLOSED;
    memcpy(culprit, group->broken_culprit, sizeof group->broken_culprit);
    coll__unlock(group->engine);
    return status;
}

uint64_t coll_group_last_operation(struct coll_group *group)
{
    if (atomic_load(&group->engine->forked))
        return 0;
    coll__lock(group->engine);
    uint64_t last = group->last_operation;
    coll__unlock(group->engine);
    return last;
}

coll_status coll_group_flush(struct coll_group *group, uint64_t timeout_ns)
{
    struct coll_engine *engine = group->engine;
    ENTER(engine);
    coll_status status = coll__group_flush(group, timeout_ns);
    coll__unlock(engine);
    return status;
}

void coll_group_close(struct coll_group *group)
{
    if (!group || atomic_load(&group->engine->forked))
        return;
    struct coll_engine *engine = group->engine;
    coll__lock(engine);
    coll__group_take_leave(group);
    coll__group_close(group);
    coll__unlock(engine);
}

coll_status coll_fault_at(struct coll_group *group, const struct coll_moment *moment)
{
    if (moment && (moment->phase >= COLL_PHASE_COUNT || moment->action > COLL_ACTION_STOP))
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no phase or %u is no action",
                           moment->phase, moment->action);
    ENTER(group->engine);
    coll_status status = coll__moment_set(group, moment);
    coll__unlock(group->engine);
    return status;
}

coll_status coll_inject(struct coll_group *group, uint32_t fault, uint32_t peer,
                        uint64_t after_slices)
{
    ENTER(group->engine);
    struct coll__view *view = group->committed;
    struct coll__link *link = view && peer < view->size ? view->members[peer].link : NULL;
    coll_status status = link ? link->transport->inject(link, fault, after_slices)
                              : coll__error(COLL_INVALID_ARGUMENT, "no link to rank %u", peer);
    coll__unlock(group->engine);
    return status;
}
