#include "work.hpp"

#include <algorithm>
#include <ctime>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/StreamGuard.h>
#include <torch/csrc/utils/pybind.h>

#include "completer.hpp"

namespace collectives
{

namespace
{

// Counts how often the process has been forked from another.
std::atomic<uint32_t> process{0};
const int counts_forks = pthread_atfork(nullptr, nullptr, [] { process++; });

constexpr uint64_t SLICE_NS = 100'000'000; // Ctrl-C is heard at least this often

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

void resolve(const c10::intrusive_ptr<c10::ivalue::Future> &future, const std::exception_ptr &error,
             const std::vector<at::Tensor> &outputs)
{
    if (error)
        future->setError(error);
    else
        future->markCompleted(c10::IValue(outputs));
}

c10::intrusive_ptr<c10::ivalue::Future> make_future(const std::vector<at::Tensor> &outputs)
{
    return c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()),
                                                    devices_of(outputs));
}

} // namespace

uint64_t now()
{
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

std::exception_ptr make_error(coll_status status, const std::string &text)
{
    const std::string message = text.empty() ? coll_status_text(status) : text;
    return std::make_exception_ptr(C10_BUILD_ERROR(DistBackendError, "collectives: " + message));
}

// ---- flights ----------------------------------------------------------------------------------

Flight::Flight(std::shared_ptr<Journal> journal, uint64_t sequence, std::vector<at::Tensor> outputs)
    : journal_(std::move(journal)), sequence_(sequence), process_(process),
      outputs_(std::move(outputs))
{
}

Flight::~Flight()
{
    for (const auto &part : parts_)
        coll_operation_release(part.operation);
}

void Flight::add(coll_operation *operation, const coll_call &raw, Call &call)
{
    const uint64_t entry = journal_->begin(sequence_, raw);
    const std::lock_guard<std::mutex> lock(mutex_);
    parts_.push_back({operation, entry, std::move(call.kept), std::move(call.returns)});
    if (fd_ >= 0)
        coll_operation_notify(operation, fd_);
}

void Flight::fail(std::exception_ptr error)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_)
        error_ = std::move(error);
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

bool Flight::is_of_this_process() const
{
    return process_ == process;
}

bool Flight::poll()
{
    for (;;) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (state_ != State::OPEN)
                return state_ == State::ENDED;
            for (size_t i = settled_; i < parts_.size(); i++)
                if (coll_test(parts_[i].operation) == COLL_IN_PROGRESS)
                    return false;
            state_ = State::SETTLING;
        }
        settle();
    }
}

bool Flight::wait(uint64_t until)
{
    size_t over = 0; // parts that are known to have ended
    for (;;) {
        coll_operation *running = nullptr;
        bool mine = false;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            if (state_ == State::SETTLING) // in another thread
                changed_.wait_for(lock, std::chrono::nanoseconds(slice(until)));
            if (state_ == State::ENDED)
                return true;
            if (state_ == State::OPEN) {
                over = std::max(over, settled_);
                mine = over == parts_.size();
                if (mine)
                    state_ = State::SETTLING;
                else
                    running = parts_[over].operation;
            }
        }
        if (mine) {
            settle();
            continue;
        }
        if (running && coll_wait(running, slice(until)) != COLL_IN_PROGRESS) {
            over++;
            continue;
        }
        check_signals();
        if (now() >= until)
            return ended();
    }
}

void Flight::veto(const std::string &text)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto &part : parts_)
        coll_operation_veto(part.operation, COLL_CANCELLED, text.c_str());
}

bool Flight::watch(int fd)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    if (fd_ >= 0)
        return false;
    fd_ = fd;
    for (const auto &part : parts_)
        coll_operation_notify(part.operation, fd);
    return true;
}

// All parts have ended, and this thread alone deals with that.
void Flight::settle()
{
    std::exception_ptr error;
    bool more = false;
    for (size_t i = settled_; i < parts_.size(); i++) {
        const auto &part = parts_[i];
        const coll_status status = coll_test(part.operation);
        coll_info info;
        coll_operation_get_info(part.operation, &info);
        journal_->end(part.entry, status, info);
        partner_ = static_cast<int>(info.partner);
        if (status != COLL_OK && !error)
            error = make_error(status, coll_operation_error(part.operation));
    }
    try {
        for (size_t i = settled_; i < parts_.size(); i++) {
            for (auto &back : parts_[i].returns) {
                if (error)
                    break;
                c10::OptionalStreamGuard stream(back.stream);
                // As below the dispatcher of c10d, where the call came from: this is no operation
                // of the caller's, whom autograd would stop from writing to a parameter.
                at::AutoDispatchBelowADInplaceOrView guard;
                back.to.copy_(back.from);
            }
            parts_[i].returns.clear();
            parts_[i].kept.clear();
        }
        settled_ = parts_.size();
        if (!error && next_)
            more = next_(*this);
    } catch (...) {
        error = std::current_exception();
    }
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (more && !error && !error_) {
            state_ = State::OPEN;
            changed_.notify_all();
            return;
        }
    }
    end(std::move(error));
}

