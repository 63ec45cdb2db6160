#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "proxy/wire/message.h"

namespace wire {

// One message, or as much of it as has arrived.
struct Frame {
  char type = 0;
  std::size_t size = 0;       // of the whole message, header included
  std::string_view body;      // what is here of it, without the header
  bool complete = false;
};

enum class Cut : std::uint8_t {
  frame,      // `out` is set; it may be incomplete
  need_more,  // not even the header is here
  malformed,  // the length cannot be
};

// Looks at the message at the start of `bytes`. Nothing is copied and nothing is kept.
[[gnu::always_inline]] inline Cut cut(std::string_view bytes, Frame* out) {
  if (bytes.size() < kHeaderSize) return Cut::need_more;
  const std::size_t length = load_u32(bytes.data() + 1);
  if (length - 4 > kMaxMessageLength - 4) return Cut::malformed;  // or less than 4, which wraps
  out->type = bytes[0];
  out->size = length + 1;
  out->complete = bytes.size() >= out->size;
  out->body = {bytes.data() + kHeaderSize, (out->complete ? out->size : bytes.size()) - kHeaderSize};
  return Cut::frame;
}

}  // namespace wire
