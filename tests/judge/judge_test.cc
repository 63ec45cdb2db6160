#include <algorithm>
#include <fstream>
#include <sstream>

#include "routing/catalog_query.h"
#include "routing/classifier.h"
#include "tests/integration/fixture.h"
#include "tests/judge/statements.h"
#include "tests/routing/corpus.h"

// Postgres judges the classifier: whatever is called a read must be taken by a standby. What a standby takes and
// must not get is known beforehand: corpus_primary.sql, and the traps of random statements.
using namespace integration;

namespace {

std::string file(const std::string& path) { return read_file(std::string(PGSLUICE_SOURCE_ROOT) + "/tests/" + path); }

// The database that the statements name, on the shared cluster.
Connection court_of(std::size_t node) {
  static const bool made = [] {
    REQUIRE(shared_cluster().connect(0, "postgres").exec("create database judge owner app").ok());
    Connection owner = shared_cluster().connect(0, "judge");
    for (const char* schema : {"routing/corpus_schema.sql", "judge/schema.sql"}) {
      const Result done = owner.exec(file(schema));
      REQUIRE_MESSAGE(done.ok(), done.message());
    }
    shared_cluster().wait_replicated();
    return true;
  }();
  REQUIRE(made);
  return shared_cluster().connect(node, "judge");
}

// Its connections, and what the classifier knows of it.
struct Court {
  Court() {
    REQUIRE(primary.exec("set search_path = pg_catalog; set jit = off").ok());
    const Result read = primary.exec(routing::kCatalogQuery);
    REQUIRE_MESSAGE(read.ok(), read.message());
    std::vector<routing::CatalogRow> rows;
    for (int row = 0; row < read.rows(); ++row) {
      rows.emplace_back();
      for (int column = 0; column < read.columns(); ++column) rows.back().push_back(read.at(row, column));
    }
    scope.catalog = std::make_shared<const routing::Catalog>(routing::catalog_content(rows));
    scope.version = 1;
    REQUIRE(standby.exec("set statement_timeout = '5s'").ok());
  }

  std::shared_ptr<const routing::Facts> facts(const std::string& sql) {
    return classifier.classify(sql, true, routing::Classifier::Encoding::ascii_safe, scope);
  }
  // What the standby has against it because it is one; "" is nothing.
  std::string convicts(const std::string& sql) {
    const Result result = run(sql);
    const std::string code = result.code(), message = result.message();
    const bool kin = code == "0A000" || code == "55000" || code == "XX000";
    const bool speaks_of_it =
        message.find("recovery") != std::string::npos || message.find("standby") != std::string::npos;
    return code == "25006" || (kin && speaks_of_it) ? code + " " + message : "";
  }
  Result run(const std::string& sql) {
    std::string data;
    const std::size_t word = sql.find_first_not_of(" \n\t(");
    const bool copies = word != sql.npos && (sql.compare(word, 4, "COPY") == 0 || sql.compare(word, 4, "copy") == 0);
    if (!standby.ok()) standby = court_of(1);
    return copies ? standby.copy_out(sql, data) : standby.exec(sql);
  }

