/* The engine's own data: who owns what, and under which lock.
 *
 * One mutex, `engine->lock`, guards everything reachable from a coll_engine. Whoever waits for
 * progress becomes the *driver*: it alone waits on the epoll and dispatches. A blocking caller
 * drives by itself (a hand-over to another thread costs more than a small operation); the
 * progress thread drives when no caller has done so for a while.
 */
#ifndef COLL_ENGINE_ENGINE_H
#define COLL_ENGINE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "codec/codec.h"
#include "collectives.h"
#include "engine/agree.h"
#include "engine/fetch.h"
#include "engine/status.h"
#include "engine/transport.h"
#include "plan/plan.h"
#include "reduce/reduce.h"
#include "wire/frame.h"

enum {
    COLL__SMALL_BYTES = 64 << 10,     /* up to here: owned copies, priority, no tokens */
    COLL__WHOLE_BYTES = 16 << 10,     /* what a rank may send at most to save a hop */
    COLL__AHEAD_BYTES = 1 << 20,    /* of a segment, at its owner, before others' are there */
    COLL__PART_BYTES = 8 << 20,     /* of a resumed operation, at least */
    COLL__PARTS = 64,               /* of it, at most */
    COLL__PARTS_AT_ONCE = 4,        /* of it, so many are under way, and lost with a member */
    COLL__STREAM_BYTES = 8 << 20,     /* from here: results go past the cache */
    COLL__EAGER_WINDOW = 1 << 20,     /* uncredited bytes a peer may have at another */
    COLL__EAGER_BULK = 512 << 10,     /* of which large operations may take this much */
    COLL__OP_BUCKETS = 64,
    COLL__EVENT_QUEUE = 256,
    COLL__TEXT = 1024,
    COLL__LATER_MAX = 1 << 16,      /* frames of views to come that a group keeps */
    COLL__STALL_NS = 200000000      /* a running operation asks after the absent this often */
};

/* Slices of one operation that wait for one link. Small and large operations queue apart, and
 * the links serve the flows of each class in turn. */
struct coll__flow {
    struct coll__link *link;
    struct coll_operation *operation;
    uint32_t rank;
    struct coll__flow *next, *previous; /* ring of the link, while it has slices */
    struct coll__slice *head, **tail;
    struct coll__slice **relayed; /* behind those that pass on what came; fresh input follows */
    bool credit;                 /* the peer has issued the operation */
    bool asked;                  /* a QUERY for credit has been sent */
    uint64_t blocked_since;      /* 0: not blocked */
};

/* A frame that came before its time: of an operation that is not issued here, or of a view that is
 * not committed here. */
struct coll__early {
    struct coll__early *next;
    struct coll__link *link;
    uint64_t arrived; /* when */
    struct coll__frame frame;
    uint8_t payload[];
};

struct coll__link_use {          /* telemetry of one operation on one link */
    uint64_t sent_bytes, received_bytes, blocked_ns, resent;
};

struct coll__saved {             /* input bytes kept for restoring, at the same place in shadow */
    uint64_t offset, length;
};

/* Why a call wants to end: it goes on until the verdict. */
struct coll__veto {
    coll_status status;                      /* COLL_OK: there is none */
    int32_t culprit;                         /* rank in operation->view, -1: nobody */
    uint64_t since;
    char *text;                              /* malloc'ed */
};

/* How one of the caller's arrays lies: `loops` nested loops, the outermost first, over runs of bytes;
 * none: it is one run. */
enum { COLL__FORM_LOOPS = 8, COLL__COARSE_BYTES = 512 };
struct coll__part {
    int64_t at; /* where it is, from the form's base */
    uint64_t begin, end; /* its bytes among those of all parts */
    uint64_t run;
    uint32_t loops;
    uint32_t index; /* in the caller's list */
    uint64_t counts[COLL__FORM_LOOPS];
    int64_t steps[COLL__FORM_LOOPS]; /* bytes */
};

/* What the caller gives as an input or an output, one part after the other. */
struct coll__form {
    uint8_t *base; /* where the call has it; see coll_operation.input and .output */
    struct coll__part *parts; /* NULL: it is in one piece, at the base */
    uint32_t count;
    bool apart; /* each part is an array of the list, though they may follow each other in memory */
    coll__scale_fn
        scale; /* what is gathered is multiplied by the factor; NULL: it is taken as it is */
    double factor;
    uint32_t element; /* bytes; with scale */
};

/* The blocks of a call; see struct coll_call. Offsets are in elements, with one more at the end. */
struct coll__layout {
    void *block; /* the memory of what follows */
    uint64_t count;
    const uint64_t *to, *from; /* where blocks begin in the input and the output; NULL: even ones */
    uint32_t size; /* of the caller's view; 0: the kind has no blocks */
    uint8_t (*peers)[16]; /* its members */
};

/* What a quantized operation needs; see coding.c. */
struct coll__coding {
    struct coll__codec codec, cast; /* cast: to and from dtype, unless it is f32 or f64 */
    uint32_t dtype;
    uint64_t granule; /* bytes of the caller's elements that are a unit */
    uint8_t *encoded; /* what is sent as it came, or was made */
    float *residual; /* the caller's, or NULL */
    float *lost; /* what it becomes; from the operation's first element */
    uint64_t count; /* elements of the input */
};
enum { COLL__CODING_PIECE = 4096 /* elements; whole units of every codec */ };

