// The threads that complete what nobody waits for: one, and more while callbacks wait.
#pragma once

#include <memory>

namespace collectives
{

class Flight;

// Complete the flight when it has ended: for those that have a future, and those whose Work was dropped.
void complete_later(const std::shared_ptr<Flight> &flight);

// No future is completed any more, and no callback is running: the interpreter, whose callbacks they
// are, is about to end. Waits for those that run; the caller does not hold the interpreter's lock.
void stop_completing();

} // namespace collectives
