/* Quantized reductions: what travels between two ranks is encoded, what is added is f32.
 *
 *      input ──encode──► slice ──► decode, add (f32, in the plan's order) ──┐
 *                                                                           ▼ divide by n
 *      output ◄──decode── slice ◄──────────── what the owner has encoded, verbatim
 *                                             output ◄──decode──┘ (the owner's own, too)
 *
 * The engine goes on counting in bytes of the caller's elements, in whole units of the codec; only a
 * frame's payload and length are those of what is encoded. A slice is encoded when it is pulled, straight
 * from the caller's array. What a step has received or made encoded, and others are to get, is kept in
 * `coding->encoded` and sent as it is: so whoever decodes it has the same bits.
 *
 * With error feedback each rank adds to what it encodes what its last encoding there has lost. In every
 * plan a rank encodes each element at most once an attempt. */
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "reduce/copy.h"

enum { PIECE = COLL__CODING_PIECE }; /* elements that are worked on at once, in L1 */

/* ---- opening ------------------------------------------------------------------------------- */

static bool gathered(const struct coll_call *call)
{
    return call->codec->format == COLL_CODEC_TOPK && call->kind == COLL_ALL_GATHER &&
           call->dtype == COLL_U8;
}

coll_status coll__coding_check(const struct coll_call *call)
{
    const struct coll_codec *given = call->codec;
    struct coll__codec codec;
    if (!given)
        return call->residual ? coll__error(COLL_INVALID_ARGUMENT, "a residual without a codec")
                              : COLL_OK;
    COLL_TRY(coll__codec_open(given, COLL_ISA_SCALAR, &codec));
    /* Encoded and decoded by the caller; all ranks know that the others do it, too. */
    if (gathered(call))
        return COLL_OK;
    if (!coll__reduces(call->kind))
        return coll__error(COLL_UNSUPPORTED, "a %s takes no codec; reductions do",
                           coll_kind_name(call->kind));
    if (call->op != COLL_SUM && call->op != COLL_AVG && call->op != COLL_SCALED_SUM)
        return coll__error(COLL_UNSUPPORTED,
                           "a codec that loses something is for sums and averages, not for %s; "
                           "pass no codec",
                           coll_redop_name(call->op));
    if (call->dtype != COLL_F32 && call->dtype != COLL_F64 && call->dtype != COLL_F16 &&
        call->dtype != COLL_BF16)
        return coll__error(COLL_UNSUPPORTED,
                           "a codec that loses something is for floating point, not for %s; pass "
                           "no codec",
                           coll_dtype_name(call->dtype));
    if (given->format == COLL_CODEC_TOPK)
        return coll__error(COLL_UNSUPPORTED,
                           "top-k payloads are gathered, not reduced on their way");
    if (call->algorithm > 0 && !coll__codes(call->algorithm - 1))
        return coll__error(COLL_UNSUPPORTED,
                           "algorithm '%s' carries nothing encoded; choose direct, ring, "
                           "bidirectional_ring or hierarchical, or pass no codec",
                           coll_algorithm_name(call->algorithm - 1));
    return COLL_OK;
}

bool coll__codes(uint32_t algorithm)
{
    return algorithm == COLL_DIRECT || algorithm == COLL_RING ||
           algorithm == COLL_BIDIRECTIONAL_RING || algorithm == COLL_HIERARCHICAL;
}

coll_status coll__coding_open(struct coll_operation *operation, const struct coll_call *call,
                              uint64_t count)
{
    struct coll_engine *engine = operation->engine;
    const uint32_t isa = engine->host.options.isa;
    if (gathered(call))
        return COLL_OK;
    struct coll__coding *coding = coll__take_zeroed(engine, sizeof *coding);
    if (!coding)
        return COLL_NO_MEMORY;
    coding->dtype = call->dtype;
    coding->residual = call->residual;
    coding->count = count;
    /* f16 and bf16 are widened and rounded as the codecs of these names do. */
    const struct coll_codec cast = {.format = call->dtype == COLL_F16 ? COLL_CODEC_F16
                                                                      : COLL_CODEC_BF16};
    coll_status status = coll__codec_open(call->codec, isa, &coding->codec);
    if (status == COLL_OK)
        status = coll__codec_open(&cast, isa, &coding->cast);
    if (status != COLL_OK) {
        coll__give(engine, coding);
        return status;
    }
    operation->coding = coding;
    coding->granule = (uint64_t)coding->codec.unit * coll_dtype_size(call->dtype);
    return COLL_OK;
}

