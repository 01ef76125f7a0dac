/* collectives.h: the public C API of libcollectives.
 *
 * One process has one `coll_engine` (sockets, a progress thread, links to other peers) and any
 * number of `coll_group`s on it. A group carries out operations in its committed view: an
 * immutable, numbered list of peers. Who is in a view is decided above this API.
 *
 * Conventions. Every function that can fail returns a coll_status and writes its out-parameters
 * only on success. Nothing here prints, exits or aborts. Unless a declaration says otherwise a
 * function may be called from any thread, and strings and arrays passed in are copied before
 * it returns. Handles obtained before fork() are poisoned in the child: calls return COLL_FORKED.
 *
 * The declarations below are also read by the Python binding; keep them plain C11.
 */
#ifndef COLLECTIVES_H
#define COLLECTIVES_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define COLL_API __attribute__((visibility("default")))
#else
#define COLL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The ABI of this header; coll_abi_version() returns the library's. */
#define COLL_ABI_VERSION 1

enum coll_status {
    COLL_OK = 0,
    COLL_IN_PROGRESS = 1,      /* not an error: the operation has not finished yet */
    COLL_TIMEOUT = 2,          /* the caller's deadline passed; the text names who is missing */
    COLL_PEER_LOST = 3,        /* a peer of the view died, left or was cut off */
    COLL_MISMATCH = 4,         /* ranks called different things */
    COLL_CANCELLED = 5,        /* aborted by a caller, here or at another peer */
    COLL_INVALID_ARGUMENT = 6, /* nothing was sent */
    COLL_NO_MEMORY = 7,
    COLL_SYSTEM_ERROR = 8,     /* a system call failed; the text carries errno */
    COLL_UNSUPPORTED = 9,
    COLL_CLOSED = 10,          /* the handle was closed, or the group has no committed view */
    COLL_FORKED = 11,          /* the handle belongs to the parent process */
    COLL_EVICTED = 12,         /* this peer was removed from the run */
    COLL_TOO_FEW_PEERS = 13,   /* fewer members are left than the group needs */
    COLL_UNDECIDED = 14 /* the coordinator was not there to decide; see COLL_OUTCOME_UNKNOWN */
};
typedef enum coll_status coll_status;

enum coll_dtype {
    COLL_F64 = 0,
    COLL_F32 = 1,
    COLL_F16 = 2,
    COLL_BF16 = 3,
    COLL_I8 = 4,
    COLL_I16 = 5,
    COLL_I32 = 6,
    COLL_I64 = 7,
    COLL_U8 = 8,
    COLL_U16 = 9,
    COLL_U32 = 10,
    COLL_U64 = 11,
    COLL_BOOL = 12, /* a byte: 0, or anything else for true; results are 0 or 1 */
    COLL_DTYPE_COUNT = 13
};

enum coll_redop {
    COLL_SUM = 0,
    COLL_AVG = 1,
    COLL_PROD = 2,
    COLL_MIN = 3,
    COLL_MAX = 4,
    COLL_BAND = 5, /* bit by bit; of integers and bool */
    COLL_BOR = 6,
    COLL_BXOR = 7,
    COLL_SCALED_SUM = 8, /* of floats: the sum of each rank's input times its factor */
    COLL_REDOP_COUNT = 9
};
/* A sum, a max and a bor of bool are true if one of them is; a prod, a min and a band if all are.
 * There is no average of bool. */

enum coll_kind {
    COLL_BARRIER = 0,
    COLL_ALL_REDUCE = 1,
    COLL_BROADCAST = 2,
    COLL_SYNC = 3, /* a meeting of all ranks; op says what for, and must be the same on all: 0: a
                    * sync, 1: one with a state, 2: a split */
    COLL_REDUCE = 4,
    COLL_REDUCE_SCATTER = 5,
    COLL_ALL_GATHER = 6,
    COLL_GATHER = 7,
    COLL_SCATTER = 8,
    COLL_ALL_TO_ALL = 9,
    COLL_SEND = 10, /* of two ranks: `root` is the other one */
    COLL_RECV = 11, /* likewise; or COLL_ANY: whoever sends */
    COLL_KIND_COUNT = 12
};
#define COLL_ANY 4294967295

/* Instruction sets for the reduction kernels; all give the same bits. */
enum coll_isa { COLL_ISA_AUTO = 0, COLL_ISA_SCALAR = 1, COLL_ISA_AVX2 = 2, COLL_ISA_COUNT = 3 };

/* ---- library ------------------------------------------------------------------------- */

COLL_API uint32_t coll_abi_version(void);
/* Static strings, never NULL. */
COLL_API const char *coll_status_text(coll_status status);
COLL_API const char *coll_dtype_name(uint32_t dtype);
COLL_API const char *coll_redop_name(uint32_t op);
COLL_API const char *coll_kind_name(uint32_t kind);
COLL_API const char *coll_algorithm_name(uint32_t algorithm);
/* Bytes per element; 0 for an unknown dtype. */
COLL_API size_t coll_dtype_size(uint32_t dtype);
/* The message of the last failed call on this thread ("" if none). Valid until the next call. */
COLL_API const char *coll_last_error(void);

/* ---- kernels, callable on their own ---------------------------------------------------- */

/* 1 if this CPU can run `isa`, else 0. */
COLL_API int coll_isa_available(uint32_t isa);
/* output[i] = op(a[i], b[i]) for i < count. `output` may be exactly `a` or `b`, not overlap them
 * otherwise. COLL_AVG adds (the division is coll_divide_local), and so does COLL_SCALED_SUM (the
 * scaling is coll_scale_local). Floating point: round to
 * nearest even, denormals kept, NaN results are the canonical quiet NaN. */
COLL_API coll_status coll_reduce_local(void *output, const void *a, const void *b, uint64_t count,
                                       uint32_t dtype, uint32_t op, uint32_t isa);
/* The same of n > 0 inputs, one after the other: ((inputs[0] op inputs[1]) op inputs[2]) ... The
 * result goes to `kept` and, past the CPU's caches, to `streamed`; one of the two may be NULL.
 * Each may be exactly one of the inputs, not overlap anything otherwise. */
COLL_API coll_status coll_reduce_many(void *streamed, void *kept, const void *const *inputs,
                                      uint32_t n, uint64_t count, uint32_t dtype, uint32_t op,
                                      uint32_t isa);
