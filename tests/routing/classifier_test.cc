#include "routing/classifier.h"

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "routing/grammar.h"
#include "tests/routing/corpus.h"

namespace {

using routing::Classifier;
using routing::ClassReason;
using routing::Facts;
using routing::Pin;
using routing::StatementClass;
using routing::TransactionStep;

constexpr Classifier::Limits kLimits{.cache_entries = 1000, .max_statement = 64 * 1024};

std::string_view name(TransactionStep s) {
  switch (s) {
    case TransactionStep::none: return "none";
    case TransactionStep::begin: return "begin";
    case TransactionStep::begin_read_only: return "begin_read_only";
    case TransactionStep::begin_read_write: return "begin_read_write";
    case TransactionStep::end: return "end";
    case TransactionStep::chained_end: return "chained_end";
    case TransactionStep::set_read_only: return "set_read_only";
    case TransactionStep::set_read_write: return "set_read_write";
    case TransactionStep::savepoint: return "savepoint";
  }
  return "?";
}

std::string describe(const Facts& f) {
  std::string out(routing::name(f.kind));
  out += ' ';
  out += routing::name(f.why);
  out += ' ' + routing::names(f.pins) + ' ';
  return out += name(f.step);
}

std::string expected(const corpus::Row& row) {
  return row.kind + ' ' + row.why + ' ' + row.pins + ' ' + row.step;
}

}  // namespace

