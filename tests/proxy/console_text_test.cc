#include "proxy/console_text.h"

#include <doctest/doctest.h>

#include <string>

#include "proxy/console_chores.h"

using proxy::Chore;
using proxy::ConsoleWord;

namespace {

// "a|b": the words of a statement, quoted ones in their quotes.
std::string words(const std::string& text) {
  std::string out;
  for (const ConsoleWord& word : proxy::console_words(text)) {
    const std::string quote = word.quote == 0 ? "" : std::string(1, word.quote);
    out += (out.empty() ? "" : "|") + quote + word.text + quote;
  }
  return out;
}

std::string statements(const std::string& text) {
  const auto found = proxy::console_statements(text);
  if (!found) return "not closed";
  std::string out;
  for (const std::string_view one : *found) out += (out.empty() ? "" : "/") + words(std::string(one));
  return out;
}

std::optional<Chore> chore(const std::string& text) {
  return proxy::driver_chore(proxy::console_words(text), "ann");
}

std::string tag(const std::string& text) {
  const auto found = chore(text);
  return found ? found->tag : "none";
}

}  // namespace

TEST_SUITE("proxy/console_text") {
  TEST_CASE("semicolons separate statements, but not in quotes and comments; blank ones do not count") {
    CHECK(statements("") == "");
    CHECK(statements(" ; ;-- nothing\n;") == "");
    CHECK(statements("show pools; show lists") == "show|pools/show|lists");
    CHECK(statements("set a.b = 'x;y'; /* ; /* ; */ */ help -- ; more") == "set|a.b|=|'x;y'/help");
    CHECK(statements("kill \"a;b\"") == "kill|\"a;b\"");
  }

  TEST_CASE("what is not closed is told, not guessed") {
    for (const std::string text : {"'", "show 'x", "set a = 'it''s", "kill \"x", "/* /* */", "/*"}) {
      CAPTURE(text);
      CHECK(statements(text) == "not closed");
    }
  }

  TEST_CASE("quotes are taken off, doubled ones stand for one, and what stood in them is no keyword") {
    CHECK(words("kill 'it''s' \"My \"\"db\"\"\"") == "kill|'it's'|\"My \"db\"\"");
    CHECK(proxy::console_words("\"show\"").front().is("SHOW") == false);
    CHECK(proxy::console_words("sHoW").front().is("SHOW"));
  }

  TEST_CASE("names may have colons, slashes, dots and dollars; = , ( ) are words of their own") {
    CHECK(words("drain 10.0.0.1:5432 force") == "drain|10.0.0.1:5432|force");
    CHECK(words("kill client w0/17/4") == "kill|client|w0/17/4");
    CHECK(words("set pool.size=30") == "set|pool.size|=|30");
    CHECK(words("select version(), $1") == "select|version|(|)|,|$1");
    CHECK(words("a--b\nc/**/d") == "a|c|d");
  }

  TEST_CASE("bytes of any kind are words, and end somewhere") {
    CHECK(proxy::console_words(std::string("\xff\x01", 2)).size() == 1);
    CHECK(words(std::string(10000, ' ')) == "");
    CHECK(proxy::console_words(std::string(10000, '=')).size() == 10000);
  }

  TEST_CASE("what drivers say of themselves is answered with the tag that Postgres has for it") {
    CHECK(tag("BEGIN") == "BEGIN");
    CHECK(tag("begin isolation level read committed read only") == "BEGIN");
    CHECK(tag("START TRANSACTION") == "START TRANSACTION");
    CHECK(tag("end") == "COMMIT");
    CHECK(tag("abort") == "ROLLBACK");
    CHECK(chore("ROLLBACK TO SAVEPOINT \"_pg3_1\"")->step == Chore::Step::back_to_savepoint);
    CHECK(chore("ROLLBACK")->step == Chore::Step::end);
    CHECK(tag("SET extra_float_digits = 3") == "SET");
    CHECK(tag("SET application_name = 'PostgreSQL JDBC Driver'") == "SET");
    CHECK(tag("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY") == "SET");
    CHECK(tag("set client_encoding to 'UTF8'") == "SET");
    CHECK(tag("UNLISTEN *") == "UNLISTEN");
    CHECK(tag("RESET ALL") == "RESET");
    CHECK(tag("DISCARD ALL") == "DISCARD ALL");
    CHECK(*chore("DEALLOCATE ALL")->deallocates == "");
    CHECK(*chore("DEALLOCATE \"_pg3_0\"")->deallocates == "_pg3_0");
    CHECK(chore("SHOW TRANSACTION ISOLATION LEVEL")->value == "read committed");
    CHECK(chore("show SERVER_VERSION")->column == "server_version");
    CHECK(chore("select 1")->type == wire::ColumnType::int8);
    CHECK(chore("SELECT pg_catalog.version()")->column == "version");
    CHECK(chore("SELECT 'x' AS y")->column == "y");
    CHECK(chore("select current_user")->value == "ann");
  }

  TEST_CASE("what changes or asks for something real is no chore") {
    for (const std::string text :
         {"SET pool.size = 3", "SET pool.size TO 3", "SHOW POOLS", "SHOW", "SELECT", "SELECT * FROM pg_class",
          "SELECT 1, 2", "SELECT pg_terminate_backend(1)", "RESET pool.size", "SET", "RELOAD", "\"begin\"",
          "SELECT 99999999999999999999"}) {
      CAPTURE(text);
      CHECK(tag(text) == "none");
    }
  }
}
