#pragma once

#include <memory>
#include <span>
#include <string>

#include "proxy/net/socket.h"

namespace proxy {

// What the kernel has not taken yet of a stream. Nearly always nothing, and then it is a null pointer: ten
// thousand idle clients keep one each.
class Unsent {
 public:
  std::size_t size() const { return kept_ ? kept_->bytes.size() - kept_->sent : 0; }
  // Of what is kept, has gone already.
  std::size_t sent() const { return kept_ ? kept_->sent : 0; }
  // When the peer took something for the last time, or the first of this was kept. Only while there is something.
  conf::Instant since() const { return kept_->since; }

  // Keeps `parts` without their first `skip` bytes; nothing when no more than those are there.
  void append(std::span<const iovec> parts, std::size_t skip, conf::Instant now) {
    for (const iovec& part : parts) {
      if (skip >= part.iov_len) {
        skip -= part.iov_len;
        continue;
      }
      if (!kept_) kept_ = std::make_unique<Kept>(Kept{.since = now});
      kept_->bytes.append(static_cast<const char*>(part.iov_base) + skip, part.iov_len - skip);
      skip = 0;
    }
  }

  // As much as the kernel takes. False: the connection has ended.
  bool write_to(net::Socket& socket, conf::Instant now) {
    while (size() > 0) {
      const iovec part{kept_->bytes.data() + kept_->sent, size()};
      const net::Transfer written = socket.write(std::span(&part, 1));
      if (written.ended()) return false;
      if (written.count == 0) break;
      kept_->sent += written.count;
      kept_->since = now;
    }
    if (size() == 0) {
      kept_.reset();
    } else if (kept_->sent > kept_->bytes.size() / 2) {
      kept_->bytes.erase(0, kept_->sent);
      kept_->sent = 0;
    }
    return true;
  }

  void clear() { kept_.reset(); }

 private:
  struct Kept {
    std::string bytes{};
    std::size_t sent = 0;
    conf::Instant since{};
  };
  std::unique_ptr<Kept> kept_;
};

}  // namespace proxy
