#include "tests/support/gate.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/free_port.h"

namespace support {

namespace {

sockaddr_in loopback(std::uint16_t port, const std::string& at = "127.0.0.1") {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  inet_pton(AF_INET, at.c_str(), &address.sin_addr);
  address.sin_port = htons(port);
  return address;
}

void close_abruptly(int fd) {
  const linger abrupt{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &abrupt, sizeof abrupt);
  close(fd);
}

void no_delay(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

}  // namespace

Gate::Gate(std::uint16_t target) : Gate(target, "127.0.0.1", free_port()) {}

Gate::Gate(std::uint16_t target, const std::string& at, std::uint16_t port)
    : target_(target), at_(at), port_(port) {
  listen_again();
  acceptor_ = std::thread([this] { accept_loop(); });
}

Gate::~Gate() {
  closing_ = true;
  acceptor_.join();
  for (const auto& link : links_) link->thread.join();
  const int fd = listener_.exchange(-1);
  if (fd >= 0) close(fd);
}

void Gate::listen_again() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  const sockaddr_in address = loopback(port_, at_);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(fd, 128) != 0) {
    std::perror("gate");
    std::abort();
  }
  listener_ = fd;
}

void Gate::refuse(bool on) {
  const std::lock_guard lock(mutex_);
  if (on) {
    const int fd = listener_.exchange(-1);
    if (fd >= 0) close(fd);
  } else if (listener_ < 0) {
    listen_again();
  }
}

void Gate::cut() { ++cuts_; }

void Gate::accept_loop() {
  while (!closing_) {
    std::unique_lock lock(mutex_);
    const int listener = listener_;
    pollfd waited{.fd = listener, .events = POLLIN, .revents = 0};
    if (listener < 0 || poll(&waited, 1, 0) <= 0) {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      continue;
    }
    auto link = std::make_unique<Link>();
    link->client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (link->client < 0) continue;
    no_delay(link->client);
    ++accepted_;
    Link& started = *link;
    link->thread = std::thread([this, &started] { pump(started); });
    links_.push_back(std::move(link));
  }
}

std::vector<std::string> Gate::heads(bool from_target) const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> heads;
  for (const auto& link : links_) heads.push_back(link->head[from_target ? 1 : 0]);
  return heads;
}

void Gate::say(const std::string& mark, const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  for (const auto& link : links_)
    if (link->head[0].find(mark) != std::string::npos) link->to_say += bytes;
}

void Gate::add_to_first(const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  addition_ = bytes;
}

void Gate::hold(const std::string& mark) {
  const std::lock_guard lock(mutex_);
  mark_ = mark;
  holds_ = true;
}

void Gate::wait_if_held(std::string_view bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (bytes.find(mark_) == std::string_view::npos) return;
  }
  ++held_;
  while (holds_ && !closing_) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  --held_;
}

bool Gate::move(Link& link, bool from_target) {
  const int from = from_target ? link.target : link.client;
  const int to = from_target ? link.client : link.target;
  char bytes[65536];
  const ssize_t n = recv(from, bytes, one_byte_ ? 1 : sizeof bytes, MSG_DONTWAIT);
  if (n < 0) return true;
  if (n == 0) return false;
  if (delay_ > 0) std::this_thread::sleep_for(std::chrono::milliseconds(delay_));
  auto count = static_cast<std::size_t>(n);
  bool last = false;
  if (from_target && budget_ >= 0) {
    const auto budget = static_cast<std::size_t>(budget_.load());
    last = count >= budget;
    if (last) count = budget;
    budget_ = static_cast<std::ptrdiff_t>(budget - count);
  }
  std::string addition;
  if (std::string& head = link.head[from_target ? 1 : 0]; head.size() < kHead) {
    const std::lock_guard lock(mutex_);
    if (from_target && head.empty()) addition = addition_;
    head.append(bytes, std::min(count, kHead - head.size()));
  }
  if (!from_target && holds_) wait_if_held({bytes, count});
  if (!addition.empty()) {
    const std::string longer = std::string(bytes, count) + addition;
    return deliver(to, longer.data(), longer.size());
  }
  return deliver(to, bytes, count) && !last;
}

bool Gate::deliver(int to, const char* bytes, std::size_t count) {
  for (std::size_t sent = 0; sent < count && !closing_;) {
    const ssize_t written = send(to, bytes + sent, count - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (written > 0) {
      sent += static_cast<std::size_t>(written);
      continue;
    }
    pollfd waited{.fd = to, .events = POLLOUT, .revents = 0};
    poll(&waited, 1, 20);
    if ((waited.revents & (POLLERR | POLLHUP)) != 0) return false;
  }
  return true;
}

void Gate::pump(Link& link) {
  const std::size_t cuts_before = cuts_;
  link.target = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = loopback(target_);
  bool open =
      connect(link.target, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  if (open) no_delay(link.target);
  while (open && !closing_ && cuts_ == cuts_before) {
    if (stopped_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      continue;
    }
    std::string words;
    {
      const std::lock_guard lock(mutex_);
      words = std::exchange(link.to_say, {});
    }
    if (!words.empty() && !deliver(link.client, words.data(), words.size())) break;
    pollfd waited[2] = {{.fd = link.client, .events = POLLIN, .revents = 0},
                        {.fd = link.target, .events = POLLIN, .revents = 0}};
    if (poll(waited, 2, 10) <= 0) continue;
    if (stopped_) continue;
    if (waited[0].revents != 0) open = move(link, false);
    if (open && waited[1].revents != 0) open = move(link, true);
  }
  close_abruptly(link.client);
  close(link.target);
}

}  // namespace support
