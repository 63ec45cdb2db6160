#pragma once

#include <chrono>
#include <thread>
#include <utility>

namespace support {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Polls `condition` until it holds or `deadline` has passed; says whether it held. Never sleeps for
// a guess: the condition decides, the deadline only bounds a failure.
template <class Condition>
[[nodiscard]] bool eventually(Condition&& condition, std::chrono::milliseconds deadline = 10s,
                              std::chrono::milliseconds pause = 10ms) {
  const auto end = Clock::now() + deadline;
  while (true) {
    if (std::forward<Condition>(condition)()) return true;
    if (Clock::now() >= end) return false;
    std::this_thread::sleep_for(pause);
  }
}

// True when `condition` holds during all of `period`: for what must not happen.
template <class Condition>
[[nodiscard]] bool stays(Condition&& condition, std::chrono::milliseconds period,
                         std::chrono::milliseconds pause = 20ms) {
  const auto end = Clock::now() + period;
  while (Clock::now() < end) {
    if (!condition()) return false;
    std::this_thread::sleep_for(pause);
  }
  return true;
}

// Milliseconds that have passed since it was made.
class Stopwatch {
 public:
  std::chrono::milliseconds elapsed() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start_);
  }

 private:
  Clock::time_point start_ = Clock::now();
};

}  // namespace support
