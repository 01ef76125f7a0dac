/* Issuing: from a caller's arguments to an operation that runs in the committed view. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"
#include "plan/plan.h"
#include "reduce/copy.h"

/* Who the caller is among the ranks that it names, and how many there are. */
static void caller(const struct coll__view *view, const struct coll_call *call, uint32_t *rank,
                   uint32_t *size)
{
    *rank = view->rank;
    *size = view->size;
    if (!call->peers)
        return;
    *size = call->peer_count;
    for (*rank = 0; *rank < *size; ++*rank)
        if (memcmp(call->peers + 16 * *rank, view->members[view->rank].id, 16) == 0)
            return;
}

/* What a call gives and what it takes. */
struct buffers {
    struct coll__extents extents;
    struct coll__form input, output;
};

/* Whether they are where an operation in place has them. */
static bool in_place(const struct coll_call *call, const struct buffers *buffers)
{
    const struct coll__extents *extents = &buffers->extents;
    const uint8_t *input = buffers->input.base, *output = buffers->output.base;
    size_t own = extents->own * coll_dtype_size(call->dtype);
    switch (call->kind) {
    case COLL_ALL_TO_ALL:
        return false;
    case COLL_ALL_GATHER:
    case COLL_GATHER:
        return input == output + own;
    case COLL_REDUCE_SCATTER:
    case COLL_SCATTER:
        return output == input + own;
    default:
        return input == output;
    }
}

/* Of a list that blocks may be left out of, each array is a block. */
static coll_status check_list(const struct coll_call *call, uint32_t size)
{
    const uint64_t *counts = call->kind == COLL_ALL_TO_ALL && call->counts ? call->counts_from
                                                                           : call->counts;
    bool blocks = call->output_arrays == size;
    for (uint32_t rank = 0; blocks && rank < size; rank++)
        blocks = call->outputs[rank].count == (counts ? counts[rank] : call->count);
    return blocks ? COLL_OK
                  : coll__error(COLL_INVALID_ARGUMENT,
                                "with resize, a list for the output has one array for each block");
}

/* Where the buffers are, and whether the one is in the way of the other. */
static coll_status find_places(struct coll_engine *engine, const struct coll_call *call,
                               uint32_t size, struct buffers *buffers)
{
    const struct coll__extents *extents = &buffers->extents;
    struct coll__form *input = &buffers->input, *output = &buffers->output;
    const size_t element = coll_dtype_size(call->dtype);
    const bool blocks = coll__has_blocks(call->kind);
    const bool apart = blocks && call->outputs && call->flags & COLL_RESIZE &&
                       coll__packs(call->kind) && extents->output > 0;
    const struct coll_array given = {(void *)call->input, extents->input, call->input_strides};
    const struct coll_array taken = {call->output, extents->output, call->output_strides};
    if (apart)
        COLL_TRY(check_list(call, size));
    COLL_TRY(coll__form_make(engine, input, call->inputs ? call->inputs : &given,
                             call->inputs ? call->input_arrays : 1, false, extents->input,
                             element));
    COLL_TRY(coll__form_make(engine, output, call->outputs ? call->outputs : &taken,
                             call->outputs ? call->output_arrays : 1, apart, extents->output,
                             element));
    const bool same = in_place(call, buffers) && coll__form_same(input, output) &&
                      !(blocks && (input->parts || output->parts));
    return coll__form_check(engine, input, same ? 0 : extents->input * element, output,
                            extents->output * element);
}

