#include "pool/names_in_use.h"

#include <optional>

#include <doctest/doctest.h>

using namespace pool;

TEST_SUITE("pool/names_in_use") {
  TEST_CASE("promise 8: names are given out up to the limit, and one in use to anybody who asks") {
    NamesInUse names;
    CHECK(names.take("a", 2));
    CHECK(names.take("b", 2));
    CHECK_FALSE(names.take("c", 2));
    CHECK(names.take("a", 2));
    CHECK(names.take("a", 1));  // the limit has been lowered; who is in stays in
    CHECK(names.size() == 2);
    names.give_back("b");
    CHECK(names.take("c", 2));
    names.give_back("a");
    names.give_back("a");
    CHECK_FALSE(names.take("d", 2));  // somebody still has "a"
    names.give_back("a");
    CHECK(names.take("d", 2));
  }

  TEST_CASE("a hold gives its name back once, wherever it has been moved to") {
    NamesInUse names;
    REQUIRE(names.take("a", 1));
    std::optional<NameHold> first(std::in_place, names, "a");
    NameHold second;
    second = std::move(*first);
    first.reset();
    CHECK(names.size() == 1);
    {
      const NameHold third(std::move(second));
      CHECK(names.size() == 1);
    }
    CHECK(names.size() == 0);
  }
}
