/* Status texts and the message of the last failed call. */
#include <stdarg.h>
#include <stdio.h>

#include "engine/engine.h"

static _Thread_local char last_error[COLL__TEXT];

uint32_t coll_abi_version(void)
{
    return COLL_ABI_VERSION;
}

const char *coll_status_text(coll_status status)
{
    switch (status) {
    case COLL_OK:
        return "success";
    case COLL_IN_PROGRESS:
        return "in progress";
    case COLL_TIMEOUT:
        return "timed out";
    case COLL_PEER_LOST:
        return "a peer was lost";
    case COLL_MISMATCH:
        return "ranks called different things";
    case COLL_CANCELLED:
        return "cancelled";
    case COLL_INVALID_ARGUMENT:
        return "invalid argument";
    case COLL_NO_MEMORY:
        return "out of memory";
    case COLL_SYSTEM_ERROR:
        return "a system call failed";
    case COLL_UNSUPPORTED:
        return "not supported";
    case COLL_CLOSED:
        return "closed";
    case COLL_EVICTED:
        return "this peer was removed from the run";
    case COLL_TOO_FEW_PEERS:
        return "too few peers are left";
    case COLL_UNDECIDED:
        return "the coordinator did not decide in time";
    case COLL_FORKED:
        return "the handle belongs to the parent process";
    }
    return "unknown status";
}

const char *coll_kind_name(uint32_t kind)
{
    static const char *const names[COLL_KIND_COUNT] = {
        "barrier",    "all_reduce", "broadcast", "sync",       "reduce", "reduce_scatter",
        "all_gather", "gather",     "scatter",   "all_to_all", "send",   "recv"};
    return kind < COLL_KIND_COUNT ? names[kind] : "unknown operation";
}

const char *coll_algorithm_name(uint32_t algorithm)
{
    static const char *const names[COLL_ALGORITHM_COUNT] = {
        "ring",     "direct",      "whole", "chain", "star", "bidirectional_ring",
        "doubling", "hierarchical"};
    return algorithm < COLL_ALGORITHM_COUNT ? names[algorithm] : "unknown algorithm";
}

const char *coll_last_error(void)
{
    return last_error;
}

coll_status coll__error(coll_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return status;
}
