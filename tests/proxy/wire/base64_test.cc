#include "proxy/wire/base64.h"

#include <doctest/doctest.h>

#include "wire_inputs.h"

TEST_SUITE("proxy/wire/base64") {
  TEST_CASE("the examples of RFC 4648 go both ways") {
    const std::pair<const char*, const char*> examples[] = {{"", ""},
                                                            {"f", "Zg=="},
                                                            {"fo", "Zm8="},
                                                            {"foo", "Zm9v"},
                                                            {"foob", "Zm9vYg=="},
                                                            {"fooba", "Zm9vYmE="},
                                                            {"foobar", "Zm9vYmFy"}};
    for (const auto& [bytes, text] : examples) {
      CHECK(wire::base64_encode(bytes) == text);
      CHECK(wire::base64_decode(text) == bytes);
    }
  }

  TEST_CASE("what is not strict base64 is refused") {
    for (const char* text : {"Zg", "Zg=", "Zg= ", "Z===", "====", "Zm9v\n", " Zm9v", "Zm9-",
                             "Zg==Zg==", "Zm9vYg=", "Zm9v===="}) {
      CAPTURE(text);
      CHECK_FALSE(wire::base64_decode(text));
    }
  }

  TEST_CASE("random bytes decode or fail, and what was encoded comes back") {
    wire_inputs::for_each_garbage("Zm9vYmFyZm8=", [](std::string_view bytes) {
      static_cast<void>(wire::base64_decode(bytes));
      CHECK(wire::base64_decode(wire::base64_encode(bytes)) == std::string(bytes));
    });
  }
}
