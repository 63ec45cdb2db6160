#include "routing/classifier.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "routing/grammar.h"
#include "routing/lexer.h"

namespace routing {
namespace {

using FactsPtr = std::shared_ptr<const Facts>;

// A bounded map from two 64-bit hashes to facts. Slots are given away by a clock's hand: an entry
// that was used since the hand last came by is spared once. The index is open addressing at most
// half full; places in it come from the secret half, so nobody can aim at one. No allocation after
// construction.
class Cache {
 public:
  struct Slot {
    std::uint64_t check = 0, shown = 0;
    FactsPtr facts;
    bool used = false;
  };

  void resize(std::size_t entries) {
    limit_ = std::clamp<std::size_t>(entries, 1, kMaxEntries);
    std::size_t places = 4;
    while (places < 2 * limit_) places *= 2;
    index_.assign(places, kFree);
    slots_.clear();
    slots_.reserve(limit_);
    hand_ = 0;
  }
  void clear() { resize(limit_); }

  Slot* find(const Digest& d) {
    for (std::size_t i = home(d.check); index_[i] != kFree; i = next(i)) {
      Slot& s = slots_[index_[i]];
      if (s.check == d.check && s.shown == d.shown) {
        s.used = true;
        return &s;
      }
    }
    return nullptr;
  }

  // Returns the entry; true in `evicted` if another had to go.
  Slot& put(const Digest& d, FactsPtr facts, bool& evicted) {
    evicted = false;
    if (Slot* s = find(d)) {
      s->facts = std::move(facts);
      return *s;
    }
    std::size_t where = slots_.size();
    if (where < limit_) {
      slots_.emplace_back();
    } else {
      while (slots_[hand_].used) {
        slots_[hand_].used = false;
        hand_ = hand_ + 1 == limit_ ? 0 : hand_ + 1;
      }
      where = hand_;
      hand_ = hand_ + 1 == limit_ ? 0 : hand_ + 1;
      erase_from_index(where);
      evicted = true;
    }
    // Not "used" yet: what is seen once goes before what is seen twice.
    slots_[where] = {d.check, d.shown, std::move(facts), false};
    std::size_t i = home(d.check);
    while (index_[i] != kFree) i = next(i);
    index_[i] = static_cast<std::uint32_t>(where);
    return slots_[where];
  }

 private:
  static constexpr std::uint32_t kFree = UINT32_MAX;
  static constexpr std::size_t kMaxEntries = std::size_t{1} << 28;  // fits the index's 32 bits

  std::size_t home(std::uint64_t check) const {
    return static_cast<std::size_t>((check * 0x9e3779b97f4a7c15ULL) >> 32) & (index_.size() - 1);
  }
  std::size_t next(std::size_t i) const { return (i + 1) & (index_.size() - 1); }

  // Closes the gap, so that no search ends early: an entry moves back when its home is not
  // between the gap and itself.
  void erase_from_index(std::size_t slot) {
    std::size_t gap = home(slots_[slot].check);
    while (index_[gap] != slot) gap = next(gap);
    for (std::size_t i = next(gap); index_[i] != kFree; i = next(i)) {
      const std::size_t wanted = home(slots_[index_[i]].check);
      const std::size_t mask = index_.size() - 1;
      if (((i - wanted) & mask) >= ((i - gap) & mask)) {
        index_[gap] = index_[i];
        gap = i;
      }
    }
    index_[gap] = kFree;
  }

  std::size_t limit_ = 1, hand_ = 0;
  std::vector<std::uint32_t> index_;
  std::vector<Slot> slots_;
};

}  // namespace

struct Classifier::Impl {
  Limits limits{};
  Counters counters;
  DigestKey key = DigestKey::random();
  Cache by_digest;
  Cache by_text;    // statements whose meaning is their literals, and what does not parse
  FactsPtr answer;  // what is remembered nowhere
  FactsPtr by_literals = std::make_shared<const Facts>(literal_mark());  // "look into by_text"
  FactsPtr too_long = std::make_shared<const Facts>(refused(ClassReason::too_long, {}, 0));

  static Facts literal_mark() {
    Facts f;
    f.depends_on_literals = true;
    return f;
  }
  static Facts refused(ClassReason why, Words words, std::uint64_t shown) {
    Facts f;
    f.kind = StatementClass::write;
    f.why = why;
    f.only_suspected = false;
    f.pins = words.pins;
    f.sees_prepared = words.sees_prepared;
    f.digest = shown;
    return f;
  }

  void resize() {
    by_digest.resize(limits.cache_entries);
    by_text.resize(limits.cache_entries / 8);
  }

  const FactsPtr& unseen(ClassReason why, Words words, std::uint64_t shown) {
    if (why == ClassReason::too_long && words.pins == Pin::none && !words.sees_prepared && shown == 0)
      return too_long;
    answer = std::make_shared<const Facts>(refused(why, words, shown));
    return answer;
  }

  const FactsPtr& remember(Cache& cache, const Digest& d, Facts facts) {
    facts.look_plain();
    return remember(cache, d, std::make_shared<const Facts>(std::move(facts)));
  }
  const FactsPtr& remember(Cache& cache, const Digest& d, FactsPtr facts) {
    bool evicted = false;
    const FactsPtr& kept = cache.put(d, std::move(facts), evicted).facts;
    if (evicted) ++counters.evictions;
    return kept;
  }

