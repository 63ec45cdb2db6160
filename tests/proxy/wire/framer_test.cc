#include "proxy/wire/framer.h"

#include <doctest/doctest.h>

#include "wire_inputs.h"

using wire_inputs::raw;

namespace {

std::string header(char type, std::uint32_t length) {
  std::string bytes(1, type);
  wire::append_u32(bytes, length);
  return bytes;
}

}  // namespace

TEST_SUITE("proxy/wire/framer") {
  TEST_CASE("a whole message is cut with its body, and what follows is left alone") {
    const std::string_view bytes = raw("Q\x00\x00\x00\x07hi\x00S\x00\x00\x00\x04");
    wire::Frame frame;
    REQUIRE(wire::cut(bytes, &frame) == wire::Cut::frame);
    CHECK(frame.type == 'Q');
    CHECK(frame.size == 8);
    CHECK(frame.complete);
    CHECK(frame.body == raw("hi\0"));
    REQUIRE(wire::cut(bytes.substr(frame.size), &frame) == wire::Cut::frame);
    CHECK(frame.type == 'S');
    CHECK(frame.size == 5);
    CHECK(frame.complete);
    CHECK(frame.body.empty());
  }

  TEST_CASE("less than a header says nothing yet") {
    const std::string bytes = header('Q', 4);
    wire::Frame frame;
    for (std::size_t here = 0; here < wire::kHeaderSize; ++here)
      CHECK(wire::cut(std::string_view(bytes).substr(0, here), &frame) == wire::Cut::need_more);
    CHECK(wire::cut(bytes, &frame) == wire::Cut::frame);
  }

  TEST_CASE("of a message that is not all here, the part that is here is shown") {
    const std::string bytes = header('d', 4 + 6) + "abcdef";
    for (std::size_t here = 0; here <= 6; ++here) {
      wire::Frame frame;
      REQUIRE(wire::cut(std::string_view(bytes).substr(0, wire::kHeaderSize + here), &frame) ==
              wire::Cut::frame);
      CHECK(frame.size == 11);
      CHECK(frame.complete == (here == 6));
      CHECK(frame.body == std::string_view("abcdef").substr(0, here));
    }
  }

  TEST_CASE("one frame may be used for message after message") {
    wire::Frame frame;
    REQUIRE(wire::cut(header('d', 100) + "x", &frame) == wire::Cut::frame);
    CHECK_FALSE(frame.complete);
    REQUIRE(wire::cut(header('Z', 5) + "I", &frame) == wire::Cut::frame);
    CHECK(frame.complete);
    CHECK(frame.size == 6);
  }

  TEST_CASE("requirement 19: a length below its own size or beyond what Postgres takes is malformed") {
    wire::Frame frame;
    for (const std::uint32_t length :
         {0U, 1U, 3U, 0x3fffffffU, 0x7fffffffU, 0x80000000U, 0xffffffffU})
      CHECK(wire::cut(header('Q', length), &frame) == wire::Cut::malformed);
    for (const std::uint32_t length : {4U, 5U, 0x3ffffffeU}) {
      CHECK(wire::cut(header('Q', length), &frame) == wire::Cut::frame);
      CHECK(frame.size == std::size_t{length} + 1);
      CHECK(frame.complete == (length == 4));
    }
  }

  TEST_CASE("requirement 19: any byte may be a type: judging it is not the framer's") {
    for (int type = 0; type < 256; ++type) {
      wire::Frame frame;
      CHECK(wire::cut(header(static_cast<char>(type), 4), &frame) == wire::Cut::frame);
      CHECK(frame.type == static_cast<char>(type));
    }
  }
}
