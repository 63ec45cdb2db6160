#include <algorithm>
#include <utility>

#include "conf/words.h"
#include "pool/session_settings.h"
#include "proxy/client.h"
#include "proxy/scan.h"
#include "proxy/server.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"

// What a client's settings mean to us: how its statements are read, how fresh its reads are, whose limits it
// shares.
namespace proxy {
namespace {

constexpr std::string_view kLsn = "pgsluice.lsn", kConsistency = "pgsluice.consistency";

// What stands behind SET name TO, or in the start-up packet.
std::string_view unquoted(std::string_view value) {
  if (value.size() >= 2 && (value.front() == '\'' || value.front() == '"') && value.back() == value.front())
    return value.substr(1, value.size() - 2);
  return value;
}

// Errors and logs show no more of what a client has sent.
std::string excerpt(std::string_view value) { return "\"" + std::string(value.substr(0, 60)) + "\""; }

}  // namespace

std::optional<Client::Objection> Client::object_to(std::string_view setting, std::string_view value) const {
  value = unquoted(value);
  const auto invalid = [&](const std::string& why) {
    return Objection{wire::sqlstate::kInvalidParameterValue,
                     "invalid value for parameter \"" + std::string(setting) + "\": " + excerpt(value) + why};
  };
  if (setting == kLsn) {
    if (!routing::parse_token(value)) return invalid("");
    if (route_state.consistency == conf::Consistency::eventual)
      return invalid(" has no meaning while pgsluice.consistency is \"eventual\"");
  }
  if (setting == kConsistency) {
    const auto asked = conf::parse_word<conf::Consistency>(value);
    if (!asked) return invalid("");
    if (identity != nullptr && (*asked < identity->weakest || *asked > identity->strongest))
      return Objection{wire::sqlstate::kInsufficientPrivilege,
                       "pgsluice.consistency " + excerpt(value) + " is not allowed here: from " +
                           std::string(word(identity->weakest)) + " to " + std::string(word(identity->strongest))};
  }
  return std::nullopt;
}

// The batch sets something of ours that cannot be: it is not run, and the refusal is ready.
bool Client::refuses_settings(const Scan& scan) {
  std::optional<Objection> objection;
  if ((scan.facts.shows_lsn || scan.facts.sets_lsn) && server != nullptr)
    objection = {wire::sqlstate::kActiveSqlTransaction,
                 "pgsluice.lsn cannot be set or shown inside a transaction, or by a session that keeps its server"};
  if (scan.changes && !objection)
    for (const auto& facts : *scan.changes)
      for (const routing::SettingChange& change : facts->settings)
        if (change.what == routing::SettingChange::What::set && !objection)
          objection = object_to(change.name, change.value);
  if (!objection) return false;
  refuse(pool::Refusal::invalid_setting, objection->sqlstate, objection->message);
  return true;
}

std::optional<routing::Token> Client::token_to_set() const {
  std::optional<routing::Token> token;
  if (batch_changes)
    for (const auto& facts : *batch_changes)
      for (const routing::SettingChange& change : facts->settings)
        if (change.what == routing::SettingChange::What::set && change.name == kLsn)
          token = routing::parse_token(unquoted(change.value));
  return token;
}

void Client::take_token(std::string_view value) {
  const auto token = routing::parse_token(unquoted(value));
  const routing::ClusterState* state = worker_.cluster(*identity);
  if (!token || state == nullptr || !state->samples_sent) return;
  touch(worker_.now());  // what others have seen is news: SharedRead::told_at
  const std::uint64_t sent = state->samples_sent->load();
  // What is lost cannot be waited for; the new primary's first sample is past all that is left.
  if (routing::judge_token(*token, *state) == routing::TokenVerdict::lost) {
    worker_.count().floors_lost.add();
    route_state.floor.raise(sent);
  } else {
    route_state.floor.raise_to(token->lsn, state->term, sent);
  }
}

void Client::show_token(const routing::Token& token) {
  std::vector<pool::Setting> entries = session->current()->entries;
  std::erase_if(entries, [](const pool::Setting& entry) { return entry.name == kLsn; });
  entries.push_back({std::string(kLsn), "'" + print(token) + "'", false});
  session->assume(worker_.interner().intern(std::move(entries)));
}

// Settings of a session that are for us.
constexpr std::string_view kOurSettings = "pgsluice.";

void Client::settings_changed() {
  routing::SessionState& state = route_state;
  const routing::HintLimits& limits = worker_.hint_limits();
  routing::Hints hints;
  state.read_only_default = false;
  state.serializable_default = state.repeatable_default = false;
  standard_strings = identity == nullptr || identity->standard_strings;
  session_class = identity == nullptr ? pool::kHigh : identity->service_class;
  encoding = routing::Classifier::Encoding::ascii_safe;
  const auto is_on = [](std::string value) {
    std::erase_if(value, [](char c) { return c == '\'' || c == '"' || c == ' '; });
    std::ranges::transform(value, value.begin(), [](unsigned char c) {
      return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    });
    return value == "on" || value == "true" || value == "yes" || value == "1" || value == "t" ||
           value == "y";
  };
  const auto contains = [](const std::string& value, std::string_view word) {
    return value.find(word) != std::string::npos;
  };
  for (const pool::Setting& setting : session->current()->entries) {
    if (setting.name == "default_transaction_read_only") {
      state.read_only_default = is_on(setting.value);
    } else if (setting.name == "default_transaction_isolation") {
      state.serializable_default = contains(setting.value, "erializable") ||
                                   contains(setting.value, "ERIALIZABLE");
      state.repeatable_default = contains(setting.value, "epeatable") || contains(setting.value, "EPEATABLE");
    } else if (setting.name == "standard_conforming_strings") {
      standard_strings = is_on(setting.value);
    } else if (setting.name == "client_encoding") {
      // Those whose second bytes can look like quotes or backslashes.
      std::string upper = setting.value;
      std::ranges::transform(upper, upper.begin(), [](unsigned char c) {
        return static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
      });
      for (const std::string_view unsafe : {"SJIS", "JIS", "BIG5", "GBK", "GB18030", "JOHAB", "UHC",
                                            "949", "936", "950", "932", "WIN949", "MSKANJI"})
        if (contains(upper, unsafe)) encoding = routing::Classifier::Encoding::ambiguous;
    } else if (setting.name == "pgsluice.class" && limits.service_class && identity != nullptr) {
      session_class = worker_.classes().lowered(identity->service_class, pool::bare_value(setting));
    } else if (setting.name == "pgsluice.tenant" && !setting.from_startup && limits.tenant &&
               tenant_may_change()) {
      std::string wanted = setting.value;
      std::erase(wanted, '\'');
      if (wanted != tenant->name && !wanted.empty()) tenant_next = std::make_unique<std::string>(wanted);
    } else if (setting.name.starts_with(kOurSettings)) {
      (void)routing::take_hint(std::string_view(setting.name).substr(kOurSettings.size()),
                               pool::bare_value(setting), limits, &hints);
    }
  }
  if (tenant != nullptr && !worker_.orders().classes.empty())
    session_class = worker_.ordered_class(*tenant).value_or(session_class);
  service_class = session_class;
  // What it asks for itself holds for all its statements, unless a rule says otherwise.
  state.consistency = identity == nullptr ? worker_.settings().routing_consistency : identity->consistency;
  state.consistency_hinted = hints.consistency.has_value();
  state.target = conf::RouteTarget::any;
  const routing::RouteOverrides asked = routing::overrides_of(nullptr, hints, state);
  state.consistency = asked.consistency;
  // What a session may ask for can have become less since it did.
  if (state.consistency_hinted && identity != nullptr)
    state.consistency = std::clamp(state.consistency, identity->weakest,
                                   std::max(identity->weakest, identity->strongest));
  state.target = asked.target;
  state.target_by_hint = true;
  rules = worker_.rules_for(*this);
}

pool::OwnClass Client::own_class() const {
  const bool ordered = tenant != nullptr && !worker_.orders().classes.empty() && worker_.ordered_class(*tenant);
  return {identity->service_class, session_class, ordered};
}

bool Client::tenant_may_change() const {
  const auto& users = worker_.settings().users;
  const auto found = identity == nullptr ? users.end() : users.find(identity->user);
  return found == users.end() || found->second.tenant.empty();
}

}  // namespace proxy
