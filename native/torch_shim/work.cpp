#include "work.hpp"

#include <ctime>
#include <sys/syscall.h>
#include <unistd.h>

#include <c10/core/StreamGuard.h>
#include <torch/csrc/utils/pybind.h>

#include "completer.hpp"

namespace collectives
{

namespace
{

constexpr uint64_t SLICE_NS = 100'000'000; // Ctrl-C is heard at least this often

uint64_t now()
{
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

uint64_t slice(uint64_t until)
{
    const uint64_t time = until == UINT64_MAX ? 0 : now();
    return until <= time ? 0 : std::min(SLICE_NS, until - time);
}

// Let Python handle what has come, if this is the thread in which it does.
void check_signals()
{
    if (syscall(SYS_gettid) != getpid() || !Py_IsInitialized())
        return;
    pybind11::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0)
        throw pybind11::error_already_set();
}

std::vector<c10::Device> devices_of(const std::vector<at::Tensor> &tensors)
{
    std::vector<c10::Device> devices;
    for (const auto &tensor : tensors)
        if (!tensor.device().is_cpu() &&
            std::find(devices.begin(), devices.end(), tensor.device()) == devices.end())
            devices.push_back(tensor.device());
    return devices;
}

} // namespace

std::exception_ptr make_error(coll_status status, const std::string &text)
{
    const std::string message = text.empty() ? coll_status_text(status) : text;
    return std::make_exception_ptr(C10_BUILD_ERROR(DistBackendError, "collectives: " + message));
}

// ---- flights ----------------------------------------------------------------------------------

Flight::Flight(std::shared_ptr<Journal> journal, std::vector<at::Tensor> outputs)
    : journal_(std::move(journal)), outputs_(std::move(outputs))
{
}

Flight::~Flight()
{
    for (const auto &part : parts_)
        coll_operation_release(part.operation);
}

void Flight::add(coll_operation *operation, uint64_t entry, Call &call)
{
    parts_.push_back({operation, entry, std::move(call.kept), std::move(call.returns)});
}

void Flight::more(const std::vector<at::Tensor> &outputs)
{
    outputs_.insert(outputs_.end(), outputs.begin(), outputs.end());
}

void Flight::fail(std::exception_ptr error)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_)
        error_ = std::move(error);
}

void Flight::hold()
{
    const std::lock_guard<std::mutex> lock(mutex_);
    held_ = true;
}

void Flight::conclude(std::exception_ptr error)
{
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        held_ = false;
        state_ = State::ENDING;
    }
    end(std::move(error));
}

std::exception_ptr Flight::error() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return error_;
}

bool Flight::ended() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return state_ == State::ENDED;
}

bool Flight::poll()
{
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (state_ != State::OPEN || held_)
            return state_ == State::ENDED;
    }
    for (const auto &part : parts_)
        if (coll_test(part.operation) == COLL_IN_PROGRESS)
            return false;
    complete();
    return ended();
}

bool Flight::wait(uint64_t until)
{
    for (const auto &part : parts_) {
        while (coll_wait(part.operation, slice(until)) == COLL_IN_PROGRESS) {
            check_signals();
            if (now() >= until)
                return false;
        }
    }
    std::unique_lock<std::mutex> lock(mutex_);
    const bool mine = !held_ && state_ == State::OPEN;
    lock.unlock();
    if (mine)
        complete();
    lock.lock();
    while (state_ != State::ENDED) { // another thread completes it
        ended_.wait_for(lock, std::chrono::nanoseconds(slice(until)));
        lock.unlock();
        check_signals();
        if (now() >= until)
            return ended();
        lock.lock();
    }
    return true;
}

void Flight::veto(const std::string &text)
{
    for (const auto &part : parts_)
        coll_operation_veto(part.operation, COLL_CANCELLED, text.c_str());
}

void Flight::notify(int fd)
{
    for (const auto &part : parts_)
        coll_operation_notify(part.operation, fd);
}

