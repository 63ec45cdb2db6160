#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "routing/facts.h"
#include "routing/scope.h"

namespace routing {

// SQL text -> Facts, at two speeds: the lexer makes a digest in one pass (literals replaced, case
// and blanks folded) and a bounded cache maps it to facts; on a miss Postgres's grammar
// (libpg_query) parses the text and a walk over the tree finds them.
//
// One per worker; not thread-safe. Cost on a hit: one pass over the text and one look-up, no
// allocation. On a miss tens of microseconds, and at most about 15 ms for the worst text that the
// limits of grammar.h let through.
//
// Facts of a text that the grammar does not see (too long, too deep, refused) have pins all the
// same: they are guessed from its words, on the safe side.
class Classifier {
 public:
  // Whether every byte below 0x80 is an ASCII character in the client's encoding. In SJIS, BIG5,
  // GBK, GB18030, JOHAB, UHC and SHIFT_JIS_2004 it can be the second half of a character, a
  // backslash or letter that the server does not see; a text with bytes beyond ASCII is then not
  // looked at: it goes to the primary and pins.
  enum class Encoding : std::uint8_t { ascii_safe, ambiguous };

  struct Limits {
    std::size_t cache_entries;  // digests; an eighth as many texts are remembered beside them
    std::size_t max_statement;  // bytes; longer text is ClassReason::too_long
  };
  // Never falls. A miss is a run of the grammar; unparsed are the texts that it refused or did not
  // get.
  struct Counters {
    std::uint64_t hits = 0, misses = 0, evictions = 0, unparsed = 0;
  };

  explicit Classifier(Limits limits);
  ~Classifier();

  // The reference stays valid until the next call; keep the shared_ptr to keep the facts.
  // `standard_strings` is the session's standard_conforming_strings, `scope` its database's. What is
  // remembered is remembered by the scope's version, so that nothing has to be forgotten when another comes.
  const std::shared_ptr<const Facts>& classify(std::string_view sql, bool standard_strings,
                                               Encoding encoding = Encoding::ascii_safe,
                                               const Scope& scope = Scope::built_in());

  // Had the text that was classified last a /* comment */? Only then can it carry hints (hints.h), which
  // are no part of its facts: a digest is the same with comments and without. False for a text that was not
  // looked at.
  bool commented() const { return commented_; }

  void set_limits(Limits limits);

  const Counters& counters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  bool commented_ = false;
};

}  // namespace routing
