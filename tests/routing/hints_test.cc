#include "routing/hints.h"

#include <string>

#include <doctest/doctest.h>

#include "routing/classifier.h"
#include "routing/lexer.h"

namespace {

using namespace routing;

// "key=value,...", decoded.
std::string tags_of(std::string_view sql, bool standard_strings = true) {
  CommentTags tags;
  find_tags(sql, standard_strings, &tags);
  std::string out;
  for (const CommentTag& tag : tags.all()) {
    char key[64], value[64];
    const auto k = decode_tag(tag.key, key), v = decode_tag(tag.value, value);
    out += (out.empty() ? "" : ",") + std::string(k.value_or("?")) + "=" + std::string(v.value_or("?"));
  }
  return out;
}

Hints hints(std::string_view sql, const HintLimits& limits = {}) {
  CommentTags tags;
  find_tags(sql, true, &tags);
  return hints_of(tags, limits);
}

}  // namespace

TEST_SUITE("routing/hints") {
  TEST_CASE("a comment names the class of its statement, where the configuration listens to that") {
    CHECK(hints("select 1 /*pgsluice_class='low'*/").service_class == "low");
    CHECK(hints("select 1 /*pgsluice_class='low'*/").any());
    CHECK_FALSE(hints("select 1 /*class='low'*/").any());
    CHECK_FALSE(hints("select 1 /*pgsluice_class='low'*/", {.service_class = false}).any());
    CHECK_FALSE(hints("select ' /*pgsluice_class=''low''*/'").any());
  }

  TEST_CASE("requirement 26: tags stand in comments before the first token or behind the last one") {
    CHECK(tags_of("select 1 /*a='1'*/") == "a=1");
    CHECK(tags_of("/*a='1'*/ select 1") == "a=1");
    CHECK(tags_of("/*a='1'*/ select 1 /*b='2'*/") == "a=1,b=2");
    CHECK(tags_of("select 1 /*a='1'*/;") == "a=1");
    CHECK(tags_of("select 1; /*a='1'*/ ;") == "a=1");
    CHECK(tags_of("select 1 -- why\n/*a='1'*/") == "a=1");
    CHECK(tags_of("select /*a='1'*/ 1") == "");
    CHECK(tags_of("select 1 /*a='1'*/; select 2") == "");
    CHECK(tags_of("/*a='1'*/ /*b='2'*/ select 1") == "a=1,b=2");
    CHECK(tags_of("") == "");
  }

  TEST_CASE("requirement 26: what looks like a hint inside a literal, a name or another comment is text") {
    CHECK(tags_of("select ' /*a=''1''*/'") == "");
    CHECK(tags_of("select E'\\' /*a=''1''*/'") == "");
    CHECK(tags_of("select '\\' /*a='1'*/", true) == "a=1");
    CHECK(tags_of("select '\\' /*a='1'*/ '", false) == "");
    CHECK(tags_of("select $$ /*a='1'*/ $$") == "");
    CHECK(tags_of("select $x$ $$ /*a='1'*/ $x$") == "");
    CHECK(tags_of("select 1 as \" /*a='1'*/\"") == "");
    CHECK(tags_of("select 1 -- /*a='1'*/") == "");
    CHECK(tags_of("select 1 /* /*a='1'*/ */") == "");
    CHECK(tags_of("select '1 /*a='1'*/") == "");  // not closed
    CHECK(tags_of("select 1 /*a='1'") == "");
  }

  TEST_CASE("tags are written as sqlcommenter writes them; a comment in another form has none") {
    CHECK(tags_of("select 1 /*route='%2Fpolls%20x',controller='a%27b'*/") == "route=/polls x,controller=a'b");
    CHECK(tags_of("select 1 /*a='it\\'s',b='2'*/") == "a=it's,b=2");
    CHECK(tags_of("select 1 /* a='1' , b='2' */") == "a=1,b=2");
    CHECK(tags_of("select 1 /*a='',b='100%'*/") == "a=,b=100%");
    CHECK(tags_of("select 1 /*%61='1'*/") == "a=1");
    for (const char* comment : {"/**/", "/***/", "/*+ SeqScan(a) */", "/* don't */", "/*a=1*/", "/*a='1' b='2'*/",
                                "/*='1'*/", "/*a='1',*/ ", "/*a='1*/", "/*a*/", "/*a='1'x*/"}) {
      CAPTURE(comment);
      const std::string found = tags_of(std::string("select 1 ") + comment);
      const bool none = found.empty() || found == "a=1";
      CHECK(none);
    }
    CHECK(tags_of("select 1 /*a='1' b='2'*/") == "");
    CHECK(tags_of("select 1 /*b='2'*/ /* don't */") == "b=2");
    std::string many = "select 1 /*";
    for (int i = 0; i < 100; ++i) many += (i == 0 ? "a" : ",a") + std::to_string(i) + "='1'";
    CommentTags tags;
    find_tags(many + "*/", true, &tags);
    CHECK(tags.size() == CommentTags::kMax);
  }

  TEST_CASE("requirement 26: hints are words that the configuration allows, and no more than it allows") {
    using conf::Consistency;
    using conf::RouteTarget;
    CHECK(hints("select 1 /*pgsluice_route='primary'*/").target == RouteTarget::primary);
    CHECK(hints("select 1 /*pgsluice_route='replica',x='y'*/").target == RouteTarget::replica);
    CHECK(hints("select 1 /*pgsluice_consistency='eventual'*/").consistency == Consistency::eventual);
    CHECK_FALSE(hints("select 1 /*route='primary'*/").any());
    CHECK_FALSE(hints("select 1 /*pgsluice_route='PRIMARY'*/").any());
    CHECK_FALSE(hints("select 1 /*pgsluice_route='nowhere'*/").any());
    CHECK_FALSE(hints("select 1 /*pgsluice_='primary'*/").any());
    CHECK_FALSE(hints("select 1 /*pgsluice_route='primary'*/", {.route = false}).any());
    CHECK_FALSE(hints("select 1 /*pgsluice_consistency='eventual'*/", {.consistency = false}).any());
    const HintLimits limited{.freshest = Consistency::session};
    CHECK(hints("select 1 /*pgsluice_consistency='primary'*/", limited).consistency == Consistency::session);
    CHECK(hints("select 1 /*pgsluice_consistency='eventual'*/", limited).consistency == Consistency::eventual);
    CHECK(hints("select 1 /*pgsluice_route='primary'*/", limited).target == RouteTarget::any);
    CHECK(hints("select 1 /*pgsluice_route='primary'*/", limited).consistency == Consistency::session);
    CHECK(hints("select 1 /*pgsluice_route='replica'*/", limited).target == RouteTarget::replica);
  }

  TEST_CASE("requirement 26: hints are no part of what is remembered of a digest") {
    Classifier classifier({.cache_entries = 10, .max_statement = 1000});
    const auto plain = classifier.classify("select 1", true);
    CHECK_FALSE(classifier.commented());
    const auto hinted = classifier.classify("select 2 /*pgsluice_route='primary'*/", true);
    CHECK(classifier.commented());
    CHECK(hinted == plain);
    (void)classifier.classify("select 3", true);
    CHECK_FALSE(classifier.commented());
    (void)classifier.classify("select '/* 4 */'", true);
    CHECK_FALSE(classifier.commented());
  }
}
