#include "proxy/wire/password.h"

#include <doctest/doctest.h>

#include "proxy/wire/scram.h"

using wire::PasswordKind;

TEST_SUITE("proxy/wire/password") {
  const std::string kMd5 = "md52aea419619857e8a27f0f7aa641db0c6";
  const std::string kScram =
      "SCRAM-SHA-256$4096:jQhqrt6/v5xex5y/BxNtuA==$VX/2oXMCv6R8z6tyLaEAF2ifHzpccFNKSTZltzG28+M=:"
      "yZGFd/x8bf4ar2frAmAeylZ8Wuy8pcMnkgdypBUkvoo=";

  TEST_CASE("stored forms are told apart as Postgres does") {
    CHECK(wire::password_kind(kMd5) == PasswordKind::md5);
    CHECK(wire::password_kind(kScram) == PasswordKind::scram);
    CHECK(wire::password_kind("secret") == PasswordKind::plain);
    CHECK(wire::password_kind("") == PasswordKind::plain);
    CHECK(wire::password_kind("md5" + std::string(32, 'A')) == PasswordKind::plain);
    CHECK(wire::password_kind(kMd5 + "0") == PasswordKind::plain);
    CHECK(wire::password_kind(kMd5.substr(0, 34)) == PasswordKind::plain);
    CHECK(wire::password_kind("SCRAM-SHA-256$rest") == PasswordKind::plain);
  }

  TEST_CASE("a password in the clear is checked against every form") {
    CHECK(wire::verify_cleartext("secret", "anyone", "secret"));
    CHECK_FALSE(wire::verify_cleartext("secret", "anyone", "secre"));
    CHECK_FALSE(wire::verify_cleartext("secret", "anyone", "secreT"));
    CHECK(wire::verify_cleartext(kMd5, "md5user", "secret"));
    CHECK_FALSE(wire::verify_cleartext(kMd5, "other", "secret"));
    CHECK_FALSE(wire::verify_cleartext(kMd5, "md5user", kMd5));
    CHECK(wire::verify_cleartext(kScram, "anyone", "correct horse"));
    CHECK_FALSE(wire::verify_cleartext(kScram, "anyone", "correct horsE"));
    CHECK_FALSE(wire::verify_cleartext(kScram, "anyone", ""));
    CHECK_FALSE(wire::verify_cleartext(kScram, "anyone", kScram));
  }

  TEST_CASE("a secret with an absurd iteration count matches nothing, at once") {
    const std::string absurd = "SCRAM-SHA-256$2000000000" + kScram.substr(kScram.find(':'));
    REQUIRE(wire::password_kind(absurd) == PasswordKind::scram);
    CHECK_FALSE(wire::verify_cleartext(absurd, "anyone", "correct horse"));
  }

  TEST_CASE("a secret equals itself, not its beginning") {
    CHECK(wire::same_secret("secret", "secret"));
    CHECK(wire::same_secret("", ""));
    CHECK_FALSE(wire::same_secret("secre", "secret"));
    CHECK_FALSE(wire::same_secret("secret", "secre"));
    CHECK_FALSE(wire::same_secret("", "secret"));
  }

  TEST_CASE("a cleansed secret is empty") {
    std::string secret = "secret";
    wire::cleanse(secret);
    CHECK(secret.empty());
  }
}
