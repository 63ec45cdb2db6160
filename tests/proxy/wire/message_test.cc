#include "proxy/wire/message.h"

#include <doctest/doctest.h>

#include "wire_inputs.h"

using wire_inputs::raw;

TEST_SUITE("proxy/wire/message") {
  TEST_CASE("integers are big-endian and signed where asked") {
    const std::string_view bytes = raw("\x01\x02\x03\xff\xfe\x80\x00\x00\x00\x12\x34\x56\x78");
    wire::Reader reader(bytes);
    CHECK(reader.u8() == 1);
    CHECK(reader.u16() == 0x0203);
    CHECK(reader.i16() == -2);
    CHECK(reader.i32() == INT32_MIN);
    CHECK(reader.u32() == 0x12345678);
    CHECK(reader.finished());
  }

  TEST_CASE("a read that does not fit fails, and so does every later one") {
    wire::Reader reader("abc");
    CHECK(reader.u16() == 0x6162);
    CHECK(reader.u32() == 0);
    CHECK_FALSE(reader.ok());
    CHECK(reader.u8() == 0);
    CHECK(reader.rest().empty());
    CHECK(reader.cstring().empty());
    CHECK_FALSE(reader.finished());
  }

  TEST_CASE("requirement 19: a count near the top of its type does not wrap around") {
    wire::Reader reader("abcdef");
    CHECK(reader.u16() == 0x6162);
    CHECK(reader.bytes(static_cast<std::size_t>(-1)).empty());
    CHECK_FALSE(reader.ok());
  }

  TEST_CASE("a string needs its terminator") {
    const std::string_view bytes = raw("one\0\0two");
    wire::Reader reader(bytes);
    CHECK(reader.cstring() == "one");
    CHECK(reader.cstring().empty());
    CHECK(reader.ok());
    CHECK(reader.offset() == 5);
    CHECK(reader.cstring().empty());
    CHECK_FALSE(reader.ok());
  }

  TEST_CASE("a message gets the length of what was written, behind what was there") {
    std::string out = "before";
    wire::Writer(out, 'Q').cstring("hi").u8(7).u16(0x0102).u32(0x03040506).bytes("xy");
    CHECK(out == raw("beforeQ\x00\x00\x00\x10hi\0\x07\x01\x02\x03\x04\x05\x06xy"));
    CHECK(wire_inputs::payload_of(std::string_view(out).substr(6), 'Q').size() == 12);
  }

  TEST_CASE("a message without fields is a header") {
    std::string out;
    wire::Writer(out, 'S');
    CHECK(out == raw("S\x00\x00\x00\x04"));
  }

  TEST_CASE("text ends at a zero byte, so that no field shifts") {
    std::string out;
    wire::append_cstring(out, std::string_view("a\0b", 3));
    CHECK(out == raw("a\0"));
  }
}