void coll__coding_drop(struct coll_operation *operation)
{
    if (!operation->coding)
        return;
    coll__give(operation->engine, operation->coding->encoded);
    operation->coding->encoded = NULL;
}

void coll__coding_reset(struct coll_operation *operation)
{
    coll__coding_drop(operation);
    if (operation->coding) {
        coll__give(operation->engine, operation->coding->lost);
        operation->coding->lost = NULL;
    }
}

void coll__coding_commit(struct coll_operation *operation)
{
    struct coll__coding *coding = operation->coding;
    if (coding && coding->lost && !operation->let_go)
        memcpy(coding->residual + operation->offset / operation->element, coding->lost,
               coding->count * sizeof *coding->lost);
}

void coll__coding_free(struct coll_operation *operation)
{
    coll__coding_reset(operation);
    coll__give(operation->engine, operation->coding);
    operation->coding = NULL;
}

/* Bits: 4 format, 2 flags, 1 scale, 3 block, 2 hadamard; what top-k keeps does not travel like this. */
uint16_t coll__codec_code(const struct coll_codec *codec)
{
    uint32_t block = 0, hadamard = 0;
    for (uint32_t n = codec->block; n > 8; n /= 2)
        block++;
    for (uint32_t n = codec->hadamard; n > 16; n /= 2)
        hadamard++;
    return (uint16_t)(codec->format | codec->flags << 4 | codec->scale << 6 | block << 7 |
                      hadamard << 10);
}

void coll__codec_name(uint16_t code, char *text, size_t length)
{
    const uint32_t flags = code >> 4 & 3, block = code >> 7 & 7, hadamard = code >> 10 & 3;
    char blocks[24] = "", rotated[24] = "";
    if (block)
        snprintf(blocks, sizeof blocks, " block=%u", 8u << block);
    if (hadamard)
        snprintf(rotated, sizeof rotated, " hadamard=%u", 16u << hadamard);
    snprintf(text, length, "%s%s%s%s%s%s", coll_codec_name(code & 15), blocks,
             (code >> 6 & 1) == COLL_SCALE_BF16 ? " scale=bf16" : "", rotated,
             flags & COLL_CODEC_STOCHASTIC ? " stochastic" : "",
             flags & COLL_CODEC_SYMMETRIC ? " symmetric" : "");
}

/* ---- where things are ---------------------------------------------------------------------- */

uint64_t coll__wire_bytes(const struct coll_operation *operation, uint64_t length)
{
    return coll__encoded_bytes(&operation->coding->codec, length / operation->element);
}

bool coll__wire_covers(const struct coll_operation *operation, uint64_t left, uint32_t wire,
                       uint64_t *length)
{
    const struct coll__coding *coding = operation->coding;
    *length = wire % coding->codec.unit_bytes == 0
                  ? wire / coding->codec.unit_bytes * coding->granule
                  : left;
    if (*length > left)
        *length = left;
    return coll__wire_bytes(operation, *length) == wire;
}

