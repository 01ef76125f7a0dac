// A thread for calls that take several operations, one after the other.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace collectives
{

// Runs what it is given in that order, on a thread of its own that starts with the first. All ranks
// call the same things in the same order, so the operations of these calls, in a tag that only this
// thread uses, meet their like.
class Sequel
{
  public:
    ~Sequel();
    void run(std::function<void()> call);
    // Wait until everything has run, and end the thread.
    void stop();

  private:
    void work();

    std::mutex mutex_; // guards what follows
    std::condition_variable changed_;
    std::deque<std::function<void()>> calls_;
    std::thread thread_;
    bool stopping_ = false;
};

} // namespace collectives
