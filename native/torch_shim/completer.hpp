// The threads that complete what nobody waits for: one, and more while callbacks wait.
#pragma once

#include <memory>

namespace collectives
{

class Flight;

// Complete the flight when it has ended: for those that have a future, and those whose Work was dropped.
void complete_later(std::shared_ptr<Flight> flight);

} // namespace collectives
