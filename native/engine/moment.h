/* Faults at an exact moment, for tests: kill or stop this process when operation k reaches a phase,
 * or a round does. Unused it costs one null check at each place that may be such a moment. */
#ifndef COLL_ENGINE_MOMENT_H
#define COLL_ENGINE_MOMENT_H

#include "engine/engine.h"

/* Arm, or with NULL disarm. */
coll_status coll__moment_set(struct coll_group *group, const struct coll_moment *moment);
/* The group goes, and with it what was armed for it. */
void coll__moment_forget(struct coll_group *group);
void coll__moment_look(struct coll_operation *operation, enum coll_phase phase);
void coll__moment_look_round(struct coll_group *group, uint64_t view, enum coll_phase phase);

/* Called where an operation reaches a phase, before it does anything that belongs to a later one. */
static inline void coll__reached(struct coll_operation *operation, enum coll_phase phase)
{
    if (operation->engine->moment)
        coll__moment_look(operation, phase);
}

/* Where a round about `view` does. */
static inline void coll__round_reached(struct coll_group *group, uint64_t view,
                                       enum coll_phase phase)
{
    if (group->engine->moment)
        coll__moment_look_round(group, view, phase);
}

#endif