struct coll_operation {
    struct coll_operation *next; /* in group->operations */
    struct coll_operation *older, *newer; /* in tag->oldest, once issued */
    struct coll_engine *engine;
    struct coll_group *group;
    struct coll__view *view; /* in which it runs; holds a reference */
    uint32_t references; /* the table, the caller, slices in flows */
    uint64_t number;
    uint32_t tag;
    struct coll__tag *order; /* in which the number counts */
    struct coll__agree agree;
    struct coll__descriptor call;
    bool issued, started; /* started: in the present view */
    bool finished, listed;
    bool let_go; /* the caller went; its buffers are not ours any more */
    bool unknown; /* failed, but may have succeeded elsewhere */
    coll_status status; /* once finished */
    int32_t culprit;
    char *error; /* malloc'ed, NULL: none */
    struct coll__veto veto;
    /* before it is issued */
    struct coll__early *early, **early_tail;
    /* once it is issued */
    struct coll_call asked; /* as the caller gave it */
    uint8_t root[16]; /* rooted kinds */
    uint32_t partner; /* COLL_SEND, COLL_RECV: rank of the other one, once started */
    uint64_t heard; /* before it is issued: the first frame about it came as the so manieth */
    const struct coll_plan *plan;
    struct coll__run *run; /* per-step progress; NULL without steps */
    uint64_t pending_bytes; /* still to be received */
    const uint8_t *input;
    uint8_t *output;
    uint64_t bytes; /* of the payload: of the larger one of all inputs and all outputs */
    uint64_t output_bytes; /* of this rank's */
    uint32_t element; /* bytes */
    uint32_t slice_bytes;
    bool small, in_place_atomic;
    bool placed_again; /* a place in the output was given out twice */
    struct coll__layout layout;
    struct coll__form input_form, output_form;
    struct coll__coding *coding; /* NULL: nothing is encoded */
    struct coll__series *series; /* which it is a part of, or the whole; or NULL */
    struct coll_operation *after; /* it does not start before this one has ended; or NULL */
    uint64_t offset; /* of a part: where it begins in both buffers, in bytes */
    uint8_t *scratch; /* of reduced segments for which the output has no room; an input in safety */
    uint64_t scratch_bytes;
    bool idle; /* nothing is to come for it here, so that being complete says nothing */
    coll__reduce_fn reduce;
    coll__divide_fn divide;
    const uint8_t **sources; /* twice the size: scratch of kept.c */
    uint8_t *shadow;
    struct coll__saved *saved;
    uint32_t saved_count, saved_capacity;
    struct coll__slice *borrowed; /* slices that point into our buffers */
    struct coll__flow *flows; /* one per rank, allocated with the operation */
    struct coll__link_use *uses; /* likewise */
    uint8_t *seen; /* per rank: has issued it, as far as we know */
    struct coll__descriptor *calls; /* per rank that was seen: what it called */
    uint64_t *absent; /* per rank that said it has not issued it: 1 + the
                                              * last number that it had issued; 0: unheard */
    uint8_t *wants_open; /* per rank: has asked */
    uint32_t supplier; /* rank that holds the result we await */
    /* time */
    uint64_t deadline, stall_check;
    uint64_t warn_at; /* 0: the stall was reported */
    struct coll_info info;
    int notify_fd;
};

/* Per-step progress of a running operation. */
struct coll__run {
    uint64_t input, output, bytes; /* where the segment is in the buffers */
    bool scratch; /* the output has no room for it: `output` is in the operation's scratch */
    uint64_t arrived; /* receiving steps; REDUCE: how much is reduced */
    uint64_t encoded; /* makes: where it is in coding->encoded */
    bool coded; /* what is sent or received is encoded */
    bool makes; /* the result is kept encoded, for others */
    struct coll__kept *kept; /* RECV_KEEP: what waits for the REDUCE, in order; REDUCE that comes
                              * after a step: what that one has made */
};

/* A resumed operation: see series.c. The whole of it is what the caller holds; its parts are
 * operations of the group. */
struct coll__series {
    struct coll_operation *whole;
    uint32_t parts, ended;
    uint8_t *shadow; /* of all parts */
    uint64_t shadow_bytes;
    struct coll_operation *part[]; /* a reference to each */
};

/* A slice that waits until it can be reduced. */
struct coll__kept {
    struct coll__kept *next;
    uint64_t offset, length; /* in the segment */
    const uint8_t *payload; /* NULL: it is in the output */
    struct coll__link *link; /* which holds the payload; NULL: it follows, in `copy` */
    uint64_t hold;
    uint8_t copy[];
};

struct coll__member {
    uint8_t id[16];
    char name[64];
    struct coll__link *link; /* NULL for ourselves */
    bool goodbye; /* said that it leaves the view */
    uint64_t
        mark; /* of a fixed view: how far it must have come before we may go, and 1; 0: not yet */
};

/* The result of an operation, kept for members that may not have it yet. */
struct coll__retained {
    struct coll__retained *next;
    uint64_t number, view; /* the view that reduced it */
    uint64_t length;
    uint8_t payload[];
};