  Connection primary = court_of(0);
  Connection standby = court_of(1);
  routing::Scope scope;
  routing::Classifier classifier{{.cache_entries = 10'000, .max_statement = 64 << 10}};
};

}  // namespace

TEST_SUITE("judge") {
  TEST_CASE(
      "promise 1: requirement 24: a standby takes every statement of the corpus that is called a read") {
    Court court;
    int reads = 0, taken = 0;
    for (const corpus::Row& row : corpus::load()) {
      if (row.sql.find("pg_sleep") != row.sql.npos) continue;
      if (court.facts(row.sql)->kind != routing::StatementClass::read) continue;
      ++reads;
      CAPTURE(row.line);
      CAPTURE(row.sql);
      const std::string conviction = court.convicts(row.sql);
      CHECK_MESSAGE(conviction.empty(), conviction);
      taken += court.run(row.sql).ok() ? 1 : 0;
    }
    MESSAGE("reads of the corpus: " << reads << ", without any error: " << taken);
    CHECK(taken > reads * 3 / 4);  // the rest names what is not there
  }

  TEST_CASE(
      "promise 1: requirement 24: what a standby takes without complaint, and must not get, is no read") {
    Court court;
    std::istringstream lines(file("routing/corpus_primary.sql"));
    std::string sql;
    int seen = 0;
    while (std::getline(lines, sql)) {
      if (sql.empty() || sql.starts_with("--")) continue;
      ++seen;
      CAPTURE(sql);
      const Result result = court.run(sql);
      CHECK_MESSAGE(result.ok(), result.message());  // else it does not belong to this list
      CHECK_FALSE(court.facts(sql)->is_read());
    }
    CHECK(seen > 50);
    court.standby.exec("select pg_advisory_unlock_all()");
  }

  TEST_CASE("promise 1: no function that is called a read is refused by a standby") {
    Court court;
    // Every built-in one that takes up to four arguments of types of its own, called with NULLs: those that are
    // strict do not run, and what they would say is said by the list in catalog.cc.
    const Result functions = court.primary.exec(
        "select distinct 'SELECT pg_catalog.' || quote_ident(proname) || '(' || coalesce((select "
        "string_agg('NULL::' || format_type(t, null), ', ' order by i) from unnest(proargtypes) with ordinality "
        "a(t, i)), '') || ')' from pg_proc where pronamespace = 'pg_catalog'::regnamespace and prokind = 'f' and "
        "provariadic = 0 and not proisstrict and prorettype not in ('internal'::regtype, 'trigger'::regtype, "
        "'event_trigger'::regtype) and not exists (select from unnest(proargtypes) t where t in "
        "('internal'::regtype, 'cstring'::regtype, '\"any\"'::regtype) or t::regtype::text like 'any%') or "
        "proargtypes = '' and pronamespace = 'pg_catalog'::regnamespace and prokind = 'f' and prorettype not in "
        "('internal'::regtype, 'trigger'::regtype, 'event_trigger'::regtype) order by 1");
    REQUIRE_MESSAGE(functions.rows() > 50, functions.message());
    for (int row = 0; row < functions.rows(); ++row) {
      const std::string sql = functions.at(row, 0);
      if (!court.facts(sql)->is_read()) continue;
      CAPTURE(sql);
      const std::string conviction = court.convicts(sql);
      CHECK_MESSAGE(conviction.empty(), conviction);
    }
  }

  // PGSLUICE_JUDGE=20000: so many; PGSLUICE_SEED: these.
  TEST_CASE("promise 1: a standby takes every random statement that is called a read, and none with a trap is") {
    Court court;
    const char* many = std::getenv("PGSLUICE_JUDGE");
    const char* seeded = std::getenv("PGSLUICE_SEED");
    const int count = many != nullptr ? std::atoi(many) : 300;
    const std::uint64_t seed = seeded != nullptr ? std::strtoull(seeded, nullptr, 10) : 20261123;
    judge::Statements statements(seed);
    int reads = 0, failed = 0, traps = 0;
    for (int i = 0; i < count; ++i) {
      const judge::Statement statement = statements.next();
      CAPTURE(seed);
      CAPTURE(i);
      CAPTURE(statement.sql);
      const bool read = court.facts(statement.sql)->is_read();
      traps += statement.trap.empty() ? 0 : 1;
      if (!read) continue;
      ++reads;
      CHECK_MESSAGE(statement.trap.empty(), statement.trap);
      const std::string conviction = court.convicts(statement.sql);
      CHECK_MESSAGE(conviction.empty(), conviction);
      const Result result = court.run(statement.sql);
      if (!result.ok() && ++failed <= 3 && many != nullptr) MESSAGE(statement.sql << ": " << result.message());
    }
    MESSAGE("PGSLUICE_SEED=" << seed << " statements=" << count << " reads=" << reads << " traps=" << traps
                             << " failed otherwise=" << failed);
    CHECK(reads > count / 4);
    CHECK(failed < reads / 3);
  }
}