coll_status coll__coding_start(struct coll_operation *operation)
{
    const struct coll__view *view = operation->view;
    const uint32_t from = operation->call.plan == 1 + COLL_HIERARCHICAL
                              ? coll__topology_coded(view->topology)
                              : 0;
    struct coll__coding *coding = operation->coding;
    const struct coll_plan *plan = operation->plan;
    uint64_t total = 0;
    for (uint32_t i = 0; i < plan->info.steps; i++) {
        const struct coll_step *step = &plan->steps[i];
        struct coll__run *run = &operation->run[i];
        if (step->kind == COLL_STEP_REDUCE)
            continue;
        run->coded = coll__topology_level(view->topology, view->size, view->rank, step->peer) >=
                     from;
        const int32_t reduce = step->kind == COLL_STEP_RECV_KEEP ? plan->relations[i].reduce : -1;
        if (reduce >= 0)
            operation->run[reduce].coded = run->coded; /* as all that it adds */
        /* What is sent on as it is. */
        if (step->kind == COLL_STEP_SEND && run->coded && step->after >= 0)
            operation->run[step->after].makes = true;
    }
    for (uint32_t i = 0; i < plan->info.steps; i++) {
        struct coll__run *run = &operation->run[i];
        if (!run->makes)
            continue;
        run->makes = run->coded; /* else it is encoded when it is sent */
        run->encoded = total;
        total += run->makes ? coll__wire_bytes(operation, run->bytes) : 0;
    }
    if (total > 0 && !(coding->encoded = coll__take(operation->engine, total)))
        return COLL_NO_MEMORY;
    if (!coding->residual)
        return COLL_OK;
    const uint64_t bytes = coding->count * sizeof *coding->lost;
    if (!coding->lost && !(coding->lost = coll__take(operation->engine, bytes)))
        return COLL_NO_MEMORY;
    /* Where nothing is encoded in this attempt nothing changes. */
    memcpy(coding->lost, coding->residual + operation->offset / operation->element, bytes);
    return COLL_OK;
}

const uint8_t *coll__coding_made(const struct coll_operation *operation, uint32_t index,
                                 uint64_t offset)
{
    const struct coll__run *run = &operation->run[index];
    return run->makes
               ? operation->coding->encoded + run->encoded + coll__wire_bytes(operation, offset)
               : NULL;
}

/* Of the whole operation: the same at all its ranks; for rounding, what this one alone has. */
static struct coll__codec_key key_of(const struct coll_operation *operation, uint32_t segment)
{
    struct coll__codec_key key = {.rotation = operation->number};
    key.rotation = key.rotation * 0x9E3779B97F4A7C15u + operation->tag;
    key.rotation = key.rotation * 0x9E3779B97F4A7C15u + segment;
    key.rounding = key.rotation * 0x9E3779B97F4A7C15u + operation->view->number;
    key.rounding = key.rounding * 0x9E3779B97F4A7C15u + operation->view->rank;
    return key;
}

/* ---- from and to the caller's elements ------------------------------------------------------ */

struct pieces {
    float values[PIECE], sum[PIECE], decoded[PIECE];
    uint8_t packed[PIECE * sizeof(double)];
};

/* What this rank itself has at an offset of a step's segment. */
struct own {
    const struct coll__form *form;
    const uint8_t *base;
    uint64_t at; /* bytes from the base */
    uint64_t index; /* of the element in the input */
};

static struct own own_of(const struct coll_operation *operation, uint32_t index, uint64_t offset)
{
    const struct coll__run *run = &operation->run[index];
    const bool input = operation->plan->steps[index].source == COLL_FROM_INPUT;
    return (struct own){
        .form = input ? &operation->input_form : coll__output_form_of(operation, run),
        .base = input ? operation->input : coll__output_of(operation, run),
        .at = (input ? run->input : run->output) + offset,
        .index = (run->input + offset) / operation->element,
    };
}

/* `count` elements of it, `skip` bytes on, as f32: there, or in `room`. */
static const float *widen(const struct coll_operation *operation, const struct own *own,
                          uint64_t skip, uint64_t count, struct pieces *room)
{
    const struct coll__coding *coding = operation->coding;
    const struct coll__form *form = own->form;
    const uint8_t *base = own->base;
    const uint64_t at = own->at + skip;
    const uint64_t bytes = count * operation->element;
    if (coding->dtype == COLL_F32) {
        if (coll__form_is_plain(form) && (uintptr_t)(base + at) % sizeof(float) == 0)
            return (const float *)(const void *)(base + at);
        coll__form_gather(form, base, at, bytes, (uint8_t *)room->values, false);
        return room->values;
    }
    coll__form_gather(form, base, at, bytes, room->packed, false);
    if (coding->dtype != COLL_F64) {
        coll__decode(&coding->cast, &(struct coll__codec_key){0}, room->packed, 0, count,
                     room->values);
        return room->values;
    }
    for (uint64_t i = 0; i < count; i++) {
        double value;
        memcpy(&value, room->packed + i * sizeof value, sizeof value);
        room->values[i] = (float)value;
    }
    return room->values;
}

