#include "routing/lexer.h"

#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tests/routing/corpus.h"

namespace {

using routing::alike_text;
using routing::digest;
using routing::literal_text;

constexpr routing::DigestKey kKey{0x0123456789abcdfULL};

bool alike(std::string_view a, std::string_view b, bool standard = true) {
  const auto x = digest(a, standard, kKey);
  const auto y = digest(b, standard, kKey);
  // The text for the grammar has to agree with the digest, always.
  const bool same = x == y;
  CHECK(same == (alike_text(a, standard).sql == alike_text(b, standard).sql));
  return same;
}

bool broken(std::string_view sql, bool standard = true) {
  return digest(sql, standard, kKey).broken;
}

std::string folded(std::string_view sql, bool standard = true) {
  return alike_text(sql, standard).sql;
}

}  // namespace

TEST_SUITE("routing/lexer") {
  TEST_CASE("literals, case, blanks and comments do not change the digest") {
    CHECK(alike("SELECT * FROM t WHERE id = 1", "select  *\n\tfrom T where ID=42 -- x"));
    CHECK(alike("SELECT /* a /* b */ c */ 'x'", "SELECT 'it''s'"));
    CHECK(alike("SELECT 'a'", "SELECT E'a\\'b'"));
    CHECK(alike("SELECT 'a'", "SELECT $x$ a ' $ $y$ $x$"));
    CHECK(alike("SELECT 'a'", "SELECT N'b'"));
    CHECK(alike("SELECT 1", "SELECT 1.5e-3"));
    CHECK(alike("SELECT 1", "SELECT 0x1F_2A"));
    CHECK(alike("SELECT 1", "SELECT 1_000.5"));
    CHECK(alike("SELECT B'1'", "SELECT X'ff'"));
    CHECK(alike("SELECT 1", ";;SELECT 1; ; -- end"));
    CHECK(alike("SELECT 'a'", "SELECT 'a'\n  'b'"));
    CHECK(alike("SELECT 'a'", "SELECT 'a' -- c\n 'b'"));
  }

  TEST_CASE("what can change the meaning changes the digest") {
    CHECK_FALSE(alike("SELECT a", "SELECT \"a\""));
    CHECK_FALSE(alike("SELECT \"a\"", "SELECT \"A\""));
    CHECK_FALSE(alike("SELECT 1", "SELECT '1'"));
    CHECK_FALSE(alike("SELECT '1'", "SELECT B'1'"));
    CHECK_FALSE(alike("SELECT 1", "SELECT $1"));
    CHECK_FALSE(alike("SELECT $1", "SELECT $2"));
    CHECK_FALSE(alike("SELECT a + b", "SELECT a - b"));
    CHECK_FALSE(alike("SELECT a <= b", "SELECT a < = b"));
    CHECK_FALSE(alike("SELECT ab", "SELECT a b"));
    CHECK_FALSE(alike("SELECT a.b", "SELECT a, b"));
    CHECK_FALSE(alike("SELECT 1; SELECT 2", "SELECT 1 SELECT 2"));
    CHECK_FALSE(alike("SELECT 'a'\n'b'", "SELECT 'a' 'b'"));
    CHECK_FALSE(alike("SELECT f()", "SELECT f"));
    CHECK_FALSE(alike("SELECT (1)", "SELECT 1"));
    CHECK_FALSE(alike("SELECT 1", "SELECT 1 FOR UPDATE"));
    CHECK_FALSE(alike("SELECT 'a' 'b'", "SELECT 'a'"));
    CHECK_FALSE(alike("BEGIN READ ONLY", "BEGIN READ WRITE"));
    CHECK_FALSE(alike("SELECT abcdefg", "SELECT abcdefgh"));
    CHECK_FALSE(alike("SELECT abcdefghijklmn", "SELECT abcdefg hijklmn"));
    CHECK_FALSE(alike("SELECT \xC3\x84", "SELECT \xC3\xA4"));
  }

  TEST_CASE("lists of constants fold to their first element, rows to their first row") {
    CHECK(alike("SELECT 1 WHERE a IN (1)", "SELECT 1 WHERE a IN (1, -2, 3, 'x', NULL, $4)"));
    CHECK(alike("SELECT ARRAY[1]", "SELECT ARRAY[1,2,3]"));
    CHECK(
        alike("INSERT INTO t VALUES (1,'a')", "INSERT INTO t VALUES (1,'a'),(2,DEFAULT),(3,'c')"));
    CHECK(alike("VALUES ($1,$2)", "VALUES ($1,$2),($3,$4)"));
    CHECK_FALSE(alike("SELECT f(1)", "SELECT f(1, a)"));
    CHECK_FALSE(alike("SELECT f(1)", "SELECT f(1, 2 + nextval('s'))"));
    CHECK_FALSE(alike("SELECT f(1)", "SELECT f(1, 'x'::regclass)"));
    CHECK_FALSE(alike("SELECT f(1)", "SELECT f(1, g(2))"));
    CHECK_FALSE(alike("VALUES (1)", "VALUES (1), (a)"));
    CHECK_FALSE(alike("VALUES (1)", "VALUES (1), (2)[1]"));
    CHECK_FALSE(alike("SELECT (1), (2)", "SELECT (1), (2), a"));
    CHECK_FALSE(alike("SELECT f()", "SELECT f(1)"));
    CHECK_FALSE(alike("SELECT (1,)", "SELECT (1)"));
    CHECK_FALSE(alike("SELECT (,1)", "SELECT (1)"));
    CHECK_FALSE(alike("SELECT (1, 2", "SELECT (1)"));
    CHECK(folded("SELECT f(1, 2, 3 + a, 4)") == "select f ( 1 , 1 + a , 1 )");
    CHECK(folded("VALUES (1, 2), (3, 4), (x, 5), (6), (7)") == "values ( 1 ) , ( x , 1 ) , ( 1 )");
  }

  TEST_CASE("a minus goes with its number only where nothing binds tighter") {
    CHECK(alike("SELECT 1 WHERE a = 5", "SELECT 1 WHERE a = -5"));
    CHECK(alike("SELECT 1 WHERE a = 5", "SELECT 1 WHERE a=- 5"));
    CHECK(alike("SELECT f(5)", "SELECT f(-5)"));
    CHECK_FALSE(alike("SELECT a, b - 5", "SELECT a, b 5"));
    CHECK_FALSE(alike("SELECT 1 WHERE a = 5::money", "SELECT 1 WHERE a = -5::money"));
    CHECK_FALSE(alike("SELECT a - 5", "SELECT a + 5"));
    CHECK_FALSE(alike("SELECT 1 WHERE a = -b", "SELECT 1 WHERE a = b"));
    CHECK_FALSE(alike("SELECT 1 WHERE a @-5", "SELECT 1 WHERE a @ 5"));  // the operator is @-
    CHECK(folded("SELECT 1 WHERE a<>-5") == "select 1 where a <> 1");
  }

  TEST_CASE("literals that decide on meaning stay") {
    CHECK_FALSE(alike("SELECT current_setting('a')", "SELECT current_setting('b')"));
    CHECK_FALSE(alike("SELECT \"current_setting\"('a')", "SELECT \"current_setting\"('b')"));
    CHECK_FALSE(alike("SELECT U&\"a!0061\" UESCAPE '!'", "SELECT U&\"a!0061\" UESCAPE '?'"));
    CHECK(alike("SELECT f('a')", "SELECT f('b')"));
  }

  TEST_CASE("standard_conforming_strings decides where a string ends") {
    const std::string_view text = R"(SELECT 'a\' , nextval('s') --')";
    CHECK(alike(text, "SELECT 'x', nextval('s')"));
    CHECK(folded(text, false) == "select '' s ''");
    CHECK(literal_text(text, false).sql == R"(SELECT E'a\' , nextval(' s ') --')");
    CHECK(broken(R"(SELECT 'a\')", false));
    CHECK_FALSE(broken(R"(SELECT 'a\')", true));
    CHECK(literal_text(R"(SELECT 'a', N'b\'c')", false).sql == R"(SELECT 'a' , E'b\'c')");
  }

  TEST_CASE("a string that continues on the next line keeps its escapes") {
    CHECK(folded("SELECT E'a'\n'b\\'c'") == "select ''");
    CHECK(broken("SELECT E'a'\n'b\\'"));
    CHECK_FALSE(broken("SELECT 'a'\n'b\\'"));
  }

  TEST_CASE("a doubled quote ends a bit string and starts another one") {
    CHECK(folded("SELECT B'1''0'") == "select b'0' ''");
    CHECK(folded("SELECT 'a''b'") == "select ''");
  }

  TEST_CASE("numbers that came with Postgres 16 become plain ones for the grammar") {
    CHECK(literal_text("SELECT 0x1F, 0b101, 0o17, 1_000, 1_0.2_5", true).sql ==
          "SELECT 31 , 5 , 15 , 1000 , 10.25");
  }

  TEST_CASE("what is unterminated is broken, and only that") {
    for (const char* sql : {"SELECT '", "SELECT \"a", "/* ", "/* /* */", "$$ ", "$a$ $b$", "E'\\'",
                            "U&'x", "U&\"x", "B'", "X'1", "N'"}) {
      CAPTURE(sql);
      CHECK(broken(sql));
    }
    for (const char* sql : {"", "$", "$a", "$1", "a$b$c", "1..2", "'", "\\"}) {
      CAPTURE(sql);
      CHECK(broken(sql) == (std::string_view(sql) == "'"));
    }
    CHECK(broken(std::string_view("SELECT 1\0", 9)));
  }

  TEST_CASE("depth grows with brackets and chains, not with lists") {
    const auto depth = [](const std::string& sql) { return alike_text(sql, true).depth; };
    std::string list = "SELECT a", chain = "SELECT a", nest = "SELECT ";
    for (int i = 0; i < 150; ++i) {
      list += ", a";
      chain += " + a";
      nest += "(";
    }
    CHECK(depth(list) < 10);
    CHECK(depth(chain) > 150);
    CHECK(depth(nest + "1") > 150);
    for (int i = 0; i < 100; ++i) nest += "(";
    CHECK(depth(nest + "1") == SIZE_MAX);
    // Chains behind brackets add up with what is in them.
    CHECK(depth("SELECT ((((a + a) + a) + a) + a)") >= 9);
  }

  TEST_CASE("the shown half is the same for every key, the other half is not") {
    const routing::DigestKey other{0x7654321};
    const auto a = digest("SELECT a FROM t", true, kKey);
    const auto b = digest("SELECT a FROM t", true, other);
    CHECK(a.shown == b.shown);
    CHECK(a.check != b.check);
    CHECK(a.shown == 0x3cac05d90d3e0a14ULL);  // rules in configuration files name statements by it
  }

  TEST_CASE("random bytes end, do not crash, and the digest agrees with the text for the grammar") {
    std::mt19937_64 random(20240611);
    const std::string alphabet = "aAeEuUnNbBxX0159_.,;:()[]'\"$&\\/*-+<=>!@# \n\t\xC3";
    std::vector<std::string> texts;
    for (int i = 0; i < 20'000; ++i) {
      std::string s(random() % 24, ' ');
      for (char& c : s) c = alphabet[random() % alphabet.size()];
      for (const bool standard : {true, false}) {
        const auto d = digest(s, standard, kKey);
        const auto t = alike_text(s, standard);
        CHECK(d.broken == t.broken);
        CHECK(literal_text(s, standard).broken == t.broken);
        // Normal form: folding the folded text changes nothing, save for what only looks different.
        if (!t.broken) CHECK_FALSE(alike_text(t.sql, true).broken);
      }
      static_cast<void>(routing::by_words(s, true));
    }
  }

  TEST_CASE("no two statements of the corpus that are not alike share half a digest") {
    std::vector<std::pair<routing::Digest, std::string>> seen;
    for (const corpus::Row& row : corpus::load()) {
      const auto d = digest(row.sql, true, kKey);
      const std::string text = alike_text(row.sql, true).sql;
      for (const auto& [other, what] : seen) {
        if (what == text) continue;
        CAPTURE(what);
        CAPTURE(text);
        CHECK(other.shown != d.shown);
        CHECK(other.check != d.check);
      }
      seen.emplace_back(d, text);
    }
  }

  TEST_CASE("what operators are shown has no literal in it, and an end") {
    const auto shown = [](std::string_view sql, std::size_t longest = 500) {
      return routing::shown_text(sql, true, longest);
    };
    CHECK(shown("SELECT  a.b, c[1] FROM \"T\" -- secret\n WHERE d = 'secret' AND e IN (1,2,3) AND f(g) = -5") ==
          "select a.b, c[?] from \"T\" where d = ? and e in (?) and f (g) = ?");
    CHECK(shown("insert into t values (1, 'secret'), (2, 'secret')") == "insert into t values (?)");
    CHECK(shown("select E'\\'secret', $$secret$$, U&'secret', B'01', 1.5e3, current_setting('secret'), $1")
              .find("secret") == std::string::npos);
    CHECK(shown("alter role a password 'secret'") == "alter role a password ?");
    CHECK(shown("select 'secret") == "");
    CHECK(shown("select /* secret") == "");
    CHECK(shown(";; ;") == "");
    CHECK(shown("select abcdefghij, klmnop", 12) == "select ab...");
    CHECK(shown("select \"\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\"", 14) == "select \"\xc3\xa4...");
    CHECK(shown("select \"a\nb\"") == "select \"a b\"");
    const std::string much = "select '" + std::string(100'000, 'x') + "', " + std::string(100'000, 'y');
    CHECK(shown(much).size() <= 500);
  }

  TEST_CASE("a digest is read as it is printed") {
    CHECK(routing::print_digest(0xabc) == "0000000000000abc");
    CHECK(routing::parse_digest(routing::print_digest(0xfedcba9876543210)) == 0xfedcba9876543210);
    CHECK_FALSE(routing::parse_digest("abc"));
    CHECK_FALSE(routing::parse_digest("0000000000000abg"));
    CHECK_FALSE(routing::parse_digest("0x00000000000abc"));
    CHECK_FALSE(routing::parse_digest("-000000000000abc"));
  }
}