TEST_SUITE("routing/classifier") {
  TEST_CASE(
      "requirement 24: requirement 12: every statement of the corpus is what the corpus says, at first "
      "sight and from the cache") {
    const auto rows = corpus::load();
    REQUIRE(rows.size() > 700);
    Classifier classifier(kLimits);
    for (int round = 0; round < 2; ++round) {
      for (const corpus::Row& row : rows) {
        CAPTURE(row.line);
        CAPTURE(row.sql);
        CHECK(describe(*classifier.classify(row.sql, true)) == expected(row));
      }
    }
  }

  TEST_CASE("the order in which statements are seen does not change what they are") {
    auto rows = corpus::load();
    for (unsigned seed = 1; seed <= 3; ++seed) {
      std::mt19937 random(seed);
      std::shuffle(rows.begin(), rows.end(), random);
      Classifier classifier({.cache_entries = 40, .max_statement = 64 * 1024});
      for (const corpus::Row& row : rows) {
        CAPTURE(seed);
        CAPTURE(row.sql);
        CHECK(describe(*classifier.classify(row.sql, true)) == expected(row));
      }
    }
  }

  TEST_CASE("a statement with other literals is a hit") {
    Classifier c(kLimits);
    c.classify("SELECT * FROM t WHERE id = 1", true);
    CHECK(c.counters().misses == 1);
    const auto first = c.classify("SELECT * FROM t WHERE id = 2", true);
    const auto second = c.classify("select * from T where id=-3;", true);
    CHECK(first == second);
    CHECK(c.counters().misses == 1);
    CHECK(c.counters().hits == 2);
  }

  TEST_CASE("a SET is parsed once per text and never mistaken for another") {
    Classifier c(kLimits);
    const auto a = c.classify("SET a.b = 'x'", true);
    const auto b = c.classify("SET a.b = 'y'", true);
    REQUIRE(a->settings.size() == 1);
    CHECK(a->settings[0].value == "'x'");
    CHECK(b->settings[0].value == "'y'");
    CHECK(a->digest == b->digest);
    const auto misses = c.counters().misses;
    CHECK(c.classify("SET a.b = 'x'", true) == a);
    CHECK(c.classify("SET a.b = 'y'", true) == b);
    CHECK(c.counters().misses == misses);
  }

  TEST_CASE("a text that fails to parse because of a literal does not spoil its digest") {
    Classifier c(kLimits);
    CHECK(c.classify("SELECT B'102x'", true)->is_read());
    CHECK(c.classify("SELECT 'a' LIKE E'\\uZZZZ'", true)->is_read());
    CHECK(c.classify("SELECT 'a' LIKE E'b'", true)->is_read());
  }

  TEST_CASE("current_setting of something else is something else") {
    Classifier c(kLimits);
    CHECK(c.classify("SELECT current_setting('a.b')", true)->is_read());
    CHECK(c.classify("SELECT current_setting('transaction_read_only')", true)->why ==
          ClassReason::primary_only);
    CHECK(c.classify("SELECT current_setting(E'transaction_read_onl\\x79')", true)->why ==
          ClassReason::primary_only);
    CHECK(c.classify("SELECT current_setting('a.b')", true)->is_read());
  }

  TEST_CASE("with standard_conforming_strings off a backslash hides the quote, as on the server") {
    Classifier c(kLimits);
    const char* sql = R"(SELECT 'a\', nextval('s') --')";
    CHECK(c.classify(sql, true)->why == ClassReason::primary_only);
    CHECK(c.classify(sql, false)->why == ClassReason::unparsed);
    const char* other = R"(SELECT 'a\', nextval(''s'') --')";
    CHECK(c.classify(other, true)->why == ClassReason::unparsed);
    CHECK(c.classify(other, false)->is_read());
    const auto set = c.classify(R"(SET a.b = 'it\'s')", false);
    REQUIRE(set->settings.size() == 1);
    CHECK(set->settings[0].value == "'it''s'");
    CHECK(c.classify(R"(SET a.b = 'x\\y')", false)->settings[0].value == R"(E'x\\y')");
    CHECK(c.classify(R"(SET a.b = 'x\\y')", true)->settings[0].value == R"(E'x\\\\y')");
  }

  TEST_CASE("requirement 22: longer than the limit is too long, at the limit is not") {
    Classifier c({.cache_entries = 10, .max_statement = 20});
    CHECK(c.classify("SELECT 1 --345678901", true)->is_read());
    const auto& facts = c.classify("SELECT 1 --3456789012", true);
    CHECK(facts->kind == StatementClass::write);
    CHECK(facts->why == ClassReason::too_long);
    CHECK(facts->pins == Pin::none);
  }

  TEST_CASE("a text that the grammar never sees still pins for what its words may leave behind") {
    Classifier c({.cache_entries = 10, .max_statement = 10});
    const auto pins = [&c](const char* sql) { return c.classify(sql, true)->pins; };
    CHECK(pins("INSERT INTO t VALUES ('listen; set')") == Pin::none);
    CHECK(pins("/* long enough */ LISTEN x") == Pin::listen);
    CHECK(pins("SELECT 1; SET search_path = x") == Pin::session_setting);
    CHECK(pins("UPDATE t SET a = 1 WHERE b = 2") == Pin::none);
    CHECK(pins("CREATE TEMPORARY TABLE x (a int)") == Pin::temporary_table);
    CHECK(pins("SELECT pg_advisory_lock(1) FROM t") == Pin::advisory_lock);
    CHECK(pins("SELECT pg_advisory_xact_lock(1) FROM t") == Pin::none);
    CHECK(pins("PREPARE q AS SELECT 1, 2, 3") == Pin::sql_prepare);
    CHECK(pins("DECLARE c CURSOR WITH HOLD FOR SELECT 1") == Pin::holdable_cursor);
    CHECK(pins("SELECT set_config('a', 'b', false), 1") == Pin::session_setting);
  }

  TEST_CASE("requirement 22: bombs are refused before the grammar sees them, and quickly") {
    Classifier c({.cache_entries = 10, .max_statement = 1 << 20});
    const auto repeated = [](std::string_view unit, std::size_t n) {
      std::string s = "SELECT ";
      for (std::size_t i = 0; i < n; ++i) s += unit;
      return s + "1";
    };
    for (const char* unit : {"(", "NOT ", "- ", "a+", "a,", "[", "CASE WHEN ", "(SELECT ", "a OR ",
                             "f(", "1::", "'x'||"}) {
      CAPTURE(unit);
      const auto facts = c.classify(repeated(unit, 60'000), true);
      CHECK(facts->kind == StatementClass::write);
      CHECK(facts->why == ClassReason::too_long);
    }
    // Constants cost nothing: they are folded first.
    CHECK(c.classify("SELECT * FROM t WHERE id IN (" + repeated("1,", 60'000).substr(7) + ")", true)
              ->is_read());
  }

  TEST_CASE("the cache is bounded and keeps what is used") {
    constexpr std::uint64_t kHot = 16, kCold = 2000, kEntries = 64;
    Classifier c({.cache_entries = kEntries, .max_statement = 1000});
    for (std::uint64_t i = 0; i < kCold; ++i) {
      c.classify("SELECT cold" + std::to_string(i), true);
      for (std::uint64_t h = 0; h < kHot; ++h) c.classify("SELECT hot" + std::to_string(h), true);
    }
    CHECK(c.counters().misses == kHot + kCold);
    CHECK(c.counters().evictions == kHot + kCold - kEntries);
    CHECK(c.counters().hits == kHot * (kCold - 1));
  }

  TEST_CASE("the smallest caches work") {
    for (const std::size_t entries : {0U, 1U, 7U, 9U}) {
      Classifier c({.cache_entries = entries, .max_statement = 1000});
      for (int i = 0; i < 30; ++i) {
        CHECK(c.classify("SELECT a" + std::to_string(i), true)->is_read());
        CHECK(c.classify("SET a = " + std::to_string(i), true)->settings.size() == 1);
      }
      c.set_limits({.cache_entries = 3, .max_statement = 5});
      CHECK(c.classify("SELECT 1", true)->why == ClassReason::too_long);
    }
  }

  TEST_CASE("another scope has other facts, and takes none away from the first") {
    Classifier c(kLimits);
    const auto in = [](std::uint64_t version, std::vector<std::string> writes) {
      routing::Scope scope;
      scope.catalog = std::make_shared<const routing::Catalog>(
          routing::CatalogContent{.functions = {{"public", "my_function", false, false}}},
          routing::Overrides{.write_functions = std::move(writes)});
      scope.version = version;
      return scope;
    };
    const routing::Scope reads = in(1, {}), writes = in(2, {"my_function"});
    const char* sql = "SELECT my_function(1)";
    const auto why = [&](const routing::Scope& scope) {
      return c.classify(sql, true, Classifier::Encoding::ascii_safe, scope)->why;
    };
    CHECK(c.classify(sql, true)->why == ClassReason::unknown_function);
    CHECK(why(reads) == ClassReason::proven_read);
    CHECK(why(writes) == ClassReason::volatile_function);
    const auto misses = c.counters().misses;
    CHECK(why(reads) == ClassReason::proven_read);
    CHECK(c.classify(sql, true)->why == ClassReason::unknown_function);
    CHECK(c.counters().misses == misses);
  }

  TEST_CASE("requirement 30: what a replica refused is no read from then on, in that database") {
    Classifier c(kLimits);
    routing::Scope scope;
    scope.refused = {c.classify("SELECT a FROM v WHERE id = 1", true)->digest};
    scope.version = 1;
    const auto facts = c.classify("SELECT a FROM v WHERE id = 2", true, Classifier::Encoding::ascii_safe, scope);
    CHECK(facts->kind == StatementClass::write);
    CHECK(facts->why == ClassReason::refused_by_replica);
    CHECK(c.classify("SELECT a FROM v", true, Classifier::Encoding::ascii_safe, scope)->is_read());
    CHECK(c.classify("SELECT a FROM v WHERE id = 2", true)->is_read());
  }

  TEST_CASE("requirement 24: operators overrule by digest, but make no read of what writes by its own words") {
    Classifier c(kLimits);
    routing::Scope scope;
    const auto digest_of = [&c](const char* sql) { return c.classify(sql, true)->digest; };
    scope.read_digests = {digest_of("SELECT nextval('s')"), digest_of("SELECT my_function(1)"),
                          digest_of("INSERT INTO t VALUES (1)"), digest_of("SELECT my_function(1); DELETE FROM t"),
                          digest_of("SELECT both")};
    scope.primary_digests = {digest_of("SELECT a FROM t WHERE b = 1"), digest_of("SELECT both")};
    std::ranges::sort(scope.read_digests);
    std::ranges::sort(scope.primary_digests);
    scope.version = 1;
    const auto facts = [&](const char* sql) {
      return c.classify(sql, true, Classifier::Encoding::ascii_safe, scope);
    };
    CHECK(facts("SELECT nextval('other')")->why == ClassReason::overruled);
    CHECK(facts("SELECT nextval('other')")->is_read());
    CHECK(facts("SELECT my_function(2)")->is_read());
    CHECK_FALSE(facts("INSERT INTO t VALUES (1)")->is_read());
    CHECK_FALSE(facts("SELECT my_function(1); DELETE FROM t")->is_read());
    CHECK_FALSE(facts("SELECT a FROM t WHERE b = 2")->is_read());
    CHECK(facts("SELECT a FROM t WHERE b = 2")->why == ClassReason::overruled);
    CHECK(facts("SELECT a FROM t")->is_read());
    CHECK_FALSE(facts("SELECT both")->is_read());
  }

  TEST_CASE("facts outlive their place in the cache") {
    Classifier c({.cache_entries = 1, .max_statement = 1000});
    const auto kept = c.classify("SELECT 1", true);
    c.classify("SELECT a", true);
    CHECK(kept->is_read());
  }

  TEST_CASE("in an encoding with ASCII bytes inside characters only ASCII texts are looked at") {
    Classifier c(kLimits);
    const auto ambiguous = Classifier::Encoding::ambiguous;
    CHECK(c.classify("SELECT 1", true, ambiguous)->is_read());
    const auto& facts = c.classify("SELECT E'\x83\x5c' , nextval('s') --'", true, ambiguous);
    CHECK(facts->kind == StatementClass::write);
    CHECK(facts->pins == Pin::session_setting);
  }

  TEST_CASE("broken and empty texts are told apart") {
    Classifier c(kLimits);
    CHECK(c.classify("", true)->kind == StatementClass::empty);
    CHECK(c.classify(std::string_view("SELECT 1\0;", 10), true)->why == ClassReason::unparsed);
    CHECK(c.classify(std::string_view("SELECT '\0'", 10), true)->why == ClassReason::unparsed);
  }

  // Lexer, folding, digest and cache against the one who knows: the grammar, given the text itself.
  // Statements of the corpus with pieces put in where they do most harm, all through one cache.
  TEST_CASE("on whatever the grammar accepts, classifier and grammar agree") {
    const std::vector<std::string> pieces{"'",
                                          "''",
                                          "E'",
                                          "\\",
                                          "$$",
                                          "$a$",
                                          "--",
                                          "\n",
                                          "/*",
                                          "*/",
                                          "\"",
                                          "U&'",
                                          "U&\"",
                                          "-",
                                          "- ",
                                          "(",
                                          ")",
                                          "(1,2)",
                                          "(1,-2)",
                                          ",",
                                          ",(3)",
                                          "[1]",
                                          "1",
                                          "-5",
                                          "'x'",
                                          "B'1'",
                                          "$1",
                                          "::",
                                          "::int",
                                          ".",
                                          "null",
                                          "true",
                                          "+",
                                          "@-",
                                          "<>-1",
                                          "current_setting(",
                                          "nextval('s')",
                                          ";",
                                          " ",
                                          "1e5",
                                          "N'",
                                          "UESCAPE '!'",
                                          "(1),(2)",
                                          "||",
                                          "\r"};
    const auto rows = corpus::load();
    REQUIRE_FALSE(rows.empty());
    std::mt19937_64 random(4711);
    const routing::Catalog catalog;
    Classifier c({.cache_entries = 500, .max_statement = 4096});
    int parsed = 0;
    for (int i = 0; i < 8000; ++i) {
      std::string sql = rows[random() % rows.size()].sql;
      for (std::size_t k = 1 + random() % 3; k > 0; --k) {
        sql.insert(random() % (sql.size() + 1), pieces[random() % pieces.size()]);
      }
      // Of a constant behind ANALYZE the classifier believes nothing, on the safe side.
      if (sql.find("ANALYZE '") != sql.npos || sql.find("ANALYZE 0") != sql.npos) continue;
      Facts facts;
      if (!routing::find_facts(sql, catalog, facts)) continue;
      ++parsed;
      CAPTURE(sql);
      const auto seen = c.classify(sql, true);
      CHECK(seen->kind == facts.kind);
      CHECK(seen->pins == facts.pins);
      CHECK(seen->step == facts.step);
      CHECK(seen->settings.size() == facts.settings.size());
    }
    CHECK(parsed > 500);
  }

  // The oracle is Postgres in an integration test; here: no crash, no hang, and nothing that writes
  // by its words alone becomes a read by chance.
  TEST_CASE("damaged statements do no harm") {
    const auto rows = corpus::load();
    REQUIRE_FALSE(rows.empty());
    std::mt19937_64 random(77);
    Classifier c({.cache_entries = 200, .max_statement = 4096});
    for (int i = 0; i < 6000; ++i) {
      std::string sql = rows[random() % rows.size()].sql;
      switch (random() % 4) {
        case 0: sql.resize(sql.empty() ? 0 : random() % sql.size()); break;
        case 1:
          if (!sql.empty()) sql[random() % sql.size()] = static_cast<char>(random());
          break;
        case 2:
          if (!sql.empty()) sql.erase(random() % sql.size(), 1 + random() % 3);
          break;
        default: sql += rows[random() % rows.size()].sql;
      }
      // Exactly as long as it says, so that the address sanitizer sees a step too far.
      const std::unique_ptr<char[]> bytes(new char[sql.size()]);
      std::copy(sql.begin(), sql.end(), bytes.get());
      const bool standard = random() % 2 == 0;
      const std::string_view text(bytes.get(), sql.size());
      const auto seen = c.classify(text, standard);
      Classifier fresh({.cache_entries = 8, .max_statement = 4096});
      CAPTURE(sql);
      // A digest's facts do not depend on which text of its kind came first, but for what the
      // grammar refuses because of a literal.
      const auto alone = fresh.classify(text, standard);
      if (alone->why != ClassReason::unparsed) {
        CHECK(describe(*seen) == describe(*alone));
      }
    }
  }
}
