#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include "proxy/wire/message.h"

// Inputs for decoder tests.
namespace wire_inputs {

// A copy on the heap that is exactly as long as its content, so that the address sanitizer sees a
// decoder that reads one byte too far.
class Exact {
 public:
  explicit Exact(std::string_view bytes)
      : bytes_(std::make_unique<char[]>(bytes.size())), size_(bytes.size()) {
    bytes.copy(bytes_.get(), size_);
  }
  std::string_view view() const { return {bytes_.get(), size_}; }

 private:
  std::unique_ptr<char[]> bytes_;
  std::size_t size_;
};

// Calls `visit` with every proper prefix of `whole`, the empty one first.
template <class Visit>
void for_each_prefix(std::string_view whole, Visit visit) {
  for (std::size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    const Exact prefix(whole.substr(0, size));
    visit(prefix.view());
  }
}

// Calls `visit` with random bytes, and with mutations of `seed_message`.
template <class Visit>
void for_each_garbage(std::string_view seed_message, Visit visit) {
  std::mt19937_64 random(20240607);
  for (int round = 0; round < 2000; ++round) {
    CAPTURE(round);
    std::string bytes(random() % 40, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    visit(Exact(bytes).view());

    bytes = seed_message;
    if (bytes.empty()) continue;
    for (int change = 0; change < 3; ++change) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    visit(Exact(bytes).view());
  }
}

// The payload of the one message in `message`, after checking its header.
inline std::string_view payload_of(std::string_view message, char type) {
  REQUIRE(message.size() >= wire::kHeaderSize);
  CHECK(message[0] == type);
  REQUIRE(wire::load_u32(message.data() + 1) == message.size() - 1);
  return message.substr(wire::kHeaderSize);
}

// A literal with its zero bytes.
template <std::size_t size>
std::string_view raw(const char (&literal)[size]) {
  return {literal, size - 1};
}

}  // namespace wire_inputs
