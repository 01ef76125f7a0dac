#include "completer.hpp"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include <sys/eventfd.h>
#include <unistd.h>

#include <c10/util/Exception.h>

#include "work.hpp"

namespace collectives {

namespace {

class Completer {
  public:
    Completer() : fd_(eventfd(0, EFD_CLOEXEC)), pid_(getpid())
    {
        TORCH_CHECK(fd_ >= 0, "cannot make an eventfd: raise the limit of open files (ulimit -n)");
        std::thread([this] { run(); }).detach();
    }

    bool is_of_this_process() const { return pid_ == getpid(); }

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
            std::vector<std::shared_ptr<Flight>> left;
            for (auto &flight : flights)
                if (!flight->poll())
                    left.push_back(std::move(flight));
            flights.swap(left);
        }
    }

    const int fd_;
    const pid_t pid_;
    std::mutex mutex_; // guards what follows
    std::condition_variable idle_;
    std::vector<std::shared_ptr<Flight>> coming_;
    bool stopped_ = false, gone_ = false;
};

// Never freed: its thread may outlive everything else of the process. A forked child has another.
std::mutex the_lock;
Completer *the_completer = nullptr;

} // namespace

void complete_later(std::shared_ptr<Flight> flight)
{
    Completer *completer;
    {
        const std::lock_guard<std::mutex> lock(the_lock);
        if (!the_completer || !the_completer->is_of_this_process())
            the_completer = new Completer();
        completer = the_completer;
    }
    completer->watch(std::move(flight));
}

void stop_completing()
{
    Completer *completer;
    {
        const std::lock_guard<std::mutex> lock(the_lock);
        completer = the_completer;
    }
    if (completer && completer->is_of_this_process())
        completer->stop();
}

} // namespace collectives
