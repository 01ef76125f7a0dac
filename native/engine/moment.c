/* See moment.h. */
#include "engine/moment.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct coll__moment {
    struct coll_group *group;
    struct coll_moment asked;
    uint64_t slices; /* of the phase, so far */
};

static const char *const names[COLL_PHASE_COUNT] = {
    [COLL_PHASE_ISSUED] = "issued",     [COLL_PHASE_REDUCE_SCATTER] = "reduce_scatter",
    [COLL_PHASE_BETWEEN] = "between",   [COLL_PHASE_ALL_GATHER] = "all_gather",
    [COLL_PHASE_COMPLETE] = "complete", [COLL_PHASE_TOKENS] = "tokens",
    [COLL_PHASE_SEALED] = "sealed",     [COLL_PHASE_JUDGED] = "judged",
};

coll_status coll__moment_set(struct coll_group *group, const struct coll_moment *asked)
{
    struct coll_engine *engine = group->engine;
    struct coll__moment *made = NULL;
    if (asked) {
        made = calloc(1, sizeof *made);
        if (!made)
            return coll__error(COLL_NO_MEMORY, "no memory for a moment");
        made->group = group;
        made->asked = *asked;
    }
    free(engine->moment);
    engine->moment = made;
    return COLL_OK;
}

void coll__moment_forget(struct coll_group *group)
{
    struct coll_engine *engine = group->engine;
    if (!engine->moment || engine->moment->group != group)
        return;
    free(engine->moment);
    engine->moment = NULL;
}

/* All is reduced that this rank reduces. */
static bool is_reduced(const struct coll_operation *operation)
{
    const struct coll_plan *plan = operation->plan;
    bool reduces = false;
    for (uint32_t i = 0; operation->run && i < plan->info.steps; i++) {
        const struct coll__run *run = &operation->run[i];
        bool reducing = plan->steps[i].kind == COLL_STEP_RECV_REDUCE ||
                        plan->steps[i].kind == COLL_STEP_REDUCE;
        if (reducing && run->arrived < run->bytes)
            return false;
        reduces |= reducing;
    }
    return reduces;
}

/* It has come: once, and this process may be gone when this returns. */
static void act(struct coll_engine *engine, uint64_t number)
{
    struct coll__moment *moment = engine->moment;
    const struct coll_moment *asked = &moment->asked;
    /* Straight to the descriptor: the process may be gone before anything is flushed. */
    char line[64];
    int length = snprintf(line, sizeof line, "%s %llu\n", names[asked->phase],
                          (unsigned long long)number);
    int signal_number = asked->action == COLL_ACTION_STOP ? SIGSTOP : SIGKILL;
    ssize_t ignored = asked->journal_fd >= 0 ? write(asked->journal_fd, line, (size_t)length) : 0;
    (void)ignored;
    engine->moment = NULL;
    free(moment);
    kill(getpid(), signal_number);
}

void coll__moment_look_round(struct coll_group *group, uint64_t view, enum coll_phase phase)
{
    const struct coll__moment *moment = group->engine->moment;
    const struct coll_moment *asked = &moment->asked;
    if (phase == asked->phase && group == moment->group &&
        (asked->operation == 0 || asked->operation == view))
        act(group->engine, view);
}

void coll__moment_look(struct coll_operation *operation, enum coll_phase phase)
{
    struct coll_engine *engine = operation->engine;
    struct coll__moment *moment = engine->moment;
    const struct coll_moment *asked = &moment->asked;
    if (phase != asked->phase || operation->group != moment->group ||
        operation->tag != asked->tag ||
        (asked->operation != 0 && operation->number != asked->operation))
        return;
    bool counts = phase == COLL_PHASE_REDUCE_SCATTER || phase == COLL_PHASE_ALL_GATHER;
    if (counts && moment->slices++ < asked->after_slices)
        return;
    if (phase == COLL_PHASE_BETWEEN && !is_reduced(operation))
        return;
    act(engine, operation->number);
}