// All parts have ended.
void Flight::complete()
{
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (state_ != State::OPEN)
            return;
        state_ = State::ENDING;
    }
    std::exception_ptr error;
    for (auto &part : parts_) {
        const coll_status status = coll_test(part.operation);
        coll_info info;
        coll_operation_get_info(part.operation, &info);
        journal_->end(part.entry, status, info);
        partner_ = static_cast<int>(info.partner);
        if (status != COLL_OK && !error)
            error = make_error(status, coll_operation_error(part.operation));
    }
    try {
        for (auto &part : parts_) {
            for (auto &back : part.returns) {
                if (error)
                    break;
                c10::OptionalStreamGuard guard(back.stream);
                back.to.copy_(back.from);
            }
            part.returns.clear();
            part.kept.clear();
        }
    } catch (...) {
        error = std::current_exception();
    }
    end(std::move(error));
}

void Flight::end(std::exception_ptr error)
{
    c10::intrusive_ptr<c10::ivalue::Future> future;
    std::function<void()> at_end;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_)
            error_ = std::move(error);
        error = error_;
        state_ = State::ENDED;
        future = future_;
        at_end.swap(at_end_);
        ended_.notify_all();
    }
    if (at_end)
        at_end();
    if (future)
        resolve(future, error);
}

void Flight::resolve(const c10::intrusive_ptr<c10::ivalue::Future> &future,
                     const std::exception_ptr &error) const
{
    if (error)
        future->setError(error);
    else
        future->markCompleted(c10::IValue(outputs_));
}

c10::intrusive_ptr<c10::ivalue::Future> Flight::future()
{
    bool ended;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (future_)
            return future_;
        future_ = c10::make_intrusive<c10::ivalue::Future>(
            c10::ListType::create(c10::TensorType::get()), devices_of(outputs_));
        ended = state_ == State::ENDED;
    }
    if (ended)
        resolve(future_, error());
    else
        complete_later(shared_from_this());
    return future_;
}

// ---- works --------------------------------------------------------------------------------------

Work::Work(int rank, c10d::OpType type, const char *title, const std::vector<at::Tensor> &inputs,
           uint64_t sequence, std::shared_ptr<Flight> flight)
    : c10d::Work(rank, type, title, inputs), sequence_(sequence), flight_(std::move(flight))
{
    if (recordFunctionEndCallback_)
        flight_->at_end(std::move(recordFunctionEndCallback_));
}

Work::~Work()
{
    try {
        if (!flight_->poll())
            complete_later(flight_);
    } catch (...) { // it is completed by nobody, and its memory is freed with the process's
    }
}

bool Work::isCompleted()
{
    return flight_->poll();
}

bool Work::isSuccess() const
{
    return flight_->poll() && !flight_->error();
}

std::exception_ptr Work::exception() const
{
    return flight_->error();
}

int Work::sourceRank() const
{
    return flight_->partner();
}

std::vector<at::Tensor> Work::result()
{
    return flight_->outputs();
}

void Work::synchronize()
{
    wait(kNoTimeout);
}

bool Work::wait(std::chrono::milliseconds timeout)
{
    const bool bounded = timeout != kNoTimeout && timeout != c10d::kUnsetTimeout;
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(timeout).count();
    if (!flight_->wait(bounded ? now() + static_cast<uint64_t>(ns) : UINT64_MAX))
        C10_THROW_ERROR(DistBackendError,
                        c10::str("collectives: the operation has not ended within ",
                                 timeout.count(), " ms; it goes on: wait again, or abort it"));
    const auto error = flight_->error();
    if (error)
        std::rethrow_exception(error);
    return true;
}

void Work::abort()
{
    flight_->veto("aborted by its caller");
}

c10::intrusive_ptr<c10::ivalue::Future> Work::getFuture()
{
    return flight_->future();
}

uint64_t Work::getSequencenumber() const
{
    return sequence_;
}

} // namespace collectives
