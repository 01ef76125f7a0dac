// Works: what a call of c10d returns, and who completes it when nobody waits.
#pragma once

#include <atomic>
#include <condition_variable>
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

// What has been called and not ended yet. It is shared by the Work that the caller has and, if the
// caller wants a future or has dropped the Work, by the thread that completes it.
class Flight : public std::enable_shared_from_this<Flight>
{
  public:
    Flight(std::shared_ptr<Journal> journal, std::vector<at::Tensor> outputs);
    ~Flight();

    // While it is made: the operations that it consists of, in their order.
    void add(coll_operation *operation, uint64_t entry, Call &call);
    // It has failed, or will be ended by conclude(): the core has nothing to tell about it.
    void fail(std::exception_ptr error);
    void hold();
    void conclude(std::exception_ptr error);
    void more(const std::vector<at::Tensor> &outputs);

    // True once it has ended; completes it if it just has.
    bool poll();
    // Until it has ended or the time (CLOCK_MONOTONIC, ns; UINT64_MAX: never) has come: false.
    bool wait(uint64_t until);
    void veto(const std::string &text);
    // Have `fd` signalled when one of its operations ends.
    void notify(int fd);

    bool ended() const;
    std::exception_ptr error() const; // nullptr: it has succeeded, or not ended
    const std::vector<at::Tensor> &outputs() const { return outputs_; }
    int partner() const { return partner_; }
    c10::intrusive_ptr<c10::ivalue::Future> future();
    void at_end(std::function<void()> call) { at_end_ = std::move(call); }

  private:
    struct Part {
        coll_operation *operation;
        uint64_t entry; // in the journal
        std::vector<at::Tensor> kept;
        std::vector<Return> returns;
    };
    enum class State { OPEN, ENDING, ENDED };

    void complete();
    void end(std::exception_ptr error);
    void resolve(const c10::intrusive_ptr<c10::ivalue::Future> &future,
                 const std::exception_ptr &error) const;

    std::shared_ptr<Journal> journal_;
    std::vector<Part> parts_;
    std::vector<at::Tensor> outputs_;
    std::function<void()> at_end_;
    mutable std::mutex mutex_; // guards what follows
    std::condition_variable ended_;
    State state_ = State::OPEN;
    bool held_ = false;
    std::exception_ptr error_;
    int partner_ = -1;
    c10::intrusive_ptr<c10::ivalue::Future> future_;
};

class Work final : public c10d::Work
{
  public:
    Work(int rank, c10d::OpType type, const char *title, const std::vector<at::Tensor> &inputs,
         uint64_t sequence, std::shared_ptr<Flight> flight);
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

    const std::shared_ptr<Flight> &flight() const { return flight_; }

  private:
    const uint64_t sequence_;
    const std::shared_ptr<Flight> flight_;
};

// The exception that a status of the core stands for; Python sees DistBackendError.
std::exception_ptr make_error(coll_status status, const std::string &text);

// No future is completed any more: the interpreter, whose callbacks they have, is about to end.
void stop_completing();

} // namespace collectives