static coll_status check_call(const struct coll__view *view, const struct coll_call *call,
                              struct buffers *buffers)
{
    struct coll__extents *extents = &buffers->extents;
    uint32_t rank, size;
    if (call->kind >= COLL_KIND_COUNT)
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no operation", call->kind);
    if (call->algorithm > 0)
        COLL_TRY(coll__check_algorithm(call->kind, call->algorithm - 1, 0));
    if ((call->flags & COLL_RESUME) &&
        (call->kind != COLL_ALL_REDUCE || (call->flags & (COLL_NOT_ATOMIC | COLL_NO_REPEAT))))
        return coll__error(COLL_INVALID_ARGUMENT,
                           "only an all_reduce can be resumed, and only if it is atomic");
    COLL_TRY(coll__coding_check(call));
    if (call->kind == COLL_BARRIER || call->kind == COLL_SYNC)
        return COLL_OK;
    size_t element = coll_dtype_size(call->dtype);
    if (element == 0)
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no dtype", call->dtype);
    if (coll__reduces(call->kind) && call->op >= COLL_REDOP_COUNT)
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no reduction", call->op);
    if (coll__reduces(call->kind) && !coll__reduce_select(call->dtype, call->op, COLL_ISA_SCALAR))
        return coll__error(call->op == COLL_SCALED_SUM ? COLL_INVALID_ARGUMENT : COLL_UNSUPPORTED,
                           "there is no %s of %s", coll_redop_name(call->op),
                           coll_dtype_name(call->dtype));
    caller(view, call, &rank, &size);
    if (rank == size)
        return coll__error(COLL_INVALID_ARGUMENT, "this peer is none of those the call names");
    if (coll__kind_is_rooted(call->kind) && call->root >= size)
        return coll__error(COLL_INVALID_ARGUMENT, "root %u is no rank of a view of %u peers",
                           call->root, size);
    bool any = call->kind == COLL_RECV && call->root == COLL_ANY;
    if (coll__is_pair(call->kind) && !any && call->root >= size)
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no rank of a view of %u peers", call->root,
                           size);
    if (coll__is_pair(call->kind) && call->root == rank)
        return coll__error(COLL_INVALID_ARGUMENT,
                           "a %s with oneself; copy the array, or name another rank",
                           coll_kind_name(call->kind));
    if (call->kind == COLL_ALL_TO_ALL && !call->counts != !call->counts_from)
        return coll__error(COLL_INVALID_ARGUMENT, "an all_to_all has both counts or none");
    if (call->counts && coll__has_blocks(call->kind) && !call->peers)
        return coll__error(COLL_INVALID_ARGUMENT, "counts without the peers that they are of");
    if (!coll__extents(call, rank, size, extents) || extents->whole > SIZE_MAX / 2 / element)
        return coll__error(COLL_INVALID_ARGUMENT, "count %llu is too large",
                           (unsigned long long)call->count);
    if (call->algorithm > 0)
        COLL_TRY(coll__check_algorithm(call->kind, call->algorithm - 1, extents->whole * element));
    return find_places(view->group->engine, call, size, buffers);
}

/* What the call is in every view. The forms are the operation's after this. */
static void fill(struct coll_operation *operation, const struct coll_call *call,
                 const struct buffers *buffers)
{
    const struct coll__extents *extents = &buffers->extents;
    struct coll_engine *engine = operation->engine;
    bool reduces = coll__reduces(call->kind);
    bool moves = call->kind != COLL_BARRIER && call->kind != COLL_SYNC;
    bool uneven = coll__has_blocks(call->kind) && call->counts;
    size_t element = moves ? coll_dtype_size(call->dtype) : 1;
    operation->issued = true;
    operation->asked = *call;
    operation->asked.counts = operation->asked.counts_from = NULL; /* they are the caller's */
    operation->asked.peers = NULL;
    operation->asked.input_strides = operation->asked.output_strides = NULL;
    operation->asked.inputs = operation->asked.outputs = NULL;
    operation->asked.codec = NULL;
    operation->input_form = buffers->input;
    operation->output_form = buffers->output;
    if (coll__has_blocks(call->kind) && !(call->flags & COLL_RESIZE))
        operation->asked.flags |= COLL_NO_REPEAT;
    if (coll__kind_is_rooted(call->kind))
        memcpy(operation->root,
               call->peers ? call->peers + 16 * (size_t)call->root
                           : operation->view->members[call->root].id,
               sizeof operation->root);
    operation->call = (struct coll__descriptor){
        .kind = (uint8_t)call->kind,
        .dtype = moves ? (uint8_t)call->dtype : 0,
        .algorithm = (uint8_t)call->algorithm,
        .op = reduces || call->kind == COLL_SYNC ? (uint8_t)call->op : 0,
        .codec = call->codec ? coll__codec_code(call->codec) : 0,
        .count = uneven  ? extents->whole
                 : moves ? call->count
                         : 0,
    };
    operation->element = (uint32_t)element;
    operation->bytes = extents->whole * operation->element;
    operation->output_bytes = extents->output * operation->element;
    operation->input = buffers->input.base;
    operation->output = buffers->output.base;
    if (call->flags & COLL_RESUME)
        operation->call.digest = 1;
    if (reduces) {
        operation->reduce = coll__reduce_select(call->dtype, call->op, engine->host.options.isa);
        if (call->op == COLL_AVG)
            operation->divide = coll__divide_select(call->dtype, engine->host.options.isa);
        if (call->op == COLL_SCALED_SUM)
            operation->input_form.scale = coll__scale_select(call->dtype, engine->host.options.isa);
        operation->input_form.factor = call->factor;
        operation->input_form.element = operation->element;
    }
    operation->info.number = operation->number;
    operation->info.entered_ns = coll__now();
    operation->warn_at = operation->info.entered_ns + engine->host.options.stall_ns;
    operation->stall_check = operation->info.entered_ns + COLL__STALL_NS;
    if (call->timeout_ns > 0)
        operation->deadline = operation->info.entered_ns + call->timeout_ns;
}

