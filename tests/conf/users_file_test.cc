#include "conf/users_file.h"

#include <string>

#include <doctest/doctest.h>

using namespace conf;

TEST_SUITE("conf/users_file") {
  TEST_CASE("requirement 6: names and secrets are read as PgBouncer reads its userlist.txt") {
    const auto users = parse_users_file(
        "; a comment\n"
        "\"app\" \"plain secret\"\n"
        "\n"
        "  \"md5er\"\t\"md5d41d8cd98f00b204e9800998ecf8427e\"   what follows is ignored\r\n"
        "\"odd \"\"name\"\"\" \"with \"\"quotes\"\", ; and \\ too\"\r\n"
        "\"empty\" \"\"\n"
        "\"twice\" \"first\"\n"
        "\"twice\" \"second\"",
        "u.txt");
    REQUIRE_MESSAGE(users, users.error().message);
    CHECK(users->size() == 5);
    CHECK(users->at("app") == "plain secret");
    CHECK(users->at("md5er") == "md5d41d8cd98f00b204e9800998ecf8427e");
    CHECK(users->at("odd \"name\"") == "with \"quotes\", ; and \\ too");
    CHECK(users->at("empty").empty());
    CHECK(users->at("twice") == "second");
    CHECK(parse_users_file("", "u.txt")->empty());
  }

  TEST_CASE("a broken line is an error that names file and line and shows no secret") {
    for (const std::string line :
         {"app s3cret", "\"app\" s3cret", "\"app\" \"s3cret", "\"app\"", "\"s3cret", "\"\" \"s3cret\"",
          "# \"app\" \"s3cret\""}) {
      CAPTURE(line);
      const auto users = parse_users_file("\"a\" \"b\"\n" + line + "\n", "u.txt");
      REQUIRE_FALSE(users);
      CHECK(users.error().message.starts_with("u.txt:2: "));
      CHECK(users.error().message.find("s3cret") == std::string::npos);
    }
    CHECK_FALSE(parse_users_file(std::string("\"a\" \"b\0c\"", 9), "u.txt"));
    CHECK_FALSE(parse_users_file("\"" + std::string(64, 'x') + "\" \"s\"", "u.txt"));
    CHECK(parse_users_file("\"" + std::string(63, 'x') + "\" \"s\"", "u.txt"));
  }
}
