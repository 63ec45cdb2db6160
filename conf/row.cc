#include "conf/row.h"

#include <algorithm>
#include <type_traits>

namespace conf {
namespace {

bool bare(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-';
}

template <class List, class Print>
std::string join(const List& list, Print print) {
  std::string text;
  for (const auto& one : list) {
    if (!text.empty()) text += ", ";
    text += print(one);
  }
  return text;
}

}  // namespace

WordList::operator std::vector<std::string>() const {
  std::vector<std::string> list;
  for (std::string_view rest = words; !rest.empty();) {
    const auto comma = rest.find(", ");
    list.emplace_back(rest.substr(0, comma));
    rest = comma == rest.npos ? "" : rest.substr(comma + 2);
  }
  return list;
}

std::string quote(std::string_view text) {
  static constexpr char digits[] = "0123456789ABCDEF";
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      (quoted += '\\') += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      ((quoted += "\\u00") += digits[byte >> 4]) += digits[byte & 15];
    } else {
      quoted += c;
    }
  }
  return quoted += '"';
}

std::string key_text(std::string_view name) {
  if (!name.empty() && std::all_of(name.begin(), name.end(), bare)) return std::string(name);
  return quote(name);
}

std::string plain(bool value) { return value ? "true" : "false"; }
std::string plain(std::int64_t value) { return std::to_string(value); }
std::string plain(Millis value) { return print(value); }
std::string plain(Bytes value) { return print(value); }
std::string plain(const std::string& value) { return value; }
std::string plain(const std::vector<std::string>& value) {
  return join(value, [](const std::string& one) { return one; });
}
std::string plain(const std::vector<NodeAddress>& value) {
  return join(value, [](const NodeAddress& one) { return one.name(); });
}

std::string plain(const std::vector<Network>& value) {
  return join(value, [](const Network& one) { return print(one); });
}

std::string as_toml(bool value) { return plain(value); }
std::string as_toml(std::int64_t value) { return plain(value); }
std::string as_toml(Millis value) { return quote(print(value)); }
std::string as_toml(Bytes value) { return quote(print(value)); }
std::string as_toml(const std::string& value) { return quote(value); }
std::string as_toml(const std::vector<std::string>& value) {
  return "[" + join(value, [](const std::string& one) { return quote(one); }) + "]";
}
std::string as_toml(const std::vector<NodeAddress>& value) {
  return "[" + join(value, [](const NodeAddress& one) { return quote(one.name()); }) + "]";
}

std::string as_toml(const std::vector<Network>& value) {
  return "[" + join(value, [](const Network& one) { return quote(print(one)); }) + "]";
}

std::string expect_words(const std::string_view* words, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    if (i > 0) text += i + 1 == count ? " or " : ", ";
    text += quote(words[i]);
  }
  return text;
}

template <class Owner>
std::string expectation(const Row<Owner>& row) {
  return std::visit([](const auto& kind) { return expectation(kind); }, row.value);
}

template <class Owner>
void set_default(const Row<Owner>& row, Owner& owner) {
  std::visit(
      [&owner](const auto& kind) {
        using T = std::remove_reference_t<decltype(kind.field.in(owner))>;
        if constexpr (requires { kind.fallback; })
          kind.field.in(owner) = T(kind.fallback);
        else
          kind.field.in(owner) = T{};
      },
      row.value);
}

template <class Owner>
std::string default_toml(const Row<Owner>& row) {
  Owner scratch{};
  set_default(row, scratch);
  return std::visit([&](const auto& kind) { return as_toml(kind.field.in(scratch)); }, row.value);
}

template <class Owner>
std::string shown_value(const Row<Owner>& row, const Owner& owner) {
  const bool secret = is_secret(row);
  return std::visit(
      [&](const auto& kind) -> std::string {
        const auto& value = kind.field.in(owner);
        if (secret) return plain(value).empty() ? "" : "***";
        return plain(value);
      },
      row.value);
}

template <class Owner>
bool differs(const Row<Owner>& row, const Owner& one, const Owner& other) {
  return std::visit([&](const auto& kind) { return kind.field.in(one) != kind.field.in(other); }, row.value);
}

template bool differs(const Row<Settings>&, const Settings&, const Settings&);
#define ROWS_OF(Owner)                                             \
  template std::string expectation(const Row<Owner>&);             \
  template void set_default(const Row<Owner>&, Owner&);            \
  template std::string default_toml(const Row<Owner>&);            \
  template std::string shown_value(const Row<Owner>&, const Owner&)
ROWS_OF(Settings);
ROWS_OF(ClusterSettings);
ROWS_OF(NodeSettings);
ROWS_OF(DatabaseSettings);
ROWS_OF(UserSettings);
ROWS_OF(TenantLimits);
ROWS_OF(ClassSettings);
ROWS_OF(AuthRule);
ROWS_OF(RouteRule);
#undef ROWS_OF

}  // namespace conf
