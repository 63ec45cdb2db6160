#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace support {

// A TCP gate in front of a port of 127.0.0.1: passes bytes both ways, and misbehaves on demand. Put
// between proxy and Postgres (ProxyConfig::servers) or between client and proxy.
class Gate {
 public:
  explicit Gate(std::uint16_t target);
  // At an address of this machine's own and a port that another Gate has at another one.
  Gate(std::uint16_t target, const std::string& at, std::uint16_t port);
  ~Gate();
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  std::uint16_t port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // Nothing moves any more, connections stay open and new ones are accepted: a hung network.
  void stop() { stopped_ = true; }
  void go() { stopped_ = false; }
  // New connections go to this port of 127.0.0.1 instead; open ones stay.
  void forward_to(std::uint16_t target) { target_ = target; }
  // Connections are refused from now on, or accepted again. Open ones stay.
  void refuse(bool on);
  // Closes (with RST) every open connection.
  void cut();
  // Each connection is cut after `bytes` more bytes from the target have passed.
  void cut_after(std::size_t bytes) { budget_ = static_cast<std::ptrdiff_t>(bytes); }
  // Every piece waits so long before it is passed on, in both directions.
  void delay(std::chrono::milliseconds time) { delay_ = time.count(); }
  // Bytes go one at a time, each in a segment of its own.
  void one_byte_at_a_time(bool on) { one_byte_ = on; }

  // Says `bytes` to whoever holds a connection that began with something that contains `mark`, as if the target
  // had said them.
  void say(const std::string& mark, const std::string& bytes);
  // The first piece that comes from the target to each connection has `bytes` at its end, in the same segment;
  // "" ends that.
  void add_to_first(const std::string& bytes);

  // What contains `mark` does not reach the target until release(), nor does anything else of that connection.
  void hold(const std::string& mark);
  void release() { holds_ = false; }
  bool held() const { return held_ > 0; }

  std::size_t connections() const { return accepted_; }  // so far

  // The first bytes (4 KiB at most) that each connection so far brought to the target, or from it.
  std::vector<std::string> heads(bool from_target) const;

 private:
  struct Link {
    int client = -1, target = -1;
    std::string head[2];  // by direction: to the target, from it
    std::string to_say;
    std::thread thread;
  };
  static constexpr std::size_t kHead = 4096;

  void listen_again();
  void accept_loop();
  void pump(Link& link);
  void wait_if_held(std::string_view bytes);
  bool deliver(int to, const char* bytes, std::size_t count);
  bool move(Link& link, bool from_target);

  std::atomic<std::uint16_t> target_;
  const std::string at_;
  std::uint16_t port_ = 0;
  std::atomic<int> listener_{-1};
  std::atomic<bool> closing_{false}, stopped_{false}, one_byte_{false};
  std::atomic<std::ptrdiff_t> budget_{-1};
  std::atomic<std::int64_t> delay_{0};
  std::atomic<std::size_t> accepted_{0}, cuts_{0};
  std::atomic<bool> holds_{false};
  std::atomic<int> held_{0};
  std::string addition_, mark_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Link>> links_;
  std::thread acceptor_;
};

}  // namespace support
