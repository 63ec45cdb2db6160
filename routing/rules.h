#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "conf/settings.h"
#include "routing/facts.h"
#include "routing/hints.h"
#include "routing/overrides.h"
#include "routing/router.h"

namespace routing {

// [[route]]: the rules of the configuration, made ready for comparison. Immutable.
//
// A rule has two halves. Who is asking (user, database, application name) is known when a client logs in or
// changes its settings: candidates(). What is asked is looked at per statement: fits().
class RuleSet {
 public:
  using Place = std::uint16_t;  // among the rules, from 0
  // `number_of` gives a rule's name the number that it has in metrics.
  RuleSet(const std::vector<conf::RouteRule>& rules, const std::function<std::size_t(const std::string&)>& number_of);

  bool empty() const { return rules_.empty(); }
  std::size_t size() const { return rules_.size(); }
  bool reads_tags() const { return reads_tags_; }  // some rule asks for comment tags
  const conf::RouteRule& rule(Place place) const { return rules_[place].said; }
  std::size_t number(Place place) const { return rules_[place].number; }
  bool asks_for_tags(Place place) const { return !rules_[place].tags.empty(); }

  struct Who {
    std::string_view user, database, application;
  };
  std::vector<Place> candidates(const Who& who) const;
  // Does the rule fit this statement, of a client that it is a candidate for?
  bool fits(Place place, const Facts& facts, const CommentTags& tags) const;

 private:
  struct Pattern {
    std::string first, second;  // key and value of a tag, schema and name of a table
  };
  struct Compiled {
    conf::RouteRule said;
    std::size_t number = 0;
    std::uint8_t classes = 0;  // a bit for each; 0: all
    std::vector<std::uint64_t> digests;
    std::vector<Pattern> tags, tables;
  };
  std::vector<Compiled> rules_;
  bool reads_tags_ = false;
};

// The rules that some client can meet at all, and which of them fitted the statements that were seen last. One
// worker's; clients with the same candidates share one. No allocation when it is asked.
class ClientRules {
 public:
  ClientRules(std::shared_ptr<const RuleSet> rules, std::vector<RuleSet::Place> candidates)
      : rules_(std::move(rules)), candidates_(std::move(candidates)) {}

  // 1 + the place of the first rule that fits; 0: none. Of a string of several statements, in which each could
  // meet another rule, the first that blocks, if there is one.
  std::uint16_t find(const std::shared_ptr<const Facts>& facts, const CommentTags& tags);
  const RuleSet& rules() const { return *rules_; }
  const std::vector<RuleSet::Place>& candidates() const { return candidates_; }

 private:
  struct Seen {
    std::shared_ptr<const Facts> facts;  // kept, so that no other facts can have its address
    std::uint16_t found = 0;
  };
  std::uint16_t look(const Facts& facts, const CommentTags& tags) const;

  const std::shared_ptr<const RuleSet> rules_;
  const std::vector<RuleSet::Place> candidates_;
  std::array<Seen, 64> seen_;  // by the facts' address; statements without tags only
};

// `*` stands for any text, everything else for itself. Linear but for the number of stars.
bool matches(std::string_view pattern, std::string_view text);

// What holds for a statement that `rule` fits (null: none does) and that carries these hints. A rule goes
// before a hint; a hint may ask for staler answers than a rule, not for fresher ones.
RouteOverrides overrides_of(const conf::RouteRule* rule, const Hints& hints, const SessionState& session);

// What a rule does, in the words of its configuration: "target=primary class=low".
std::string outcome_text(const conf::RouteRule& rule);

}  // namespace routing
