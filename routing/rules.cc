#include "routing/rules.h"

#include <algorithm>
#include <charconv>

#include "conf/words.h"

namespace routing {
namespace {

// More than any key or value that a rule would be written for.
constexpr std::size_t kMaxTag = 256;

bool any_matches(const std::vector<std::string>& patterns, std::string_view text) {
  return patterns.empty() || std::ranges::any_of(patterns, [text](const std::string& pattern) {
           return matches(pattern, text);
         });
}

std::uint32_t milliseconds(const std::optional<conf::Millis>& time) {
  return time ? static_cast<std::uint32_t>(time->count()) : 0;
}

}  // namespace

bool matches(std::string_view pattern, std::string_view text) {
  std::size_t p = 0, t = 0, star = pattern.npos, tried = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      tried = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != pattern.npos) {
      p = star + 1;
      t = ++tried;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

RuleSet::RuleSet(const std::vector<conf::RouteRule>& rules,
                 const std::function<std::size_t(const std::string&)>& number_of) {
  const auto halves = [](std::string_view text, char between, std::string_view without) {
    const auto at = text.find(between);
    return at == text.npos ? Pattern{std::string(without), std::string(text)}
                           : Pattern{std::string(text.substr(0, at)), std::string(text.substr(at + 1))};
  };
  for (const conf::RouteRule& said : rules) {
    Compiled& rule = rules_.emplace_back();
    rule.said = said;
    rule.number = number_of(said.name);
    for (const std::string& word : said.statement_classes) {
      const auto place = std::ranges::find(conf::kStatementClasses, word) - conf::kStatementClasses.begin();
      rule.classes = static_cast<std::uint8_t>(rule.classes | 1U << place);
    }
    for (const std::string& digits : said.digests) {
      std::uint64_t& digest = rule.digests.emplace_back();
      std::from_chars(digits.data(), digits.data() + digits.size(), digest, 16);
    }
    for (const std::string& tag : said.tags) rule.tags.push_back(halves(tag, '=', ""));
    for (const std::string& table : said.tables) rule.tables.push_back(halves(table, '.', "*"));
    reads_tags_ |= !rule.tags.empty();
  }
}

std::vector<RuleSet::Place> RuleSet::candidates(const Who& who) const {
  std::vector<Place> places;
  for (std::size_t i = 0; i < rules_.size(); ++i) {
    const conf::RouteRule& said = rules_[i].said;
    if (any_matches(said.users, who.user) && any_matches(said.databases, who.database) &&
        any_matches(said.applications, who.application))
      places.push_back(static_cast<Place>(i));
  }
  return places;
}

bool RuleSet::fits(Place place, const Facts& facts, const CommentTags& tags) const {
  const Compiled& rule = rules_[place];
  if (rule.classes != 0 && (rule.classes >> static_cast<unsigned>(facts.kind) & 1U) == 0) return false;
  if (!rule.digests.empty() && std::ranges::find(rule.digests, facts.digest) == rule.digests.end()) return false;
  if (!rule.tables.empty() && std::ranges::none_of(facts.tables, [&rule](const TableName& table) {
        // Where a text leaves the schema to search_path, it is taken to mean the usual one.
        const std::string_view schema = table.schema.empty() ? "public" : std::string_view(table.schema);
        return std::ranges::any_of(rule.tables, [&](const Pattern& pattern) {
          return matches(pattern.second, table.name) && matches(pattern.first, schema);
        });
      }))
    return false;
  if (rule.tags.empty()) return true;
  char key_room[kMaxTag], value_room[kMaxTag];
  return std::ranges::any_of(tags.all(), [&](const CommentTag& tag) {
    const auto key = decode_tag(tag.key, key_room);
    if (!key) return false;
    return std::ranges::any_of(rule.tags, [&](const Pattern& pattern) {
      if (pattern.first != *key) return false;
      const auto value = decode_tag(tag.value, value_room);
      return value && matches(pattern.second, *value);
    });
  });
}

std::uint16_t ClientRules::look(const Facts& facts, const CommentTags& tags) const {
  std::uint16_t first = 0;
  for (const RuleSet::Place place : candidates_) {
    if (!rules_->fits(place, facts, tags)) continue;
    if (first == 0) first = static_cast<std::uint16_t>(place + 1);
    if (!facts.several) return first;
    // Of several statements in one string each may meet another rule: what is blocked hides behind none.
    if (rules_->rule(place).block) return static_cast<std::uint16_t>(place + 1);
  }
  return first;
}

std::uint16_t ClientRules::find(const std::shared_ptr<const Facts>& facts, const CommentTags& tags) {
  if (tags.size() > 0) return look(*facts, tags);
  // The low bits of an address are those of its alignment.
  Seen& seen = seen_[(reinterpret_cast<std::uintptr_t>(facts.get()) >> 5) % seen_.size()];
  if (seen.facts != facts) seen = {facts, look(*facts, tags)};
  return seen.found;
}

RouteOverrides overrides_of(const conf::RouteRule* rule, const Hints& hints, const SessionState& session) {
  using conf::Consistency;
  using conf::RouteTarget;
  RouteOverrides said;
  said.given = true;
  said.consistency = session.consistency;
  if (rule != nullptr && rule->consistency) {
    said.consistency = session.consistency_hinted ? std::min(*rule->consistency, session.consistency)
                                                  : *rule->consistency;
    if (hints.consistency) said.consistency = std::min(*hints.consistency, *rule->consistency);
  } else if (hints.consistency) {
    said.consistency = *hints.consistency;
  }
  const bool may_be_primary = rule == nullptr || !rule->consistency || *rule->consistency == Consistency::primary;
  const auto hint = [&](RouteTarget target) {
    return target == RouteTarget::primary && !may_be_primary ? RouteTarget::any : target;
  };
  if (rule != nullptr && rule->target != RouteTarget::any) {
    said.target = rule->target;
  } else {
    said.target = hint(hints.target != RouteTarget::any ? hints.target : session.target);
    said.target_by_hint = said.target != RouteTarget::any;
  }
  // Sent to a replica although it asked for the primary: at least its own writes are there.
  if (said.target == RouteTarget::replica && said.consistency == Consistency::primary)
    said.consistency = Consistency::session;
  if (rule == nullptr) return said;
  said.blocked = rule->block;
  said.may_share = rule->coalesce || rule->cache;
  said.max_lag_ms = milliseconds(rule->max_lag);
  said.query_timeout_ms = milliseconds(rule->query_timeout);
  if (rule->transactions)
    said.transactions = static_cast<std::uint8_t>(static_cast<unsigned>(*rule->transactions) + 1) & 3U;
  return said;
}

std::string outcome_text(const conf::RouteRule& rule) {
  std::string text;
  const auto add = [&text](std::string_view key, std::string_view value) {
    text.append(text.empty() ? "" : " ").append(key).append("=").append(value);
  };
  if (rule.target != conf::RouteTarget::any) add("target", conf::word(rule.target));
  if (rule.consistency) add("consistency", conf::word(*rule.consistency));
  if (rule.max_lag) add("max_lag", conf::print(*rule.max_lag));
  if (rule.query_timeout) add("query_timeout", conf::print(*rule.query_timeout));
  if (rule.transactions) add("transactions", conf::word(*rule.transactions));
  if (!rule.service_class.empty()) add("class", rule.service_class);
  std::string groups;
  for (const std::string& group : rule.groups) groups += (groups.empty() ? "" : ",") + group;
  if (!groups.empty()) add("groups", groups);
  if (rule.rate > 0) add("rate", std::to_string(rule.rate));
  if (rule.concurrency > 0) add("concurrency", std::to_string(rule.concurrency));
  if (rule.coalesce) add("coalesce", "true");
  if (rule.cache) add("cache", conf::print(*rule.cache));
  if (rule.block) add("block", "true");
  return text;
}

}  // namespace routing
