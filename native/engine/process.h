/* The death of a peer's process on this host, seen at once: the kernel tells it through a pidfd,
 * whoever else still holds the peer's sockets. Linux only; elsewhere silence and refused
 * connections have to do. */
#ifndef COLL_ENGINE_PROCESS_H
#define COLL_ENGINE_PROCESS_H

struct coll_engine;
struct coll__link;

/* Watch the process behind the link, if `identity` (NULL or "": not told) names one that this
 * process can watch. Once for each link; a later call does nothing. */
void coll__process_watch(struct coll__link *link, const char *identity);
/* The link goes. */
void coll__process_unwatch(struct coll__link *link);
/* Report the dead again to groups that have been given a new view since. */
void coll__process_tick(struct coll_engine *engine);
/* In a forked child: close the descriptors, and no more. */
void coll__process_fork_child(struct coll_engine *engine);

#endif