  const FactsPtr& miss(std::string_view sql, bool standard_strings, const Scope& scope, const Digest& d);
};

namespace {

// The same text means something else in another database. Neither can be chosen so that this ends up where
// something else is: the check's half is secret.
Digest in_scope(Digest d, const Scope& scope) {
  d.check ^= scope.version * 0x9e3779b97f4a7c15ULL;
  return d;
}

bool contains(const std::vector<std::uint64_t>& sorted, std::uint64_t digest) {
  return std::binary_search(sorted.begin(), sorted.end(), digest);
}

// What is known better than by looking at the text. An operator who says both means the primary.
void correct(Facts& facts, const Scope& scope) {
  const auto become = [&facts](StatementClass kind, ClassReason why) {
    facts.kind = kind;
    facts.why = why;
  };
  const bool may_be_read = facts.kind == StatementClass::write && facts.only_suspected && !any(facts.pins);
  if (may_be_read && contains(scope.read_digests, facts.digest))
    become(StatementClass::read, ClassReason::overruled);
  if (facts.kind != StatementClass::read) return;
  if (contains(scope.refused, facts.digest)) become(StatementClass::write, ClassReason::refused_by_replica);
  if (contains(scope.primary_digests, facts.digest)) become(StatementClass::write, ClassReason::overruled);
}

}  // namespace

// Out of the fast path. The digest stands for `alike`, so facts found from that text may be
// remembered by it; everything else is remembered by the text itself.
const FactsPtr& Classifier::Impl::miss(std::string_view sql, bool standard_strings, const Scope& scope,
                                       const Digest& d) {
  if (d.broken || std::memchr(sql.data(), '\0', sql.size()) != nullptr) {
    ++counters.unparsed;
    return unseen(ClassReason::unparsed, by_words(sql, standard_strings), d.shown);
  }
  const Digest exact = in_scope(exact_digest(sql, standard_strings, key), scope);
  if (const Cache::Slot* hit = by_text.find(exact)) {
    ++counters.hits;
    return hit->facts;
  }
  ++counters.misses;

  Facts facts;
  facts.digest = d.shown;
  const GrammarText alike = alike_text(sql, standard_strings);
  if (alike.tokens > kMaxGrammarTokens || alike.depth > kMaxGrammarDepth) {
    return remember(by_digest, d,
                    refused(ClassReason::too_long, by_words(sql, standard_strings), d.shown));
  }
  if (find_facts(alike.sql, *scope.catalog, facts)) {
    if (!facts.depends_on_literals) {
      correct(facts, scope);
      return remember(by_digest, d, std::move(facts));
    }
    remember(by_digest, d, by_literals);
  }
  // Here: the literals decide, or one of them is what the grammar wants to see (a folded row).
  const GrammarText literal = literal_text(sql, standard_strings);
  const bool small = literal.tokens <= kMaxGrammarTokens && literal.depth <= kMaxGrammarDepth;
  if (!small) facts = refused(ClassReason::too_long, by_words(sql, standard_strings), d.shown);
  if (small && !find_facts(literal.sql, *scope.catalog, facts)) {
    ++counters.unparsed;
    facts = refused(ClassReason::unparsed, by_words(sql, standard_strings), d.shown);
  }
  correct(facts, scope);
  return remember(by_text, exact, std::move(facts));
}

Classifier::Classifier(Limits limits) : impl_(std::make_unique<Impl>()) {
  impl_->limits = limits;
  impl_->resize();
}
Classifier::~Classifier() = default;

const std::shared_ptr<const Facts>& Classifier::classify(std::string_view sql, bool standard_strings,
                                                         Encoding encoding, const Scope& scope) {
  Impl& m = *impl_;
  commented_ = false;
  if (encoding == Encoding::ambiguous && std::any_of(sql.begin(), sql.end(), [](char c) {
        return static_cast<unsigned char>(c) >= 0x80;
      })) {
    ++m.counters.unparsed;
    return m.unseen(ClassReason::unparsed, {.pins = Pin::session_setting, .sees_prepared = true}, 0);
  }
  if (sql.size() > m.limits.max_statement) {
    ++m.counters.unparsed;
    return m.unseen(ClassReason::too_long, by_words(sql, standard_strings), 0);
  }
  const Digest d = in_scope(digest(sql, standard_strings, m.key), scope);
  commented_ = d.commented;
  if (!d.broken) {
    const Cache::Slot* hit = m.by_digest.find(d);
    if (hit != nullptr && hit->facts != m.by_literals) {
      ++m.counters.hits;
      return hit->facts;
    }
  }
  return m.miss(sql, standard_strings, scope, d);
}

void Classifier::set_limits(Limits limits) {
  const bool same = impl_->limits.cache_entries == limits.cache_entries;
  impl_->limits = limits;
  if (!same) impl_->resize();
}

const Classifier::Counters& Classifier::counters() const { return impl_->counters; }

}  // namespace routing