void Flight::end(std::exception_ptr error)
{
    c10::intrusive_ptr<c10::ivalue::Future> future;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_)
            error_ = std::move(error);
        error = error_;
        state_ = State::ENDED;
        future = future_;
        changed_.notify_all();
    }
    try {
        if (future)
            resolve(future, error, outputs_);
        if (at_end_)
            at_end_();
    } catch (const std::exception &failure) {
        TORCH_WARN("a callback of a collective call: ", failure.what());
    }
    next_ = nullptr;
    at_end_ = nullptr;
}

c10::intrusive_ptr<c10::ivalue::Future> Flight::future()
{
    bool ended;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (future_)
            return future_;
        future_ = make_future(outputs_);
        ended = state_ == State::ENDED;
    }
    try {
        if (ended)
            resolve(future_, error(), outputs_);
        else
            complete_later(shared_from_this());
    } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        future_ = nullptr; // which nobody would complete
        throw;
    }
    return future_;
}

// ---- works --------------------------------------------------------------------------------------

Work::Work(int rank, c10d::OpType type, const char *title, const std::vector<at::Tensor> &inputs,
           Flights flights)
    : c10d::Work(rank, type, title, inputs), flights_(std::move(flights))
{
    if (recordFunctionEndCallback_ && flights_.size() == 1)
        flights_[0]->at_end(std::move(recordFunctionEndCallback_));
}

Work::~Work()
{
    for (const auto &flight : flights_) {
        if (!flight->is_of_this_process())
            continue;
        try {
            // Whoever else has it sees it to its end.
            if (!flight->poll() && flight.use_count() == 1)
                complete_later(flight);
        } catch (const std::exception &error) { // it is vetoed, as nobody would hear of its end
            TORCH_WARN("a collective call that was dropped: ", error.what());
        }
    }
}

bool Work::isCompleted()
{
    return std::all_of(flights_.begin(), flights_.end(),
                       [](const auto &flight) { return flight->poll(); });
}

bool Work::isSuccess() const
{
    return const_cast<Work *>(this)->isCompleted() && !exception();
}

std::exception_ptr Work::exception() const
{
    for (const auto &flight : flights_)
        if (auto error = flight->error())
            return error;
    return nullptr;
}

int Work::sourceRank() const
{
    return flights_.size() == 1 ? flights_[0]->partner() : -1;
}

std::vector<at::Tensor> Work::result()
{
    std::vector<at::Tensor> all;
    for (const auto &flight : flights_)
        all.insert(all.end(), flight->outputs().begin(), flight->outputs().end());
    return all;
}

void Work::synchronize()
{
    wait(kNoTimeout);
}

bool Work::wait(std::chrono::milliseconds timeout)
{
    const bool bounded = timeout != kNoTimeout && timeout != c10d::kUnsetTimeout;
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(timeout).count();
    const uint64_t until = bounded ? now() + static_cast<uint64_t>(ns) : UINT64_MAX;
    for (const auto &flight : flights_)
        if (!flight->wait(until))
            C10_THROW_ERROR(DistBackendError,
                            c10::str("collectives: the operation has not ended within ",
                                     timeout.count(), " ms; it goes on: wait again, or abort it"));
    if (auto error = exception())
        std::rethrow_exception(error);
    return true;
}

void Work::abort()
{
    for (const auto &flight : flights_)
        flight->veto("aborted by its caller");
}

c10::intrusive_ptr<c10::ivalue::Future> Work::getFuture()
{
    if (flights_.size() == 1)
        return flights_[0]->future();
    struct Joined {
        c10::intrusive_ptr<c10::ivalue::Future> future;
        Flights flights;
        std::vector<at::Tensor> outputs;
        std::atomic<size_t> left;
    };
    const std::lock_guard<std::mutex> lock(mutex_);
    if (future_)
        return future_;
    auto outputs = result();
    future_ = make_future(outputs);
    if (flights_.empty())
        future_->markCompleted(c10::IValue(outputs));
    const auto joined = std::make_shared<Joined>(future_, flights_, outputs, flights_.size());
    for (const auto &flight : flights_)
        flight->future()->addCallback([joined](c10::ivalue::Future &) {
            if (--joined->left > 0)
                return;
            std::exception_ptr error;
            for (const auto &one : joined->flights)
                error = error ? error : one->error();
            resolve(joined->future, error, joined->outputs);
        });
    return future_;
}

uint64_t Work::getSequencenumber() const
{
    return flights_.empty() ? 0 : flights_[0]->sequence();
}

} // namespace collectives