/* memcpy that writes past the CPU's caches: for what will not be read again soon. */
COLL_API void coll_copy_stream(void *destination, const void *source, size_t length);
/* data[i] = data[i] / divisor (integers round toward zero), in place. */
COLL_API coll_status coll_divide_local(void *data, uint64_t count, uint32_t dtype, uint32_t divisor,
                                       uint32_t isa);
/* data[i] = data[i] * factor, in place; floats only. The factor is rounded to f32 first, but for f64,
 * and f16 and bf16 are multiplied in f32. */
COLL_API coll_status coll_scale_local(void *data, uint64_t count, uint32_t dtype, double factor,
                                      uint32_t isa);
/* CRC-32C (Castagnoli) of `length` bytes, continuing from `crc` (0 to start). */
COLL_API uint32_t coll_crc32c(uint32_t crc, const void *data, size_t length, uint32_t isa);
/* The same of what is copied from `source` to `destination` (no overlap). */
COLL_API uint32_t coll_crc32c_copy(uint32_t crc, void *destination, const void *source,
                                   size_t length, uint32_t isa);
/* HMAC-SHA256 (RFC 2104): the hello's proof of the view key. */
COLL_API void coll_hmac_sha256(const uint8_t *key, size_t key_length, const uint8_t *data,
                               size_t length, uint8_t mac[32]);

/* ---- codecs: quantized payloads; docs/codecs.md defines the formats ---------------------- */

enum coll_codec_format {
    COLL_CODEC_NONE = 0,
    COLL_CODEC_BF16 = 1,
    COLL_CODEC_F16 = 2,
    COLL_CODEC_INT8 = 3, /* blocks of integers with a scale */
    COLL_CODEC_INT4 = 4,
    COLL_CODEC_INT2 = 5,
    COLL_CODEC_UINT8 = 6, /* blocks with minimum and step */
    COLL_CODEC_UINT8_ZERO = 7, /* blocks with scale and zero point */
    COLL_CODEC_E3M0 = 8, /* blocks of sign and power of two, with a scale */
    COLL_CODEC_MXINT8 = 9, /* OCP microscaling: blocks of 32 with an E8M0 scale */
    COLL_CODEC_MXFP8_E4M3 = 10,
    COLL_CODEC_MXFP8_E5M2 = 11,
    COLL_CODEC_MXFP4 = 12,
    COLL_CODEC_NVFP4 = 13, /* blocks of 16 with an E4M3 scale, and an f32 scale for many of them */
    COLL_CODEC_NVINT4 = 14,
    COLL_CODEC_TOPK = 15, /* the `keep` largest of each 4096, and where they are */
    COLL_CODEC_COUNT = 16
};
enum coll_codec_scale { COLL_SCALE_F16 = 0, COLL_SCALE_BF16 = 1 };
enum coll_codec_flags {
    COLL_CODEC_STOCHASTIC =
        1, /* rounding up with the probability of the remainder; else to nearest,
                                * ties to even */
    COLL_CODEC_SYMMETRIC = 2 /* integers: the most negative code is not used */
};

/* What a payload is encoded with. Fields that a format has no use for are 0. */
struct coll_codec {
    uint32_t format;
    uint32_t block; /* elements with one scale: 16, 32, 64 or 128; fixed in some formats */
    uint32_t scale; /* enum coll_codec_scale, of the blocked integers and E3M0 */
    uint32_t hadamard; /* elements that are rotated together: 32, 64 or 128; 0: none */
    uint32_t keep; /* top-k */
    uint32_t flags; /* enum coll_codec_flags */
};

/* A static string, never NULL. */
COLL_API const char *coll_codec_name(uint32_t format);
/* COLL_INVALID_ARGUMENT if there is no such codec; the text says what can be. */
COLL_API coll_status coll_codec_check(const struct coll_codec *codec);
/* How many elements are encoded together: an array can be cut between them. 0 if there is no such
 * codec. */
COLL_API uint32_t coll_codec_unit(const struct coll_codec *codec);
/* Of `count` elements from the beginning of a unit; 0 if there is no such codec. */
COLL_API uint64_t coll_encoded_bytes(const struct coll_codec *codec, uint64_t count);
/* Encode `count` floats (f64, f32, f16, bf16: by way of f32) of which the first has number `first` in
 * the whole array, the beginning of a unit. `rotation` and `rounding` are the keys of the pseudo-random
 * signs of a rotation, and of stochastic rounding. All instruction sets give the same bytes. */
COLL_API coll_status coll_encode_local(void *to, const void *from, uint64_t first, uint64_t count,
                                       uint32_t dtype, const struct coll_codec *codec,
                                       uint64_t rotation, uint64_t rounding, uint32_t isa);
COLL_API coll_status coll_decode_local(void *to, const void *from, uint64_t first, uint64_t count,
                                       uint32_t dtype, const struct coll_codec *codec,
                                       uint64_t rotation, uint32_t isa);
/* sum[i] += what is decoded; added in f32 (f64: in f64), and rounded to the dtype. */
COLL_API coll_status coll_decode_add_local(void *sum, const void *from, uint64_t first,
                                           uint64_t count, uint32_t dtype,
                                           const struct coll_codec *codec, uint64_t rotation,
                                           uint32_t isa);

/* Lossless: the bytes of `count` floats of `width` bytes (2, 4 or 8), sorted by significance for a coder
 * of bytes: `planes` has the most significant byte of each, then the next of each, and so on, of what
 * the floats are after the sign was rotated behind the mantissa. No alignment is required; the arrays
 * do not overlap. */
COLL_API coll_status coll_planes_split(void *planes, const void *elements, uint64_t count,
                                       uint32_t width);
/* The reverse. */
COLL_API coll_status coll_planes_merge(void *elements, const void *planes, uint64_t count,
                                       uint32_t width);

/* ---- plans: what an algorithm does, as data --------------------------------------------- */

enum coll_step_kind {
    COLL_STEP_SEND = 0, /* send a segment's bytes to `peer` */
    COLL_STEP_RECV = 1, /* receive a segment's final bytes from `peer` into the output */
    COLL_STEP_RECV_REDUCE = 2, /* output = op(received, input) for a segment */
    COLL_STEP_RECV_KEEP = 3, /* receive a segment and keep it for the next REDUCE of the segment
                                * among the steps */
    COLL_STEP_REDUCE = 4 /* output = op(what is kept for it, and this rank's own operand), in
                                * the order of the ranks that they are from, cyclically, from
                                * `peer`; of all segments, from the segment's number. Comes after
                                * its RECV_KEEPs, slice by slice */
};
enum coll_step_source { COLL_FROM_INPUT = 0, COLL_FROM_OUTPUT = 1 };
/* A step with this segment acts on the whole buffer. */
#define COLL_ALL_SEGMENTS 4294967295

