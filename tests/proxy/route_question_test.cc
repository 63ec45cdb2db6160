#include "proxy/route_question.h"

#include <string>

#include <doctest/doctest.h>

namespace {

std::string sql(std::string_view text) {
  const auto asked = proxy::parse_route_question(text);
  return asked ? std::string(asked->sql) : "(none)";
}

}  // namespace

TEST_SUITE("proxy/route_question") {
  TEST_CASE("EXPLAIN ROUTE is recognized in any case, and nothing else is") {
    CHECK(sql("EXPLAIN ROUTE select 1") == "select 1");
    CHECK(sql(" explain\n route  select 1 ") == "select 1 ");
    CHECK(sql("explain select 1") == "(none)");
    CHECK(sql("explain router") == "(none)");
    CHECK(sql("explain route") == "(none)");
    CHECK(sql("explain route  ") == "(none)");
    CHECK(sql("") == "(none)");
  }

  TEST_CASE("whom it is asked for stands before the statement, in any order, quoted or not") {
    const auto asked = proxy::parse_route_question(
        "explain route database \"my \"\"shop\" user app application 'it''s' select user from t");
    REQUIRE(asked.has_value());
    CHECK(asked->user == "app");
    CHECK(asked->database == "my \"shop");
    CHECK(asked->application == "it's");
    CHECK(asked->sql == "select user from t");
    CHECK(asked->by_name());
    CHECK(sql("explain route user app") == "(none)");
    CHECK(sql("explain route user \"app select 1") == "(none)");
    CHECK_FALSE(proxy::parse_route_question("explain route select 1")->by_name());
  }
}
