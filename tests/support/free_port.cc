#include "tests/support/free_port.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <random>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace support {

namespace {

// Below those that Linux gives to whoever connects (ip_local_port_range, 32768 to 60999): one of them may be
// somebody's, who has just connected, by the time that it is listened on. And below those that conf/demo/cluster takes.
constexpr std::uint16_t kFirst = 10000, kLast = 19999;

// Takes the port among all runs of the tests on this machine, for as long as this process lives: byte N of a file
// is locked by who has port N.
bool take(std::uint16_t port) {
  static const int file = [] {
    const auto path = std::filesystem::temp_directory_path() / "pgsluice-test-ports";
    const int opened = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (opened < 0) {
      std::perror(path.c_str());
      std::abort();
    }
    fchmod(opened, 0666);  // other users' runs; only its owner may, and has
    return opened;
  }();
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_start = port;
  lock.l_len = 1;
  return fcntl(file, F_SETLK, &lock) == 0;
}

bool is_free(std::uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  const bool bound = fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  if (fd >= 0) close(fd);
  return bound;
}

}  // namespace

std::uint16_t free_port() {
  static std::mutex mutex;
  static std::mt19937 random{std::random_device{}()};
  static std::uniform_int_distribution<int> any(kFirst, kLast);
  static std::vector<bool> handed_out(kLast + 1);  // a process's own locks do not hold it off
  const std::lock_guard lock(mutex);
  while (true) {
    const auto port = static_cast<std::uint16_t>(any(random));
    if (handed_out[port] || !is_free(port) || !take(port)) continue;
    handed_out[port] = true;
    return port;
  }
}

}  // namespace support