/* How an operation is carried out. Ring, direct and whole reduce segment s of `size` in the same,
 * canonical order, ((x_s + x_s+1) + x_s+2) + ... modulo the size, so they give the same bits; others
 * have orders of their own, which native/plan/ tells. All ranks have the same bits in any case. */
enum coll_algorithm {
    COLL_RING = 0, /* all_reduce, all_gather: the fewest bytes on every link */
    COLL_DIRECT = 1, /* all but the rooted copies: the fewest steps for as many bytes, all speak to
                      * all */
    COLL_WHOLE = 2, /* all_reduce, reduce: one step, all send everything to all (to the root) */
    COLL_CHAIN = 3, /* broadcast: from neighbour to neighbour */
    COLL_STAR = 4, /* broadcast, gather, scatter: the root speaks to each */
    COLL_BIDIRECTIONAL_RING = 5, /* all_reduce, all_gather: two rings in opposite directions, each
                                  * with half of the bytes */
    COLL_DOUBLING = 6, /* all_reduce of what is small: the fewest hops without everybody speaking to
                        * everybody */
    COLL_HIERARCHICAL = 7, /* reductions, broadcast, all_gather: the fewest bytes between the
                            * groups of each level */
    COLL_ALGORITHM_COUNT = 8
};

enum coll_transport {
    COLL_TRANSPORT_AUTO = 0, /* shared memory to peers on this host, TCP to others */
    COLL_TRANSPORT_SHM = 1, /* nothing else: peers elsewhere are unreachable */
    COLL_TRANSPORT_TCP = 2
};

#define COLL_LEVELS_MAX 8
#define COLL_CHOICES_MAX 1024

/* A row of a table: operations of the kind, with up to so many bytes, are carried out so. The bytes
 * are those of the larger one of all inputs and all outputs, as if each block lay there once. */
struct coll_choice {
    uint32_t kind;
    uint64_t bytes;
    uint32_t algorithm;
};

/* How those speak to each other who meet at one level: at level 0 the ranks of an innermost group, at
 * level k the groups of level k-1 that lie in one of level k; all groups of the last level meet at one
 * level more. */
enum coll_level_codec {
    COLL_LEVEL_CODEC_AUTO =
        0, /* what passes the outermost level is encoded by the call's codec, and
                                * what passes a level outside of one that says COLL_LEVEL_CODEC_CALL */
    COLL_LEVEL_CODEC_NONE = 1, /* it is not encoded */
    COLL_LEVEL_CODEC_CALL = 2 /* it is encoded by the call's codec; no level outside says NONE */
};
struct coll_level {
    uint32_t
        plan; /* of hierarchical operations: 1 + COLL_DIRECT (all to one of them, and that one to
                    * all) or 1 + COLL_RING (from one to the next); 0: by how many they are */
    uint32_t transport; /* enum coll_transport: what the links between them have to be */
    uint32_t codec; /* enum coll_level_codec; of hierarchical reductions with a codec */
};

/* Who is near whom in a view, and what follows from that; the same on all its ranks.
 *
 *      rank            0   1   2   3   4
 *      places[0]       0   0   1   2   2      level 0: hosts
 *      places[1]       0   0   0   1   1      level 1: sites
 *
 * places[level * size + rank] names the group in which the rank is at that level, by any number. Two
 * ranks that share a group share one at every outer level, too; above the last level all are one. */
struct coll_topology {
    uint32_t levels; /* COLL_LEVELS_MAX at most; 0: all are equally near */
    const uint32_t *places;
    const struct coll_choice
        *choices; /* the first row that fits; without one, the engine's default */
    uint32_t choice_count; /* COLL_CHOICES_MAX at most */
    const struct coll_level *settings; /* of the innermost levels; the others are all 0 */
    uint32_t setting_count; /* COLL_LEVELS_MAX + 1 at most; more than there are levels do no harm */
};

/* One step acts on one whole segment. The engine cuts it into slices; slice j of a SEND may start
 * once slice j of step `after` is done (-1: at once), and so may a REDUCE, before which the SENDs
 * after the same step have started; what is received needs no leave to come, and its `after` is -1. A SEND of rank s to peer r with
 * message m is matched by the receive of rank r from peer s with message m; m is unique among
 * the messages from s to r. */
struct coll_step {
    uint32_t kind;
    uint32_t peer;
    uint32_t segment;
    uint32_t message;
    uint32_t source; /* SEND: what is sent; RECV_REDUCE and REDUCE: this rank's own operand. From
                      * the output: it is there once `after` is done. enum coll_step_source */
    uint32_t final; /* RECV_REDUCE and REDUCE: 1 if the result is the reduction of all
                                * ranks (what COLL_AVG divides); 0 elsewhere */
    int32_t after;
};

struct coll_plan_info {
    uint32_t rank, size;
    uint32_t segments; /* the buffer is cut into this many; see coll_segment_range */
    uint32_t steps;
};

/* A plan of one rank. root is used by rooted kinds only; topology may be NULL: no levels.
 * COLL_INVALID_ARGUMENT for kinds without a plan (COLL_SYNC), for algorithms that do not do the kind
 * and for levels that are not within each other; a barrier's plan is empty.
 *
 * What the segments are: of all_reduce and reduce, parts of the buffer (of ring and direct, `size`
 * of them, of which s ends at rank s-1 first); of reduce_scatter, segment s is the block of rank s-1
 * (both modulo the size); of all_gather, gather and scatter, segment s is the block of rank s, or there
 * are p segments for each block, p * s and those that follow; of all_to_all, segment s * size + r goes
 * from rank s to rank r; of broadcast, send and recv, the buffer. By any algorithm a send and a
 * recv have the same plan, with `root` as the other rank. Caller owns the plan:
 * coll_plan_free. */
struct coll_plan;
COLL_API coll_status coll_plan_make(uint32_t kind, uint32_t algorithm, uint32_t rank, uint32_t size,
                                    uint32_t root, const struct coll_topology *topology,
                                    struct coll_plan **plan);
/* 1 if the algorithm does operations of the kind, else 0. */
COLL_API int coll_plan_does(uint32_t kind, uint32_t algorithm);
/* For how many bytes at most the algorithm is; bytes as in struct coll_choice, here and below. */
COLL_API uint64_t coll_plan_limit(uint32_t algorithm);
/* The algorithm of operations whose call asks for none: the table's of `topology` (which may be
 * NULL), else what is known to be good. `local`: 1 if all ranks reach each other by memory. */
