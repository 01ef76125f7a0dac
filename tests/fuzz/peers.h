/* The other peers of an engine that is fuzzed: what they send is made from the input. */
#ifndef COLL_FUZZ_PEERS_H
#define COLL_FUZZ_PEERS_H

#include "engine/engine.h"
#include "input.h"
#include "transport/tcp/tcp.h"
#include "world.h"

enum { PEERS = 3, VERDICT_BYTES = 1024 };

struct run {
    struct input input;
    struct coll_engine *engine;
    struct coll_group *group;
    uint64_t pending; /* number of the view that was prepared last */
    bool fixed; /* its views are */
};

/* Peer `i` of the run; 0 is the engine itself. */
void peer_id(unsigned i, uint8_t id[16]);
/* The key of every view. */
extern const uint8_t peer_key[32];

/* Let the engine look at what has come until there is nothing more. */
void let_it_read(struct run *run);
/* A peer connects and proves the key; or almost. */
void peer_connects(struct run *run);
/* A peer that was dialled answers. */
void peer_answers(struct run *run);
/* One frame on one of the open connections, with its checksums; or almost. */
void peer_sends(struct run *run);
/* An epoch, and a verdict of at most VERDICT_BYTES; its length. */
void make_epoch(struct run *run, struct coll__epoch *epoch);
size_t make_verdict(struct run *run, uint8_t out[VERDICT_BYTES]);

#endif