/* What this rank reduces for others needs room where its own output has none. An input in its place among the outputs is put in safety where others' blocks come to lie there, since those of
 * the lost are left out. */
static coll_status take_scratch(struct coll_operation *operation)
{
    const struct coll__view *view = operation->view;
    const uint32_t kind = operation->call.kind;
    uint64_t begin;
    if (coll__reduces(kind) && operation->plan) {
        operation->scratch_bytes = coll__execute_scratch(operation);
        if (operation->scratch_bytes > 0)
            COLL_TRY(coll__shadow_take(operation->engine, operation->scratch_bytes,
                                       &operation->scratch));
    }
    if ((kind == COLL_ALL_GATHER || kind == COLL_GATHER) && operation->output_bytes > 0 &&
        operation->layout.size > view->size) {
        uint64_t bytes = coll__layout_own(operation, &begin);
        if (bytes == 0 || operation->input != operation->output + begin)
            return COLL_OK;
        operation->scratch_bytes = bytes;
        COLL_TRY(coll__shadow_take(operation->engine, bytes, &operation->scratch));
        memcpy(operation->scratch, operation->input, bytes);
        operation->input = operation->scratch;
    }
    return COLL_OK;
}

static coll_status make_plan(struct coll_operation *operation)
{
    const struct coll__descriptor *call = &operation->call;
    const uint32_t about = coll__is_pair(call->kind)          ? operation->partner
                           : coll__kind_is_rooted(call->kind) ? call->root
                                                              : 0;
    operation->plan = NULL;
    if (operation->bytes > 0)
        COLL_TRY(
            coll__view_plan(operation->view, call->kind, call->plan - 1u, about, &operation->plan));
    /* Those that overwrite their input, where it is not theirs alone any more. */
    bool overwrites = coll__reduces(call->kind) || call->kind == COLL_BROADCAST;
    struct coll__run own = {0};
    if (overwrites && operation->plan && call->kind == COLL_REDUCE_SCATTER)
        coll__layout_segment(operation, operation->view->size,
                             (operation->view->rank + 1) % operation->view->size, &own);
    operation->in_place_atomic = overwrites && operation->plan && operation->output_bytes > 0 &&
                                 operation->input + own.input == operation->output &&
                                 !(operation->asked.flags & COLL_NOT_ATOMIC);
    return COLL_OK;
}

