#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

#include "conf/check.h"
#include "conf/settings.h"

namespace conf {

// The words of each enumerated setting, in the order of its enumerators. The same word stands in
// the file, in SHOW CONFIG, in the log and in metrics. To add a value: the enumerator in
// settings.h, its word here at the same place.
template <class Enum>
inline constexpr std::array<std::string_view, 0> kWords{};
template <>
inline constexpr std::array<std::string_view, 2> kWords<PoolMode>{"transaction", "session"};
template <>
inline constexpr std::array<std::string_view, 2> kWords<OnPin>{"allow", "refuse"};
template <>
inline constexpr std::array<std::string_view, 3> kWords<Transactions>{"primary", "hold", "migrate"};
template <>
inline constexpr std::array<std::string_view, 6> kWords<AuthMethod>{
    "trust", "password", "md5", "scram-sha-256", "cert", "reject"};
template <>
inline constexpr std::array<std::string_view, 5> kWords<RuleConnection>{"any", "local", "tcp", "tls",
                                                                        "plain"};
template <>
inline constexpr std::array<std::string_view, 3> kWords<ClientCert>{"no", "verify-ca", "verify-full"};
template <>
inline constexpr std::array<std::string_view, 3> kWords<CertName>{"cn", "dn", "san"};
template <>
inline constexpr std::array<std::string_view, 6> kWords<TlsMode>{
    "disable", "allow", "prefer", "require", "verify-ca", "verify-full"};
template <>
inline constexpr std::array<std::string_view, 7> kWords<Consistency>{
    "eventual", "monotonic", "token", "session", "tenant", "strong", "primary"};
template <>
inline constexpr std::array<std::string_view, 3> kWords<RouteTarget>{"any", "primary", "replica"};
template <>
inline constexpr std::array<std::string_view, 2> kWords<SpillPolicy>{"stale", "error"};
template <>
inline constexpr std::array<std::string_view, 3> kWords<TenantBy>{"user", "database",
                                                                  "application_name"};
template <>
inline constexpr std::array<std::string_view, kPriorities> kWords<Priority>{"critical", "high", "low",
                                                                            "sheddable"};
template <>
inline constexpr std::array<std::string_view, 4> kWords<LogLevel>{"error", "warning", "info",
                                                                  "debug"};

// Lists of words that are no enumerated setting: what a [[route]] can ask for (routing::StatementClass, in
// its order), and what clients can say of their statements.
inline constexpr std::array<std::string_view, 6> kStatementClasses{"empty", "read",  "session",
                                                                   "transaction", "write", "ddl"};
inline constexpr std::array<std::string_view, 4> kHints{"consistency", "route", "tenant", "class"};

template <class Enum>
concept Worded = (kWords<Enum>.size() > 0);

template <Worded Enum>
constexpr std::string_view word(Enum value) {
  const auto index = static_cast<std::size_t>(value);
  ENSURE(index < kWords<Enum>.size());
  return kWords<Enum>[index];
}

// Empty when `text` is none of the words. Exact: case matters, as everywhere in TOML.
template <Worded Enum>
constexpr std::optional<Enum> parse_word(std::string_view text) {
  for (std::size_t i = 0; i < kWords<Enum>.size(); ++i)
    if (kWords<Enum>[i] == text) return static_cast<Enum>(i);
  return std::nullopt;
}

}  // namespace conf
