#include "routing/grammar.h"

#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "routing/json.h"
#include "routing/lexer.h"
#include "tests/routing/corpus.h"

namespace {

using routing::Facts;
using What = routing::SettingChange::What;

Facts facts_of(const std::string& sql) {
  Facts facts;
  CAPTURE(sql);
  REQUIRE(routing::find_facts(sql, routing::Catalog(), facts));
  return facts;
}

// "set search_path 'a', 'b'" and so on, joined by "; ".
std::string settings_of(const std::string& sql) {
  std::string out;
  for (const auto& s : facts_of(sql).settings) {
    if (!out.empty()) out += "; ";
    switch (s.what) {
      case What::set: out += "set "; break;
      case What::set_local: out += "set_local "; break;
      case What::reset: out += "reset "; break;
      case What::reset_all: out += "reset_all"; break;
      case What::discard_all: out += "discard_all"; break;
      case What::commit: out += "commit"; break;
      case What::rollback: out += "rollback"; break;
      case What::savepoint: out += "savepoint "; break;
      case What::release: out += "release "; break;
      case What::rollback_to: out += "rollback_to "; break;
    }
    out += s.name;
    if (!s.value.empty()) out += " " + s.value;
  }
  return out;
}

// "public.t, u": in the order of Facts.
std::string tables_of(const std::string& sql) {
  std::string out;
  for (const auto& [schema, name] : facts_of(sql).tables)
    out += (out.empty() ? "" : ", ") + (schema.empty() ? "" : schema + ".") + name;
  return out;
}

}  // namespace

