#include "completer.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include <sys/eventfd.h>
#include <unistd.h>

#include <c10/util/Exception.h>

#include "work.hpp"

namespace collectives
{

namespace
{

thread_local bool is_completer = false;

class Completer
{
  public:
    Completer() : fd_(eventfd(0, EFD_CLOEXEC)), pid_(getpid())
    {
        TORCH_CHECK(fd_ >= 0, "cannot make an eventfd: raise the limit of open files (ulimit -n)");
        std::thread([this] {
            is_completer = true;
            run();
        }).detach();
    }

    bool is_of_this_process() const { return pid_ == getpid(); }
    bool is_busy() const { return busy_; }

    void watch(const std::shared_ptr<Flight> &flight)
    {
        if (!flight->watch(fd_)) // which signals at once if it has ended
            return;
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!stopped_)
            coming_.push_back(flight);
        signal();
    }

    void stop()
    {
        std::unique_lock<std::mutex> lock(mutex_);
        stopped_ = true;
        signal();
        idle_.wait(lock, [this] { return gone_; });
    }

  private:
    void signal() const
    {
        const uint64_t one = 1;
        (void)!write(fd_, &one, sizeof one);
    }

    void run()
    {
        std::vector<std::shared_ptr<Flight>> flights;
        for (;;) {
            uint64_t count;
            if (read(fd_, &count, sizeof count) < 0)
                continue;
            std::vector<std::shared_ptr<Flight>> coming;
            {
                const std::lock_guard<std::mutex> lock(mutex_);
                if (stopped_)
                    break;
                coming.swap(coming_);
            }
            flights.insert(flights.end(), coming.begin(), coming.end());
            busy_ = true;
            flights.erase(std::remove_if(flights.begin(), flights.end(), poll), flights.end());
            busy_ = false;
        }
        // What flies is left as it is. Its tensors may be Python's: they go while that is there.
        flights.clear();
        std::vector<std::shared_ptr<Flight>> coming;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            coming.swap(coming_);
        }
        coming.clear();
        const std::lock_guard<std::mutex> lock(mutex_);
        gone_ = true;
        idle_.notify_all();
    }

    static bool poll(const std::shared_ptr<Flight> &flight)
    {
        try {
            return flight->poll();
        } catch (const std::exception &error) {
            TORCH_WARN("completing a collective call: ", error.what());
            return true;
        }
    }

    const int fd_;
    const pid_t pid_;
    std::atomic<bool> busy_{false}; // perhaps in a callback
    std::mutex mutex_; // guards what follows
    std::condition_variable idle_;
    std::vector<std::shared_ptr<Flight>> coming_;
    bool stopped_ = false, gone_ = false;
};

// The first has all that is called by others. What a callback calls, which it may then wait for, goes
// to one that is not busy: among these there is no circle of who waits for whom. Never freed: their
// threads may outlive everything else of the process. A forked child has others.
std::mutex the_lock;
std::vector<Completer *> &completers()
{
    static auto *const all = new std::vector<Completer *>();
    return *all;
}

} // namespace

void complete_later(const std::shared_ptr<Flight> &flight)
{
    Completer *completer;
    {
        const std::lock_guard<std::mutex> lock(the_lock);
        auto &all = completers();
        if (!all.empty() && !all[0]->is_of_this_process())
            all.clear();
        auto chosen = is_completer ? std::find_if_not(all.begin(), all.end(),
                                                      [](auto *one) { return one->is_busy(); })
                                   : all.begin();
        if (chosen == all.end())
            chosen = all.insert(all.end(), new Completer());
        completer = *chosen;
    }
    completer->watch(flight);
}

void stop_completing()
{
    std::vector<Completer *> all;
    {
        const std::lock_guard<std::mutex> lock(the_lock);
        all = completers();
    }
    for (Completer *completer : all)
        if (completer->is_of_this_process())
            completer->stop();
}

} // namespace collectives
