#include "proxy/wire/startup.h"

#include <doctest/doctest.h>

#include "proxy/wire/sqlstate.h"
#include "wire_inputs.h"

using wire_inputs::raw;

namespace {

using Parameters = std::vector<std::pair<std::string, std::string>>;

std::string startup_packet(std::uint16_t minor, const Parameters& parameters) {
  std::string out;
  wire::append_startup(out, minor, parameters);
  return out;
}

wire::Startup startup_of(std::uint16_t minor, const Parameters& parameters) {
  const std::string packet = startup_packet(minor, parameters);
  auto decoded = wire::decode_startup(packet);
  REQUIRE(decoded);
  REQUIRE(std::holds_alternative<wire::Startup>(*decoded));
  return std::get<wire::Startup>(*decoded);
}

wire::Login login_of(const Parameters& parameters, std::uint16_t minor = 0) {
  auto answer = wire::interpret(startup_of(minor, parameters));
  REQUIRE(std::holds_alternative<wire::Login>(answer));
  return std::get<wire::Login>(answer);
}

wire::StartupRefusal refusal_of(const Parameters& parameters) {
  auto answer = wire::interpret(startup_of(0, parameters));
  REQUIRE(std::holds_alternative<wire::StartupRefusal>(answer));
  return std::get<wire::StartupRefusal>(answer);
}

}  // namespace

