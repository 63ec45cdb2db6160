#include "proxy/notify.h"

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace proxy {

Notifier Notifier::from_environment() {
  Notifier notifier;
  if (const char* socket = std::getenv("NOTIFY_SOCKET"); socket != nullptr && (*socket == '/' || *socket == '@')) {
    notifier.address_ = socket;
    if (*socket == '@') notifier.address_[0] = '\0';
  }
  const char* usec = std::getenv("WATCHDOG_USEC");
  const char* pid = std::getenv("WATCHDOG_PID");
  const bool for_us = pid == nullptr || std::atol(pid) == ::getpid();
  if (usec != nullptr && for_us && std::atoll(usec) > 0) notifier.watchdog_ = conf::Micros(std::atoll(usec));
  ::unsetenv("WATCHDOG_PID");
  return notifier;
}

void Notifier::say(std::string_view lines) const {
  sockaddr_un address{};
  if (address_.empty() || address_.size() >= sizeof address.sun_path) return;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, address_.data(), address_.size());
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
  (void)::sendto(fd, lines.data(), lines.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
                 reinterpret_cast<const sockaddr*>(&address), length);
  ::close(fd);
}

void Notifier::say_reloading() const {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const long long usec = static_cast<long long>(now.tv_sec) * 1'000'000 + now.tv_nsec / 1000;
  say("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(usec) + "\nSTATUS=Reloading");
}

void Notifier::say_ready(std::string_view status) const {
  say("READY=1\nMAINPID=" + std::to_string(::getpid()) + "\nSTATUS=" + std::string(status));
}

}  // namespace proxy
