#include "proxy/worker.h"

#include <algorithm>
#include <set>
#include <utility>

#include "conf/row.h"

// [[route]] rules, as a worker applies them.
namespace proxy {
namespace {

// Settings of clients of one (database, user) whose rules are remembered: clients make application names up.
constexpr std::size_t kSettingsRemembered = 1000;

constexpr std::string_view kApplicationName = "application_name";

}  // namespace

// The configuration is new: so are the rules, and what every session may ask for.
void Worker::use_rules() {
  const auto old = std::exchange(client_rules_, {});  // until nobody knows them
  rules_ = std::make_shared<routing::RuleSet>(
      settings_->routes, [this](const std::string& rule) { return shared_.rule_numbers.number(rule); });
  hint_limits_ = routing::hint_limits(*settings_);
  rule_classes_.clear();
  rule_limits_.clear();
  for (const conf::RouteRule& rule : settings_->routes) {
    rule_classes_.push_back(rule.service_class.empty() ? std::nullopt
                                                       : std::optional(classes_->find(rule.service_class)));
    rule_limits_.push_back(shared_.rule_limits.find(rule.name, rule.rate, rule.concurrency));
  }
  map_rules();
  settle_settings();
}

void Worker::settle_settings() {
  for (const Slot& slot : slots_)
    if (slot.client && slot.client->session && slot.state != ClientState::closing) slot.client->settings_changed();
}

// Groups of nodes have their bits from the topology.
void Worker::map_rules() {
  rule_groups_.clear();
  if (std::ranges::all_of(settings_->routes, [](const conf::RouteRule& rule) { return rule.groups.empty(); })) return;
  for (const conf::RouteRule& rule : settings_->routes) {
    std::uint64_t bits = 0;
    for (const std::string& group : rule.groups) bits |= topology_->group(group);
    rule_groups_.push_back(bits);
  }
}

void Worker::confine(const routing::RouteOverrides& said, routing::ReadNeeds* needs) const {
  const std::size_t place = std::size_t{said.nodes_by} - 1;
  needs->groups = place < rule_groups_.size() ? rule_groups_[place] : 0;
  if (needs->groups == 0) needs->excluded = ~std::uint64_t{0};  // nobody is in them, or two rules disagree
}

routing::ClientRules* Worker::rules_for(const Client& client) {
  if (rules_->empty() || client.identity == nullptr) return nullptr;
  Identity& identity = *client.identity;
  const pool::SettingsRef& settings = client.session->current();
  if (const auto known = identity.rules.find(settings); known != identity.rules.end()) return known->second;
  std::string application;
  for (const pool::Setting& setting : settings->entries)
    if (setting.name == kApplicationName) application = pool::bare_value(setting);
  routing::ClientRules* const found = shared_rules(rules_->candidates(
      {.user = identity.user, .database = identity.database, .application = application}));
  if (identity.rules.size() >= kSettingsRemembered) identity.rules.clear();
  return identity.rules[settings] = found;
}

routing::ClientRules* Worker::shared_rules(std::vector<routing::RuleSet::Place> candidates) {
  if (candidates.empty()) return nullptr;
  if (const auto known = client_rules_.find(candidates); known != client_rules_.end()) return known->second.get();
  if (client_rules_.size() >= forget_rules_at_) forget_unused_rules();
  auto made = std::make_unique<routing::ClientRules>(rules_, candidates);
  return (client_rules_[std::move(candidates)] = std::move(made)).get();
}

// Different application names can lead to very many different lists.
void Worker::forget_unused_rules() {
  for (const auto& [key, identity] : identities_) identity->rules.clear();
  std::set<const routing::ClientRules*> used;
  for (const Slot& slot : slots_)
    if (slot.client) used.insert(slot.client->rules);
  std::erase_if(client_rules_, [&used](const auto& one) { return !used.contains(one.second.get()); });
  forget_rules_at_ = std::max(forget_rules_at_, 2 * client_rules_.size());
}

routing::RouteOverrides Worker::overrides_for(routing::ClientRules* rules, const routing::SessionState& session,
                                              const pool::OwnClass& its_class, bool standard_strings,
                                              const std::shared_ptr<const routing::Facts>& facts,
                                              std::string_view commented) const {
  routing::CommentTags tags;
  routing::Hints hints;
  if (!commented.empty() && (rules_->reads_tags() || commented.find("pgsluice_") != commented.npos)) {
    routing::find_tags(commented, standard_strings, &tags);
    hints = routing::hints_of(tags, hint_limits_);
  }
  const std::uint16_t rule = rules == nullptr ? 0 : rules->find(facts, tags);
  if (rule == 0 && !hints.any()) return {};
  const conf::RouteRule* const said =
      rule == 0 ? nullptr : &rules->rules().rule(static_cast<routing::RuleSet::Place>(rule - 1));
  routing::RouteOverrides overrides = routing::overrides_of(said, hints, session);
  overrides.rule = rule;
  if (facts->varies) overrides.may_share = false;
  if (said != nullptr && !said->groups.empty()) overrides.nodes_by = rule;
  const auto by_rule = said == nullptr ? std::nullopt : rule_classes_[rule - std::size_t{1}];
  if (its_class.ordered || (!by_rule && hints.service_class.empty())) return overrides;
  // The rule's instead of the configured one; from there a client may go down, by this statement's hint or by SET.
  pool::ClassId found = by_rule.value_or(its_class.configured);
  if (!hints.service_class.empty())
    found = classes_->lowered(found, hints.service_class);
  else if (its_class.session != its_class.configured && classes_->priority(its_class.session) >= classes_->priority(found))
    found = its_class.session;
  overrides.service_class = static_cast<std::uint8_t>(found + 1);
  overrides.priority = static_cast<unsigned>(classes_->priority(found)) & 3U;
  return overrides;
}

// A dry run has sent this to the primary: counts where it would have gone, and says why it has gone there.
routing::RouteReason Worker::count_dry_route(routing::RouteReason why, const routing::BatchFacts& batch) {
  using routing::RouteReason;
  metrics_->dry_routes.add(batch.overrides.blocked ? RouteReason::blocked : why);
  const bool elsewhere = why == RouteReason::read || why == RouteReason::read_only_transaction;
  return elsewhere ? RouteReason::dry_run : why;
}

std::string Worker::rule_name(std::uint16_t rule) const {
  if (rule == 0 || rule > rules_->size()) return "";
  return conf::key_text(rules_->rule(static_cast<routing::RuleSet::Place>(rule - 1)).name);
}

std::string Worker::rule_outcome(std::uint16_t rule) const {
  if (rule == 0 || rule > rules_->size()) return "";
  return routing::outcome_text(rules_->rule(static_cast<routing::RuleSet::Place>(rule - 1)));
}

void Worker::count_rule(std::uint16_t rule) {
  if (rule == 0 || rule > rules_->size()) return;
  metrics_->rules.add(rules_->number(static_cast<routing::RuleSet::Place>(rule - 1)));
}

}  // namespace proxy
