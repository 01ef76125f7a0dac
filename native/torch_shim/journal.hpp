// What a process group has done: counters, and the last operations.
#pragma once

#include <array>
#include <mutex>
#include <string>
#include <vector>

#include "collectives.h"

namespace collectives
{

struct Entry {
    uint64_t sequence = 0; // of the call of c10d, from 1; a number of it may have several entries
    uint64_t number = 0; // of the operation, in its tag
    uint64_t bytes = 0; // elements times their size; of what has blocks, of one
    uint32_t kind = 0, tag = 0, dtype = 0;
    coll_status status = COLL_IN_PROGRESS;
    uint64_t entered_ns = 0, first_byte_ns = 0, last_byte_ns = 0, done_ns = 0;
};

class Journal
{
  public:
    static constexpr uint64_t SIZE = 1024;

    // The number of a new entry.
    uint64_t begin(uint64_t sequence, const coll_call &call);
    void end(uint64_t entry, coll_status status, const coll_info &info);

    std::vector<Entry> entries() const; // the oldest first
    std::array<uint64_t, COLL_KIND_COUNT> counts() const;

  private:
    mutable std::mutex mutex_;
    std::vector<Entry> entries_ = std::vector<Entry>(SIZE);
    uint64_t next_ = 0;
    std::array<uint64_t, COLL_KIND_COUNT> counts_{};
};

} // namespace collectives
