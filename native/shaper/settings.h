/* The commands that change figures, and whom they are about. */
#ifndef SHAPER_SETTINGS_H
#define SHAPER_SETTINGS_H

#include "driven/order.h"
#include "shaper.h"

/* The route that the first argument names, or NULL. */
struct shaper_route *shaper_route_named(struct driven_order *order);

void shaper_command_bucket(struct driven_order *order);
void shaper_command_shape(struct driven_order *order);
void shaper_command_fault(struct driven_order *order);

#endif
