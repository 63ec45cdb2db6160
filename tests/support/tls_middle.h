#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace support {

// The man in the middle, in front of a Postgres on 127.0.0.1: ends the TLS of whoever connects with a certificate of
// its own, begins one with the target, and passes on what both say, so that it could read all of it. Only who asks
// for TLS is served.
class TlsMiddle {
 public:
  TlsMiddle(std::uint16_t target, std::string cert, std::string key);
  ~TlsMiddle();
  TlsMiddle(const TlsMiddle&) = delete;
  TlsMiddle& operator=(const TlsMiddle&) = delete;

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  // Connections between which and the target it stands, so far.
  int connections() const { return connections_; }

 private:
  void accept_loop();
  void stand_between(int client);

  const std::uint16_t target_;
  const std::string cert_, key_;
  std::uint16_t port_ = 0;
  int listener_ = -1;
  std::atomic<bool> closing_{false};
  std::atomic<int> connections_{0};
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace support