TEST_SUITE("routing/grammar") {
  TEST_CASE("tables are found wherever a statement names them, each once, as Postgres stores their names") {
    CHECK(tables_of("select 1") == "");
    CHECK(tables_of("select * from T join public.\"U\" on true, t as other") == "t, public.U");
    CHECK(tables_of("select (select max(n) from a) from (select * from b where exists (select from c)) x") ==
          "a, b, c");
    CHECK(tables_of("with w as (insert into a select * from b returning 1) select * from w") == "a, b, w");
    CHECK(tables_of("update a set n = 1 from b; delete from c using d; merge into e using f on true "
                    "when matched then do nothing") == "a, b, c, d, e, f");
    CHECK(tables_of("copy a to stdout; copy (select * from b) to stdout; truncate c, d; lock e") ==
          "a, b, c, d, e");
    CHECK(tables_of("explain select * from a; explain analyze delete from b") == "a, b");
    CHECK(tables_of("create table a as select * from b; create index on c (n); alter table d add n int; "
                    "create view e as select * from f; vacuum g") == "a, b, c, d, e, f, g");
    CHECK(tables_of("drop table a, app.b; drop view c; drop function f()") == "a, c, app.b");
    CHECK(tables_of("declare x cursor for select * from a; prepare y as select * from b") == "a, b");
    CHECK(tables_of("select 'from a', n -- from b\n from /* from c */ d") == "d");
  }

  TEST_CASE("requirement 11: transaction control stands among the settings, in its place") {
    CHECK(settings_of("BEGIN") == "");
    CHECK(settings_of("BEGIN; SET a.b = 1; COMMIT AND CHAIN; RESET a.b; ROLLBACK") ==
          "set a.b 1; commit; reset a.b; rollback");
    CHECK(settings_of("SAVEPOINT One; SET a.b = 1; ROLLBACK TO \"One\"; RELEASE one") ==
          "savepoint one; set a.b 1; rollback_to One; release one");
    CHECK(settings_of("PREPARE TRANSACTION 'x'") == "commit");
    CHECK_FALSE(facts_of("SAVEPOINT a").changes_settings);
    CHECK(facts_of("SAVEPOINT a; SET a.b = 1").changes_settings);
    CHECK(facts_of("SET LOCAL standard_conforming_strings = off").pins ==
          routing::Pin::session_setting);
  }

  TEST_CASE("requirement 12: what may end a pin says so") {
    using routing::Pin;
    const struct {
      const char* sql;
      Pin may_unpin;
    } rows[] = {
        {"UNLISTEN *", Pin::listen},
        {"UNLISTEN news", Pin::listen},
        {"SELECT pg_advisory_unlock(1)", Pin::advisory_lock},
        {"SELECT count(*) FROM t WHERE pg_advisory_unlock_shared(a)", Pin::advisory_lock},
        {"SELECT pg_catalog.pg_advisory_unlock_all()", Pin::advisory_lock},
        {"DROP TABLE t", Pin::temporary_table},
        {"DROP VIEW v", Pin::temporary_table},
        {"DROP OWNED BY joe", Pin::temporary_table},
        {"DISCARD TEMP", Pin::temporary_table},
        {"DISCARD PLANS", Pin::none},
        {"CREATE TEMP TABLE t (a int) ON COMMIT DROP", Pin::temporary_table},
        {"CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1", Pin::temporary_table},
        {"CREATE TEMP TABLE t (a int)", Pin::none},
        {"CLOSE c", Pin::holdable_cursor},
        {"FETCH c", Pin::none},
        {"DEALLOCATE s", Pin::sql_prepare},
        {"DEALLOCATE ALL", Pin::sql_prepare},
        {"SELECT 1; UNLISTEN *; CLOSE c", Pin::listen | Pin::holdable_cursor},
    };
    for (const auto& row : rows) {
      CAPTURE(row.sql);
      CHECK(facts_of(row.sql).may_unpin == row.may_unpin);
    }
  }

  TEST_CASE("requirement 13: what needs a database to itself says which") {
    CHECK(facts_of("DROP DATABASE Shop").frees_database == "shop");
    CHECK(facts_of("drop database if exists \"Shop\" with (force)").frees_database == "Shop");
    CHECK(facts_of("ALTER DATABASE shop RENAME TO store").frees_database == "shop");
    CHECK(facts_of("ALTER DATABASE shop SET TABLESPACE fast").frees_database == "shop");
    CHECK(facts_of("CREATE DATABASE store TEMPLATE shop").frees_database == "shop");
    CHECK(facts_of("CREATE DATABASE store TEMPLATE = 'Shop' ENCODING 'UTF8'").frees_database == "Shop");
    CHECK(facts_of("CREATE DATABASE store").frees_database == "");
    CHECK(facts_of("ALTER TABLE shop RENAME TO store").frees_database == "");
    CHECK(facts_of("DROP TABLE shop").frees_database == "");
  }

  TEST_CASE("requirement 16: statements that SQL prepares, executes and deallocates by name") {
    using Names = std::vector<std::string>;
    CHECK(facts_of("PREPARE Plan AS SELECT 1").prepares_names == Names{"plan"});
    CHECK(facts_of("EXECUTE \"Plan\"(1); EXECUTE other").executes_names ==
          Names{"Plan", "other"});
    CHECK(facts_of("EXPLAIN EXECUTE plan(1)").executes_names == Names{"plan"});
    CHECK(facts_of("EXPLAIN ANALYZE EXECUTE plan(1)").executes_names == Names{"plan"});
    CHECK(facts_of("CREATE TABLE t AS EXECUTE plan(1)").executes_names == Names{"plan"});
    CHECK(facts_of("DEALLOCATE plan; DEALLOCATE \"Plan\"").deallocates_names == Names{"plan", "Plan"});
  }

  TEST_CASE("promise 4: what may see the statements of others, or name them, is known") {
    for (const char* sql :
         {"EXECUTE pgsluice_5", "EXPLAIN EXECUTE PGSLUICE_5(1)", "EXECUTE U&\"pgsluic\\0065_5\"",
          "DEALLOCATE pgsluice_5; SELECT 1", "PREPARE pgsluice_5 AS SELECT 1", "SELECT 1; EXECUTE pgsluice_taken",
          "SELECT * FROM pg_prepared_statements", "COPY (TABLE pg_catalog.pg_prepared_statements) TO STDOUT",
          "SELECT (SELECT statement FROM pg_prepared_statement() LIMIT 1)",
          "SELECT EXISTS (SELECT FROM \"pg_prepared_statements\")"}) {
      CAPTURE(sql);
      CHECK(facts_of(sql).sees_prepared);
    }
    for (const char* sql : {"EXECUTE plan", "DEALLOCATE ALL", "SELECT 'pgsluice_5'", "SELECT pgsluice_5 FROM t",
                            "SELECT * FROM pg_prepared_xacts"}) {
      CAPTURE(sql);
      CHECK(!facts_of(sql).sees_prepared);
    }
  }

  TEST_CASE("requirement 12: a function that the operator names pins, in whichever schema") {
    const routing::Catalog catalog({.functions = {{"app", "stateful", false, false}}},
                                   {.read_functions = {"stateful"}, .pin_functions = {"app.stateful"}});
    Facts facts;
    REQUIRE(routing::find_facts("SELECT x.stateful(1)", catalog, facts));
    CHECK(facts.pins == routing::Pin::session_function);
    CHECK(facts.why == routing::ClassReason::primary_only);
    REQUIRE(routing::find_facts("SELECT setseed(0.5)", catalog, facts));
    CHECK(facts.pins == routing::Pin::session_function);
  }

  TEST_CASE("a read that may say something else next time is known, wherever the call stands") {
    for (const char* sql : {"SELECT random()", "SELECT * FROM t WHERE id > (SELECT 10 * random())",
                            "SELECT * FROM t ORDER BY gen_random_uuid()", "SELECT * FROM t TABLESAMPLE system (1)",
                            "SELECT 1; SELECT clock_timestamp()"}) {
      CAPTURE(sql);
      CHECK(facts_of(sql).varies);
      CHECK(facts_of(sql).is_read());
    }
    for (const char* sql : {"SELECT now(), count(*) FROM t", "SELECT random FROM t", "SELECT 'random()'"}) {
      CAPTURE(sql);
      CHECK_FALSE(facts_of(sql).varies);
    }
  }

  TEST_CASE("settings come out ready to be replayed") {
    const struct {
      const char* sql;
      const char* expected;
    } rows[] = {
        {"SET search_path TO a, \"B c\", 'd'", "set search_path 'a', 'B c', 'd'"},
        {"SET Work_Mem = '64MB'", "set work_mem '64MB'"},
        {"SET \"TimeZone\" = 'UTC'", "set timezone 'UTC'"},
        {"SET statement_timeout TO 5000", "set statement_timeout 5000"},
        {"SET a.b TO -5", "set a.b -5"},
        {"SET a.b TO 0", "set a.b 0"},
        {"SET TIME ZONE - 7", "set timezone -7"},
        {"SET a.b TO -1.5", "set a.b -1.5"},
        {"SET enable_seqscan TO off", "set enable_seqscan 'off'"},
        {"SET a.b TO TRUE", "set a.b 'true'"},
        {"SET a.b TO 'it''s'", "set a.b 'it''s'"},
        {"SET a.b TO E'back\\\\slash\\n'", "set a.b E'back\\\\slash\n'"},
        {"SET a.b TO E'<\\u00e4\\x01>'", "set a.b '<\xC3\xA4\x01>'"},
        {"SET TIME ZONE 'Europe/Berlin'", "set timezone 'Europe/Berlin'"},
        {"SET TIME ZONE DEFAULT", "reset timezone"},
        {"SET NAMES 'LATIN1'", "set client_encoding 'LATIN1'"},
        {"SET ROLE \"Admin\"", "set role 'Admin'"},
        {"SET ROLE NONE", "set role 'none'"},
        {"RESET ROLE", "reset role"},
        {"SET SESSION AUTHORIZATION bob", "set session_authorization 'bob'"},
        {"SET SESSION AUTHORIZATION DEFAULT", "reset session_authorization"},
        {"SET SCHEMA 'x'", "set search_path 'x'"},
        {"SET LOCAL work_mem = '1MB'", "set_local work_mem '1MB'"},
        {"RESET work_mem", "reset work_mem"},
        {"SET work_mem TO DEFAULT", "reset work_mem"},
        {"RESET ALL", "reset_all"},
        {"DISCARD ALL", "discard_all"},
        {"DISCARD PLANS", ""},
        {"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, NOT "
         "DEFERRABLE",
         "set default_transaction_isolation 'serializable'; set default_transaction_read_only on; "
         "set default_transaction_deferrable off"},
        {"SELECT set_config('A.b', 'it''s', false)", "set a.b 'it''s'"},
        {"SELECT set_config('a.b', 'c'::text, 'f')", "set a.b 'c'"},
        {"SELECT set_config('a.b', 'c', true)", "set_local a.b 'c'"},
        {"SELECT set_config('a.b', $1, true)", "set_local a.b"},
        {"SELECT set_config('a.b', NULL, false)", "reset a.b"},
        {"SELECT set_config('a.b', 'c', false) AS x, set_config('d', 'e', false)",
         "set a.b 'c'; set d 'e'"},
        {"SELECT set_config('search_path', 'A, \"B c\" ,d', false)",
         "set search_path 'a', 'B c', 'd'"},
        {"SELECT set_config('search_path', '', false)", "set search_path ''"},
        // A number that is no name is shown without quotes.
        {"SELECT set_config('search_path', '3, b', false)", "set search_path 3, 'b'"},
        {"SELECT set_config('search_path', '\"3\"', false)", "set search_path '3'"},
        {"SELECT set_config('datestyle', 'ISO, DMY', false)", "set datestyle 'ISO, DMY'"},
        {"SELECT set_config('a.b', 'c', false) FROM t", ""},
        {"SELECT set_config('transaction_read_only', 'on', false)", ""},
        {"SET \"we ird\".name TO 1", ""},
        {"SET a.b = 1; SET a.c = 2; RESET a.b", "set a.b 1; set a.c 2; reset a.b"},
        {"BEGIN; SET a.b = 1; COMMIT", "set a.b 1; commit"},
        {"BEGIN; SET LOCAL a.b = 1; COMMIT", "set_local a.b 1; commit"},
    };
    for (const auto& row : rows) {
      CAPTURE(row.sql);
      CHECK(settings_of(row.sql) == row.expected);
    }
    CHECK(facts_of("SET \"we ird\".name TO 1").pins == routing::Pin::computed_setting);
  }

  TEST_CASE("only statements whose meaning is their literals depend on them") {
    for (const char* sql : {"SET a.b = 1", "SELECT set_config('a', 'b', false)",
                            "SELECT set_config('a', x, true) FROM t"}) {
      CAPTURE(sql);
      CHECK(facts_of(sql).depends_on_literals);
    }
    for (const char* sql :
         {"SELECT 'x'", "BEGIN READ ONLY", "COMMIT", "RESET ALL", "RESET x", "DISCARD ALL",
          "SELECT current_setting('x')", "SET TRANSACTION READ ONLY"}) {
      CAPTURE(sql);
      CHECK_FALSE(facts_of(sql).depends_on_literals);
    }
  }

  TEST_CASE("DISCARD ALL and DEALLOCATE ALL say what they end") {
    CHECK(facts_of("DISCARD ALL").unpins_all);
    CHECK(facts_of("DISCARD ALL").deallocates_all);
    CHECK(facts_of("DEALLOCATE ALL").deallocates_all);
    CHECK_FALSE(facts_of("DEALLOCATE ALL").unpins_all);
    CHECK_FALSE(facts_of("DEALLOCATE q").deallocates_all);
    CHECK_FALSE(facts_of("DISCARD PLANS").deallocates_all);
    CHECK_FALSE(facts_of("DISCARD TEMP").unpins_all);
  }

  TEST_CASE("SERIALIZABLE is seen in every spelling") {
    for (const char* sql :
         {"BEGIN ISOLATION LEVEL SERIALIZABLE",
          "START TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE",
          "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
          "SET transaction_isolation = 'Serializable'", "SET TRANSACTION SNAPSHOT 'x'",
          "SELECT set_config('transaction_isolation', 'serializable', true)"}) {
      CAPTURE(sql);
      CHECK(facts_of(sql).serializable);
    }
    CHECK_FALSE(facts_of("BEGIN ISOLATION LEVEL REPEATABLE READ").serializable);
    CHECK_FALSE(facts_of("SET TRANSACTION ISOLATION LEVEL READ COMMITTED").serializable);
  }

  TEST_CASE("several statements are told from one") {
    CHECK(facts_of("SELECT 1; SELECT 2").several);
    CHECK_FALSE(facts_of("SELECT 1;").several);
  }

  TEST_CASE("EXPLAIN without ANALYZE leaves nothing behind") {
    CHECK(facts_of("EXPLAIN SELECT pg_advisory_lock(1)").pins == routing::Pin::none);
    CHECK(facts_of("EXPLAIN (ANALYZE false) SELECT pg_advisory_lock(1)").pins ==
          routing::Pin::none);
    CHECK(facts_of("EXPLAIN (ANALYZE false, ANALYZE) SELECT pg_advisory_lock(1)").pins ==
          routing::Pin::advisory_lock);
    CHECK(facts_of("EXPLAIN ANALYZE SELECT pg_advisory_lock(1)").pins ==
          routing::Pin::advisory_lock);
  }

  TEST_CASE("what it refuses leaves the facts as they were") {
    Facts facts;
    facts.digest = 7;
    CHECK_FALSE(routing::find_facts("SELEC 1", routing::Catalog(), facts));
    CHECK(facts.digest == 7);
    CHECK(facts.kind == routing::StatementClass::write);
    REQUIRE(routing::find_facts("SELECT 1", routing::Catalog(), facts));
    CHECK(facts.digest == 7);
    CHECK(facts.is_read());
  }

  TEST_CASE("facts from the folded text are the facts from the text itself") {
    for (const corpus::Row& row : corpus::load()) {
      Facts folded, whole;
      const bool a =
          routing::find_facts(routing::alike_text(row.sql, true).sql, routing::Catalog(), folded);
      const bool b =
          routing::find_facts(routing::literal_text(row.sql, true).sql, routing::Catalog(), whole);
      const bool c = !routing::alike_text(row.sql, true).broken;
      if (!a || !b || !c || folded.depends_on_literals || row.sql.find("ANALYZE '") != row.sql.npos)
        continue;
      CAPTURE(row.sql);
      CHECK(folded.kind == whole.kind);
      CHECK(folded.why == whole.why);
      CHECK(folded.pins == whole.pins);
      CHECK(folded.step == whole.step);
    }
  }

  TEST_CASE("threads parse at the same time and end cleanly") {
    std::vector<std::thread> threads;
    std::vector<int> reads(4, 0);
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&reads, t] {
        const routing::Catalog catalog;
        for (int i = 0; i < 300; ++i) {
          Facts facts;
          if (routing::find_facts("SELECT count(*) FROM t WHERE id = 1", catalog, facts) &&
              facts.is_read())
            ++reads[t];
          static_cast<void>(routing::find_facts("SELEC", catalog, facts));
        }
      });
    }
    for (auto& t : threads) t.join();
    for (const int n : reads) CHECK(n == 300);
  }

  TEST_CASE(
      "the deepest and the longest text within the limits is parsed on half a megabyte of stack") {
    std::string deep = "SELECT ";
    for (std::size_t i = 0; i + 10 < routing::kMaxGrammarDepth; ++i) deep += "NOT ";
    std::string chain = "SELECT a";
    for (std::size_t i = 0; i + 10 < routing::kMaxGrammarDepth; ++i) chain += "+a";
    CHECK(facts_of(deep + "a").is_read());
    CHECK(facts_of(chain).is_read());
  }

  TEST_CASE("the JSON reader takes what is JSON and nothing else") {
    routing::Json json;
    REQUIRE(json.parse(R"({"a":[1,-2.5,"x\"\u00e4\n"],"b":{"c":true,"d":null,"e":false},"f":{}})"));
    CHECK(json.text(json.first(json.find(0, "a"))) == "1");
    CHECK(json.is_true(json.find(0, "b"), "c"));
    CHECK_FALSE(json.is_true(json.find(0, "b"), "e"));
    CHECK(json.find(0, "z") == routing::Json::kNone);
    CHECK(json.text(json.find(0, "a") + 3) == "x\"\xC3\xA4\n");
    for (const char* bad : {"", "{", "[1,]", "{\"a\"}", "{\"a\":1,}", "[1 2]", "{} {}", "\"x",
                            "tru", "{1:2}", "[\"\\"}) {
      CAPTURE(bad);
      CHECK_FALSE(json.parse(bad));
    }
  }
}
