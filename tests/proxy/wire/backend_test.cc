#include "proxy/wire/backend.h"

#include <array>

#include <doctest/doctest.h>

#include "wire_inputs.h"

using wire_inputs::payload_of;
using wire_inputs::raw;

TEST_SUITE("proxy/wire/backend") {
  TEST_CASE("an error's fields survive the round trip, empty ones are left out") {
    std::string message;
    wire::append_error(message, {.severity = "FATAL",
                                 .sqlstate = "53300",
                                 .message = "too many",
                                 .detail = "reason=client_limit",
                                 .hint = ""});
    const std::string_view payload = payload_of(message, wire::backend::kErrorResponse);
    CHECK(payload == raw("SFATAL\0VFATAL\0C53300\0Mtoo many\0Dreason=client_limit\0\0"));
    auto fields = wire::decode_error(payload);
    REQUIRE(fields);
    CHECK(fields->severity == "FATAL");
    CHECK(fields->sqlstate == "53300");
    CHECK(fields->message == "too many");
    CHECK(fields->detail == "reason=client_limit");
    CHECK(fields->hint.empty());
    wire_inputs::for_each_prefix(
        payload, [](std::string_view prefix) { CHECK_FALSE(wire::decode_error(prefix)); });
  }

  TEST_CASE("requirement 8: any field of an error may be missing, unknown ones are skipped") {
    auto fields = wire::decode_error(raw("\0"));
    REQUIRE(fields);
    CHECK(fields->severity.empty());
    CHECK(fields->sqlstate.empty());
    fields = wire::decode_error(raw("SFEHLER\0?new\0Mhi\0\0"));
    REQUIRE(fields);
    CHECK(fields->severity == "FEHLER");
    CHECK(fields->message == "hi");
    fields = wire::decode_error(raw("SFEHLER\0VERROR\0\0"));
    REQUIRE(fields);
    CHECK(fields->severity == "ERROR");
    CHECK_FALSE(wire::decode_error(raw("SERROR\0\0x")));
  }

  TEST_CASE("the head of an error tells its SQLSTATE before the rest has arrived") {
    const wire::ErrorFields fields = wire::peek_error(raw("SERROR\0VERROR\0C25006\0Mcannot exe"));
    CHECK(fields.sqlstate == "25006");
    CHECK(fields.message.empty());
  }

  TEST_CASE("a notice is an error under another letter") {
    std::string message;
    wire::append_notice(message, {.severity = "NOTICE", .sqlstate = "00000", .message = "m"});
    auto fields = wire::decode_error(payload_of(message, wire::backend::kNoticeResponse));
    REQUIRE(fields);
    CHECK(fields->severity == "NOTICE");
  }

  TEST_CASE("ParameterStatus is two strings") {
    std::string message;
    wire::append_parameter_status(message, {.name = "TimeZone", .value = "UTC"});
    const std::string_view payload = payload_of(message, wire::backend::kParameterStatus);
    auto status = wire::decode_parameter_status(payload);
    REQUIRE(status);
    CHECK(status->name == "TimeZone");
    CHECK(status->value == "UTC");
    wire_inputs::for_each_prefix(payload, [](std::string_view prefix) {
      CHECK_FALSE(wire::decode_parameter_status(prefix));
    });
  }

  TEST_CASE("BackendKeyData has a key of 4 to 256 bytes") {
    for (const std::size_t size : {std::size_t{4}, std::size_t{256}}) {
      std::string message;
      const std::string key(size, '\xfe');
      wire::append_backend_key_data(message, {.pid = 4242, .key = key});
      auto data =
          wire::decode_backend_key_data(payload_of(message, wire::backend::kBackendKeyData));
      REQUIRE(data);
      CHECK(data->pid == 4242);
      CHECK(data->key == key);
    }
    CHECK_FALSE(wire::decode_backend_key_data(raw("\0\0\0\1abc")));
    CHECK_FALSE(
        wire::decode_backend_key_data(std::string(raw("\0\0\0\1")) + std::string(257, 'k')));
    CHECK_FALSE(wire::decode_backend_key_data(""));
  }

  TEST_CASE("authentication requests that carry nothing") {
    std::string message;
    wire::append_authentication_ok(message);
    auto request = wire::decode_authentication(payload_of(message, wire::backend::kAuthentication));
    REQUIRE(request);
    CHECK(request->kind == wire::AuthenticationKind::ok);
    message.clear();
    wire::append_authentication_cleartext(message);
    request = wire::decode_authentication(payload_of(message, wire::backend::kAuthentication));
    REQUIRE(request);
    CHECK(request->kind == wire::AuthenticationKind::cleartext_password);
    CHECK_FALSE(wire::decode_authentication(raw("\0\0\0\0x")));
    CHECK_FALSE(wire::decode_authentication(raw("\0\0\0\x63")));
    CHECK_FALSE(wire::decode_authentication(raw("\0\0\0")));
  }

  TEST_CASE("an md5 request has four bytes of salt") {
    std::string message;
    wire::append_authentication_md5(message, raw("\1\0\2\3"));
    const std::string_view payload = payload_of(message, wire::backend::kAuthentication);
    auto request = wire::decode_authentication(payload);
    REQUIRE(request);
    CHECK(request->kind == wire::AuthenticationKind::md5_password);
    CHECK(request->data == raw("\1\0\2\3"));
    wire_inputs::for_each_prefix(
        payload, [](std::string_view prefix) { CHECK_FALSE(wire::decode_authentication(prefix)); });
  }

  TEST_CASE("SASL lists mechanisms, then passes messages through") {
    std::string message;
    const std::array<std::string_view, 2> mechanisms = {"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"};
    wire::append_authentication_sasl(message, mechanisms);
    const std::string_view payload = payload_of(message, wire::backend::kAuthentication);
    auto request = wire::decode_authentication(payload);
    REQUIRE(request);
    CHECK(request->kind == wire::AuthenticationKind::sasl);
    REQUIRE(request->mechanisms.size() == 2);
    CHECK(request->mechanisms[0] == "SCRAM-SHA-256-PLUS");
    CHECK(request->mechanisms[1] == "SCRAM-SHA-256");
    wire_inputs::for_each_prefix(
        payload, [](std::string_view prefix) { CHECK_FALSE(wire::decode_authentication(prefix)); });

    std::string next;
    wire::append_authentication_sasl_continue(next, "r=x");
    request = wire::decode_authentication(payload_of(next, wire::backend::kAuthentication));
    REQUIRE(request);
    CHECK(request->kind == wire::AuthenticationKind::sasl_continue);
    CHECK(request->data == "r=x");
    next.clear();
    wire::append_authentication_sasl_final(next, "v=x");
    request = wire::decode_authentication(payload_of(next, wire::backend::kAuthentication));
    REQUIRE(request);
    CHECK(request->kind == wire::AuthenticationKind::sasl_final);
  }

  TEST_CASE("ReadyForQuery has one of three states") {
    for (const auto status :
         {wire::TransactionStatus::idle, wire::TransactionStatus::in_transaction,
          wire::TransactionStatus::failed}) {
      std::string message;
      wire::append_ready_for_query(message, status);
      auto decoded =
          wire::decode_ready_for_query(payload_of(message, wire::backend::kReadyForQuery));
      REQUIRE(decoded);
      CHECK(*decoded == status);
    }
    for (const char* broken : {"", "X", "II"}) CHECK_FALSE(wire::decode_ready_for_query(broken));
  }

  TEST_CASE("NegotiateProtocolVersion carries the whole version, as Postgres sends it") {
    std::string message;
    const std::array<std::string, 2> options = {"_pq_.a", "_pq_.b"};
    wire::append_negotiate_protocol_version(message, 2, options);
    const std::string_view payload = payload_of(message, wire::backend::kNegotiateProtocolVersion);
    CHECK(payload == raw("\0\3\0\2\0\0\0\2_pq_.a\0_pq_.b\0"));
    auto negotiated = wire::decode_negotiate_protocol_version(payload);
    REQUIRE(negotiated);
    CHECK(negotiated->minor == 2);
    REQUIRE(negotiated->unknown_options.size() == 2);
    CHECK(negotiated->unknown_options[1] == "_pq_.b");
    wire_inputs::for_each_prefix(payload, [](std::string_view prefix) {
      CHECK_FALSE(wire::decode_negotiate_protocol_version(prefix));
    });
    // A count that the message cannot hold costs neither time nor memory.
    CHECK_FALSE(wire::decode_negotiate_protocol_version(raw("\0\3\0\0\xff\xff\xff\xff")));
    CHECK(wire::decode_negotiate_protocol_version(raw("\0\0\0\0\0\0\0\0")));
  }

  TEST_CASE("a command tag ends in a row count, or not") {
    std::string message;
    wire::append_command_complete(message, "INSERT 0 3");
    const std::string_view payload = payload_of(message, wire::backend::kCommandComplete);
    auto tag = wire::decode_command_complete(payload);
    REQUIRE(tag);
    CHECK(*tag == "INSERT 0 3");
    wire_inputs::for_each_prefix(payload, [](std::string_view prefix) {
      CHECK_FALSE(wire::decode_command_complete(prefix));
    });
    CHECK(wire::tag_rows("INSERT 0 3") == 3);
    CHECK(wire::tag_rows("SELECT 18446744073709551615") == UINT64_MAX);
    CHECK_FALSE(wire::tag_rows("SELECT 18446744073709551616"));
    CHECK_FALSE(wire::tag_rows("BEGIN"));
    CHECK_FALSE(wire::tag_rows("CREATE TABLE"));
    CHECK_FALSE(wire::tag_rows("SELECT "));
    CHECK_FALSE(wire::tag_rows(""));
  }

  TEST_CASE("rows of the admin console are as Postgres would send them") {
    std::string out;
    const std::array<wire::Column, 2> columns = {
        wire::Column{.name = "n", .type = wire::ColumnType::int8}, wire::Column{.name = "t"}};
    wire::append_row_description(out, columns);
    CHECK(out == raw("T\0\0\0\x2e\0\2"
                     "n\0\0\0\0\0\0\0\0\0\0\x14\0\x08\xff\xff\xff\xff\0\0"
                     "t\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"));
    out.clear();
    const std::array<std::optional<std::string>, 3> values = {"7", std::nullopt, ""};
    wire::append_data_row(out, values);
    CHECK(out == raw("D\0\0\0\x13\0\3\0\0\0\1"
                     "7\xff\xff\xff\xff\0\0\0\0"));
    out.clear();
    const std::array<std::uint32_t, 2> types = {23, 25};
    wire::append_parameter_description(out, types);
    CHECK(out == raw("t\0\0\0\x0e\0\2\0\0\0\x17\0\0\0\x19"));
  }

  TEST_CASE("rows in the formats that a Bind asks for: none, one for all, or one per column") {
    using wire::Format;
    const wire::Column columns[] = {{"name", wire::ColumnType::text}, {"size", wire::ColumnType::int8}};
    const std::optional<std::string> values[] = {"a", "-2"};
    const auto row = [&](std::vector<Format> formats) {
      std::string out;
      wire::append_data_row(out, values, columns, formats);
      return out;
    };
    const std::string_view as_text = raw("D\0\0\0\x11\0\2\0\0\0\1a\0\0\0\2-2");
    const std::string_view as_binary =
        raw("D\0\0\0\x17\0\2\0\0\0\1a\0\0\0\x8\xff\xff\xff\xff\xff\xff\xff\xfe");
    CHECK(row({}) == as_text);
    CHECK(row({Format::text}) == as_text);
    CHECK(row({Format::binary}) == as_binary);
    CHECK(row({Format::text, Format::binary}) == as_binary);
    CHECK(row({Format::binary, Format::text}) == as_text);
    const std::optional<std::string> nothing[] = {std::nullopt, std::nullopt};
    std::string out;
    wire::append_data_row(out, nothing, columns, std::vector{Format::binary});
    CHECK(out == raw("D\0\0\0\x0e\0\2\xff\xff\xff\xff\xff\xff\xff\xff"));
    std::string described;
    wire::append_row_description(described, columns, std::vector{Format::text, Format::binary});
    CHECK(described.ends_with(raw("\0\0\0\x14\0\x8\xff\xff\xff\xff\0\1")));
  }

  TEST_CASE("answers without fields") {
    std::string out;
    wire::append_empty_query_response(out);
    wire::append_parse_complete(out);
    wire::append_bind_complete(out);
    wire::append_close_complete(out);
    wire::append_no_data(out);
    CHECK(out == raw("I\0\0\0\4"
                     "1\0\0\0\4"
                     "2\0\0\0\4"
                     "3\0\0\0\4"
                     "n\0\0\0\4"));
  }

  TEST_CASE("random bytes decode or fail, whatever they are taken for") {
    wire_inputs::for_each_garbage(raw("SERROR\0C42601\0Mx\0\0"), [](std::string_view bytes) {
      static_cast<void>(wire::decode_error(bytes));
      static_cast<void>(wire::peek_error(bytes));
      static_cast<void>(wire::decode_authentication(bytes));
      static_cast<void>(wire::decode_negotiate_protocol_version(bytes));
      static_cast<void>(wire::decode_parameter_status(bytes));
      static_cast<void>(wire::decode_backend_key_data(bytes));
      static_cast<void>(wire::decode_ready_for_query(bytes));
      static_cast<void>(wire::decode_command_complete(bytes));
    });
  }
}
