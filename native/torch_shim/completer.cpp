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

    void watch(std::shared_ptr<Flight> flight)
    {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (stopped_)
                return;
            coming_.push_back(flight);
        }
        flight->notify(fd_); // which signals at once if it has ended
        signal();
    }

    void stop()
    {
        std::unique_lock<std::mutex> lock(mutex_);
        stopped_ = true;
        signal();
        // A callback may hold it up: the end of the program does not wait for that.
        idle_.wait_for(lock, std::chrono::seconds(1), [this] { return gone_; });
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
            {
                const std::lock_guard<std::mutex> lock(mutex_);
                if (stopped_) {
                    gone_ = true;
                    idle_.notify_all();
                    return; // what flies is left as it is: its end is that of the process
                }
                flights.insert(flights.end(), coming_.begin(), coming_.end());
                coming_.clear();
            }
            busy_ = true;
            std::vector<std::shared_ptr<Flight>> left;
            for (auto &flight : flights)
                if (!flight->poll())
                    left.push_back(std::move(flight));
            flights.swap(left);
            busy_ = false;
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

void complete_later(std::shared_ptr<Flight> flight)
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
    completer->watch(std::move(flight));
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