/* The same where one of them is not in one piece. */
static coll_status copy_forms(struct coll_operation *operation, const struct coll__run *own)
{
    uint8_t *packed = coll__take(operation->engine, COLL__SMALL_BYTES);
    if (!packed)
        return COLL_NO_MEMORY;
    for (uint64_t at = 0; at < own->bytes; at += COLL__SMALL_BYTES) {
        uint64_t left = own->bytes - at;
        uint64_t part = left < COLL__SMALL_BYTES ? left : COLL__SMALL_BYTES;
        coll__form_gather(&operation->input_form, operation->input, own->input + at, part, packed,
                          false);
        coll__form_scatter(&operation->output_form, operation->output, own->output + at, part,
                           packed, operation->bytes >= COLL__STREAM_BYTES);
    }
    coll__give(operation->engine, packed);
    return COLL_OK;
}

/* What comes from this rank itself: its own block, or all in a view of one. */
static coll_status copy_own(struct coll_operation *operation)
{
    const struct coll__view *view = operation->view;
    const struct coll__descriptor *call = &operation->call;
    const bool root = view->rank == call->root;
    uint32_t segment = view->rank;
    switch (call->kind) {
    case COLL_ALL_REDUCE:
    case COLL_REDUCE:
    case COLL_REDUCE_SCATTER:
        if (view->size > 1)
            return COLL_OK;
        break;
    case COLL_BROADCAST:
        segment = COLL_ALL_SEGMENTS;
        if (!root)
            return COLL_OK;
        break;
    case COLL_GATHER:
    case COLL_SCATTER:
        if (!root)
            return COLL_OK;
        break;
    case COLL_ALL_TO_ALL:
        segment = view->rank * view->size + view->rank;
        break;
    case COLL_SEND:
    case COLL_RECV:
        return COLL_OK;
    default:
        break;
    }
    struct coll__run own = {0};
    coll__layout_segment(operation, view->size, segment, &own);
    const uint8_t *from = operation->input + own.input;
    uint8_t *to = operation->output + own.output;
    if (own.bytes == 0 || (from == to && !operation->input_form.scale))
        return COLL_OK;
    if (!coll__form_is_plain(&operation->input_form) ||
        !coll__form_is_plain(&operation->output_form))
        return copy_forms(operation, &own);
    if (operation->bytes >= COLL__STREAM_BYTES)
        coll__copy_stream(to, from, own.bytes);
    else
        coll__copy(to, from, own.bytes);
    return COLL_OK;
}

/* Announce what only we can: credit to those who will send us much, answers to those who asked. */
static void announce(struct coll_operation *operation)
{
    const struct coll__view *view = operation->view;
    for (uint32_t rank = 0; rank < view->size; rank++) {
        bool due = operation->wants_open[rank];
        for (uint32_t i = 0;
             !operation->small && operation->plan && !due && i < operation->plan->info.steps; i++)
            due = coll__step_receives(&operation->plan->steps[i]) &&
                  operation->plan->steps[i].peer == rank;
        if (due)
            coll__tell_open(operation, rank);
    }
    /* Nothing else would tell the receiver. */
    if (operation->call.kind == COLL_SEND && operation->bytes == 0)
        coll__ask(operation, operation->partner, 0);
}

/* Whether having its result proves that all take part with the same call: it depends on every rank's
 * input, and all have the same one. Everything else needs the tokens. By what is the same on all ranks
 * alone, too. */
static bool proves_itself(const struct coll_operation *operation)
{
    if (!operation->small || operation->bytes == 0)
        return false;
    return operation->call.kind == COLL_ALL_REDUCE ||
           (operation->call.kind == COLL_ALL_GATHER && operation->call.digest == 0);
}

static coll_status start(struct coll_operation *operation)
{
    const struct coll_call *asked = &operation->asked;
    operation->input = operation->input_form.base;
    operation->output = operation->output_form.base;
    if (operation->layout.size > 0)
        coll__layout_enter(operation);
    operation->small = operation->bytes <= COLL__SMALL_BYTES;
    if (coll__is_pair(asked->kind))
        coll__agree_issue_pair(&operation->agree, asked->kind == COLL_SEND);
    else
        coll__agree_issue(&operation->agree,
                          proves_itself(operation) || operation->engine->host.options.no_agreement);
    coll__choose_plan(operation);
    if (!coll__check_calls(operation))
        return COLL_OK; /* vetoed */
    COLL_TRY(make_plan(operation));
    COLL_TRY(take_scratch(operation));
    if (operation->plan)
        COLL_TRY(coll__execute_start(operation));
    bool gives = (asked->kind == COLL_BROADCAST || asked->kind == COLL_SCATTER) &&
                 operation->view->rank == operation->call.root;
    operation->idle = operation->bytes == 0 || (operation->pending_bytes == 0 && !gives);
    announce(operation);
    if (operation->plan)
        COLL_TRY(copy_own(operation));
    COLL_TRY(coll__take_early(operation));
    coll__operation_progress(operation);
    return COLL_OK;
}