/* Who takes part in the operations of an order. */
enum coll__role {
    COLL__TOGETHER = 0, /* all members */
    COLL__SENDING = 1, /* this peer, and the one it sends to */
    COLL__RECEIVING = 2 /* this peer, and the one that sends, or (nobody: all 0) who will be it */
};

/* An order of operations, across views: those of one tag that all members call, or of one tag from
 * one member to another. */
struct coll__tag {
    struct coll__tag *next;
    struct coll_engine *engine;
    uint32_t tag;
    enum coll__role role;
    uint8_t peer[16]; /* the other one; all 0: none */
    uint64_t following; /* the number of the next operation */
    struct coll_operation *oldest, *newest; /* issued and not over, in order */
    uint64_t settled; /* watermark */
    uint64_t told; /* the watermark that all members were last told */
    uint64_t *ahead; /* settled beyond the watermark */
    uint32_t ahead_count, ahead_capacity;
    struct coll__retained *retained, **retained_tail; /* in order */
    uint64_t retained_bytes;
    uint64_t *heard; /* watermark of each rank of the committed view; NULL between two */
    uint32_t ranks;
};

struct coll__planned {
    struct coll__planned *next;
    uint32_t kind, algorithm, root;
    struct coll_plan *plan;
};

/* An immutable list of members. */
struct coll__view {
    uint32_t references; /* group (committed or prepared), operations */
    struct coll_group *group;
    uint64_t term, number, first_operation;
    uint32_t rank, size;
    uint8_t key[32];
    struct coll__planned *plans; /* made when they are needed; the last one used comes first */
    const struct coll__transport *local; /* of all links, if it moves bytes within the host */
    struct coll_topology *topology; /* NULL: no levels and no choices */
    uint16_t levels; /* digest of its levels and their settings, never 0 */
    bool fixed; /* nobody decides about it: see fixed.c */
    bool ready_reported, goodbye_said;
    uint64_t unreachable_check;
    struct coll__member members[];
};

/* A member that went since the last sync. */
struct coll__gone {
    struct coll__gone *next;
    uint8_t id[16];
    char name[64];
};

/* A message of a round for the coordinator, which the membership layer takes away. */
struct coll__letter {
    struct coll__letter *next;
    uint32_t kind; /* enum coll_round_message */
    uint32_t length;
    uint8_t bytes[];
};

struct coll_group {
    struct coll_group *next; /* in engine->groups */
    uint32_t references; /* its owner, and operations: what they have sent may still be queued */
    struct coll_engine *engine;
    uint32_t id;
    char name[64];
    struct coll__view *committed, *prepared;
    struct coll__seal seal;
    struct coll_operation *operations[COLL__OP_BUCKETS]; /* of the committed view */
    struct coll__tag *tags;
    uint64_t last_operation;
    uint64_t heard; /* of how many operations others were heard before they were issued here */
    coll_status broken; /* COLL_OK: whole */
    uint8_t broken_culprit[16]; /* all 0: nobody */
    char broken_text[COLL__TEXT];
    coll_status ending; /* of a fixed view: it is to be broken, with that culprit and text */
    struct coll__early *later, **later_tail; /* frames of views to come */
    uint32_t later_count;
    struct coll__gone *gone;
    uint64_t veto_again; /* before this no veto is told to the membership layer again */
    bool turns; /* the turn of an operation that waited for another has come */
    struct coll__letter *letters, **letters_tail;
    uint8_t *report; /* of the round that sealed us; malloc'ed */
    uint32_t report_length;
    struct coll__ended *ended; /* operations that failed lately, for inspection */
    /* for the membership layer */
    struct coll_event *events;
    uint32_t event_head, event_count;
    int event_fd;
};

/* Blocks of one size that nobody uses. */
struct coll__blocks {
    struct block *first;
    uint32_t count;
};
enum { COLL__BLOCK_SIZES = 13 };

enum coll__driver { COLL__NOBODY = 0, COLL__CALLER = 1, COLL__THREAD = 2 };

struct coll_engine {
    struct coll__host host; /* first; what the transports see. Guarded by lock, too */
    pthread_mutex_t lock;
    /* everything below is guarded by lock, unless it says otherwise */
    pthread_cond_t changed; /* an operation finished, or the driver's seat is free */
    pthread_cond_t thread_wake; /* for the progress thread while it is parked */
    enum coll__driver driver;
    uint32_t callers; /* inside coll__drive_until */
    uint32_t waiting_callers; /* of them, those that do not drive */
    uint32_t woken_callers; /* of these, those that were woken and have not got the lock yet */
    uint64_t caller_activity; /* counts callers that drove: the thread stays away meanwhile */
    bool thread_parked, kicked, stopping;
    bool turns; /* so it has in some group */
    bool endings; /* some group has one */
    uint32_t looks; /* turns in which something came without a system call */
    bool quiet; /* in this turn nothing has come */
    bool destroyed; /* closed, but kept for those who still hold operations */
    uint32_t operations; /* that exist */
    atomic_bool forked; /* set in the child; read without the lock */
    pthread_t thread;
    struct coll_engine *next; /* in the process's list, for fork */
    char *bind, *interface, *congestion; /* what the options' strings are copied to */
    struct coll_group *groups;
    uint64_t next_tick, last_tick;
    struct coll__moment *moment; /* fault injection: coll_fault_at; NULL: none */
    struct coll__serving serving;
    /* pools */
    struct coll__blocks blocks[COLL__BLOCK_SIZES + 1]; /* the last: too large to be kept */
    uint8_t *shadow; /* the last one used, kept for the next */
    size_t shadow_bytes;
};