COLL_API uint32_t coll_plan_choose(uint32_t kind, uint64_t bytes, uint32_t size, int local,
                                   const struct coll_topology *topology);
COLL_API void coll_plan_free(struct coll_plan *plan);
COLL_API void coll_plan_get_info(const struct coll_plan *plan, struct coll_plan_info *info);
/* Pointer to `steps` steps; valid as long as the plan. */
COLL_API const struct coll_step *coll_plan_steps(const struct coll_plan *plan);
/* Elements [*begin, *end) of segment i of `segments` in a buffer of `count`: a function of these
 * alone; sizes differ by at most one, the longer ones first. */
COLL_API void coll_segment_range(uint64_t count, uint32_t segments, uint32_t i, uint64_t *begin,
                                 uint64_t *end);

/* ---- engine ----------------------------------------------------------------------------- */

struct coll_engine;
struct coll_group;
struct coll_operation;

/* Zero means the default everywhere. */
struct coll_engine_options {
    const char *bind; /* addresses to listen on, comma separated; default all */
    const char *interface; /* name of the network interface to use, e.g. "eth0" */
    const char *congestion; /* TCP congestion control for every connection; default: chosen
                                * per connection from its measured round trip */
    uint16_t port_low, port_high; /* inclusive range to listen in; default: any free port */
    uint32_t connections; /* TCP connections per pair, 1..64, and if it is more than one, another
                                * for small operations; they share out the peer's addresses.
                                * Default: one, and on long links as many as raise the rate */
    uint32_t slice_bytes; /* 4096..1048576; default: chosen by size */
    uint32_t isa; /* enum coll_isa */
    uint32_t transport; /* enum coll_transport */
    uint32_t no_checksums; /* 1: payloads carry no CRC (headers still do) */
    uint32_t no_detection; /* 1: silence is never held against a peer (debuggers) */
    uint32_t no_agreement; /* 1: success is what it looks like here, and nothing is kept for
                                * others: only to measure what the promises cost */
    uint64_t heartbeat_ns; /* idle links say so this often; default 250 ms */
    uint64_t detection_ns; /* silence after which a peer is reported lost; default 5 s */
    uint64_t recovery_ns; /* how long a call that wants to end waits for the coordinator's
                                * verdict; default 10 s */
    uint64_t stall_ns; /* a wait that is worth a warning; default 10 s */
};

/* A snapshot of what the engine refused and repaired since it was made. */
struct coll_counters {
    uint64_t refused_hello; /* handshakes that failed the key check or were malformed */
    uint64_t refused_silent; /* connections that sent no hello in time */
    uint64_t refused_version; /* hellos of another protocol version */
    uint64_t refused_view; /* hellos to another peer, or of a view unknown here (yet) */
    uint64_t corrupt_frames; /* frames with a bad header or payload CRC, or nonsense fields */
    uint64_t connections_lost;
    uint64_t reconnects;
    uint64_t resent_slices;
    uint64_t duplicate_slices;
    uint64_t sent_bytes, received_bytes; /* on the wire, headers included */
    uint64_t open_connections;
    uint64_t encoded_slices, decoded_slices; /* by a codec */
};

/* Create an engine that listens and runs its progress thread. `peer_id` is this process's UUID.
 * The caller owns it: coll_engine_destroy. */
COLL_API coll_status coll_engine_create(const struct coll_engine_options *options,
                                        const uint8_t peer_id[16], struct coll_engine **engine);
/* Close every connection, end the progress thread and free everything; the engine's groups must
 * have been closed. Other threads may be inside coll_wait, which returns; inside
 * no other call. Operations that are still held may be asked and released afterwards. */
COLL_API void coll_engine_destroy(struct coll_engine *engine);
/* The i-th address listened on ("10.0.0.3:41873", "[fe80::1]:41873"); COLL_INVALID_ARGUMENT past
 * the last. Wildcards are expanded to the host's addresses, loopback last. */
COLL_API coll_status coll_engine_address(struct coll_engine *engine, uint32_t i, char *buffer,
                                         size_t length);
COLL_API void coll_engine_get_counters(struct coll_engine *engine, struct coll_counters *counters);

/* ---- processes: whether a peer on the same host has died ------------------------------------- */

enum coll_process_state {
    COLL_PROCESS_UNKNOWN = 0, /* on another host, in another namespace, or it cannot be told */
    COLL_PROCESS_ALIVE = 1,
    COLL_PROCESS_DEAD = 2
};
#define COLL_PROCESS_IDENTITY_MAX 127
/* What names this process to others on its host: "BOOT-ID/PID-NAMESPACE/PID/START-TIME", at most
 * COLL_PROCESS_IDENTITY_MAX bytes and a NUL. COLL_UNSUPPORTED if the system does not tell. */
COLL_API coll_status coll_process_identity(char *buffer, size_t length);
/* *state (enum coll_process_state): what has become of the process that bears this identity. */
COLL_API coll_status coll_process_look(const char *identity, uint32_t *state);

/* ---- groups and views -------------------------------------------------------------------- */

struct coll_peer {
    uint8_t id[16];
    const char *name; /* for messages; at most 63 bytes are kept */
    const char *const *addresses; /* "HOST:PORT", tried in order */
    uint32_t address_count;
    const char *process; /* its coll_process_identity; NULL or "": not known */
};

struct coll_view {
    uint64_t term, number; /* ordered by (term, number) */
    uint64_t first_operation; /* every tag's next operation gets at least this number */
    uint32_t rank, size; /* `rank` is this process's index in peers */
    const struct coll_peer *peers; /* size of them; the order is the ring's */
    uint8_t key[32]; /* secret of the view: links prove that they know it */
    /* 1: nobody decides about this view. Success is agreed upon as in any other; where a coordinator
     * would have to decide (a member is lost, an operation is vetoed) the group *breaks* instead, at
     * all members, for good: every operation that is outstanding there and every later one ends with
     * the same status and text, about the same peer. If several things happen at once, members may
     * have heard of another one first. */
    uint32_t fixed;
};

/* Open group `id` (the run's number for it) on an engine. The caller owns it: coll_group_close. */
COLL_API coll_status coll_group_open(struct coll_engine *engine, uint32_t id, const char *name,
                                     struct coll_group **group);
