#include "routing/catalog.h"

#include <doctest/doctest.h>

#include "routing/catalog_query.h"
#include "routing/facts.h"
#include "routing/grammar.h"

namespace {

using routing::Catalog;
using routing::CatalogContent;
using routing::ClassReason;
using Verdict = Catalog::Verdict;
using Kind = CatalogContent::Kind;

CatalogContent::Function made(const char* schema, const char* name, bool is_volatile) {
  return {.schema = schema, .name = name, .is_volatile = is_volatile, .is_shipped = false};
}
CatalogContent::Function shipped(const char* name, bool is_volatile) {
  return {.schema = "pg_catalog", .name = name, .is_volatile = is_volatile, .is_shipped = true};
}

ClassReason why(const std::string& sql, const Catalog& catalog) {
  routing::Facts facts;
  REQUIRE(routing::find_facts(sql, catalog, facts));
  return facts.why;
}

}  // namespace

TEST_SUITE("routing/catalog") {
  TEST_CASE("a function may say something else each time when its list or the catalogue says so, whoever calls it a read") {
    const Catalog c({.functions = {made("app", "mine", true), made("app", "steady", false), shipped("pg_sleep", true),
                                   shipped("random", true)}},
                    {.read_functions = {"app.mine"}});
    CHECK(c.function("mine") == Verdict::read);
    CHECK(c.function("random") == Verdict::read);
    CHECK(c.varies("mine"));
    CHECK(c.varies("random"));
    CHECK(c.varies("gen_random_uuid"));
    CHECK(Catalog().varies("clock_timestamp"));
    CHECK_FALSE(c.varies("steady"));
    CHECK_FALSE(c.varies("now"));
    CHECK_FALSE(c.varies("pg_sleep"));  // it says nothing at all
  }

  TEST_CASE("without pg_proc the common built-ins are known and everything else is unknown") {
    const Catalog c;
    CHECK(c.function("count") == Verdict::read);
    CHECK(c.function("pg_catalog", "count") == Verdict::read);
    CHECK(c.function("now") == Verdict::read);
    CHECK(c.function("random") == Verdict::read);
    CHECK(c.function("nextval") == Verdict::primary_only);
    CHECK(c.function("pg_try_advisory_xact_lock_shared") == Verdict::primary_only);
    CHECK(c.function("lo_anything") == Verdict::primary_only);
    CHECK(c.function("dblink_exec") == Verdict::primary_only);
    CHECK(c.function("my_function") == Verdict::unknown);
    CHECK(c.function("app", "count") == Verdict::unknown);
    CHECK(c.function("COUNT") == Verdict::unknown);  // names are stored as they are
    CHECK(c.function("") == Verdict::unknown);
  }

  TEST_CASE("without a schema a name is a read only when all its functions are, with one only that counts") {
    const Catalog c({.functions = {made("a", "f", false), made("a", "g", true), made("a", "h", false),
                                   made("b", "h", true)}});
    CHECK(c.function("f") == Verdict::read);
    CHECK(c.function("g") == Verdict::volatile_function);
    CHECK(c.function("h") == Verdict::volatile_function);
    CHECK(c.function("a", "h") == Verdict::read);
    CHECK(c.function("b", "h") == Verdict::volatile_function);
    CHECK(c.function("c", "h") == Verdict::unknown);
  }

  TEST_CASE("a volatile function of a user takes a built-in name's good reputation, but where the schema says") {
    const Catalog c({.functions = {shipped("lower", false), made("public", "lower", true), shipped("random", true),
                                   made("public", "random", true), shipped("pg_sleep", true)}});
    CHECK(c.function("lower") == Verdict::volatile_function);
    CHECK(c.function("pg_catalog", "lower") == Verdict::read);
    CHECK(c.function("random") == Verdict::volatile_function);
    CHECK(c.function("public", "random") == Verdict::volatile_function);
    CHECK(c.function("pg_catalog", "random") == Verdict::read);
    CHECK(c.function("pg_sleep") == Verdict::read);
  }

  TEST_CASE("stable functions that lie on a standby do not become reads") {
    const Catalog c({.functions = {shipped("txid_current", false), shipped("pg_stat_get_numscans", false),
                                   shipped("pg_is_in_recovery", true), shipped("pg_walfile_name", false)}});
    CHECK(c.function("txid_current") == Verdict::primary_only);
    CHECK(c.function("pg_stat_get_numscans") == Verdict::primary_only);
    CHECK(c.function("pg_is_in_recovery") == Verdict::primary_only);
    CHECK(c.function("pg_walfile_name") == Verdict::primary_only);
  }

  TEST_CASE("operators overrule functions, and a write beats a read") {
    const Catalog c({.functions = {made("a", "f", true), made("a", "g", false), made("a", "two", true),
                                   made("b", "two", true)}},
                    {.read_functions = {"f", "app.h", "nextval", "both", "pg_stat_get_x", "a.two"},
                     .write_functions = {"g", "count", "both"}});
    CHECK(c.function("f") == Verdict::read);
    CHECK(c.function("app", "h") == Verdict::read);
    CHECK(c.function("nextval") == Verdict::read);
    CHECK(c.function("pg_stat_get_x") == Verdict::read);
    CHECK(c.function("g") == Verdict::volatile_function);
    CHECK(c.function("count") == Verdict::volatile_function);
    CHECK(c.function("both") == Verdict::volatile_function);
    CHECK(c.function("a", "two") == Verdict::read);
    CHECK(c.function("b", "two") == Verdict::volatile_function);
    CHECK(c.function("two") == Verdict::volatile_function);
    CHECK(Catalog({}, {.read_functions = {"app.nextval"}}).function("nextval") == Verdict::primary_only);
  }

  TEST_CASE("requirement 24: what a view reaches through any number of views leads to the primary") {
    const auto relation = [](const char* user, Kind kind, const char* schema, const char* used) {
      return CatalogContent::Use{Kind::relation, {"public", user}, kind, {schema, used}};
    };
    const CatalogContent content{
        .functions = {made("public", "loud", true), made("public", "quiet", false), shipped("nextval", true)},
        .primary_relations = {{"public", "unlogged"}},
        .uses = {relation("on_top", Kind::relation, "public", "middle"),
                 relation("middle", Kind::relation, "public", "bottom"),
                 relation("bottom", Kind::function, "public", "loud"),
                 relation("numbered", Kind::function, "pg_catalog", "nextval"),
                 relation("over_unlogged", Kind::relation, "public", "unlogged"),
                 relation("watches", Kind::relation, "pg_catalog", "pg_stat_activity"),
                 relation("harmless", Kind::function, "public", "quiet"),
                 relation("harmless", Kind::relation, "public", "t"),
                 relation("by_policy", Kind::function, "public", "loud"),
                 relation("by_domain", Kind::type, "public", "checked"),
                 {Kind::type, {"public", "checked"}, Kind::function, {"public", "loud"}},
                 {Kind::function, {"public", "takes_checked"}, Kind::type, {"public", "checked"}},
                 {Kind::operators, {"", "@@@"}, Kind::function, {"public", "loud"}}}};
    const Catalog c(content);
    for (const char* name :
         {"on_top", "middle", "bottom", "numbered", "unlogged", "over_unlogged", "watches", "by_policy", "by_domain"}) {
      CAPTURE(name);
      CHECK(c.is_primary_relation("", name));
      CHECK(c.is_primary_relation("public", name));
      CHECK_FALSE(c.is_primary_relation("other", name));
      CHECK(why(std::string("SELECT 1 FROM t WHERE EXISTS (SELECT FROM ") + name + ")", c) ==
            ClassReason::primary_table);
      CHECK(why(std::string("EXPLAIN SELECT * FROM ") + name, c) == ClassReason::primary_table);
      CHECK(why(std::string("COPY ") + name + " TO STDOUT", c) == ClassReason::primary_table);
    }
    CHECK(why("SELECT * FROM harmless, t", c) == ClassReason::proven_read);
    CHECK(why("SELECT takes_checked(1)", c) == ClassReason::volatile_function);
    for (const char* sql :
         {"SELECT 1::checked", "SELECT CAST(a AS public.checked) FROM t", "SELECT checked '1'", "SELECT '{1}'::checked[]",
          "SELECT * FROM json_to_record('{}') AS x(a checked)", "SELECT a @@@ b FROM t",
          "SELECT a OPERATOR(public.@@@) b FROM t", "SELECT * FROM t WHERE a @@@ ANY (SELECT b FROM t)",
          "SELECT a FROM t ORDER BY a USING @@@"}) {
      CAPTURE(sql);
      CHECK(why(sql, c) == ClassReason::volatile_function);
    }
    CHECK(why("SELECT 1::other.checked, a = b FROM t", c) == ClassReason::proven_read);

    const Catalog overruled(content, {.read_functions = {"loud"}, .read_tables = {"public.unlogged"},
                                      .primary_tables = {"harmless", "app.t"}});
    CHECK_FALSE(overruled.is_primary_relation("", "on_top"));
    CHECK_FALSE(overruled.is_primary_relation("public", "unlogged"));
    CHECK_FALSE(overruled.is_primary_relation("", "over_unlogged"));
    CHECK(overruled.is_primary_relation("", "harmless"));
    CHECK(overruled.is_primary_relation("app", "t"));
    CHECK_FALSE(overruled.is_primary_relation("public", "t"));
  }

  TEST_CASE("a volatile operator = is met where no = is written") {
    const Catalog c({.functions = {made("public", "loud", true)},
                     .uses = {{Kind::operators, {"", "="}, Kind::function, {"public", "loud"}},
                              {Kind::operators, {"", ">="}, Kind::function, {"public", "loud"}}}});
    for (const char* sql : {"SELECT 1 = 2", "SELECT a IN (1, 2) FROM t", "SELECT nullif(a, b) FROM t",
                            "SELECT * FROM t JOIN u USING (id)", "SELECT * FROM t NATURAL JOIN u",
                            "SELECT CASE a WHEN 1 THEN 2 END FROM t", "SELECT a BETWEEN 1 AND 2 FROM t"}) {
      CAPTURE(sql);
      CHECK(why(sql, c) == ClassReason::volatile_function);
    }
    CHECK(why("SELECT CASE WHEN a < 1 THEN 2 END FROM t", c) == ClassReason::proven_read);
  }

  TEST_CASE("beyond what is read of a catalogue no table of a user is trusted") {
    const Catalog c(CatalogContent{.cut = true}, {.read_tables = {"known"}});
    CHECK(c.is_primary_relation("", "anything"));
    CHECK_FALSE(c.is_primary_relation("pg_catalog", "pg_class"));
    CHECK_FALSE(c.is_primary_relation("", "known"));
  }

  TEST_CASE("rows of the catalogue that nobody understands are left out") {
    using Row = routing::CatalogRow;
    const std::vector<Row> rows = {{"f", "public", "f", "v", "u", ""},
                                   {"f", "pg_catalog", "g", "s", "s", ""},
                                   {"r", "public", "u", "", "", ""},
                                   {"rf", "public", "w", "", "public", "f"},
                                   {"x", "?", "?", "?", "?", "?"},
                                   {"zz", "?", "?", "?", "?", "?"},
                                   {"f"},
                                   {std::nullopt, "a", "b", "c", "d", "e"}};
    const CatalogContent content = routing::catalog_content(rows);
    CHECK(content.functions.size() == 2);
    CHECK(content.functions[0].is_volatile);
    CHECK_FALSE(content.functions[0].is_shipped);
    CHECK(content.functions[1].is_shipped);
    CHECK(content.primary_relations == std::vector<CatalogContent::Name>{{"public", "u"}});
    REQUIRE(content.uses.size() == 1);
    CHECK(content.uses[0].used.name == "f");
    CHECK_FALSE(content.cut);
    CHECK(routing::catalog_content(std::vector<Row>(routing::kMaxCatalogRows + 1, rows[2])).cut);
  }

  TEST_CASE("only session-level advisory locks pin") {
    CHECK(routing::is_session_advisory_lock("pg_try_advisory_lock_shared"));
    CHECK_FALSE(routing::is_session_advisory_lock("pg_advisory_xact_lock"));
    CHECK_FALSE(routing::is_session_advisory_lock("pg_advisory_unlock"));
  }

  TEST_CASE("views of a node's state are told from tables") {
    CHECK(routing::is_node_view("pg_stat_activity"));
    CHECK(routing::is_node_view("pg_locks"));
    CHECK_FALSE(routing::is_node_view("pg_stats"));
    CHECK_FALSE(routing::is_node_view("pg_class"));
  }
}