static inline struct coll_engine *coll__engine_of(struct coll__host *host)
{
    return (struct coll_engine *)host; /* its first member */
}

/* memory.c */
/* Memory for what operations need; the engine keeps what is given back. NULL: there is none. */
void *coll__take(struct coll_engine *engine, size_t bytes);
void *coll__take_zeroed(struct coll_engine *engine, size_t bytes);
void coll__give(struct coll_engine *engine, void *taken); /* which may be NULL */
struct coll__slice *coll__slice_new(struct coll_engine *engine);
/* The payload is in the buffers of whoever keeps this list. */
void coll__slice_borrow(struct coll__slice *slice, struct coll__slice **list);
void coll__slice_return(struct coll__slice *slice);
/* All of it, and its CRC-32C. */
uint32_t coll__slice_copy_summed(const struct coll__slice *slice, uint8_t *to);
void coll__slice_unstage(struct coll__slice *slice);
/* Nobody needs the payload any more: only the frame's number still has to arrive. */
void coll__slice_void(struct coll__slice *slice);
coll_status coll__shadow_take(struct coll_engine *engine, size_t bytes, uint8_t **shadow);
void coll__shadow_give(struct coll_engine *engine, uint8_t *shadow, size_t bytes);
void coll__pools_free(struct coll_engine *engine);

/* group.c */
#define COLL__CLOSED_TEXT "the group was closed while the operation was pending"
struct coll_group *coll__group_find(struct coll_engine *engine, uint32_t id);
uint32_t coll__rank_of(const struct coll__view *view, const uint8_t peer[16]); /* size: none */
/* Forget who went before the last sync. */
void coll__gone_free(struct coll_group *group);
void coll__group_tick(struct coll_group *group, uint64_t now);
coll_status coll__group_prepare(struct coll_group *group, const struct coll_view *given);
coll_status coll__group_commit(struct coll_group *group, uint64_t term, uint64_t number,
                               uint64_t first_operation, const struct coll_topology *topology);
coll_status coll__group_choose(struct coll_group *group, const struct coll_choice *choices,
                               uint32_t count);
void coll__group_discard(struct coll_group *group);
void coll__group_close(struct coll_group *group);
void coll__group_unref(struct coll_group *group);
/* End every operation, issued or only heard of. `unknown`: it may have succeeded elsewhere. */
void coll__group_end_all(struct coll_group *group, coll_status status, int32_t culprit,
                         const char *text, bool unknown);
/* This peer is out: everything ends with `status`, and nothing is known of what others made of it. */
void coll__group_out(struct coll_group *group, coll_status status, const char *text);
/* Make `view` the committed one; the links of the one before are let go. */
void coll__group_install(struct coll_group *group, struct coll__view *view);

/* leave.c */
coll_status coll__group_flush(struct coll_group *group, uint64_t timeout_ns);
/* Before it is closed: the others are not to wait for one who has not said goodbye. */
void coll__group_take_leave(struct coll_group *group);

/* view.c */
coll_status coll__view_new(struct coll_group *group, const struct coll_view *given,
                           struct coll__view **view);
void coll__view_release(struct coll__view *view);
/* Drop the view's links and its owner's reference. */
void coll__view_retire(struct coll__view *view);
void coll__view_report_if_ready(struct coll_group *group);
/* Close the links that no view needs, unless another may; and all there are. */
void coll__links_tick(struct coll_engine *engine);
void coll__links_close(struct coll_engine *engine);
/* The member is reached by this link. */
void coll__member_attach(struct coll__member *member, struct coll__link *link);
/* It said goodbye. */
void coll__member_leaves(struct coll__member *member);
/* All links are known, and the topology: whether they stay within the host, what its levels are. */
void coll__view_place(struct coll__view *view);
/* This rank's plan; the view keeps it. */
coll_status coll__view_plan(struct coll__view *view, uint32_t kind, uint32_t algorithm,
                            uint32_t root, const struct coll_plan **plan);

/* tag.c */
/* It is made when it is needed; NULL: no memory. `peer`: NULL for none. */
struct coll__tag *coll__tag_find(struct coll_group *group, uint32_t tag, enum coll__role role,
                                 const uint8_t *peer);