/* Where the result of a step goes, from an offset in its segment. */
static void narrow(struct coll_operation *operation, const struct coll__run *run, uint64_t offset,
                   const float *values, uint64_t count, struct pieces *room)
{
    const struct coll__coding *coding = operation->coding;
    const uint8_t *packed = (const uint8_t *)values;
    if (coding->dtype == COLL_F64) {
        for (uint64_t i = 0; i < count; i++) {
            const double value = (double)values[i];
            memcpy(room->packed + i * sizeof value, &value, sizeof value);
        }
        packed = room->packed;
    } else if (coding->dtype != COLL_F32) {
        coll__encode(&coding->cast, &(struct coll__codec_key){0}, values, 0, count, room->packed);
        packed = room->packed;
    }
    coll__form_scatter(coll__output_form_of(operation, run), coll__output_of(operation, run),
                       run->output + offset, count * operation->element, packed, false);
}

/* Encode `count` elements, `first` in the segment and `index` among all. What is lost, times `share`,
 * comes back with the next encoding. */
static void encode(struct coll_operation *operation, const struct coll__codec_key *key,
                   const float *values, uint64_t first, uint64_t index, uint64_t count, float share,
                   uint8_t *to, struct pieces *room)
{
    const struct coll__coding *coding = operation->coding;
    if (!coding->residual) {
        coll__encode(&coding->codec, key, values, first, count, to);
        return;
    }
    float *residual = coding->residual + index;
    float *next = coding->lost + (index - operation->offset / operation->element);
    for (uint64_t i = 0; i < count; i++)
        room->values[i] = values[i] + residual[i] / share;
    coll__encode(&coding->codec, key, room->values, first, count, to);
    coll__decode(&coding->codec, key, to, first, count, room->decoded);
    for (uint64_t i = 0; i < count; i++) {
        const float lost = (room->values[i] - room->decoded[i]) * share;
        /* What cannot be sent is not owed for ever: NaN and infinity end here. */
        next[i] = lost - lost == 0 ? lost : 0;
    }
}

/* ---- out ------------------------------------------------------------------------------------- */

void coll__coding_encode(const struct coll__slice *slice, uint8_t *to)
{
    struct coll_operation *operation = slice->operation;
    const struct own own = own_of(operation, slice->step, slice->frame.offset);
    const struct coll__codec_key key = key_of(operation,
                                              operation->plan->steps[slice->step].segment);
    struct pieces room;
    struct coll__fpenv env;
    coll__fpenv_enter(&env);
    for (uint64_t done = 0, part; done < slice->range; done += part) {
        part = slice->range - done;
        if (part > (uint64_t)PIECE * operation->element)
            part = (uint64_t)PIECE * operation->element;
        const uint64_t count = part / operation->element;
        const float *values = widen(operation, &own, done, count, &room);
        encode(operation, &key, values, (slice->frame.offset + done) / operation->element,
               own.index + done / operation->element, count, 1,
               to + coll__wire_bytes(operation, done), &room);
    }
    coll__fpenv_leave(&env);
    operation->engine->host.counters.encoded_slices++;
}

/* ---- in -------------------------------------------------------------------------------------- */