const char *coll__name_of_gone(const struct coll_group *group, const uint8_t id[16])
{
    const struct coll__gone *gone = group->gone;
    while (gone && memcmp(gone->id, id, sizeof gone->id) != 0)
        gone = gone->next;
    return gone ? gone->name : "a peer of an older view";
}

static void veto_rootless(struct coll_operation *operation)
{
    char text[COLL__TEXT], name[160];
    coll__name_describe(operation, name, sizeof name);
    snprintf(text, sizeof text, "the root of %s, %s, is gone: '%s'%s",
             coll_kind_name(operation->call.kind), name,
             coll__name_of_gone(operation->group, operation->root),
             coll__advice(operation->view, "; call sync() and choose another root"));
    coll__operation_veto(operation, COLL_PEER_LOST, -1, text);
}

/* The call's blocks are those of members that are not there any more. */
static void veto_shape(struct coll_operation *operation)
{
    const struct coll__layout *layout = &operation->layout;
    char text[COLL__TEXT], name[160];
    uint32_t lost = 0;
    while (lost + 1 < layout->size &&
           coll__rank_of(operation->view, layout->peers[lost]) < operation->view->size)
        lost++;
    coll__name_describe(operation, name, sizeof name);
    snprintf(text, sizeof text, "a member whose block is in %s, %s, is gone: '%s'%s",
             coll_kind_name(operation->call.kind), name,
             coll__name_of_gone(operation->group, layout->peers[lost]),
             coll__advice(operation->view,
                          "; call sync() and call it for the members that are left, "
                          "or pass resize"));
    coll__operation_veto(operation, COLL_PEER_LOST, -1, text);
}

void coll__operation_start(struct coll_operation *operation)
{
    struct coll__view *view = operation->view;
    if (coll__waits_its_turn(operation))
        return;
    if (operation->after)
        operation->warn_at = coll__now() + operation->engine->host.options.stall_ns;
    /* What cannot be called in this view is not compared with what others call. */
    if (coll__kind_is_rooted(operation->call.kind)) {
        operation->call.root = coll__rank_of(view, operation->root);
        if (operation->call.root == view->size) {
            veto_rootless(operation);
            return;
        }
    }
    if (operation->layout.size > 0 && !coll__layout_fits(operation)) {
        veto_shape(operation);
        return;
    }
    if (coll__is_pair(operation->call.kind) && !coll__pair_meet(operation))
        return;
    operation->started = true;
    coll_status status = start(operation);
    if (status != COLL_OK)
        coll__operation_veto(operation, status, (int32_t)view->rank,
                             status == COLL_NO_MEMORY ? "out of memory" : "malformed data");
}

/* In the order of issue, as the callers have begun them. */
static void start_all(struct coll_group *group)
{
    for (struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        for (struct coll_operation *at = tag->oldest; at;) {
            struct coll_operation *next = at->newer; /* a receive from any may change its order */
            at->references++;
            if (!at->started && !at->let_go)
                coll__operation_start(at);
            coll__operation_unref(at);
            at = next;
        }
    }
}

void coll__take_turns(struct coll_engine *engine)
{
    while (engine->turns) {
        engine->turns = false;
        for (struct coll_group *group = engine->groups; group; group = group->next) {
            bool may = group->committed && !group->seal.sealed && group->broken == COLL_OK;
            if (group->turns && may) /* else the verdict starts them, or ends them */
                start_all(group);
            group->turns = false;
        }
    }
}