void coll__tag_issue(struct coll__tag *tag, struct coll_operation *operation);
/* The operation is not in this order any more. */
void coll__tag_leave(struct coll__tag *tag, struct coll_operation *operation);
/* The operation is over. */
void coll__tag_settle(struct coll__tag *tag, struct coll_operation *operation);
coll_status coll__tag_retain(struct coll__tag *tag, const struct coll_operation *operation);
const struct coll__retained *coll__tag_retained(const struct coll__tag *tag, uint64_t number);
/* `rank` has settled everything up to `watermark`. */
void coll__tag_hear(struct coll__tag *tag, uint32_t rank, uint64_t watermark);
/* A new view: what was heard counts no more; `first` is the next number, 0: it goes on. */
void coll__tags_enter(struct coll_group *group, uint64_t first);
void coll__tags_tick(struct coll_group *group);
void coll__tags_free(struct coll_group *group);
/* Whether all who stay are known to have settled what is settled here. */
bool coll__tags_told(const struct coll_group *group);

/* operation.c */
struct coll_operation *coll__operation_find(struct coll_group *group, const struct coll__tag *order,
                                            uint64_t number);
coll_status coll__operation_new(struct coll_group *group, struct coll__tag *order, uint64_t number,
                                struct coll_operation **operation);
/* The same of one that frames cannot find. */
coll_status coll__operation_make(struct coll_group *group, struct coll__tag *order, uint64_t number,
                                 struct coll_operation **operation);
/* In the group's table, and out of it. */
void coll__operation_list(struct coll_operation *operation);
void coll__operation_unlist(struct coll_operation *operation);
/* Make room for the ranks of the committed view, and forget what was known of another. */
coll_status coll__operation_enter(struct coll_operation *operation);
void coll__operation_unref(struct coll_operation *operation);
/* Nothing may touch the caller's buffers after this. */
void coll__operation_quiesce(struct coll_operation *operation);
/* Back to where it was when it was issued: nothing sent, inputs restored. */
void coll__operation_reset(struct coll_operation *operation);
void coll__operation_finish(struct coll_operation *operation, coll_status status, int32_t culprit,
                            const char *text);
/* The caller gets its input back, if it was overwritten. */
void coll__operation_restore(struct coll_operation *operation);
/* The caller wants it to end with an error: the coordinator decides. The first one counts, but a
 * mismatch explains more than a timeout. */
void coll__operation_veto(struct coll_operation *operation, coll_status status, int32_t culprit,
                          const char *text);
/* The caller goes without waiting for the verdict: its buffers get their input back. */
void coll__operation_let_go(struct coll_operation *operation);
void coll__operation_tick(struct coll_operation *operation, uint64_t now);
/* If everything has arrived: complete, tokens, settle. */
void coll__operation_progress(struct coll_operation *operation);

/* form.c */
/* Of `count` elements in all. `apart`: arrays that follow each other in memory are parts of their own
 * all the same. The form has no memory (any more) if it fails. */
coll_status coll__form_make(struct coll_engine *engine, struct coll__form *form,
                            const struct coll_array *arrays, uint32_t n, bool apart, uint64_t count,
                            uint64_t element);
void coll__form_free(struct coll_engine *engine, struct coll__form *form);
/* Whether they lie the same, from their bases. */
bool coll__form_same(const struct coll__form *a, const struct coll__form *b);
/* COLL_INVALID_ARGUMENT unless each element of the output has a place of its own, which is none of the
 * input's (0 bytes: it is not looked at). Arrays that are entangled in another way than columns of a matrix are, are taken to share
 * memory. */
coll_status coll__form_check(struct coll_engine *engine, const struct coll__form *input,
                             uint64_t input_bytes, const struct coll__form *output,
                             uint64_t output_bytes);
/* Whether it can be worked on as one piece, right there. */
static inline bool coll__form_is_plain(const struct coll__form *form)
{
    return !form->parts && !form->scale;
}
/* Bytes [offset, offset + length) of it, as if it were packed. `stream`: past the cache. */
void coll__form_gather(const struct coll__form *form, const uint8_t *base, uint64_t offset,
                       uint64_t length, uint8_t *packed, bool stream);
void coll__form_scatter(const struct coll__form *form, uint8_t *base, uint64_t offset,
                        uint64_t length, const uint8_t *packed, bool stream);
/* Where the byte at `offset` is; *length is made less if there are not so many in one piece. */
uint8_t *coll__form_piece(const struct coll__form *form, uint8_t *base, uint64_t offset,
                          uint64_t *length);
/* The same of all `length` bytes; NULL: they are not in one piece. */
uint8_t *coll__form_whole(const struct coll__form *form, uint8_t *base, uint64_t offset,
                          uint64_t length);
/* Whether the pieces of this range are so long that they are worth to be worked on where they are. */
bool coll__form_is_coarse(const struct coll__form *form, uint64_t offset, uint64_t length);

/* layout.c */
bool coll__has_blocks(uint32_t kind);
/* Whether blocks of others are received one after the other. */
bool coll__packs(uint32_t kind);
bool coll__reduces(uint32_t kind);
struct coll__extents {
    uint64_t input, output; /* elements of this rank's buffers */
    uint64_t whole; /* of the larger one of all inputs and all outputs */
    uint64_t own; /* where its block begins among all */
};
/* Of a call that names `size` ranks, of which the caller is `rank`. False: that cannot be. */
bool coll__extents(const struct coll_call *call, uint32_t rank, uint32_t size,
                   struct coll__extents *extents);
