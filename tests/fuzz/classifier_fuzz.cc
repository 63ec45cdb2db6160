#include "routing/classifier.h"
#include "routing/hints.h"

#include "tests/fuzz/fuzz_target.h"

// Input: the text of a statement. It is classified under both settings of
// standard_conforming_strings.

namespace {

using routing::ClassReason;
using routing::Classifier;
using routing::Facts;
using routing::StatementClass;

void check(const Facts& facts) {
  ENSURE(!routing::name(facts.kind).empty() && !routing::name(facts.why).empty());
  // Nothing is a read unless that is proven.
  if (facts.is_read())
    ENSURE(facts.why == ClassReason::proven_read || facts.why == ClassReason::empty_statement);
  if (facts.why == ClassReason::unparsed || facts.why == ClassReason::too_long)
    ENSURE(facts.kind == StatementClass::write);
}

bool same(const Facts& a, const Facts& b) {
  return a.kind == b.kind && a.why == b.why && a.pins == b.pins && a.step == b.step &&
         a.digest == b.digest && a.several == b.several && a.settings.size() == b.settings.size();
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view sql = fuzz::text_of(data, size);
  Classifier classifier({.cache_entries = 16, .max_statement = 64 << 10});
  for (const bool standard_strings : {true, false}) {
    const auto first = classifier.classify(sql, standard_strings);
    ENSURE(first != nullptr);
    check(*first);
    // What is remembered is what was found.
    const auto again = classifier.classify(sql, standard_strings);
    ENSURE(same(*first, *again));
    // Tags stand in comments, and inside the text.
    const bool commented = classifier.commented();
    routing::CommentTags tags;
    routing::find_tags(sql, standard_strings, &tags);
    ENSURE(tags.size() == 0 || commented || sql.size() > (64 << 10));
    for (const routing::CommentTag& tag : tags.all()) {
      ENSURE(tag.key.data() >= sql.data() && tag.value.data() + tag.value.size() < sql.data() + sql.size());
      char room[64];
      (void)routing::decode_tag(tag.key, room);
      (void)routing::decode_tag(tag.value, room);
    }
    (void)routing::hints_of(tags, {});
    routing::Scope corrected;
    corrected.refused = {first->digest};
    corrected.version = 1;
    ENSURE(!classifier.classify(sql, standard_strings, Classifier::Encoding::ascii_safe, corrected)->is_read() ||
           first->kind == routing::StatementClass::empty);
    check(*classifier.classify(sql, standard_strings, Classifier::Encoding::ambiguous));
  }
  return 0;
}