coll_status coll__coding_take(struct coll_operation *operation, uint32_t index, uint64_t offset,
                              uint64_t length, const uint8_t *payload)
{
    const struct coll__run *run = &operation->run[index];
    const struct coll__codec_key key = key_of(operation, operation->plan->steps[index].segment);
    struct pieces room;
    struct coll__fpenv env;
    if (operation->plan->relations[index].first_write && !run->scratch)
        COLL_TRY(coll__execute_save(operation, run->output + offset, length));
    coll__fpenv_enter(&env);
    for (uint64_t done = 0, part; done < length; done += part) {
        part = length - done;
        if (part > (uint64_t)PIECE * operation->element)
            part = (uint64_t)PIECE * operation->element;
        const uint64_t count = part / operation->element;
        coll__decode(&operation->coding->codec, &key, payload + coll__wire_bytes(operation, done),
                     (offset + done) / operation->element, count, room.decoded);
        narrow(operation, run, offset + done, room.decoded, count, &room);
    }
    coll__fpenv_leave(&env);
    if (run->makes)
        memcpy((uint8_t *)coll__coding_made(operation, index, offset), payload,
               coll__wire_bytes(operation, length));
    operation->engine->host.counters.decoded_slices++;
    return COLL_OK;
}

/* A sum is there: encode it for others, and put what they will have, or it, in the output. */
static void finish(struct coll_operation *operation, uint32_t index, uint64_t offset,
                   uint64_t count, struct pieces *room)
{
    const struct coll__coding *coding = operation->coding;
    const struct coll_step *step = &operation->plan->steps[index];
    const struct coll__run *run = &operation->run[index];
    const struct coll__codec_key key = key_of(operation, step->segment);
    const uint64_t first = offset / operation->element;
    const uint64_t own = (run->input + offset) / operation->element;
    const bool divides = step->final && operation->divide;
    const float share = divides ? (float)operation->view->size : 1;
    for (uint64_t i = 0; divides && i < count; i++)
        room->sum[i] /= share;
    if (run->makes) {
        uint8_t *to = (uint8_t *)coll__coding_made(operation, index, offset);
        encode(operation, &key, room->sum, first, own, count, share, to, room);
        if (step->final)
            coll__decode(&coding->codec, &key, to, first, count, room->sum);
    } else if (step->final && coding->residual) {
        /* What the last encoding has lost comes with what is not encoded. */
        for (uint64_t i = 0; i < count; i++)
            room->sum[i] += coding->residual[own + i] / share;
        memset(coding->lost + (own - operation->offset / operation->element), 0,
               count * sizeof *coding->lost);
    }
    narrow(operation, run, offset, room->sum, count, room);
}

void coll__coding_reduce(struct coll_operation *operation, uint32_t index, uint64_t offset,
                         uint64_t length, const uint8_t *const *operands, uint32_t n)
{
    const struct coll_step *step = &operation->plan->steps[index];
    const struct coll__run *run = &operation->run[index];
    const struct coll__codec_key key = key_of(operation, step->segment);
    const struct own mine = own_of(operation, index, offset);
    struct pieces room;
    struct coll__fpenv env;
    coll__fpenv_enter(&env);
    for (uint64_t done = 0, part; done < length; done += part) {
        part = length - done;
        if (part > (uint64_t)PIECE * operation->element)
            part = (uint64_t)PIECE * operation->element;
        const uint64_t count = part / operation->element;
        const uint64_t first = (offset + done) / operation->element;
        const uint64_t wire = coll__wire_bytes(operation, done);
        for (uint32_t k = 0; k < n; k++) {
            if (operands[k]) {
                if (k == 0)
                    coll__decode(&operation->coding->codec, &key, operands[k] + wire, first, count,
                                 room.sum);
                else
                    coll__decode_add(&operation->coding->codec, &key, operands[k] + wire, first,
                                     count, room.sum);
                continue;
            }
            const float *own = widen(operation, &mine, done, count, &room);
            if (k == 0)
                memcpy(room.sum, own, count * sizeof *own);
            for (uint64_t i = 0; k > 0 && i < count; i++)
                room.sum[i] += own[i];
        }
        finish(operation, index, offset + done, count, &room);
    }
    coll__fpenv_leave(&env);
    operation->engine->host.counters.encoded_slices += run->makes;
    operation->engine->host.counters.decoded_slices += n - 1;
}