coll_status coll__layout_make(struct coll_operation *operation, const struct coll_call *call);
/* Whether the view has the members that the blocks are of; with COLL_RESIZE, none but them. */
bool coll__layout_fits(const struct coll_operation *operation);
/* What all ranks of the view must have called the same, and how many bytes it is, now that blocks of
 * the lost do not count: whoever called it before a loss and whoever did after it agree. */
void coll__layout_enter(struct coll_operation *operation);
/* Bytes of this rank's block, and where the call has it among all. */
uint64_t coll__layout_own(const struct coll_operation *operation, uint64_t *offset);
/* Elements of what goes to a rank of the view, or comes from it. */
uint64_t coll__layout_block(const struct coll_operation *operation, uint32_t rank, bool to);
/* Where a segment of the plan is; see coll_plan_make. */
void coll__layout_segment(const struct coll_operation *operation, uint32_t segments,
                          uint32_t segment, struct coll__run *run);

/* pair.c: sends and receives */
static inline bool coll__is_pair(uint32_t kind)
{
    return kind == COLL_SEND || kind == COLL_RECV;
}
/* What the other one calls. */
static inline uint8_t coll__counterpart(uint8_t kind)
{
    return kind == COLL_SEND ? COLL_RECV : kind == COLL_RECV ? COLL_SEND : kind;
}
/* The order that a call is in, and that a frame from a peer is about; NULL: no memory. */
struct coll__tag *coll__order_of_call(struct coll_group *group, const struct coll_call *call);
struct coll__tag *coll__order_of_frame(struct coll_group *group, const uint8_t peer[16],
                                       const struct coll__frame *frame);
/* Find out whom it is with in its view. False: nobody, so it cannot start; it is vetoed, or a
 * receive from any that waits for a sender. */
bool coll__pair_meet(struct coll_operation *operation);
/* In an order from one sender, something may be there that nobody has called: a receive from any
 * that waits takes it. */
void coll__pair_match(struct coll_group *group, const struct coll__tag *order);
/* Whether all has come that it needs to be complete. */
bool coll__pair_is_whole(const struct coll_operation *operation);

/* describe.c: what people read */
/* "'p3' (rank 3)"; or of a fixed view, whose members are named by rank, the name alone. */
struct coll__who {
    char text[88];
};
struct coll__who coll__who(const struct coll__view *view, uint32_t rank);
/* What may be done about an error by one whose view may be followed by another; of a fixed view
 * nothing, since its end says it. */
const char *coll__advice(const struct coll__view *view, const char *advice);
void coll__call_describe(const struct coll__descriptor *call, char *text, size_t length);
/* "hierarchical over levels #0a1b" */
void coll__plan_describe(const struct coll__descriptor *call, char *text, size_t length);
/* "operation 7 (tag 3) of view 1" */
void coll__name_describe(const struct coll_operation *operation, char *text, size_t length);
/* Who is missing: those that have not issued it, else those whose data has not come. Returns the
 * rank that it is about, -1: none. */
int32_t coll__missing_describe(const struct coll_operation *operation, char *text, size_t length);

/* choose.c */
/* Which plan carries the operation out in its view, in operation->call: by what is the same on all
 * ranks alone. */
void coll__choose_plan(struct coll_operation *operation);
/* Whether an operation of the kind, with so many bytes, can be carried out so; the text of the error
 * names what can. */
coll_status coll__check_algorithm(uint32_t kind, uint32_t algorithm, uint64_t bytes);
coll_status coll__check_topology(const struct coll_topology *topology, uint32_t size);
/* Whether the links of a view are those that a topology has for its levels. */
coll_status coll__check_transports(const struct coll__view *view,
                                   const struct coll_topology *topology);

/* issue.c */
coll_status coll__issue(struct coll_group *group, const struct coll_call *call,
                        struct coll_operation **operation);
/* Give the next call of a tag a number and a veto, and never start it. */
coll_status coll__refuse(struct coll_group *group, uint32_t tag, coll_status status,
                         const char *text, struct coll_operation **out);
/* The name of a member that went since the last sync. */
const char *coll__name_of_gone(const struct coll_group *group, const uint8_t id[16]);
/* Begin an issued operation in the committed view, if its turn has come. */
void coll__operation_start(struct coll_operation *operation);
/* Start all whose turn has come. */
void coll__take_turns(struct coll_engine *engine);

/* series.c */
bool coll__is_whole(const struct coll_operation *operation);
/* How many parts a call has: a function of the size of its payload alone. */
uint32_t coll__series_parts(const struct coll_call *call);
coll_status coll__series_new(struct coll_group *group, uint32_t tag, uint32_t parts,
                             struct coll__series **series);
void coll__series_free(struct coll__series *series);
/* An operation is the next part. */
void coll__series_add(struct coll__series *series, struct coll_operation *operation);
/* A part has ended. */
void coll__series_ended(struct coll_operation *operation);
coll_status coll__series_shadow(struct coll_operation *operation);
/* The whole is to end, or its caller goes. */
void coll__series_veto(struct coll__series *series, coll_status status, const char *text);
void coll__series_let_go(struct coll__series *series);
/* Whether it has been issued, and does not start before another has ended. */
static inline bool coll__waits_its_turn(const struct coll_operation *operation)
{
    return operation->after && !operation->after->finished;
}

