#include "routing/facts.h"

#include <charconv>

namespace routing {

std::string_view name(StatementClass c) {
  switch (c) {
    case StatementClass::empty: return "empty";
    case StatementClass::read: return "read";
    case StatementClass::session: return "session";
    case StatementClass::transaction: return "transaction";
    case StatementClass::write: return "write";
    case StatementClass::ddl: return "ddl";
  }
  return "?";
}

std::string_view name(ClassReason r) {
  switch (r) {
    case ClassReason::proven_read: return "proven_read";
    case ClassReason::empty_statement: return "empty_statement";
    case ClassReason::unparsed: return "unparsed";
    case ClassReason::too_long: return "too_long";
    case ClassReason::writes_data: return "writes_data";
    case ClassReason::locks_rows: return "locks_rows";
    case ClassReason::volatile_function: return "volatile_function";
    case ClassReason::unknown_function: return "unknown_function";
    case ClassReason::primary_only: return "primary_only";
    case ClassReason::primary_table: return "primary_table";
    case ClassReason::overruled: return "overruled";
    case ClassReason::refused_by_replica: return "refused_by_replica";
    case ClassReason::utility: return "utility";
    case ClassReason::schema_change: return "schema_change";
    case ClassReason::session_change: return "session_change";
    case ClassReason::transaction_control: return "transaction_control";
  }
  return "?";
}

namespace {

struct PinName {
  Pin pin;
  std::string_view name;
};

// Every bit of Pin, in the order of the enumeration.
constexpr PinName kPinNames[] = {
    {Pin::temporary_table, "temporary_table"},   {Pin::listen, "listen"},
    {Pin::advisory_lock, "advisory_lock"},       {Pin::holdable_cursor, "holdable_cursor"},
    {Pin::sql_prepare, "sql_prepare"},           {Pin::load, "load"},
    {Pin::computed_setting, "computed_setting"}, {Pin::session_setting, "session_setting"},
    {Pin::session_function, "session_function"},
};

}  // namespace

std::string names(Pin p) {
  std::string joined;
  for (const PinName& row : kPinNames) {
    if (!any(p & row.pin)) continue;
    if (!joined.empty()) joined += ',';
    joined += row.name;
  }
  return joined.empty() ? "none" : joined;
}

std::string print_digest(std::uint64_t digest) {
  std::string text(16, '0');
  for (std::size_t i = text.size(); i > 0; digest >>= 4) text[--i] = "0123456789abcdef"[digest & 15U];
  return text;
}

std::optional<std::uint64_t> parse_digest(std::string_view text) {
  std::uint64_t digest = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), digest, 16);
  if (text.size() != 16 || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return digest;
}

}  // namespace routing
