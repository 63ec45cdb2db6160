#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "conf/settings.h"
#include "conf/units.h"
#include "conf/words.h"

// One row of a table of settings, and everything that a row can tell about itself. The tables are
// options.cc (scalars of Settings) and sections.cc (the keys of [cluster.NAME] and its like); their
// readers are load.cc, which fills fields from TOML, and render.cc, which prints them.
namespace conf {

// Where a value lives inside Owner: a member, or a member of a struct in it (tenant limits, TCP).
template <class Owner, class T>
class Field {
 public:
  constexpr Field(T Owner::*direct) : direct_(direct) {}
  constexpr Field(TenantLimits Owner::*outer, T TenantLimits::*inner)
      : tenant_(outer), in_tenant_(inner) {}
  constexpr Field(TcpSettings Owner::*outer, T TcpSettings::*inner) : tcp_(outer), in_tcp_(inner) {}

  T& in(Owner& owner) const { return find(owner); }
  const T& in(const Owner& owner) const { return find(owner); }

 private:
  template <class Some>
  auto& find(Some& owner) const {
    if (direct_) return owner.*direct_;
    return tenant_ ? owner.*tenant_.*in_tenant_ : owner.*tcp_.*in_tcp_;
  }

  T Owner::*direct_ = nullptr;
  TenantLimits Owner::*tenant_ = nullptr;
  T TenantLimits::*in_tenant_ = nullptr;
  TcpSettings Owner::*tcp_ = nullptr;
  T TcpSettings::*in_tcp_ = nullptr;
};

// The kinds of value. A new kind needs: its struct, its place in Value, expectation() below,
// plain() and as_toml() for its field type, and one read_kind() in load.cc; the compiler asks for
// each.

// An integer, a duration or a size, both ends included.
template <class Owner, class T>
struct Bounded {
  Field<Owner, T> field;
  T fallback, min, max;
};
template <class Owner>
struct Flag {
  Field<Owner, bool> field;
  bool fallback;
};
template <class Owner>
struct Text {
  Field<Owner, std::string> field;
  std::string_view fallback;
};
// A string that is never printed, and that may come from the environment or a file.
template <class Owner>
struct Secret {
  Field<Owner, std::string> field;
};
// Words separated by ", ", as a list.
struct WordList {
  std::string_view words;
  operator std::vector<std::string>() const;
};
// A list of names; empty unless `fallback` says more.
template <class Owner>
struct Names {
  Field<Owner, std::vector<std::string>> field;
  WordList fallback{};
};
// A list of ranges of addresses; empty by default.
template <class Owner>
struct Networks {
  Field<Owner, std::vector<Network>> field;
};
// One of the words of Enum (words.h).
template <class Owner, class Enum>
struct Choice {
  Field<Owner, Enum> field;
  Enum fallback;
};
// Overrides for one section; unset by default, and then the option of that name counts.
template <class Owner, class T>
struct Own {
  Field<Owner, std::optional<T>> field;
  T min, max;
};
template <class Owner, class Enum>
struct OwnChoice {
  Field<Owner, std::optional<Enum>> field;
};
// The nodes of a cluster: at least one, none twice.
template <class Owner>
struct Servers {
  Field<Owner, std::vector<NodeAddress>> field;
};

template <class O>
using Value = std::variant<Bounded<O, std::int64_t>, Bounded<O, Millis>, Bounded<O, Bytes>, Flag<O>,
                           Text<O>, Secret<O>, Names<O>, Networks<O>, Choice<O, AuthMethod>,
                           Choice<O, RuleConnection>, Choice<O, ClientCert>, Choice<O, CertName>,
                           Choice<O, PoolMode>,
                           Choice<O, TlsMode>, Choice<O, Consistency>, Choice<O, TenantBy>,
                           Choice<O, RouteTarget>, OwnChoice<O, Consistency>,
                           Choice<O, LogLevel>, Choice<O, OnPin>, Choice<O, SpillPolicy>, Choice<O, Transactions>,
                           Own<O, std::int64_t>, Own<O, Millis>,
                           OwnChoice<O, PoolMode>, OwnChoice<O, OnPin>, OwnChoice<O, Transactions>,
                           OwnChoice<O, Priority>, Servers<O>>;

// When a changed value counts: after a restart, or from the next reload on.
enum class Applies : std::uint8_t { at_start, at_reload };

// Must it be there? `shown` is optional, yet the sample file says it.
enum class Presence : std::uint8_t { optional, shown, required };

template <class Owner>
struct Row {
  std::string_view name;  // an option's whole TOML path ("pool.size"), a section's key ("servers")
  Value<Owner> value;
  Applies applies;
  std::string_view doc;  // one sentence; for a number, what changes when it grows
  Presence presence = Presence::optional;
  std::string_view example{};  // TOML text that the sample file gives instead of the default
};

// A value as SHOW CONFIG prints it: bare words, "10s", lists separated by commas.
std::string plain(bool value);
std::string plain(std::int64_t value);
std::string plain(Millis value);
std::string plain(Bytes value);
std::string plain(const std::string& value);
std::string plain(const std::vector<std::string>& value);
std::string plain(const std::vector<NodeAddress>& value);
std::string plain(const std::vector<Network>& value);

// A value as TOML that reads back to the same.
std::string as_toml(bool value);
std::string as_toml(std::int64_t value);
std::string as_toml(Millis value);
std::string as_toml(Bytes value);
std::string as_toml(const std::string& value);
std::string as_toml(const std::vector<std::string>& value);
std::string as_toml(const std::vector<NodeAddress>& value);
std::string as_toml(const std::vector<Network>& value);

template <Worded Enum>
std::string plain(Enum value) {
  return std::string(word(value));
}
template <Worded Enum>
std::string as_toml(Enum value) {
  return as_toml(std::string(word(value)));
}
template <class T>
std::string plain(const std::optional<T>& value) {
  return value ? plain(*value) : "";
}
template <class T>
std::string as_toml(const std::optional<T>& value) {
  return value ? as_toml(*value) : "";
}

// `text` as a TOML string: in quotes, everything that could break a line or a terminal escaped.
std::string quote(std::string_view text);
// `name` as a TOML key: bare where that is possible, else quoted.
std::string key_text(std::string_view name);

// What a value must be, to follow "it must be ".
template <class T>
std::string expect_range(std::string_view what, T min, T max, std::string_view example) {
  std::string text(what);
  text.append(" from ").append(plain(min)).append(" to ").append(plain(max)).append(example);
  return text;
}
std::string expect_words(const std::string_view* words, std::size_t count);

inline std::string expect_between(std::int64_t min, std::int64_t max) {
  return expect_range("an integer", min, max, "");
}
inline std::string expect_between(Millis min, Millis max) {
  return expect_range("a duration", min, max, ", such as \"250ms\", \"10s\" or \"5min\"");
}
inline std::string expect_between(Bytes min, Bytes max) {
  return expect_range("a size", min, max, ", such as \"64KiB\" or \"16MiB\"");
}

template <class O, class T>
std::string expectation(const Bounded<O, T>& kind) {
  return expect_between(kind.min, kind.max);
}
template <class O>
std::string expectation(const Flag<O>&) {
  return "true or false";
}
template <class O>
std::string expectation(const Text<O>&) {
  return "a string";
}
template <class O>
std::string expectation(const Secret<O>&) {
  return "a string, { env = \"NAME\" } or { file = \"path\" }";
}
template <class O>
std::string expectation(const Names<O>&) {
  return "a list of names, such as [\"one\", \"two\"]";
}
template <class O>
std::string expectation(const Networks<O>&) {
  return "a list of addresses or ranges, such as [\"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.7\"]";
}
template <class O, class Enum>
std::string expectation(const Choice<O, Enum>&) {
  return expect_words(kWords<Enum>.data(), kWords<Enum>.size());
}
template <class O, class T>
std::string expectation(const Own<O, T>& kind) {
  return expect_between(kind.min, kind.max);
}
template <class O, class Enum>
std::string expectation(const OwnChoice<O, Enum>&) {
  return expect_words(kWords<Enum>.data(), kWords<Enum>.size());
}
template <class O>
std::string expectation(const Servers<O>&) {
  return "a list of addresses, such as [\"10.0.0.1:5432\", \"[::1]:5432\", "
         "\"/run/postgresql:5432\"]";
}
template <class Owner>
bool is_secret(const Row<Owner>& row) {
  return std::holds_alternative<Secret<Owner>>(row.value);
}

// What a row tells, for each owner that there is: row.cc has them, because they take long to compile.
template <class Owner>
std::string expectation(const Row<Owner>& row);
template <class Owner>
void set_default(const Row<Owner>& row, Owner& owner);
// The default as TOML; empty where there is none.
template <class Owner>
std::string default_toml(const Row<Owner>& row);
// The value for people; "***" stands for a secret that is set.
template <class Owner>
std::string shown_value(const Row<Owner>& row, const Owner& owner);
// Differ the two owners in this field? Secrets are compared too.
template <class Owner>
bool differs(const Row<Owner>& row, const Owner& one, const Owner& other);

}  // namespace conf