TEST_SUITE("proxy/wire/startup") {
  TEST_CASE("requirement 4: the length is known from four bytes on, and is limited as in Postgres") {
    auto length = wire::startup_packet_length(raw("\x00\x00\x00"));
    REQUIRE(length);
    CHECK_FALSE(length->has_value());
    length = wire::startup_packet_length(raw("\x00\x00\x00\x08"));
    REQUIRE(length);
    CHECK(**length == 8);
    CHECK(wire::startup_packet_length(raw("\x00\x00\x27\x14")));        // 10004
    CHECK_FALSE(wire::startup_packet_length(raw("\x00\x00\x27\x15")));  // 10005
    CHECK_FALSE(wire::startup_packet_length(raw("\x00\x00\x00\x07")));
    CHECK_FALSE(wire::startup_packet_length(raw("\xff\xff\xff\xff")));
    CHECK_FALSE(wire::startup_packet_length("GET / HTTP/1.1"));
  }

  TEST_CASE("a TLS handshake is no packet, and is recognised") {
    const std::string_view hello = raw("\x16\x03\x01\x02\x00");
    CHECK(wire::begins_tls(hello));
    CHECK_FALSE(wire::startup_packet_length(hello));
    CHECK_FALSE(wire::begins_tls(raw("\x00\x00\x00\x08")));
    CHECK_FALSE(wire::begins_tls(""));
  }

  TEST_CASE("encryption requests are recognised") {
    std::string ssl;
    wire::append_ssl_request(ssl);
    CHECK(ssl == raw("\x00\x00\x00\x08\x04\xd2\x16\x2f"));
    auto decoded = wire::decode_startup(ssl);
    REQUIRE(decoded);
    CHECK(std::holds_alternative<wire::SslRequest>(*decoded));

    std::string gss;
    wire::append_gssenc_request(gss);
    CHECK(gss == raw("\x00\x00\x00\x08\x04\xd2\x16\x30"));
    decoded = wire::decode_startup(gss);
    REQUIRE(decoded);
    CHECK(std::holds_alternative<wire::GssEncRequest>(*decoded));

    CHECK_FALSE(wire::decode_startup(raw("\x00\x00\x00\x09\x04\xd2\x16\x2f\x00")));
  }

  TEST_CASE("requirement 3: cancel keys have 4 to 256 bytes") {
    for (const std::size_t size : {std::size_t{4}, std::size_t{32}, std::size_t{256}}) {
      const std::string key(size, 'k');
      std::string packet;
      wire::append_cancel_request(packet, {.pid = 0xfffffff0, .key = key});
      auto decoded = wire::decode_startup(packet);
      REQUIRE(decoded);
      const auto* cancel = std::get_if<wire::CancelRequest>(&*decoded);
      REQUIRE(cancel != nullptr);
      CHECK(cancel->pid == 0xfffffff0);
      CHECK(cancel->key == key);
    }
    CHECK_FALSE(wire::decode_startup(raw("\x00\x00\x00\x0f\x04\xd2\x16\x2e\0\0\0\1abc")));
    const std::string long_key =
        std::string(raw("\x00\x00\x01\x0d\x04\xd2\x16\x2e\0\0\0\1")) + std::string(257, 'k');
    REQUIRE(long_key.size() == 269);
    CHECK_FALSE(wire::decode_startup(long_key));
  }

  TEST_CASE("parameters keep their order and their duplicates") {
    const Parameters sent = {{"user", "a"}, {"x", ""}, {"user", "b"}};
    CHECK(startup_of(0, sent).parameters == sent);
  }

  TEST_CASE("another major version is told apart, and refused in Postgres's words") {
    auto decoded = wire::decode_startup(raw("\x00\x00\x00\x09\x00\x02\x00\x00\x00"));
    REQUIRE(decoded);
    const auto* version = std::get_if<wire::UnsupportedVersion>(&*decoded);
    REQUIRE(version != nullptr);
    CHECK(wire::unsupported_version(*version) ==
          "unsupported frontend protocol 2.0: server supports 3.0 to 3.2");
  }

  TEST_CASE("every prefix of a packet is an error, even with its length put right") {
    const std::string whole =
        startup_packet(0, {{"user", "alice"}, {"database", "shop"}, {"options", "-c a=b"}});
    wire_inputs::for_each_prefix(whole, [](std::string_view prefix) {
      CHECK_FALSE(wire::decode_startup(prefix));
      if (prefix.size() < 8) return;
      std::string patched(prefix);
      wire::store_u32(patched.data(), static_cast<std::uint32_t>(patched.size()));
      CHECK_FALSE(wire::decode_startup(wire_inputs::Exact(patched).view()));
    });
    CHECK_FALSE(wire::decode_startup(whole + "x"));
  }

  TEST_CASE("parameters after the terminator are refused") {
    CHECK_FALSE(wire::decode_startup(raw("\x00\x00\x00\x13\x00\x03\x00\x00user\0a\0\0x\0y")));
    // A terminator, then bytes: zeros too (found by fuzzing).
    CHECK_FALSE(wire::decode_startup(raw("\x00\x00\x00\x0a\x00\x03\x00\x00\0\0")));
    CHECK_FALSE(wire::decode_startup(raw("\x00\x00\x00\x0b\x00\x03\x00\x00\0\0\0")));
  }

  TEST_CASE("random bytes decode or fail, and what decodes is interpreted or refused") {
    const std::string seed =
        startup_packet(2, {{"user", "u"}, {"options", "-c a=b"}, {"replication", "true"}});
    wire_inputs::for_each_garbage(seed, [](std::string_view bytes) {
      const auto decoded = wire::decode_startup(bytes);
      if (!decoded) return;
      if (const auto* startup = std::get_if<wire::Startup>(&*decoded)) {
        static_cast<void>(wire::interpret(*startup));
      }
    });
  }

  TEST_CASE("the database defaults to the user") {
    CHECK(login_of({{"user", "alice"}}).database == "alice");
    CHECK(login_of({{"user", "alice"}, {"database", ""}}).database == "alice");
    CHECK(login_of({{"user", "alice"}, {"database", "shop"}}).database == "shop");
  }

  TEST_CASE("no user is refused as Postgres does") {
    for (const Parameters& parameters : {Parameters{}, Parameters{{"user", ""}}}) {
      const wire::StartupRefusal refusal = refusal_of(parameters);
      CHECK(refusal.sqlstate == wire::sqlstate::kInvalidAuthorizationSpecification);
      CHECK(refusal.message == "no PostgreSQL user name specified in startup packet");
    }
  }

  TEST_CASE("names are cut to what Postgres keeps of them") {
    const wire::Login login = login_of({{"user", std::string(70, 'u')}});
    CHECK(login.user == std::string(63, 'u'));
    CHECK(login.database == std::string(63, 'u'));
  }

  TEST_CASE(
      "requirement 9: unknown parameters are settings; the last value wins, whatever the case of the "
      "name") {
    const wire::Login login = login_of({{"application_name", "one"},
                                        {"user", "a"},
                                        {"Application_Name", "two"},
                                        {"client_encoding", "UTF8"}});
    REQUIRE(login.settings.size() == 2);
    REQUIRE(login.setting("application_name") != nullptr);
    CHECK(*login.setting("APPLICATION_NAME") == "two");
    CHECK(*login.setting("client_encoding") == "UTF8");
    CHECK(login.setting("user") == nullptr);
  }

  TEST_CASE("a start-up parameter overrules the same setting in options") {
    const wire::Login login = login_of({{"user", "a"},
                                        {"search_path", "direct"},
                                        {"options", "-c search_path=options --work-mem=1MB"}});
    CHECK(*login.setting("search_path") == "direct");
    CHECK(*login.setting("work_mem") == "1MB");
  }

  TEST_CASE("a broken options string is refused with 42601") {
    const wire::StartupRefusal refusal = refusal_of({{"user", "a"}, {"options", "-c nothing"}});
    CHECK(refusal.sqlstate == wire::sqlstate::kSyntaxError);
    CHECK(refusal.message == "-c nothing requires a value");
  }

  TEST_CASE("requirement 9: replication is off, physical, logical, or refused") {
    const auto replication = [](const std::string& value) {
      return login_of({{"user", "a"}, {"replication", value}}).replication;
    };
    for (const char* off : {"", "0", "false", "off", "no", "f", "OF"}) {
      CHECK(replication(off) == wire::Replication::none);
    }
    for (const char* physical : {"1", "true", "on", "yes", "T"}) {
      CHECK(replication(physical) == wire::Replication::physical);
    }
    CHECK(replication("database") == wire::Replication::logical);
    for (const char* strange : {"o", "2", "maybe", "truest"}) {
      CHECK(refusal_of({{"user", "a"}, {"replication", strange}}).sqlstate ==
            wire::sqlstate::kInvalidParameterValue);
    }
  }

  TEST_CASE("requirement 3: versions: 3.0 and 3.2 are spoken as asked, newer ones are negotiated down") {
    CHECK(login_of({{"user", "a"}}, 0).minor == 0);
    CHECK_FALSE(login_of({{"user", "a"}}, 0).negotiate);
    CHECK(login_of({{"user", "a"}}, 2).minor == 2);
    CHECK_FALSE(login_of({{"user", "a"}}, 2).negotiate);
    CHECK(login_of({{"user", "a"}}, 9999).minor == 2);
    CHECK(login_of({{"user", "a"}}, 9999).negotiate);
  }

  TEST_CASE("requirement 3: protocol options are collected once each, and negotiated") {
    const wire::Login login =
        login_of({{"user", "a"}, {"_pq_.x", "1"}, {"_pq_.y", ""}, {"_pq_.x", "2"}});
    CHECK(login.protocol_options == std::vector<std::string>{"_pq_.x", "_pq_.y"});
    CHECK(login.settings.empty());
    CHECK(login.minor == 0);
    CHECK(login.negotiate);
  }

  TEST_CASE("requirement 9: options come in three spellings") {
    auto settings = wire::parse_options(" -c a=1  -cb=2\t--c-d=3 -c e-f=x=y -c g= ");
    REQUIRE(settings);
    REQUIRE(settings->size() == 5);
    CHECK((*settings)[0].name == "a");
    CHECK((*settings)[0].value == "1");
    CHECK((*settings)[1].name == "b");
    CHECK((*settings)[1].value == "2");
    CHECK((*settings)[2].name == "c_d");
    CHECK((*settings)[2].value == "3");
    CHECK((*settings)[3].name == "e_f");
    CHECK((*settings)[3].value == "x=y");
    CHECK((*settings)[4].value.empty());
    for (const char* nothing : {"", " ", "--"}) {
      settings = wire::parse_options(nothing);
      REQUIRE(settings);
      CHECK(settings->empty());
    }
  }

  TEST_CASE("requirement 9: a backslash keeps the next character of a word") {
    auto settings = wire::parse_options(R"(-c search_path=a,\ b\\c\d -c z=end\)");
    REQUIRE(settings);
    CHECK((*settings)[0].value == R"(a, b\cd)");
    CHECK((*settings)[1].value == "end");
  }

  TEST_CASE("an escaped value survives the splitting") {
    const std::string value = "a b\\c\td\n";
    auto settings = wire::parse_options("-c x=" + wire::escape_option(value));
    REQUIRE(settings);
    CHECK((*settings)[0].value == value);
  }

  TEST_CASE("other switches, missing values and loose words are refused") {
    for (const char* text :
         {"-c", "-c x", "--x", "-- x", "-", "x", "-E", "-B 64", "-c =1", "-c a=1 b"}) {
      CAPTURE(text);
      CHECK_FALSE(wire::parse_options(text));
    }
  }
}
