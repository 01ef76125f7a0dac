#include "journal.hpp"

namespace collectives
{

uint64_t Journal::begin(uint64_t sequence, const coll_call &call)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    Entry &entry = entries_[next_ % SIZE];
    entry = Entry();
    entry.sequence = sequence;
    entry.kind = call.kind;
    entry.tag = call.tag;
    entry.dtype = call.dtype;
    entry.bytes = call.count * coll_dtype_size(call.dtype);
    counts_[call.kind]++;
    return next_++;
}

void Journal::end(uint64_t number, coll_status status, const coll_info &info)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    if (next_ - number > SIZE)
        return; // it has been written over
    Entry &entry = entries_[number % SIZE];
    entry.number = info.number;
    entry.status = status;
    entry.entered_ns = info.entered_ns;
    entry.first_byte_ns = info.first_byte_ns;
    entry.last_byte_ns = info.last_byte_ns;
    entry.done_ns = info.done_ns;
}

std::vector<Entry> Journal::entries() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<Entry> found;
    for (uint64_t i = next_ > SIZE ? next_ - SIZE : 0; i < next_; i++)
        found.push_back(entries_[i % SIZE]);
    return found;
}

std::array<uint64_t, COLL_KIND_COUNT> Journal::counts() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return counts_;
}

} // namespace collectives
