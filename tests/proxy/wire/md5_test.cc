#include "proxy/wire/md5.h"

#include <doctest/doctest.h>

#include "wire_inputs.h"

TEST_SUITE("proxy/wire/md5") {
  // From pg_authid of a Postgres 15: role md5user with password "secret".
  constexpr std::string_view kStored = "md52aea419619857e8a27f0f7aa641db0c6";

  TEST_CASE("the stored form is the one that Postgres stores") {
    const auto stored = wire::md5_stored("secret", "md5user");
    REQUIRE(stored);
    CHECK(*stored == kStored);
  }

  TEST_CASE("a response is the digest of the stored form's digits and the salt") {
    // printf '2aea419619857e8a27f0f7aa641db0c6\001\002\003\004' | md5sum
    const auto response = wire::md5_response(kStored, "\x01\x02\x03\x04");
    REQUIRE(response);
    CHECK(*response == "md56b614f1bd5dc8478f5705c783c9bbdc0");
    CHECK(wire::md5_verify(kStored, "\x01\x02\x03\x04", *response));
  }

  TEST_CASE("another salt, another password or a shorter answer is wrong") {
    const auto response = wire::md5_response(kStored, "\x01\x02\x03\x04");
    REQUIRE(response);
    CHECK_FALSE(wire::md5_verify(kStored, "\x01\x02\x03\x05", *response));
    CHECK_FALSE(wire::md5_verify(kStored, "\x01\x02\x03\x04", ""));
    CHECK_FALSE(wire::md5_verify(kStored, "\x01\x02\x03\x04", response->substr(0, 34)));
    CHECK_FALSE(wire::md5_verify("md5" + std::string(32, '0'), "\x01\x02\x03\x04", *response));
  }
}
