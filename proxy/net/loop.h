#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "conf/units.h"
#include "proxy/net/handle.h"

namespace net {

using conf::Instant;
using conf::Millis;

// One thread's event loop. Everything registered with it belongs to the thread that calls run().
class Loop {
 public:
  Loop();
  // Runs what is left (close callbacks) and proves that nothing leaked: a handle that is still open
  // is our bug.
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  uv_loop_t* raw() { return &loop_; }

  // Until stop().
  void run();
  void stop() { uv_stop(&loop_); }

  // The moment of this turn: read from the clock at the first call after the loop has slept, the same
  // for the rest of the turn. Nanoseconds.
  Instant now() {
    if (now_ == Instant{}) now_ = read_clock();
    return now_;
  }

  // The loop does not block at the end of this turn: there is more to do that it cannot see.
  void wake();

  // `hook` runs at the end of every turn, right before the loop may block. One only.
  void at_turn_end(std::function<void()> hook) { turn_end_ = std::move(hook); }

  // Runs `work` on libuv's thread pool, then `done` on this loop. For what takes milliseconds (key
  // derivation). `work` must own everything that it touches; `done` must check that whoever asked is
  // still there.
  void in_background(std::function<void()> work, std::function<void()> done);

  // Resolves `host` (name or numeric) without blocking: `done` gets numeric addresses in the resolver's
  // order, and an error text when there is none.
  void resolve(const std::string& host,
               std::function<void(std::vector<std::string> ips, std::string error)> done);

 private:
  static Instant read_clock() { return Instant(conf::Nanos(static_cast<std::int64_t>(uv_hrtime()))); }
  void on_turn_end();

  uv_loop_t loop_;
  Handle<uv_prepare_t> prepare_;
  Handle<uv_idle_t> idle_;  // active: the next poll returns at once
  Instant now_{};
  std::function<void()> turn_end_;
};

// Calls back once after a delay, or again and again.
class Timer {
 public:
  Timer(Loop& loop, std::function<void()> action);
  void once(Millis delay) { start(delay, Millis(0)); }
  void every(Millis period) { start(period, period); }
  void stop() { uv_timer_stop(uv_.get()); }
  bool armed() const { return uv_is_active(reinterpret_cast<const uv_handle_t*>(uv_.get())) != 0; }

 private:
  void start(Millis delay, Millis repeat);
  Handle<uv_timer_t> uv_;
  std::function<void()> action_;
};

// Watches a descriptor that somebody else owns and closes (libpq's sockets, listening sockets).
// Destroy it before the descriptor is closed.
class Watch {
 public:
  enum Events : int { none = 0, readable = UV_READABLE, writable = UV_WRITABLE };

  Watch(Loop& loop, int fd, std::function<void(int events)> action);
  void want(int events);  // readable | writable, or none

 private:
  Handle<uv_poll_t> uv_;
  std::function<void(int)> action_;
  int wanted_ = none;
};

// A signal of the process, delivered on the loop.
class Signal {
 public:
  Signal(Loop& loop, int number, std::function<void()> action);

 private:
  Handle<uv_signal_t> uv_;
  std::function<void()> action_;
};

}  // namespace net
