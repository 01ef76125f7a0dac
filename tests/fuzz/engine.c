/* A whole engine, in a world in memory. The input is a script: what other peers and strangers send,
 * what the caller and the coordinator ask for, and how time passes. Checked are what the sanitizers
 * see, that the engine sends well-formed frames only, that a caller's inputs stay as they are, that
 * every operation ends when its group is closed, and that no descriptor is left. */
#include <stdlib.h>

#include "peers.h"
#include "wire/round.h"

enum { CALLS = 8, FETCHES = 4, SCRIPT_MAX = 2000, RECORDS_MAX = 200 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct call {
    struct coll_operation *operation;
    uint8_t *input, *output;
    size_t bytes;
};

struct fetch {
    struct coll_fetch *fetch;
    uint8_t *place;
};

static struct call calls[CALLS];
static struct fetch fetches[FETCHES];
static uint8_t served[4096];

/* ---- operations ------------------------------------------------------------------------------ */

static void end_call(struct call *call)
{
    if (call->operation)
        coll_operation_release(call->operation);
    for (size_t i = 0; call->input != call->output && i < call->bytes; i++)
        WORLD_CHECK(call->input[i] == 3);
    if (call->input != call->output)
        free(call->input);
    free(call->output);
    *call = (struct call){0};
}

static void issue(struct run *run, struct call *call)
{
    struct input *input = &run->input;
    uint8_t what = take8(input), how = take8(input);
    struct coll_call asked = {
        .kind = what & 3,
        .op = what >> 2 & 7,
        .dtype = how & 1 ? take8(input) : COLL_I64,
        .root = what >> 5 & 3,
        .tag = how >> 6 ? (uint32_t)take_number(input) : 0,
        .flags = how >> 3 & 3,
        .count = take_number(input) % 9000, /* some are large: more than 64 KiB */
        .timeout_ns = how & 4 ? 500000000 : 0,
    };
    end_call(call);
    call->bytes = asked.count * coll_dtype_size(asked.dtype);
    call->output = malloc(call->bytes + 1);
    call->input = how & 2 ? malloc(call->bytes + 1) : call->output;
    WORLD_CHECK(call->output && call->input);
    memset(call->output, 3, call->bytes);
    memset(call->input, 3, call->bytes);
    asked.input = call->input;
    asked.output = call->output;
    coll_issue(run->group, &asked, &call->operation);
}

static void ask_operation(struct run *run, struct call *call)
{
    struct coll_operation *operation = call->operation;
    uint8_t what = take8(&run->input);
    struct coll_info info;
    struct coll_link_info link;
    if (!operation)
        return;
    coll_status before = coll_test(operation);
    if (what & 1)
        coll_wait(operation, 1000000);
    if (what & 2)
        coll_operation_veto(operation, (coll_status)(2 + what / 8 % 8), "enough");
    coll_operation_get_info(operation, &info);
    for (uint32_t i = 0; i < info.links; i++)
        coll_operation_link(operation, i, &link);
    coll_status after = coll_test(operation);
    WORLD_CHECK(before == COLL_IN_PROGRESS || before == after);
    WORLD_CHECK(strlen(coll_operation_error(operation)) < COLL__TEXT);
    if (what & 4)
        end_call(call);
}

static void inspect(struct run *run)
{
    struct coll_operation_state state;
    struct coll_operation_peer peers[2];
    uint32_t kind;
    size_t length;
    static uint8_t message[COLL_ROUND_MESSAGE_MAX];
    struct coll_event event;
    for (uint32_t i = 0; coll_group_operations(run->group, i, &state, peers, 2) == COLL_OK; i++)
        WORLD_CHECK(strlen(peers[0].name) < sizeof peers[0].name);
    while (coll_group_next_message(run->group, &kind, message, sizeof message, &length) == COLL_OK)
        WORLD_CHECK(length >= COLL_EPOCH_BYTES);
    while (coll_group_next_event(run->group, &event) == COLL_OK)
        WORLD_CHECK(strlen(event.text) < sizeof event.text);
}

/* ---- views and rounds ------------------------------------------------------------------------ */

static void prepare(struct run *run, uint8_t who)
{
    static const char *const address[] = {"127.0.0.1:9"};
    struct coll_peer peers[PEERS] = {0};
    struct coll_view view = {.term = 1, .first_operation = 1, .peers = peers};
    for (unsigned i = 0; i < PEERS; i++) {
        if (i > 0 && !(who >> i & 1))
            continue;
        struct coll_peer *peer = &peers[view.size++];
        peer_id(i, peer->id);
        peer->name = i == 0 ? "me" : i == 1 ? "one" : "two";
        /* The first dials us, the second is dialled. */
        peer->addresses = address;
        peer->address_count = i == 2;
    }
    memcpy(view.key, peer_key, sizeof view.key);
    view.number = run->pending = run->group->seal.view + 1 + (who >> 6);
    view.fixed = run->fixed;
    coll_group_prepare(run->group, &view);
}

static void round_record(struct run *run)
{
    uint8_t what = take8(&run->input), bytes[VERDICT_BYTES], peer[16];
    struct coll__epoch epoch;
    peer_id(what >> 4, peer);
    if (what & 1) {
        size_t length = make_verdict(run, bytes);
        coll_group_judge(run->group, bytes, length);
        if (what & 2)
            coll_group_relay(run->group, peer, COLL_ROUND_VERDICT, bytes, length);
        return;
    }
    make_epoch(run, &epoch);
    coll__epoch_encode(&epoch, bytes);
    coll_group_seal(run->group, bytes);
    if (what & 2)
        coll_group_relay(run->group, peer, COLL_ROUND_SEAL, bytes, COLL_EPOCH_BYTES);
}

static void view_record(struct run *run)
{
    uint8_t what = take8(&run->input);
    switch (what & 7) {
    case 0:
        coll_group_commit(run->group, 1, run->pending, 1 + coll_group_last_operation(run->group),
                          NULL);
        return;
    case 1:
        coll_group_discard(run->group);
        return;
    case 2:
        if (run->group->committed)
            coll_group_out(run->group, COLL_EVICTED, "out");
        return;
    case 3:
        coll_group_flush(run->group, 100000000);
        return;
    case 4:
        coll_inject(run->group, 1 + (what >> 3 & 1), what >> 4 & 3, what >> 6);
        return;
    case 7:
        coll_group_break(run->group, (coll_status)(what >> 3), "it is to end");
        return;
    default:
        prepare(run, what);
        return;
    }
}

/* ---- fetches ----------------------------------------------------------------------------------- */

static void end_fetch(struct fetch *fetch)
{
    if (fetch->fetch)
        coll_fetch_release(fetch->fetch);
    free(fetch->place);
    *fetch = (struct fetch){0};
}

static void fetch_record(struct run *run)
{
    struct input *input = &run->input;
    uint8_t what = take8(input), peer[16];
    struct fetch *fetch = &fetches[what >> 3 & 3];
    struct coll_request request;
    uint64_t bytes = take_number(input) % 20000;
    switch (what & 7) {
    case 0:
        end_fetch(fetch);
        fetch->place = malloc(bytes + 1);
        peer_id(what >> 5, peer);
        coll_fetch_start(run->group, peer, "what", 4, fetch->place, bytes, &fetch->fetch);
        return;
    case 1:
        end_fetch(fetch);
        return;
    case 2:
        if (fetch->fetch)
            coll_fetch_result(fetch->fetch, &bytes);
        return;
    case 3:
        coll_serve(run->engine, what & 8);
        return;
    case 4:
        coll_serve_answer(run->engine, what >> 3, served, bytes % sizeof served);
        return;
    case 5:
        coll_serve_refuse(run->engine, what >> 3);
        return;
    case 6:
        coll_serve_revoke(run->engine, what >> 3);
        return;
    case 7:
        coll_serve_next(run->engine, what & 8, &request);
        return;
    }
}

/* ---- the network ------------------------------------------------------------------------------- */

static void socket_record(struct run *run)
{
    struct input *input = &run->input;
    uint8_t what = take8(input), bytes[256];
    struct world_socket *at = what & 1 ? world_connect() : world_socket_at(what >> 4);
    if (!at)
        return;
    size_t length = what & 2 ? take8(input) : 0;
    take_bytes(input, bytes, length);
    world_feed(at, bytes, length);
    at->closed |= (what & 6) == 4;
    at->reset |= (what & 6) == 6;
    if (what & 8)
        at->room = take_number(input);
    let_it_read(run);
}

static bool never(const void *nothing)
{
    (void)nothing;
    return false;
}

static void time_record(struct run *run)
{
    uint8_t what = take8(&run->input);
    if (what & 128) /* the process stood still */
        world_pass((what & 127u) * 100000000);
    coll__lock(run->engine);
    coll__drive_until(run->engine, never, NULL, coll__now() + (what & 127u) * 5000000);
    coll__unlock(run->engine);
}

/* ---- the script -------------------------------------------------------------------------------- */

static void record(struct run *run)
{
    uint8_t what = take8(&run->input);
    switch (what % 12) {
    case 0:
    case 1:
    case 2:
        peer_sends(run);
        return;
    case 3:
        issue(run, &calls[what / 12 % CALLS]);
        return;
    case 4:
        ask_operation(run, &calls[what / 12 % CALLS]);
        return;
    case 5:
        round_record(run);
        return;
    case 6:
        view_record(run);
        return;
    case 7:
        fetch_record(run);
        return;
    case 8:
        socket_record(run);
        return;
    case 9:
        time_record(run);
        return;
    case 10:
        peer_connects(run);
        return;
    case 11:
        if (what & 1)
            peer_answers(run);
        else
            inspect(run);
        return;
    }
}

static void check(const struct run *run)
{
    for (const struct coll__link *at = run->engine->host.links; at; at = at->next)
        WORLD_CHECK(at->eager_consumed <= at->eager_received);
    WORLD_CHECK(run->group->later_count <= COLL__LATER_MAX);
    WORLD_CHECK(run->engine->driver == COLL__NOBODY);
    WORLD_CHECK(!run->engine->endings && run->group->ending == COLL_OK);
    const bool broken = run->group->committed && run->group->committed->fixed &&
                        run->group->broken != COLL_OK;
    for (int i = 0; broken && i < COLL__OP_BUCKETS; i++)
        WORLD_CHECK(!run->group->operations[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run run = {.input = {data, size}};
    uint8_t me[16], options = take8(&run.input);
    if (size > SCRIPT_MAX)
        return 0;
    world_begin();
    peer_id(0, me);
    struct coll_engine_options chosen = {
        .bind = "127.0.0.1",
        .connections = 1 + (options & 1),
        .slice_bytes = options & 2 ? 4096 : 0,
        .no_checksums = options >> 2 & 1,
        .no_agreement = options >> 3 & 1,
        .recovery_ns = 400000000,
        .transport = COLL_TRANSPORT_TCP, /* else the other one accepts who connects */
    };
    WORLD_CHECK(coll_engine_create(&chosen, me, &run.engine) == COLL_OK);
    WORLD_CHECK(coll_group_open(run.engine, 1, "g", &run.group) == COLL_OK);
    run.fixed = options & 64;
    prepare(&run, options & 16 ? 2 : 6);
    if (!(options & 32))
        coll_group_commit(run.group, 1, run.pending, 1, NULL);
    for (int i = 0; i < RECORDS_MAX && run.input.left > 0; i++) {
        record(&run);
        check(&run);
    }
    inspect(&run);
    coll_group_close(run.group);
    for (int i = 0; i < CALLS; i++) {
        WORLD_CHECK(!calls[i].operation || coll_test(calls[i].operation) != COLL_IN_PROGRESS);
        end_call(&calls[i]);
    }
    for (int i = 0; i < FETCHES; i++)
        end_fetch(&fetches[i]);
    coll_engine_destroy(run.engine);
    world_end();
    return 0;
}
