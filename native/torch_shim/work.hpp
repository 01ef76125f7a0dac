// Works: what a call of c10d returns, and who completes it when nobody waits.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "call.hpp"
#include "collectives.h"
#include "journal.hpp"

namespace collectives
{

// One call that has not ended yet. It is shared by the Work that the caller has and, if the caller wants
// a future or has dropped the Work, by the thread that completes it.
class Flight : public std::enable_shared_from_this<Flight>
{
  public:
    // What is to be done when all operations so far have succeeded. True: it has added others.
    using Next = std::function<bool(Flight &)>;

    Flight(std::shared_ptr<Journal> journal, uint64_t sequence, std::vector<at::Tensor> outputs);
    ~Flight();

    // An operation that it consists of.
    void add(coll_operation *operation, const coll_call &raw, Call &call);
    // It has failed without one.
    void fail(std::exception_ptr error);
    void then(Next next) { next_ = std::move(next); }
    void at_end(std::function<void()> call) { at_end_ = std::move(call); }

    // True once it has ended; completes it if it just has.
    bool poll();
    // Until it has ended or the time (CLOCK_MONOTONIC, ns; UINT64_MAX: never) has come: false.
    bool wait(uint64_t until);
    void veto(const std::string &text);
    // Have `fd` signalled whenever one of its operations ends. False: another one is, already.
    bool watch(int fd);

    bool ended() const;
    bool is_of_this_process() const;
    std::exception_ptr error() const; // nullptr: it has succeeded, or not ended
    const std::vector<at::Tensor> &outputs() const { return outputs_; }
    uint64_t sequence() const { return sequence_; }
    int partner() const { return partner_; }
    c10::intrusive_ptr<c10::ivalue::Future> future();

  private:
    struct Part {
        coll_operation *operation;
        uint64_t entry; // in the journal
        std::vector<at::Tensor> kept;
        std::vector<Return> returns;
    };
    enum class State { OPEN, SETTLING, ENDED };

    void settle();
    void end(std::exception_ptr error);

    const std::shared_ptr<Journal> journal_;
    const uint64_t sequence_;
    const uint32_t process_;
    const std::vector<at::Tensor> outputs_;
    Next next_;
    std::function<void()> at_end_;
    std::atomic<int> partner_{-1};
    mutable std::mutex mutex_; // guards what follows; parts_ that are settled are nobody's any more
    std::condition_variable changed_;
    State state_ = State::OPEN;
    std::vector<Part> parts_;
    size_t settled_ = 0; // of them
    int fd_ = -1;
    std::exception_ptr error_;
    c10::intrusive_ptr<c10::ivalue::Future> future_;
};

using Flights = std::vector<std::shared_ptr<Flight>>;

// What the caller has: of one call, or of several that were coalesced.
class Work final : public c10d::Work
{
  public:
    Work(int rank, c10d::OpType type, const char *title, const std::vector<at::Tensor> &inputs,
         Flights flights);
    ~Work() override;

    bool isCompleted() override;
    bool isSuccess() const override;
    std::exception_ptr exception() const override;
    int sourceRank() const override;
    std::vector<at::Tensor> result() override;
    void synchronize() override;
    bool wait(std::chrono::milliseconds timeout) override;
    void abort() override;
    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
    uint64_t getSequencenumber() const override;

    Flight &flight() const { return *flights_.front(); }

  private:
    const Flights flights_;
    std::mutex mutex_; // guards future_
    c10::intrusive_ptr<c10::ivalue::Future> future_; // of several
};

// The exception that a status of the core stands for; Python sees DistBackendError.
std::exception_ptr make_error(coll_status status, const std::string &text);

// CLOCK_MONOTONIC, ns.
uint64_t now();

} // namespace collectives
