#include "proxy/wire/frontend.h"

#include <doctest/doctest.h>

#include "wire_inputs.h"

using wire_inputs::payload_of;
using wire_inputs::raw;

TEST_SUITE("proxy/wire/frontend") {
  TEST_CASE("a Query is text to its zero byte, and may be seen before it is whole") {
    std::string message;
    wire::append_query(message, "select 1");
    const std::string_view payload = payload_of(message, wire::frontend::kQuery);
    auto head = wire::peek_query(payload, payload.size());
    REQUIRE(head);
    CHECK(head->text == "select 1");
    CHECK(head->text_complete);
    wire_inputs::for_each_prefix(payload, [&](std::string_view prefix) {
      auto part = wire::peek_query(prefix, payload.size());
      REQUIRE(part);
      CHECK(part->text == prefix);
      CHECK_FALSE(part->text_complete);
      CHECK_FALSE(wire::peek_query(prefix, prefix.size()));
    });
    CHECK_FALSE(wire::peek_query(raw("a\0b\0"), 4));
  }

  TEST_CASE("a Parse is name, text and types") {
    std::string message;
    wire::append_parse(message, "s1", "select $1", raw("\x00\x00\x00\x17\x00\x00\x00\x19"));
    const std::string_view payload = payload_of(message, wire::frontend::kParse);
    auto peek = wire::peek_parse(payload, payload.size());
    REQUIRE(peek);
    REQUIRE(peek->has_value());
    const wire::ParseHead& head = **peek;
    CHECK(head.name == "s1");
    CHECK(head.text == "select $1");
    CHECK(head.text_complete);
    REQUIRE(head.types_complete);
    CHECK(head.param_types == raw("\x00\x00\x00\x17\x00\x00\x00\x19"));
    CHECK(payload.substr(head.after_name).starts_with("select"));
  }

  TEST_CASE("a Parse is judged by its head: name first, then as much text as there is") {
    std::string message;
    wire::append_parse(message, "s1", "select 1", raw("\x00\x00\x00\x17"));
    const std::string_view payload = payload_of(message, wire::frontend::kParse);
    wire_inputs::for_each_prefix(payload, [&](std::string_view prefix) {
      auto peek = wire::peek_parse(prefix, payload.size());
      REQUIRE(peek);
      CHECK(peek->has_value() == (prefix.size() >= 3));
      if (peek->has_value()) {
        const wire::ParseHead& head = **peek;
        CHECK(head.name == "s1");
        CHECK(head.text_complete == (prefix.size() >= 3 + 9));
        CHECK(head.text == prefix.substr(3, 8));
        CHECK_FALSE(head.types_complete);
      }
      CHECK_FALSE(wire::peek_parse(prefix, prefix.size()));
    });
  }

  TEST_CASE("a Parse whose count of types does not fit its length is refused at once") {
    CHECK_FALSE(wire::peek_parse(raw("s\0q\0\xff\xff"), 6));
    CHECK_FALSE(wire::peek_parse(raw("s\0q\0\x00\x01"), 11));
    CHECK_FALSE(wire::peek_parse(raw("s\0q\0\x00\x00x"), 7));
  }

  TEST_CASE("a Bind needs both names and nothing else") {
    std::string message;
    wire::append_bind(message, "portal", "stmt");
    const std::string_view payload = payload_of(message, wire::frontend::kBind);
    auto peek = wire::peek_bind(payload, payload.size());
    REQUIRE(peek);
    REQUIRE(peek->has_value());
    CHECK((*peek)->portal == "portal");
    CHECK((*peek)->statement == "stmt");
    CHECK((*peek)->after_names == 12);
    wire_inputs::for_each_prefix(payload, [&](std::string_view prefix) {
      auto part = wire::peek_bind(prefix, payload.size());
      REQUIRE(part);
      CHECK(part->has_value() == (prefix.size() >= 12));
      if (prefix.size() < 12) CHECK_FALSE(wire::peek_bind(prefix, prefix.size()));
    });
  }

  TEST_CASE("bytes of the next message are never taken for this one's") {
    CHECK_FALSE(wire::peek_bind(raw("ab\0cd\0"), 4));
    CHECK_FALSE(wire::peek_query(raw("ab\0"), 2));
    CHECK_FALSE(wire::peek_execute(raw("\0\0\0\0\1"), 4));
  }

  TEST_CASE("Describe and Close name a statement or a portal") {
    std::string message;
    wire::append_describe(message, wire::Named::portal, "p");
    std::string_view payload = payload_of(message, wire::frontend::kDescribe);
    auto peek = wire::peek_describe(payload, payload.size());
    REQUIRE(peek);
    REQUIRE(peek->has_value());
    CHECK((*peek)->kind == wire::Named::portal);
    CHECK((*peek)->name == "p");

    message.clear();
    wire::append_close(message, wire::Named::statement, "longer");
    payload = payload_of(message, wire::frontend::kClose);
    wire_inputs::for_each_prefix(payload, [&](std::string_view prefix) {
      auto part = wire::peek_describe(prefix, payload.size());
      REQUIRE(part);
      CHECK_FALSE(part->has_value());
      CHECK_FALSE(wire::peek_describe(prefix, prefix.size()));
    });
    CHECK_FALSE(wire::peek_describe(raw("Xabc\0"), 5));
    CHECK_FALSE(wire::peek_describe("X", 5));
    CHECK_FALSE(wire::peek_describe(raw("Sabc\0\0"), 6));
  }

  TEST_CASE("an Execute has a portal and a row limit") {
    std::string message;
    wire::append_execute(message, "p", -5);
    const std::string_view payload = payload_of(message, wire::frontend::kExecute);
    auto peek = wire::peek_execute(payload, payload.size());
    REQUIRE(peek);
    REQUIRE(peek->has_value());
    CHECK((*peek)->portal == "p");
    CHECK((*peek)->max_rows == -5);
    wire_inputs::for_each_prefix(payload, [&](std::string_view prefix) {
      auto part = wire::peek_execute(prefix, payload.size());
      REQUIRE(part);
      CHECK_FALSE(part->has_value());
      CHECK_FALSE(wire::peek_execute(prefix, prefix.size()));
    });
  }

  TEST_CASE("a renamed Parse is its new head and the old rest") {
    for (const std::string_view new_name : {"", "x", "a_much_longer_name"}) {
      std::string message;
      wire::append_parse(message, "old", "select $1", raw("\x00\x00\x00\x17"));
      const std::string_view payload = payload_of(message, wire::frontend::kParse);
      const auto peek = wire::peek_parse(payload, payload.size());
      REQUIRE(peek);
      std::string renamed;
      wire::append_renamed_parse(renamed, **peek, new_name, payload.size());
      renamed += payload.substr((*peek)->after_name);
      std::string expected;
      wire::append_parse(expected, new_name, "select $1", raw("\x00\x00\x00\x17"));
      CHECK(renamed == expected);
    }
  }

  TEST_CASE("a renamed Bind keeps its portal and everything behind the names") {
    std::string message;
    wire::append_bind(message, "portal", "old");
    const std::string_view payload = payload_of(message, wire::frontend::kBind);
    const auto peek = wire::peek_bind(payload, payload.size());
    REQUIRE(peek);
    std::string renamed;
    wire::append_renamed_bind(renamed, **peek, "new_name", payload.size());
    renamed += payload.substr((*peek)->after_names);
    std::string expected;
    wire::append_bind(expected, "portal", "new_name");
    CHECK(renamed == expected);
  }

  TEST_CASE("requirement 19: a name that would outgrow the protocol does not fit; one byte less does") {
    const std::size_t most = wire::kMaxMessageLength - 4;
    CHECK(wire::rename_fits(most, "abc", "xyz"));
    CHECK_FALSE(wire::rename_fits(most, "abc", "wxyz"));
    CHECK(wire::rename_fits(most - 1, "abc", "wxyz"));
    CHECK_FALSE(wire::rename_fits(most + 1, "", ""));
  }

  TEST_CASE("a SASL first response may be absent, empty or filled") {
    std::string message;
    wire::append_sasl_initial(message, "SCRAM-SHA-256", "n,,n=,r=x");
    const std::string_view payload = payload_of(message, wire::frontend::kPassword);
    auto initial = wire::decode_sasl_initial(payload);
    REQUIRE(initial);
    CHECK(initial->mechanism == "SCRAM-SHA-256");
    REQUIRE(initial->response);
    CHECK(*initial->response == "n,,n=,r=x");
    wire_inputs::for_each_prefix(
        payload, [](std::string_view prefix) { CHECK_FALSE(wire::decode_sasl_initial(prefix)); });

    initial = wire::decode_sasl_initial(raw("M\0\xff\xff\xff\xff"));
    REQUIRE(initial);
    CHECK_FALSE(initial->response);
    initial = wire::decode_sasl_initial(raw("M\0\0\0\0\0"));
    REQUIRE(initial);
    REQUIRE(initial->response);
    CHECK(initial->response->empty());
    CHECK_FALSE(wire::decode_sasl_initial(raw("M\0\x7f\xff\xff\xffx")));
    CHECK_FALSE(wire::decode_sasl_initial(raw("M\0\xff\xff\xff\xfe")));
  }

  TEST_CASE("a password is one string") {
    std::string message;
    wire::append_password(message, "secret");
    const std::string_view payload = payload_of(message, wire::frontend::kPassword);
    auto password = wire::decode_password(payload);
    REQUIRE(password);
    CHECK(*password == "secret");
    wire_inputs::for_each_prefix(
        payload, [](std::string_view prefix) { CHECK_FALSE(wire::decode_password(prefix)); });
    CHECK_FALSE(wire::decode_password(raw("a\0b\0")));
  }

  TEST_CASE("a CopyFail carries its reason") {
    std::string message;
    wire::append_copy_fail(message, "no more");
    auto reason = wire::decode_copy_fail(payload_of(message, wire::frontend::kCopyFail));
    REQUIRE(reason);
    CHECK(*reason == "no more");
    CHECK_FALSE(wire::decode_copy_fail("no more"));
  }

  TEST_CASE("the rest of a Bind is counted parameters, and the formats of the results") {
    const auto rest = wire::decode_bind_rest(
        raw("p\0s\0\0\1\0\1\0\2\0\0\0\1x\xff\xff\xff\xff\0\2\0\1\0\0"), 4);
    REQUIRE(rest);
    CHECK(rest->parameters == 2);
    CHECK(rest->result_formats == std::vector<std::uint16_t>{1, 0});
    const std::string plain(raw("\0\0\0\0\0\0\0\0"));
    CHECK(wire::decode_bind_rest(plain, 2));  // no formats, no parameters, no formats
    CHECK_FALSE(wire::decode_bind_rest(plain + "x", 2));
    CHECK_FALSE(wire::decode_bind_rest(plain, 3));
    CHECK_FALSE(wire::decode_bind_rest(plain, 99));
    CHECK_FALSE(wire::decode_bind_rest(raw("\0\0\xff\xff\0\0"), 0));
  }

  TEST_CASE("messages without fields") {
    std::string out;
    wire::append_sync(out);
    wire::append_flush(out);
    wire::append_terminate(out);
    wire::append_sasl_response(out, "c=biws");
    CHECK(out == raw("S\0\0\0\4H\0\0\0\4X\0\0\0\4p\0\0\0\x0a"
                     "c=biws"));
  }

  TEST_CASE("random bytes are looked at without harm") {
    wire_inputs::for_each_garbage(
        raw("name\0select 1\0\0\1\0\0\0\x17"), [](std::string_view bytes) {
          for (const std::size_t size : {bytes.size(), bytes.size() + 7, bytes.size() / 2}) {
            static_cast<void>(wire::peek_query(bytes, size));
            static_cast<void>(wire::peek_parse(bytes, size));
            static_cast<void>(wire::peek_bind(bytes, size));
            static_cast<void>(wire::peek_describe(bytes, size));
            static_cast<void>(wire::peek_execute(bytes, size));
          }
          static_cast<void>(wire::decode_sasl_initial(bytes));
          static_cast<void>(wire::decode_password(bytes));
          static_cast<void>(wire::decode_bind_rest(bytes, 2));
        });
  }
}