/* round.c */
void coll__round_seal(struct coll_group *group, const struct coll__epoch *epoch);
void coll__round_hear(struct coll_group *group, struct coll__link *link,
                      const struct coll__frame *frame, const uint8_t *payload);
void coll__letters_free(struct coll_group *group);

/* report.c */
/* Write down where everything stands, in group->report. */
void coll__report_make(struct coll_group *group);

/* judge.c */
/* Take a verdict; one that was taken before does nothing. */
coll_status coll__round_judge(struct coll_group *group, const uint8_t *bytes, size_t length);

/* coding.c: quantized reductions */
/* Whether a call's codec can be used. */
coll_status coll__coding_check(const struct coll_call *call);
/* Whether an algorithm can carry what is encoded. */
bool coll__codes(uint32_t algorithm);
/* A codec in twelve bits, for coll__descriptor; and its name. */
uint16_t coll__codec_code(const struct coll_codec *codec);
void coll__codec_name(uint16_t code, char *text, size_t length);
/* `count`: elements of the input. */
coll_status coll__coding_open(struct coll_operation *operation, const struct coll_call *call,
                              uint64_t count);
/* What an attempt has made to be sent on; and all of it. */
void coll__coding_drop(struct coll_operation *operation);
void coll__coding_reset(struct coll_operation *operation);
/* The operation stands: the caller's residual is that of this encoding. */
void coll__coding_commit(struct coll_operation *operation);
void coll__coding_free(struct coll_operation *operation);
coll_status coll__coding_start(struct coll_operation *operation);
/* What `length` bytes of the caller's elements, whole units or the last ones, are when encoded. */
uint64_t coll__wire_bytes(const struct coll_operation *operation, uint64_t length);
/* How much of the `left` bytes of a segment a payload covers; false: it is no part of it. */
bool coll__wire_covers(const struct coll_operation *operation, uint64_t left, uint32_t wire,
                       uint64_t *length);
/* Where the encoded result of a step is, from an offset in its segment; NULL: it has none. */
const uint8_t *coll__coding_made(const struct coll_operation *operation, uint32_t index,
                                 uint64_t offset);
/* The payload of a slice. */
void coll__coding_encode(const struct coll__slice *slice, uint8_t *to);
/* A slice of a RECV. */
coll_status coll__coding_take(struct coll_operation *operation, uint32_t index, uint64_t offset,
                              uint64_t length, const uint8_t *payload);
/* `length` bytes of what a RECV_REDUCE or REDUCE adds: n operands in order, NULL: this rank's own. */
void coll__coding_reduce(struct coll_operation *operation, uint32_t index, uint64_t offset,
                         uint64_t length, const uint8_t *const *operands, uint32_t n);

/* execute.c */
coll_status coll__execute_start(struct coll_operation *operation);
/* Bytes of the segments that this rank reduces for others and has no room for in its output. */
uint64_t coll__execute_scratch(const struct coll_operation *operation);
/* Where what a step makes goes, and how it lies there. */
static inline uint8_t *coll__output_of(const struct coll_operation *operation,
                                       const struct coll__run *run)
{
    return run->scratch ? operation->scratch : operation->output;
}
static inline const struct coll__form *coll__output_form_of(const struct coll_operation *operation,
                                                            const struct coll__run *run)
{
    static const struct coll__form packed;
    return run->scratch ? &packed : &operation->output_form;
}
void coll__execute_place(struct coll_operation *operation, uint32_t rank,
                         const struct coll__frame *frame, struct coll__placement *placement);
/* `link`: NULL if the payload is not the link's any more. */
coll_status coll__execute_data(struct coll_operation *operation, struct coll__link *link,
                               uint32_t rank, const struct coll__frame *frame,
                               const uint8_t *payload, const struct coll__placement *placement);
void coll__execute_restore(struct coll_operation *operation);
/* Keep the input's bytes before they are overwritten for the first time. */
coll_status coll__execute_save(struct coll_operation *operation, uint64_t offset, uint64_t length);
/* Bytes of a step's segment are there: send what comes after it. `staged`: where the local transport
 * has them already, or NULL. */
coll_status coll__execute_follow(struct coll_operation *operation, uint32_t index, uint64_t offset,
                                 uint64_t length, uint8_t *staged);

/* kept.c */
/* A slice of a RECV_KEEP step has come, `length` bytes of the segment: keep it, and reduce what all have
 * sent. */
coll_status coll__kept_add(struct coll_operation *operation, uint32_t index,
                           struct coll__link *link, uint64_t offset, uint64_t length,
                           const uint8_t *payload, uint64_t payload_bytes);
/* This rank's own operand of a REDUCE is in the output, as far as that: reduce what all have. */
coll_status coll__kept_own(struct coll_operation *operation, uint32_t index, uint64_t offset,
                           uint64_t length);
void coll__kept_drop(struct coll_operation *operation);

/* schedule.c */
void coll__send_control(struct coll__link *link, const struct coll__frame *frame,
                        const uint8_t *payload, uint32_t length);
void coll__operation_frame(const struct coll_operation *operation, uint32_t rank, uint8_t type,
                           struct coll__frame *frame);
