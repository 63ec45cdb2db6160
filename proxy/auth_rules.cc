#include "proxy/auth_rules.h"

#include <algorithm>
#include <vector>

namespace proxy {
namespace {

bool has_connection(conf::RuleConnection connection, const LoginAttempt& attempt) {
  const bool local = !attempt.address;
  switch (connection) {
    case conf::RuleConnection::any: return true;
    case conf::RuleConnection::local: return local;
    case conf::RuleConnection::tcp: return !local;
    case conf::RuleConnection::tls: return !local && attempt.tls;
    case conf::RuleConnection::plain: return !local && !attempt.tls;
  }
  return false;
}

bool names(const std::vector<std::string>& list, std::string_view one) {
  return list.empty() || std::ranges::find(list, one) != list.end();
}

}  // namespace

bool fits(const conf::AuthRule& rule, const LoginAttempt& attempt) {
  if (!has_connection(rule.connection, attempt)) return false;
  if (!rule.addresses.empty()) {
    if (!attempt.address) return false;
    const auto holds = [&attempt](const conf::Network& one) { return one.contains(*attempt.address); };
    if (std::ranges::none_of(rule.addresses, holds)) return false;
  }
  return names(rule.databases, attempt.database) && names(rule.users, attempt.user);
}

LoginDemand demand(const conf::Settings& settings, const LoginAttempt& attempt) {
  if (settings.auth_rules.empty())
    return {.why = LoginDemand::Why::no_rules, .method = settings.auth_method};
  std::size_t number = 0;
  for (const conf::AuthRule& rule : settings.auth_rules) {
    ++number;
    if (fits(rule, attempt))
      return {.why = LoginDemand::Why::rule,
              .rule = number,
              .method = rule.method,
              .clientcert = rule.clientcert};
  }
  return {.why = LoginDemand::Why::no_match};
}

std::string refusal_text(const LoginDemand& demand, const LoginAttempt& attempt, std::string_view host) {
  std::string text = demand.why == LoginDemand::Why::no_match ? "no auth.rule for host \""
                                                              : "an auth.rule rejects host \"";
  text.append(host).append("\", user \"").append(attempt.user).append("\", database \"");
  text.append(attempt.database).append(attempt.tls ? "\", TLS on" : "\", TLS off");
  return text;
}

}  // namespace proxy