enum coll_event_kind {
    COLL_EVENT_VIEW_READY = 0, /* links to all peers of the prepared view are up */
    COLL_EVENT_PEER_UNREACHABLE = 1, /* no link to `peer` of the prepared view yet; text says what
                                      * was tried. Repeated while it lasts, once a second */
    COLL_EVENT_PEER_LOST = 2, /* evidence that `peer` of the committed view is dead; or one of the
                               * prepared view, if its process was seen to die or the view is fixed */
    COLL_EVENT_VETO = 3, /* an operation wants to end with an error: have a round opened. Repeated
                          * after a round that did not decide it */
    COLL_EVENT_ROUND = 4, /* coll_group_next_message has something for the coordinator */
    COLL_EVENT_OUT = 5, /* no verdict came in time: this peer is out of the view */
    COLL_EVENT_STALLED =
        6, /* an operation waits for long; text names who is absent. Once for each */
    COLL_EVENT_BROKEN =
        7 /* the fixed view is broken: `peer` (all 0: none) is to blame, the text says
                           * why, and coll_group_state the status. Instead of PEER_LOST and VETO */
};
/* How good the evidence of a death is. COLL_EVENT_PEER_LOST comes again when it gets better. */
enum coll_certain {
    COLL_CERTAIN_SILENCE = 0, /* nothing is heard, or no connection comes about: it may live */
    COLL_CERTAIN_REFUSED = 1, /* its port refuses connections, or it said goodbye */
    COLL_CERTAIN_PROCESS = 2 /* its process, on this host, was seen to die */
};
struct coll_event {
    uint32_t kind;
    uint32_t certain; /* COLL_EVENT_PEER_LOST: enum coll_certain */
    uint64_t view; /* the view's number */
    uint8_t peer[16];
    char text[1024];
};
/* A descriptor that is readable while events are queued; owned by the group. */
COLL_API int coll_group_event_fd(struct coll_group *group);
/* COLL_OK and the oldest event, or COLL_IN_PROGRESS when there is none. */
COLL_API coll_status coll_group_next_event(struct coll_group *group, struct coll_event *event);

/* Start to connect to the peers of `view`; COLL_EVENT_VIEW_READY follows. Replaces an earlier
 * prepared view. The committed view goes on meanwhile. */
COLL_API coll_status coll_group_prepare(struct coll_group *group, const struct coll_view *view);
/* Make the prepared view the committed one, at a sync; of a fixed view, once all its members have said
 * (by other ways) that they have prepared it, since who has not drops what is sent to it. No operation
 * may be outstanding; operations that are get COLL_CANCELLED. Clears a broken state. `first_operation` replaces the prepared one.
 * `topology` (NULL: no levels and no choices) is copied, and holds in the views that verdicts issue,
 * too, for those who stay. COLL_INVALID_ARGUMENT, and nothing has changed: no such view was prepared,
 * levels that are not within each other, or a choice that no operation could be carried out by.
 * COLL_UNSUPPORTED, likewise: a level has a transport that a link of it is not. */
COLL_API coll_status coll_group_commit(struct coll_group *group, uint64_t term, uint64_t number,
                                       uint64_t first_operation,
                                       const struct coll_topology *topology);
/* Replace the choices of the committed view, for operations issued from now on; `choices` are copied.
 * All ranks must do so between the same two operations, with the same choices. Verdicts pass them on
 * as those of coll_group_commit. COLL_INVALID_ARGUMENT, and nothing has changed: there is no view, or
 * a choice that no operation could be carried out by. */
COLL_API coll_status coll_group_choose(struct coll_group *group, const struct coll_choice *choices,
                                       uint32_t count);
/* flags[rank], for each rank of the prepared view: 1 if it is this process or is reached by a
 * transport that stays within the host, else 0. COLL_INVALID_ARGUMENT if `size` is not that view's,
 * or there is none. */
COLL_API coll_status coll_group_nearby(struct coll_group *group, uint8_t *flags, uint32_t size);
/* Forget the prepared view, if any. */
COLL_API void coll_group_discard(struct coll_group *group);
/* This peer is out of the view: pending operations, and later ones until the next commit, end with
 * `status` and `text`; what became of them elsewhere is unknown. */
COLL_API void coll_group_out(struct coll_group *group, coll_status status, const char *text);
/* Break the committed view, which is fixed: pending operations and later ones, here and at all other
 * members, end with `status` (an error) and `text`, which says who asked for it and why. Nothing
 * happens if it is broken already. COLL_INVALID_ARGUMENT: the status is no error, or the view is not
 * fixed; COLL_CLOSED: there is no committed view. */
COLL_API coll_status coll_group_break(struct coll_group *group, coll_status status,
                                      const char *text);
/* COLL_OK, or why the group is broken; `culprit` is the UUID of the peer that it is about, all 0:
 * nobody in particular. */
COLL_API coll_status coll_group_state(struct coll_group *group, uint8_t culprit[16]);
/* The highest operation number issued so far over all tags (0 if none). */
COLL_API uint64_t coll_group_last_operation(struct coll_group *group);
/* For who is about to call COLL_SYNC to have a view committed: COLL_OK if no operation of this peer is
 * outstanding. Those whose end is the coordinator's to decide (the caller has given them up, a round is
 * on) are waited for, at most wait_ns or until a signal comes: COLL_IN_PROGRESS if one is left. Those
 * that were released and those of COLL_STATE_TAG do not count. COLL_INVALID_ARGUMENT if any other is outstanding; the error names
 * them. Nothing is sent, and nothing ends by it. */
COLL_API coll_status coll_group_idle(struct coll_group *group, uint64_t wait_ns);
/* Say goodbye to the peers of the view (once) and wait (at most timeout_ns) until they have all that
 * this peer owes them, and those who stay have settled what it has. COLL_IN_PROGRESS: they have not
 * yet, or a round has changed the view: call it again.
 *
 * In a fixed view it first waits until the operations that this peer has called are over: the goodbye
 * says that nothing is missing, and none can be issued after it. What becomes of this process then
 * breaks the view of nobody, but an operation that needs this peer does, with COLL_PEER_LOST.
 * COLL_IN_PROGRESS: operations are outstanding, and no goodbye was said, or a signal came: call it
 * again. If the view is broken, it waits until the others have heard of it. */
COLL_API coll_status coll_group_flush(struct coll_group *group, uint64_t timeout_ns);
/* Release the group and its links. Outstanding operations end with COLL_CLOSED. Other threads may be
 * inside coll_wait, coll_run and coll_group_flush, which return; inside no other call, and none may
 * begin. A fixed view without a goodbye is broken for the others, who are told; that takes 0.2 s at
 * most. */
