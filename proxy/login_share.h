#pragma once

#include <chrono>

namespace proxy {

// How much of one turn of its loop a worker spends on logins. Their steps are what costs most in one piece: a TLS
// handshake signs, a password is hashed some thousand times, each about a millisecond, and after an outage everybody
// comes at once. What is left when the share is used up waits for the next turn (Worker::defer_login()): behind the
// statements that have come by then, before logins that come later. At least one step is taken per turn. Costs two
// looks at the clock per step of a login, and statements nothing.
class LoginShare {
 public:
  // A tenth of limits.loop_delay: statements notice logins before self-protection has to.
  static constexpr std::chrono::nanoseconds kOfTurn = std::chrono::milliseconds(2);

  bool is_used_up() const { return spent_ >= kOfTurn; }
  void begin_turn() { spent_ = {}; }

  // Lives while a step is taken.
  class Step {
   public:
    explicit Step(LoginShare& share) : share_(share) {}
    ~Step() { share_.spent_ += Clock::now() - began_; }
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;

   private:
    using Clock = std::chrono::steady_clock;
    LoginShare& share_;
    Clock::time_point began_ = Clock::now();
  };

 private:
  std::chrono::nanoseconds spent_{};
};

}  // namespace proxy