/* Give the call the next number of its tag; nothing is sent yet. */
static coll_status enlist(struct coll_group *group, const struct coll_call *call,
                          struct coll_operation **out)
{
    struct coll__view *view = group->committed;
    if (!view)
        return coll__error(COLL_CLOSED, "the group has no committed view");
    if (group->broken != COLL_OK)
        return coll__error(group->broken, "%s", group->broken_text);
    if (view->fixed && view->goodbye_said)
        return coll__error(COLL_CLOSED, "this process has left the group");
    struct buffers buffers = {0};
    struct coll_operation *operation = NULL;
    coll_status status = check_call(view, call, &buffers);
    struct coll__tag *tag = status == COLL_OK ? coll__order_of_call(group, call) : NULL;
    if (tag)
        operation = coll__operation_find(group, tag, tag->following);
    if (tag && !operation)
        coll__operation_new(group, tag, tag->following, &operation);
    if (!operation || coll__layout_make(operation, call) != COLL_OK ||
        (call->codec && coll__coding_open(operation, call, buffers.extents.input) != COLL_OK)) {
        coll__form_free(group->engine, &buffers.input);
        coll__form_free(group->engine, &buffers.output);
        return status != COLL_OK ? status
                                 : coll__error(COLL_NO_MEMORY, "no memory for an operation");
    }
    coll__tag_issue(tag, operation);
    if (operation->number > group->last_operation)
        group->last_operation = operation->number;
    fill(operation, call, &buffers);
    operation->references++;
    *out = operation;
    return COLL_OK;
}

/* What the call is of: one of several parts. */
static void narrow(struct coll_operation *operation, uint32_t parts, uint32_t part)
{
    uint64_t begin, end;
    coll_segment_range(operation->asked.count, parts, part, &begin, &end);
    operation->offset = begin * operation->element;
    operation->layout.count = end - begin;
    operation->bytes = operation->output_bytes = (end - begin) * operation->element;
    operation->call.digest = part + 1;
    if (operation->coding)
        operation->coding->count = end - begin;
}

/* Parts get their numbers at once, so that they follow each other whatever is issued next. */
static coll_status issue_parts(struct coll_group *group, const struct coll_call *call,
                               uint32_t parts, struct coll_operation **out)
{
    struct coll__series *series;
    struct coll_operation *part;
    if (coll__series_new(group, call->tag, parts, &series) != COLL_OK)
        return coll__error(COLL_NO_MEMORY, "no memory for an operation");
    for (uint32_t i = 0; i < parts; i++) {
        coll_status status = enlist(group, call, &part);
        if (status != COLL_OK && i == 0) {
            coll__operation_unref(series->whole);
            return status;
        }
        if (status != COLL_OK) { /* what has a number must end by a verdict */
            coll__operation_veto(series->part[0], status, -1, "out of memory");
            break;
        }
        narrow(part, parts, i);
        coll__series_add(series, part);
        coll__reached(part, COLL_PHASE_ISSUED);
    }
    *out = series->whole;
    group->turns = group->engine->turns = true;
    coll__take_turns(group->engine);
    return COLL_OK;
}

coll_status coll__issue(struct coll_group *group, const struct coll_call *call,
                        struct coll_operation **out)
{
    uint32_t parts = coll__series_parts(call);
    if (parts > 1 && group->committed)
        return issue_parts(group, call, parts, out);
    COLL_TRY(enlist(group, call, out));
    coll__reached(*out, COLL_PHASE_ISSUED);
    if (group->seal.sealed) /* it starts with the verdict */
        return COLL_OK;
    coll__operation_start(*out);
    coll__pair_match(group, (*out)->order); /* what comes after it is next now */
    return COLL_OK;
}

coll_status coll__refuse(struct coll_group *group, uint32_t tag, coll_status status,
                         const char *text, struct coll_operation **out)
{
    const struct coll_call call = {.kind = COLL_BARRIER, .tag = tag};
    COLL_TRY(enlist(group, &call, out));
    coll__operation_let_go(*out); /* so that no verdict starts it */
    coll__operation_veto(*out, status, (int32_t)group->committed->rank, text);
    return COLL_OK;
}