COLL_API void coll_group_close(struct coll_group *group);

/* ---- rounds: what becomes of operations when somebody dies, leaves or gives up --------------- */

enum { COLL_EPOCH_BYTES = 32, COLL_ROUND_MESSAGE_MAX = 1048576 };

/* The coordinator opened a round, `epoch` (4 x u64, little-endian: its term, the view's term and
 * number, the round): nothing of the view is accepted any more, and a report is made. Harmless if
 * it is repeated or stale. */
COLL_API coll_status coll_group_seal(struct coll_group *group,
                                     const uint8_t epoch[COLL_EPOCH_BYTES]);
/* The verdict of that round (bytes as made by the coordinator): outstanding operations end or go on
 * in the view that it issues. COLL_OK also if it was taken before; COLL_INVALID_ARGUMENT if it is
 * of another round, or malformed. */
COLL_API coll_status coll_group_judge(struct coll_group *group, const uint8_t *verdict,
                                      size_t length);
enum coll_round_message {
    COLL_ROUND_REPORT = 1, /* a report: of this peer, or of one that this peer was asked to reach */
    COLL_ROUND_TAKEN = 2, /* such a peer has taken the verdict: epoch, peer[16] */
    COLL_ROUND_SEAL = 3, /* for coll_group_relay: the epoch */
    COLL_ROUND_VERDICT = 4 /* the verdict: for coll_group_relay, or one that was passed on to this
                            * peer and taken here */
};
/* Pass a seal or a verdict on to a member whose program does not hear the coordinator; what its
 * engine answers comes through coll_group_next_message. */
COLL_API coll_status coll_group_relay(struct coll_group *group, const uint8_t peer[16],
                                      uint32_t kind, const uint8_t *message, size_t length);
/* COLL_OK and the oldest message for the coordinator (at most COLL_ROUND_MESSAGE_MAX bytes), or
 * COLL_IN_PROGRESS when there is none, or COLL_INVALID_ARGUMENT with its length if it is too long
 * for `capacity`. */
COLL_API coll_status coll_group_next_message(struct coll_group *group, uint32_t *kind,
                                             uint8_t *buffer, size_t capacity, size_t *length);

/* ---- operations -------------------------------------------------------------------------- */

enum coll_flags {
    COLL_NOT_ATOMIC = 1, /* the input is not restored when the operation fails; implies the next */
    COLL_NO_REPEAT = 2, /* the loss of a member ends the operation with COLL_PEER_LOST; without it,
                        * it runs again without the lost one. Equal on all ranks */
    COLL_RESIZE =
        4, /* of operations with blocks: they may run again, too, without the blocks of the
                     * lost. Without it a lost member ends them. Equal on all ranks */
    COLL_RESUME =
        8 /* of all_reduce: after the loss of a member only the parts run again that do not
                     * stand, see coll_operation_part. Not with the first two. Equal on all ranks */
};

/* The tag of operations that have none; only what messages say depends on it. */
#define COLL_UNTAGGED 4294967295
/* For what a sync does itself, so that it disturbs no order of the program's. */
#define COLL_STATE_TAG 4294967294

/* How an array lies in memory that is not one piece: `strides` are the bytes from one index to the
 * next, for each dimension, the last one fastest. */
struct coll_strides {
    uint32_t dims;
    const uint64_t *shape;
    const int64_t *strides;
};

/* One array of a list. */
struct coll_array {
    void *data; /* an input is only read; not looked at if there are no elements */
    uint64_t count; /* elements */
    const struct coll_strides *strides; /* NULL: in one piece */
};

/* What a rank calls. all_reduce, reduce and broadcast have `count` elements in the input and in the
 * output (reduce: in the root's). The others have blocks, one per rank of the caller's view:
 *
 *      reduce_scatter  input: all blocks      output: this rank's, reduced
 *      all_gather      input: this rank's     output: all blocks, by rank
 *      gather          input: this rank's     output: all blocks, on the root
 *      scatter         input: all blocks, on the root     output: this rank's
 *      all_to_all      input: a block for each rank       output: a block from each rank
 *
 * A send has `count` elements in the input, a recv in the output, which is undefined after an error.
 * The k-th send of one rank to another with a tag meets the k-th recv from it there, and a recv from
 * any the first send that no other recv was called for. A send succeeds when the receiver has all of
 * it. If one of the two is lost before that, the other gets COLL_PEER_LOST; a recv from any goes on
 * with other senders while there are any. Flags have no meaning for either.
 *
 * In place: input and output are one buffer; an all_gather's and a gather's input is its own block in
 * the output, a reduce_scatter's and a scatter's output its own block in the input. Otherwise they
 * must not overlap; an all_to_all's never may. */
struct coll_call {
    uint32_t kind, dtype, op, root;
    uint32_t tag; /* operations are numbered per tag, in the order of issue */
    uint32_t flags;
    uint32_t algorithm; /* 0: chosen, see coll_choice; else 1 + enum coll_algorithm. Equal on all
                         * ranks. COLL_UNSUPPORTED if it does not do the kind, or so many bytes */
    uint64_t count; /* elements of dtype; of blocks: of each, unless `counts` says otherwise */
    const uint64_t *counts; /* elements of each rank's block, the same on all ranks; NULL: `count`.
                             * all_to_all: of what goes to each rank */
    const uint64_t *counts_from; /* all_to_all, with counts: of what comes from each rank */
    const void *input;
    void *output;
    /* NULL: in one piece. Elements are in the order of their indices, so that ranks may call with
     * arrays that lie differently. An operation in place has the same for both; those with blocks
     * are not in place. */
    const struct coll_strides *input_strides, *output_strides;
    /* NULL: there is one. Else instead of it and its strides: lists, whose arrays count as if they were
     * one, in their order, so that ranks may call with other lists or none. With COLL_RESIZE, a list
     * for blocks of all has one array for each; those of the lost are not written. */
    const struct coll_array *inputs, *outputs;
    uint32_t input_arrays, output_arrays;
    double factor; /* COLL_SCALED_SUM: of this rank's input; see coll_scale_local */
    /* Reductions by COLL_SUM, COLL_AVG and COLL_SCALED_SUM of floats: what travels is encoded, what is
     * added is f32. Equal on all ranks; NULL: nothing is. Where the view has levels, a hierarchical plan
     * encodes what goes between the groups of the outermost one. An all_gather of bytes that the callers
     * have encoded as top-k takes it, too, and does nothing with it but compare the ranks'. */
    const struct coll_codec *codec;
    /* With a codec, error feedback: f32, one for each element of the input, zeros at first; NULL: none.
     * What this rank's encoding of it has lost in the last call is added to what it encodes in this one.
     * Written when the operation has succeeded, unless its caller has gone. */
    float *residual;
    uint64_t timeout_ns; /* from issue; 0: none */
    uint32_t
        awaited; /* 1: coll_wait follows at once, so no thread is woken to carry it out meanwhile */
    const uint8_t
        *peers; /* 16 bytes each: the UUIDs of the ranks that root and blocks are of; NULL:
                           * those of the newest view */
    uint32_t peer_count;
};

