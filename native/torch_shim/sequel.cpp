#include "sequel.hpp"

namespace collectives
{

Sequel::~Sequel()
{
    stop();
}

void Sequel::run(std::function<void()> call)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.push_back(std::move(call));
    if (!thread_.joinable())
        thread_ = std::thread([this] { work(); });
    changed_.notify_one();
}

void Sequel::stop()
{
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
        changed_.notify_one();
    }
    if (thread_.joinable())
        thread_.join();
}

void Sequel::work()
{
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return stopping_ || !calls_.empty(); });
        if (calls_.empty())
            return;
        auto call = std::move(calls_.front());
        calls_.pop_front();
        lock.unlock();
        call(); // which does not throw
        lock.lock();
    }
}

} // namespace collectives
