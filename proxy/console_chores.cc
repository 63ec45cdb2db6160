#include "proxy/console_chores.h"

#include <algorithm>
#include <charconv>

#include "conf/sections.h"
#include "proxy/version.h"

namespace proxy {
namespace {

// To add one: its name as Postgres spells it, and what a session of ours would say.
constexpr ConsoleSetting kSettings[] = {
    {"server_version", "15.0 (pgsluice)", true},
    {"server_encoding", "UTF8", true},
    {"client_encoding", "UTF8", true},
    {"DateStyle", "ISO, MDY", true},
    {"TimeZone", "UTC", true},
    {"integer_datetimes", "on", true},
    {"standard_conforming_strings", "on", true},
    {"server_version_num", "150000"},
    {"application_name", ""},
    {"bytea_output", "hex"},
    {"client_min_messages", "notice"},
    {"default_transaction_isolation", "read committed"},
    {"default_transaction_read_only", "off"},
    {"extra_float_digits", "1"},
    {"idle_in_transaction_session_timeout", "0"},
    {"in_hot_standby", "off"},
    {"IntervalStyle", "postgres"},
    {"is_superuser", "off"},
    {"jit", "off"},
    {"lock_timeout", "0"},
    {"max_identifier_length", "63"},
    {"row_security", "on"},
    {"search_path", ""},
    {"statement_timeout", "0"},
    {"transaction_isolation", "read committed"},
    {"transaction_read_only", "off"},
};

const ConsoleSetting* find_setting(const ConsoleWord& word) {
  if (word.quote == '\'') return nullptr;
  const std::string name = upper_case(word.text);
  const auto found = std::ranges::find_if(
      kSettings, [&name](const ConsoleSetting& one) { return upper_case(one.name) == name; });
  return found == std::end(kSettings) ? nullptr : found;
}

Chore done(std::string_view tag, Chore::Step step = Chore::Step::none) {
  return {.tag = std::string(tag), .step = step, .column = {}, .value = {}, .deallocates = {}};
}

Chore answers(std::string_view tag, std::string_view column, std::string_view value,
              wire::ColumnType type = wire::ColumnType::text) {
  return {.tag = std::string(tag),
          .column = std::string(column),
          .type = type,
          .value = std::string(value),
          .deallocates = {}};
}

using Words = std::span<const ConsoleWord>;

std::optional<Chore> set(Words rest) {
  if (!rest.empty() && (rest[0].is("SESSION") || rest[0].is("LOCAL"))) rest = rest.subspan(1);
  if (rest.size() < 2) return std::nullopt;
  const bool known = rest[0].is("TRANSACTION") || rest[0].is("CHARACTERISTICS") || rest[0].is("NAMES") ||
                     (rest[0].is("TIME") && rest[1].is("ZONE")) ||
                     (find_setting(rest[0]) != nullptr && (rest[1].is("=") || rest[1].is("TO")));
  if (!known) return std::nullopt;
  return done("SET");
}

std::optional<Chore> select(Words rest, const std::string& user) {
  // SELECT ... AS name
  std::string column;
  if (rest.size() >= 3 && rest[rest.size() - 2].is("AS")) {
    column = rest.back().text;
    rest = rest.first(rest.size() - 2);
  }
  const auto with = [&column](std::string_view own_name, std::string_view value,
                              wire::ColumnType type = wire::ColumnType::text) {
    return answers("SELECT 1", column.empty() ? own_name : std::string_view(column), value, type);
  };
  if (rest.size() == 1) {
    const std::string& text = rest[0].text;
    if (rest[0].quote == '\'') return with("?column?", text);
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size() && rest[0].quote == 0)
      return with("?column?", std::to_string(number), wire::ColumnType::int8);
    if (rest[0].is("CURRENT_USER")) return with("current_user", user);
    if (rest[0].is("SESSION_USER")) return with("session_user", user);
    if (rest[0].is("CURRENT_CATALOG")) return with("current_catalog", conf::kAdminDatabase);
    return std::nullopt;
  }
  if (rest.size() != 3 || !rest[1].is("(") || !rest[2].is(")") || rest[0].quote != 0) return std::nullopt;
  std::string function = upper_case(rest[0].text);
  if (function.starts_with("PG_CATALOG.")) function.erase(0, 11);
  if (function == "VERSION")
    return with("version", "PostgreSQL 15.0 (the admin console of pgsluice " + std::string(kVersion) + ")");
  if (function == "CURRENT_DATABASE") return with("current_database", conf::kAdminDatabase);
  if (function == "CURRENT_SCHEMA") return with("current_schema", "public");
  if (function == "PG_IS_IN_RECOVERY") return with("pg_is_in_recovery", "f");
  if (function == "PG_ADVISORY_UNLOCK_ALL") return with("pg_advisory_unlock_all", "");
  return std::nullopt;
}

}  // namespace

std::span<const ConsoleSetting> console_settings() { return kSettings; }

std::optional<Chore> driver_chore(Words words, const std::string& user) {
  using enum Chore::Step;
  if (words.empty()) return std::nullopt;
  const ConsoleWord& first = words[0];
  const Words rest = words.subspan(1);
  if (first.is("BEGIN")) return done("BEGIN", begin);
  if (first.is("START") && !rest.empty() && rest[0].is("TRANSACTION"))
    return done("START TRANSACTION", begin);
  if (first.is("COMMIT") || first.is("END")) return done("COMMIT", end);
  if (first.is("ROLLBACK") || first.is("ABORT"))
    return done("ROLLBACK", std::ranges::any_of(rest, [](const ConsoleWord& word) { return word.is("TO"); })
                                ? back_to_savepoint
                                : end);
  if (first.is("SAVEPOINT")) return done("SAVEPOINT", savepoint);
  if (first.is("RELEASE")) return done("RELEASE", savepoint);
  if (first.is("SET")) return set(rest);
  if (first.is("RESET") && rest.size() == 1 && (rest[0].is("ALL") || find_setting(rest[0]) != nullptr))
    return done("RESET");
  if (first.is("DISCARD") && rest.size() == 1) {
    Chore chore = done("DISCARD " + upper_case(rest[0].text));
    if (rest[0].is("ALL")) chore.deallocates = "";
    return chore;
  }
  if (first.is("DEALLOCATE") && !rest.empty()) {
    Chore chore = done(rest.back().is("ALL") ? "DEALLOCATE ALL" : "DEALLOCATE");
    chore.deallocates = rest.back().is("ALL") ? "" : rest.back().text;
    return chore;
  }
  if (first.is("CLOSE") && rest.size() == 1 && rest[0].is("ALL")) return done("CLOSE CURSOR ALL");
  if (first.is("UNLISTEN")) return done("UNLISTEN");
  if (first.is("SELECT")) return select(rest, user);
  if (first.is("SHOW") && rest.size() == 1) {
    if (const ConsoleSetting* setting = find_setting(rest[0]))
      return answers("SHOW", setting->name, setting->value);
    if (rest[0].is("SESSION_AUTHORIZATION")) return answers("SHOW", "session_authorization", user);
  }
  if (first.is("SHOW") && rest.size() == 3 && rest[0].is("TRANSACTION") && rest[1].is("ISOLATION") &&
      rest[2].is("LEVEL"))
    return answers("SHOW", "transaction_isolation", "read committed");
  return std::nullopt;
}

}  // namespace proxy