/* `relays`: it passes on what came, and goes before what does not. */
void coll__flow_push(struct coll__flow *flow, struct coll__slice *slice, bool relays);
void coll__flow_drop(struct coll__flow *flow);
/* Drop everything that waits for the link. */
void coll__link_drop(struct coll__link *link);

/* exchange.c */
void coll__tell_open(struct coll_operation *operation, uint32_t rank);
void coll__tell_tokens(struct coll_operation *operation);
void coll__tell_watermark(struct coll__tag *tag, struct coll__view *view);
void coll__ask(struct coll_operation *operation, uint32_t rank, uint16_t flags);
/* A view was installed: deliver what came for it before, drop what came for older ones. */
void coll__take_later(struct coll_group *group);

/* compare.c */
/* What a rank is told that we call: in an all_to_all each pair has its own count. */
struct coll__descriptor coll__call_to(const struct coll_operation *operation, uint32_t rank);
/* Whether a rank calls what we do. */
bool coll__agrees(const struct coll_operation *operation, uint32_t rank,
                  const struct coll__descriptor *theirs);
/* Rank has issued the operation, with this call. False: the calls differ, and it is vetoed. */
bool coll__hear_call(struct coll_operation *operation, uint32_t rank,
                     const struct coll__frame *frame);
/* Compare what others said they called with our own call. False: they differ, and it is vetoed. */
bool coll__check_calls(struct coll_operation *operation);

/* early.c */
/* The payload has left our window. */
void coll__consume(struct coll__link *link, const struct coll__frame *frame);
/* Keep a frame of an operation that has not started here, or of a view to come. */
coll_status coll__keep_early(struct coll_operation *operation, struct coll__link *link,
                             const struct coll__frame *frame, const uint8_t *payload);
coll_status coll__keep_later(struct coll_group *group, struct coll__link *link,
                             const struct coll__frame *frame, const uint8_t *payload);
coll_status coll__take_early(struct coll_operation *operation);
/* For telemetry: a payload of the operation came at this time. */
void coll__arrived(struct coll_operation *operation, uint64_t at);
void coll__drop_early(struct coll_operation *operation);
/* Drop what came over a link (NULL: over any). */
void coll__drop_later(struct coll_group *group, const struct coll__link *link);

/* fixed.c: views that nobody decides about */
/* It ends, once nobody is in the middle of anything; the first cause counts. `culprit`: rank, -1:
 * nobody. What can be done is added to the text. */
void coll__fixed_break(struct coll_group *group, coll_status status, int32_t culprit,
                       const char *text);
/* Another member has broken it. */
coll_status coll__fixed_hear(struct coll_group *group, const struct coll__frame *frame,
                             const uint8_t *payload);
/* An operation of it is vetoed. */
void coll__fixed_veto(struct coll_operation *operation);
/* There is evidence that a peer is dead. */
void coll__fixed_lost(struct coll__link *link, const char *why);
void coll__fixed_tick(struct coll_group *group);
/* This peer goes without a goodbye: its operations end, and the others are told. */
void coll__fixed_close(struct coll_group *group);
/* Have those end that are to: their operations end, so nobody may be in the middle of one. */
void coll__fixed_end(struct coll_engine *engine);

/* events.c */
coll_status coll__events_open(struct coll_group *group);
void coll__events_close(struct coll_group *group);
void coll__emit(struct coll_group *group, enum coll_event_kind kind, uint64_t view,
                const uint8_t *peer, const char *text);
void coll__emit_lost(struct coll_group *group, uint64_t view, const uint8_t *peer,
                     enum coll_certain certain, const char *text);

/* inspect.c */
bool coll__inspect(const struct coll_group *group, uint32_t i, struct coll_operation_state *state,
                   struct coll_operation_peer *peers, uint32_t capacity);
/* How many operations the caller has issued that are neither over nor released, and in `text`, unless
 * it is NULL, which. `decided`: only those whose end is up to a verdict, or that are supplied after it;
 * else only the others. */
uint32_t coll__inspect_outstanding(const struct coll_group *group, bool decided, char *text,
                                   size_t length);
/* The operation ends with an error. */
void coll__inspect_keep(const struct coll_operation *operation);
void coll__inspect_free(struct coll_group *group);

/* progress.c */
void coll__lock(struct coll_engine *engine);
void coll__unlock(struct coll_engine *engine);
/* Something has finished, or the driver's seat is free: those who wait look for themselves. */
void coll__wake_callers(struct coll_engine *engine);
void coll__wake_driver(struct coll_engine *engine);
/* Drive (or wait for whoever drives) until the operation is finished or `until` has passed or a
 * signal came. Called with the lock held. */
void coll__drive(struct coll_operation *operation, uint64_t until);
/* The same until done(argument) holds. */
void coll__drive_until(struct coll_engine *engine, bool (*done)(const void *), const void *argument,
                       uint64_t until);
void *coll__progress_thread(void *engine);

/* engine.c */
coll_status coll__engine_create(const struct coll_engine_options *options,
                                const uint8_t peer_id[16], struct coll_engine **engine);
void coll__engine_destroy(struct coll_engine *engine);
/* Unlock; and free the engine if it is destroyed and this was the last operation of it. */
void coll__engine_let_go(struct coll_engine *engine);

#endif
