/* What the other peers send: see peers.h. */
#include "peers.h"

#include "wire/bytes.h"
#include "wire/crc32c.h"
#include "wire/hello.h"
#include "wire/round.h"

const uint8_t peer_key[32] = "a key of thirty-two bytes .....";

void peer_id(unsigned i, uint8_t id[16])
{
    memset(id, (int)(0x41 + i), 16);
}

static bool has_nothing_to_do(const void *nothing)
{
    (void)nothing;
    return world_is_quiet();
}

void let_it_read(struct run *run)
{
    coll__lock(run->engine);
    coll__drive_until(run->engine, has_nothing_to_do, NULL, coll__now() + 2000000);
    coll__unlock(run->engine);
}

static uint64_t view_number(const struct run *run)
{
    return run->group->committed ? run->group->committed->number : 0;
}

/* ---- the hello ----------------------------------------------------------------------------- */

void peer_connects(struct run *run)
{
    struct input *input = &run->input;
    uint8_t who = take8(input), odd = take8(input);
    struct world_socket *at = world_connect();
    if (!at)
        return;
    struct coll__hello hello = {
        .version_low = 1,
        .version_high = 1,
        .group = run->group->id,
        .term = run->group->committed ? run->group->committed->term : 1,
        .view = view_number(run) + (odd >> 4),
        .slot = who >> 4,
        .flags = odd & 1 ? COLL__HELLO_FRESH : 0,
    };
    peer_id(who % 4, hello.from);
    peer_id(odd & 2 ? take8(input) % 4 : 0, hello.to);
    if (odd & 4)
        hello.version_low = hello.version_high = (uint16_t)take_number(input);
    uint8_t bytes[COLL__HELLO_MAX] = {0};
    coll__hello_encode(&hello, bytes);
    uint32_t length = COLL__HELLO_BYTES;
    if (odd & 8) { /* longer than what is known of it, or damaged */
        length += take8(input);
        coll__put32(bytes + 8, length);
        bytes[take8(input)] ^= take8(input);
    }
    at->piece = who & 8 ? 7 : 0;
    world_feed(at, bytes, length);
    let_it_read(run);
    if (!at->open || at->said_length < COLL__WELCOME_BYTES)
        return;
    uint8_t proof[32], message[COLL__PROOF_BYTES];
    coll__hello_prove(peer_key, 'd', bytes, length, at->said, COLL__WELCOME_BYTES, proof);
    coll__proof_encode(proof, message);
    if (who & 4)
        message[take8(input) % sizeof message] ^= take8(input);
    world_feed(at, message, sizeof message);
    let_it_read(run);
}

