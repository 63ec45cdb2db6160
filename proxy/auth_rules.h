#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "conf/network.h"
#include "conf/settings.h"

namespace proxy {

// Somebody who wants to log in, before any proof.
struct LoginAttempt {
  std::optional<conf::IpAddress> address;  // nothing: a unix socket
  bool tls = false;
  std::string_view user;
  std::string_view database;
};

// How somebody may log in, and which rule says so.
struct LoginDemand {
  enum class Why : std::uint8_t {
    no_rules,  // auth.method is for everybody
    rule,
    no_match,  // there are rules, and none fits: `method` is reject
  } why = Why::no_rules;
  std::size_t rule = 0;  // counted from 1, as SHOW CONFIG does
  conf::AuthMethod method = conf::AuthMethod::reject;
  conf::ClientCert clientcert = conf::ClientCert::no;
};

bool fits(const conf::AuthRule& rule, const LoginAttempt& attempt);

// The first [[auth.rule]] that fits decides; what follows it is not looked at, even when the proof
// that it asks for fails, as in pg_hba.conf. Pure. Costs a comparison per rule, once per login.
LoginDemand demand(const conf::Settings& settings, const LoginAttempt& attempt);

// What somebody is told whom a rule rejects or none fits: what they know already, as Postgres does.
std::string refusal_text(const LoginDemand& demand, const LoginAttempt& attempt, std::string_view host);

}  // namespace proxy