/* Elements in the input and the output of rank `rank` of `size`; COLL_INVALID_ARGUMENT if there
 * cannot be so many. */
COLL_API coll_status coll_call_extents(const struct coll_call *call, uint32_t rank, uint32_t size,
                                       uint64_t *input, uint64_t *output);

struct coll_info {
    uint64_t number; /* of the operation, in its tag */
    uint64_t view; /* number of the view in which it ended; if well, its members contributed: to
                    * all parts, if there are several */
    /* CLOCK_MONOTONIC; 0: never. What came before the operation was issued has a time before it. */
    uint64_t entered_ns, first_byte_ns, last_byte_ns, done_ns;
    uint64_t sent_bytes, received_bytes; /* on the wire, headers included */
    uint64_t retries;
    uint32_t links; /* how many coll_operation_link can tell about */
    uint32_t partner; /* of a send or recv that has ended well: the other rank, in that view */
    uint32_t parts; /* how many coll_operation_part can tell about */
};
/* Of an operation with COLL_RESUME, a range of elements that has contributors of its own: the members
 * of the view in which it ended. Any other operation is one part. */
struct coll_part {
    uint64_t begin, end; /* elements */
    uint64_t view; /* 0: it has not ended */
};
struct coll_link_info {
    uint32_t peer; /* rank */
    uint64_t sent_bytes, received_bytes;
    uint64_t blocked_ns; /* time in which slices waited for this link or its credit */
    uint64_t resent_slices;
};

/* Issue an operation. The buffers must stay valid until it has finished. The caller owns the
 * operation: coll_operation_release. Fails with the group's status if the group is broken. */
COLL_API coll_status coll_issue(struct coll_group *group, const struct coll_call *call,
                                struct coll_operation **operation);
/* Issue an operation that this process will not carry out: nothing is sent for it, so it succeeds
 * nowhere, and the verdict ends it with `status` and `text`, also for those who make the call of its
 * number. The caller owns the operation. Fails with the group's status if the group is broken. */
COLL_API coll_status coll_refuse(struct coll_group *group, uint32_t tag, coll_status status,
                                 const char *text, struct coll_operation **operation);
/* Drive the engine until the operation has finished or wait_ns have passed (COLL_IN_PROGRESS) or
 * a signal came (COLL_IN_PROGRESS). Returns the operation's status once finished. */
COLL_API coll_status coll_wait(struct coll_operation *operation, uint64_t wait_ns);
/* coll_issue + coll_wait + coll_operation_get_info + coll_operation_release in one call, for
 * blocking callers. If COLL_IN_PROGRESS, *operation is set and the caller goes on with
 * coll_wait, also after the end of one with several parts, to ask for them; otherwise *operation is
 * NULL unless the operation failed, in which case it carries the text and must be released. `info`
 * may be NULL. */
COLL_API coll_status coll_run(struct coll_group *group, const struct coll_call *call,
                              uint64_t wait_ns, struct coll_operation **operation,
                              struct coll_info *info);
/* COLL_IN_PROGRESS or the final status; never blocks. */
COLL_API coll_status coll_test(struct coll_operation *operation);
/* Write 1 to `fd` (an eventfd; -1 for none) when the operation finishes, at once if it has. */
COLL_API void coll_operation_notify(struct coll_operation *operation, int fd);
/* Ask for its end, here and at all other peers, with `status`: the verdict follows, which may find
 * that it has succeeded. No effect once finished. */
COLL_API void coll_operation_veto(struct coll_operation *operation, coll_status status,
                                  const char *text);
COLL_API void coll_operation_get_info(struct coll_operation *operation, struct coll_info *info);
COLL_API coll_status coll_operation_link(struct coll_operation *operation, uint32_t i,
                                         struct coll_link_info *info);
COLL_API coll_status coll_operation_part(struct coll_operation *operation, uint32_t i,
                                         struct coll_part *part);
/* Why it failed ("" otherwise). Valid until release. */
COLL_API const char *coll_operation_error(struct coll_operation *operation);
/* The rank, in the view in which it ended, that the failure is about; -1: none. */
COLL_API int32_t coll_operation_culprit(struct coll_operation *operation);
/* 1 if it failed here and may have succeeded elsewhere, else 0. */
COLL_API int coll_operation_unknown(struct coll_operation *operation);
/* Free the operation. An unfinished one is vetoed; its input is restored at once, and its buffers
 * are not touched after this. */
COLL_API void coll_operation_release(struct coll_operation *operation);

/* ---- what goes on: for people, after an error or a long wait ---------------------------------- */

enum coll_progress {
    COLL_PROGRESS_NOT_ISSUED = 0, /* others have called it, this process has not */
    COLL_PROGRESS_RUNNING = 1,
    COLL_PROGRESS_COMPLETE = 2, /* this rank holds its result; others may not */
    COLL_PROGRESS_SETTLED = 3,
    COLL_PROGRESS_AWAITING = 4 /* it stands, and the result has still to be supplied */
};
struct coll_operation_state {
    uint64_t number, view;
    uint64_t count; /* of the call, as far as it is known */
    uint64_t age_ns; /* since it was called here, until it ended; 0: not called */
    uint64_t pending_bytes; /* still to be received */
    uint32_t tag, kind, dtype, op, root;
    uint32_t progress;
    uint32_t status; /* COLL_IN_PROGRESS, or how it ended */
    uint32_t attempt;
    uint32_t rank, size; /* of this process, and of the view */
};
struct coll_operation_peer {
    char name[64];
    uint32_t seen; /* 1: it has called the operation, as far as is known here */
    uint32_t said_absent; /* 1: it said that it had not; its last operation was... */
    uint64_t last_operation;
    uint64_t sent_bytes, received_bytes; /* to and from it, for this operation */
};
/* The i-th operation of the group: those in flight, then those of the newest view with errors that
 * ended with one (64 at most), as they were then. The first `capacity` ranks of its view are
 * written to `peers`. COLL_INVALID_ARGUMENT past the last. */
