#include "routing/corrections.h"

#include <doctest/doctest.h>

#include "routing/scope.h"

namespace {

using routing::Catalogs;
using routing::Corrections;
using routing::DatabaseKey;
using namespace std::chrono_literals;

const DatabaseKey kShop{"main", "shop"}, kStore{"main", "store"};

Corrections::Refused refused(const DatabaseKey& where, std::uint64_t digest) {
  return {.where = where, .digest = digest, .sqlstate = "25006", .node = "replica1"};
}
conf::Instant at(std::chrono::seconds time) { return conf::Instant(time); }

}  // namespace

TEST_SUITE("routing/corrections") {
  TEST_CASE("a digest is learnt once per database, and refusals are counted") {
    Corrections known;
    CHECK(known.learn(refused(kShop, 7), 10, at(1s)));
    CHECK_FALSE(known.learn(refused(kShop, 7), 10, at(2s)));
    CHECK(known.learn(refused(kStore, 7), 10, at(3s)));
    REQUIRE(known.size() == 2);
    CHECK(known.all()[0].refusals == 2);
    CHECK(known.all()[0].first == at(1s));
    CHECK(known.all()[0].last == at(2s));
    CHECK(known.of(kShop) == std::vector<std::uint64_t>{7});
    CHECK(known.of({"other", "shop"}).empty());
  }

  TEST_CASE("digests of a database are sorted, and those of its neighbours are not among them") {
    Corrections known;
    for (const std::uint64_t digest : {9u, 3u, 5u}) known.learn(refused(kShop, digest), 10, at(1s));
    known.learn(refused(kStore, 4), 10, at(1s));
    CHECK(known.of(kShop) == std::vector<std::uint64_t>{3, 5, 9});
    CHECK(known.databases() == std::vector<DatabaseKey>{kShop, kStore});
  }

  TEST_CASE("a full book forgets what was refused longest ago, and a limit of 0 learns nothing") {
    Corrections known;
    known.learn(refused(kShop, 1), 2, at(1s));
    known.learn(refused(kShop, 2), 2, at(2s));
    known.learn(refused(kShop, 1), 2, at(3s));
    known.learn(refused(kShop, 3), 2, at(4s));
    CHECK(known.of(kShop) == std::vector<std::uint64_t>{1, 3});
    CHECK_FALSE(Corrections().learn(refused(kShop, 1), 0, at(1s)));
    CHECK(known.clear() == 2);
    CHECK(known.size() == 0);
  }

  TEST_CASE("a snapshot keeps the scopes that have not changed, and what is the same is one") {
    routing::ScopeBook book;
    Catalogs catalogs;
    const auto both = std::make_shared<const routing::Catalog>();
    catalogs.by_database = {{kShop, both}, {kStore, both}};
    Corrections known;
    const auto first = book.make(catalogs, known);
    CHECK(first->of(kShop) == first->of(kStore));
    CHECK(first->of(kShop) != first->of({"main", "unheard of"}));

    known.learn(refused(kShop, 7), 10, at(1s));
    const auto second = book.make(catalogs, known);
    CHECK(second->of(kStore) == first->of(kStore));
    CHECK(second->of(kShop)->version != first->of(kShop)->version);
    CHECK(second->of(kShop)->refused == std::vector<std::uint64_t>{7});

    known.learn(refused({"main", "unheard of"}, 8), 10, at(1s));
    CHECK(book.make(catalogs, known)->of({"main", "unheard of"})->refused == std::vector<std::uint64_t>{8});
  }
}
