#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>

#include <sys/uio.h>

#include "proxy/net/socket.h"

namespace net {

// The small messages of one turn of a loop, which leave together when the turn ends. To send is to run through
// the kernel down to the receiver, and to wake it: when it returns, code and data of ours have left the caches.
// Sent one after another, they cost that once in a turn (README.md, 2026-11-23: a quarter of our own time).
// A turn in which one thing happens is not delayed by it. 32 KiB; of the loop's thread.
class Outbox {
 public:
  static constexpr std::size_t kMessages = 32;   // more leave before the turn ends, so that none waits long
  static constexpr std::size_t kLargest = 1024;  // bytes; larger ones are sent from where they are

  // True: `parts`, of `total` bytes, are kept, and come back to `sender` by send_now(). False: they are too
  // large, and what stood before them has been sent.
  bool take(SocketOwner& sender, std::span<const iovec> parts, std::size_t total) {
    if (total > kLargest) {
      flush();
      return false;
    }
    if (count_ == kMessages) flush();
    Message& message = messages_[count_++];
    message = {&sender, used_, total};
    for (const iovec& part : parts) {
      std::memcpy(bytes_.data() + used_, part.iov_base, part.iov_len);
      used_ += part.iov_len;
    }
    return true;
  }

  // Before a sender is closed, goes to another loop, or sends around this: nothing overtakes.
  void flush() {
    for (std::size_t i = 0; i < count_; ++i)
      messages_[i].sender->send_now({bytes_.data() + messages_[i].at, messages_[i].size});
    count_ = used_ = 0;
  }

  bool empty() const { return count_ == 0; }

 private:
  struct Message {
    SocketOwner* sender;
    std::size_t at, size;
  };
  std::size_t count_ = 0, used_ = 0;
  std::array<Message, kMessages> messages_;
  std::array<char, kMessages * kLargest> bytes_;
};

}  // namespace net