void peer_answers(struct run *run)
{
    struct input *input = &run->input;
    uint8_t odd = take8(input), bytes[COLL__HELLO_MAX] = {0};
    struct world_socket *at = world_socket_at(0);
    for (unsigned i = 0; at && !(at->dialed && at->in_length == 0); i++)
        at = world_socket_at(i + 1);
    if (!at)
        return;
    if (odd & 1) { /* it refuses */
        at->reset = true;
        let_it_read(run);
        return;
    }
    let_it_read(run);
    if (!at->open || at->said_length < COLL__HELLO_BYTES)
        return;
    struct coll__welcome welcome = {
        .verdict = odd & 2 ? take8(input) : 0, .version_low = 1, .version_high = 1};
    coll__welcome_encode(&welcome, bytes);
    uint32_t length = COLL__WELCOME_BYTES;
    if (odd & 4) {
        length += take8(input);
        coll__put32(bytes + 8, length);
    }
    coll__hello_prove(peer_key, 'a', at->said, COLL__HELLO_BYTES, bytes, COLL__WELCOME_BYTES - 32,
                      welcome.proof);
    memcpy(bytes + COLL__WELCOME_BYTES - 32, welcome.proof, 32);
    if (odd & 8)
        bytes[take8(input)] ^= take8(input);
    at->piece = odd & 16 ? 5 : 0;
    world_feed(at, bytes, length);
    let_it_read(run);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

void make_epoch(struct run *run, struct coll__epoch *epoch)
{
    const struct coll__seal *seal = &run->group->seal;
    uint8_t odd = take8(&run->input);
    *epoch = seal->epoch;
    if (!seal->sealed) /* a round that is new here */
        *epoch = (struct coll__epoch){seal->term, seal->term, seal->view, seal->epoch.round + 1};
    epoch->round += odd & 7;
    if (odd & 8)
        epoch->term = take_near(&run->input, epoch->term);
    if (odd & 16)
        epoch->view_term = take_near(&run->input, epoch->view_term);
    if (odd & 32)
        epoch->view = take_near(&run->input, epoch->view);
    if (odd & 64)
        epoch->round = take_near(&run->input, epoch->round);
}

static uint8_t *put_id(uint8_t *at, unsigned i)
{
    peer_id(i, at);
    return at + 16;
}

size_t make_verdict(struct run *run, uint8_t out[VERDICT_BYTES])
{
    struct input *input = &run->input;
    struct coll__epoch epoch;
    uint8_t *at = out;
    make_epoch(run, &epoch);
    coll__epoch_encode(&epoch, at);
    coll__put64(at + 32, take_near(input, epoch.view_term));
    coll__put64(at + 40, take_near(input, epoch.view + 1));
    memcpy(at + 48, peer_key, 32);
    /* Members: four digits of base four, and how many of them. */
    uint8_t who = take8(input), shape = take8(input);
    uint32_t members = shape % 5, stands = shape / 5 % 6;
    coll__put32(at + 80, members);
    at += 84;
    for (uint32_t i = 0; i < members; i++)
        at = put_id(at, who >> 2 * i & 3);
    coll__put32(at, stands);
    at += 4;
    for (uint32_t i = 0; i < stands; i++, at += 16) {
        coll__put32(at, (uint32_t)take_number(input));
        coll__put64(at + 4, take_number(input));
        coll__put32(at + 12, (uint32_t)take_number(input));
    }
    uint8_t error = take8(input), text = take8(input) % 64;
    coll__put32(at, error % 20);
    at = put_id(at + 4, error / 20 % 4);
    coll__put32(at, text);
    memset(at + 4, 'x', text);
    size_t length = (size_t)(at + 4 + text - out);
    if (shape >= 0xF0)
        out[take_number(input) % length] ^= take8(input);
    return shape == 0xFF ? length - 1 : length;
}

/* ---- frames ---------------------------------------------------------------------------------- */

static struct tcp_connection *choose(struct run *run, uint8_t who)
{
    struct tcp_connection *open[8];
    unsigned count = 0;
    for (struct coll__link *link = run->engine->host.links; link; link = link->next)
        for (struct tcp_connection *at = ((struct tcp_link *)link)->open; at && count < 8;
             at = at->next)
            open[count++] = at;
    return count > 0 ? open[who % count] : NULL;
}

static size_t make_payload(struct run *run, const struct coll__frame *frame, uint8_t *payload)
{
    struct coll__epoch epoch;
    switch (frame->type) {
    case COLL__FRAME_VERDICT:
        return make_verdict(run, payload);
    case COLL__FRAME_SEAL:
    case COLL__FRAME_TAKEN:
    case COLL__FRAME_REPORT:
        make_epoch(run, &epoch);
        coll__epoch_encode(&epoch, payload);
        take_bytes(&run->input, payload + COLL__EPOCH_BYTES, 16);
        return COLL__EPOCH_BYTES + take8(&run->input) % 17;
    default:
        memset(payload, frame->message & 0xFF, frame->length);
        return frame->length;
    }
}

static void make_frame(struct run *run, struct tcp_connection *on, struct coll__frame *frame)
{
    struct input *input = &run->input;
    const struct tcp_link *link = on->link;
    uint8_t odd = take8(input);
    frame->type = take8(input) % (COLL__FRAME_TYPE_END + 1);
    frame->flags = take8(input);
    frame->operation = take_number(input);
    frame->tag = (uint32_t)take_number(input);
    frame->group = run->group->id + (odd & 1 ? (uint32_t)take_number(input) : 0);
    frame->term = run->group->seal.term;
    frame->view = run->group->seal.view;
    frame->sequence = frame->type == COLL__FRAME_ALIVE ? 0 : link->received + 1;
    frame->place = on->frames_in + 1;
    if (odd & 2) {
        frame->term = take_near(input, frame->term);
        frame->view = take_near(input, frame->view);
    }
    if (odd & 4)
        frame->sequence = take_near(input, frame->sequence);
    if (odd & 8)
        frame->place = (uint32_t)take_near(input, frame->place);
    if (odd & 16) {
        frame->watermark = take_number(input);
        frame->acknowledged = take_near(input, link->acknowledged);
        frame->consumed = take_near(input, link->base.eager_consumed_by_peer);
    } else {
        frame->acknowledged = link->next_sequence - 1;
        frame->consumed = link->base.eager_sent;
    }
    frame->message = (uint32_t)take_number(input);
    frame->attempt = 1;
    uint8_t call = take8(input);
    frame->call.kind = call & 3;
    frame->call.op = call >> 2 & 7;
    frame->call.dtype = odd & 32 ? take8(input) : COLL_I64;
    frame->call.codec = odd & 64 ? take8(input) : 0;
    frame->call.root = odd & 64 ? (uint32_t)take_number(input) : 0;
    frame->call.count = take_number(input);
    if (run->group->committed)
        frame->call.plan = (uint8_t)(1 + coll_plan_choose(frame->call.kind, frame->call.count * 8,
                                                          run->group->committed->size, 0, NULL));
    frame->offset = take_number(input);
    frame->length = (uint32_t)take_number(input);
    if (!(odd & 128)) /* as the payloads of real peers are cut */
        frame->length = frame->length / 8 * 8;
}

void peer_sends(struct run *run)
{
    static uint8_t bytes[COLL__FRAME_BYTES + COLL__PAYLOAD_MAX];
    uint8_t who = take8(&run->input), damage = take8(&run->input);
    coll__lock(run->engine);
    struct tcp_connection *on = choose(run, who);
    coll__unlock(run->engine);
    if (!on)
        return;
    struct coll__frame frame = {0};
    make_frame(run, on, &frame);
    if (frame.length > COLL__PAYLOAD_MAX)
        frame.length = COLL__PAYLOAD_MAX;
    uint8_t *payload = bytes + COLL__FRAME_BYTES;
    frame.length = (uint32_t)make_payload(run, &frame, payload);
    frame.payload_crc = coll__crc32c(0, payload, frame.length);
    if (damage & 1)
        frame.payload_crc ^= 1;
    if (damage & 2)
        frame.length += take8(&run->input);
    coll__frame_encode(&frame, bytes);
    if (damage & 4)
        bytes[take8(&run->input) % COLL__FRAME_BYTES] ^= take8(&run->input);
    size_t length = COLL__FRAME_BYTES + (size_t)frame.length;
    if (length > sizeof bytes)
        length = sizeof bytes;
    if (damage & 8) /* the rest comes later, or never */
        length -= take_number(&run->input) % length;
    struct world_socket *at = NULL;
    for (unsigned i = 0; (at = world_socket_at(i)); i++)
        if (at->watch == on)
            break;
    if (!at)
        return;
    at->piece = damage & 16 ? 1 + (damage >> 6) * 50 : 0;
    world_feed(at, bytes, length);
    at->closed |= (damage & 32) != 0;
    if (!(who & 128)) /* else several come at once */
        let_it_read(run);
}