COLL_API coll_status coll_group_operations(struct coll_group *group, uint32_t i,
                                           struct coll_operation_state *state,
                                           struct coll_operation_peer *peers, uint32_t capacity);
/* ---- fetching: bytes by name, from one peer to another ------------------------------------- */

#define COLL_FETCH_REQUEST_MAX 1024
#define COLL_FETCH_ANSWER_MAX 8388608
/* Fetches that may be outstanding per peer. */
#define COLL_FETCH_OUTSTANDING 16

struct coll_fetch;

/* Ask `peer` of the group's committed or prepared view for what `request` (1 to
 * COLL_FETCH_REQUEST_MAX bytes, copied) names; the answer, at most `capacity` bytes, is written to
 * `place`, which must stay valid until the fetch has ended or was released. It goes on while
 * operations run and views change. The caller owns the fetch: coll_fetch_release.
 * COLL_PEER_LOST: there is no link to the peer; COLL_IN_PROGRESS: COLL_FETCH_OUTSTANDING are under
 * way to it, counting those that were released before their end. */
COLL_API coll_status coll_fetch_start(struct coll_group *group, const uint8_t peer[16],
                                      const void *request, uint32_t request_bytes, void *place,
                                      uint64_t capacity, struct coll_fetch **fetch);
/* Drive the engine until one of `count` fetches has ended (*ended is its index), wait_ns have passed
 * or a signal came (COLL_IN_PROGRESS). */
COLL_API coll_status coll_fetch_wait(struct coll_fetch *const *fetches, uint32_t count,
                                     uint64_t wait_ns, uint32_t *ended);
/* COLL_OK: the answer has *bytes and is in place. COLL_IN_PROGRESS: it is not there yet.
 * COLL_UNSUPPORTED: the peer does not have what was asked for. COLL_PEER_LOST: it is gone. What the
 * place holds after an error is undefined. */
COLL_API coll_status coll_fetch_result(struct coll_fetch *fetch, uint64_t *bytes);
/* Free the fetch. Nothing is written to its place any more. */
COLL_API void coll_fetch_release(struct coll_fetch *fetch);

/* What another peer asks for; or, with length 0, that the answer to `ticket` is done with. */
struct coll_request {
    uint64_t ticket;
    uint64_t capacity; /* the most bytes that the answer may have */
    uint32_t group; /* the group's id */
    uint32_t length; /* of data */
    uint8_t peer[16];
    uint8_t data[1024];
};

/* Take requests from now on (on != 0), or refuse all: those that wait, too. Answers that travel
 * go on. Requests that come while it is off are refused. */
COLL_API coll_status coll_serve(struct coll_engine *engine, int on);
/* A descriptor that is readable while coll_serve_next has something; owned by the engine. */
COLL_API int coll_serve_fd(struct coll_engine *engine);
/* The next thing to know: memory that is free again, else (unless done_only != 0) the oldest
 * request. COLL_IN_PROGRESS: nothing. Each request must be answered or refused. */
COLL_API coll_status coll_serve_next(struct coll_engine *engine, int done_only,
                                     struct coll_request *request);
/* Answer with `bytes` of `data`, which is lent: it must stay valid, and should not change (or
 * frames are sent with a wrong checksum and again), until coll_serve_next tells that the ticket is
 * done with or coll_serve_revoke returned. On an error nothing was lent and the ticket is void. */
COLL_API coll_status coll_serve_answer(struct coll_engine *engine, uint64_t ticket,
                                       const void *data, uint64_t bytes);
/* Say that there is no answer. */
COLL_API void coll_serve_refuse(struct coll_engine *engine, uint64_t ticket);
/* Take the answer's memory back now; the asker gets COLL_UNSUPPORTED if it had not all of it. The
 * ticket is void after this. Also for one that is done with. */
COLL_API void coll_serve_revoke(struct coll_engine *engine, uint64_t ticket);

/* ---- faults: for tests, costs one null check when unused ----------------------------------- */

enum coll_fault {
    COLL_FAULT_CUT_CONNECTION = 1, /* reset one connection to `peer` */
    COLL_FAULT_FLIP_BIT = 2 /* flip a payload bit in the next slice sent to `peer` */
};
/* Inject `fault` on the link to rank `peer` of the group's view once `after_slices` more slices
 * have been sent on it. */
COLL_API coll_status coll_inject(struct coll_group *group, uint32_t fault, uint32_t peer,
                                 uint64_t after_slices);

/* Moments of an operation, in their order, and two of a round. */
enum coll_phase {
    COLL_PHASE_ISSUED = 0, /* called here; no frame about it has been sent */
    COLL_PHASE_REDUCE_SCATTER = 1, /* a payload to be reduced has come, and is not reduced yet */
    COLL_PHASE_BETWEEN = 2, /* all is reduced that this rank reduces; the slice that was the last is
                             * not passed on */
    COLL_PHASE_ALL_GATHER = 3, /* a finished payload has come, and does not count yet. Plans in
                                * which everybody reduces everything have no such moment */
    COLL_PHASE_COMPLETE = 4, /* everything has come; no token, and no result to the caller */
    COLL_PHASE_TOKENS = 5, /* the first token has been handed to the socket. Operations that need
                            * no tokens have no such moment */
    COLL_PHASE_SEALED = 6, /* a round has sealed the group, and the report is not sent */
    COLL_PHASE_JUDGED = 7, /* a verdict was taken, and nobody has been told */
    COLL_PHASE_COUNT = 8
};
enum coll_action {
    COLL_ACTION_KILL = 0, /* SIGKILL to this process */
    COLL_ACTION_STOP = 1 /* SIGSTOP; after SIGCONT it goes on as if nothing had been */
};
struct coll_moment {
    uint32_t phase, action;
    uint32_t tag;
    uint64_t operation; /* its number in its tag; 0: the first that gets there. SEALED and JUDGED
                         * are of no operation, and of no tag: the number is that of the view which
                         * is sealed or judged, 0: any */
    uint64_t after_slices; /* REDUCE_SCATTER and ALL_GATHER: how many payloads of the phase to let
                            * pass first */
    int journal_fd; /* gets the line "PHASE NUMBER" right before; -1: none */
};
/* Do `action` when the operation reaches `phase`, once. One moment per engine; a later one replaces
 * it, NULL takes it back. */
COLL_API coll_status coll_fault_at(struct coll_group *group, const struct coll_moment *moment);

#ifdef __cplusplus
}
#endif
#endif
