#include "pool/session_settings.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <optional>
#include <utility>

namespace pool {
namespace {

constexpr std::string_view kAuthorization = "session_authorization";
constexpr std::string_view kRole = "role";
constexpr std::string_view kDateStyle = "datestyle";

bool is_identity(std::string_view name) { return name == kAuthorization || name == kRole; }
// Told to us at start-up, and to no server. What SET says of such a name a server has, as any other; and the position,
// wherever it is from, because it is a server that answers SHOW pgsluice.lsn.
bool is_unsent(const Setting& setting) {
  return setting.from_startup && setting.name.starts_with("pgsluice.") && setting.name != "pgsluice.lsn";
}
bool is_ascii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}
bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.' || c == '-' || c == '+' || c == '$';
}

std::size_t hash_of(std::span<const Setting> entries) {
  std::size_t hash = entries.size();
  const auto mix = [&hash](std::size_t more) {
    hash ^= more + 0x9e3779b97f4a7c15u + (hash << 6) + (hash >> 2);
  };
  for (const Setting& entry : entries) {
    mix(std::hash<std::string>{}(entry.name));
    mix(std::hash<std::string>{}(entry.value) + (entry.from_startup ? 1 : 0));
  }
  return hash;
}

const Setting* find(std::span<const Setting> entries, std::string_view name) {
  const auto it = std::ranges::lower_bound(entries, name, {}, &Setting::name);
  return it == entries.end() || it->name != name ? nullptr : &*it;
}

void drop(std::vector<Setting>& entries, std::string_view name) {
  std::erase_if(entries, [name](const Setting& entry) { return entry.name == name; });
}

void put(std::vector<Setting>& entries, Setting setting) {
  const auto it = std::ranges::lower_bound(entries, setting.name, {}, &Setting::name);
  if (it != entries.end() && it->name == setting.name)
    *it = std::move(setting);
  else
    entries.insert(it, std::move(setting));
}

// ---- SQL that means the same under every setting that changes how SQL is read

// "a"."b" for a.b: Postgres takes each part of a custom setting's name by itself.
std::string quoted_name(std::string_view name) {
  std::string sql = "\"";
  for (const char c : name) {
    if (c == '.')
      sql += "\".\"";
    else if (c == '"')
      sql += "\"\"";
    else
      sql += c;
  }
  return sql += '"';
}

// For ASCII only: see text_expression.
std::string literal(std::string_view text) {
  const bool escapes = text.find('\\') != std::string_view::npos;
  std::string sql = escapes ? "E'" : "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') sql += c;
    sql += c;
  }
  return sql += '\'';
}

// An expression for `text`, whose bytes are in the encoding that the SQL expression `encoding`
// names.
std::string text_expression(std::string_view text, const std::string& encoding) {
  if (is_ascii(text)) return literal(text);
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const char c : text) {
    hex += kDigits[static_cast<unsigned char>(c) >> 4];
    hex += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return "pg_catalog.convert_from(pg_catalog.decode('" + hex + "','hex')," + encoding + ")";
}

// One item of what stands behind "SET name TO ".
struct Item {
  enum class Kind { word, text, comma } kind;
  std::string text;  // of a literal: what it means
};

// Empty when it is not a list of words and literals.
std::optional<std::vector<Item>> items(std::string_view value) {
  std::vector<Item> found;
  std::size_t i = 0;
  while (i < value.size()) {
    const char c = value[i];
    if (c == ' ') {
      ++i;
    } else if (c == ',') {
      found.push_back({Item::Kind::comma, ","});
      ++i;
    } else if (c == '\'' ||
               ((c == 'E' || c == 'e') && i + 1 < value.size() && value[i + 1] == '\'')) {
      const bool escapes = c != '\'';
      std::string text;
      bool closed = false;
      for (i += escapes ? 2 : 1; i < value.size() && !closed; ++i) {
        if (value[i] == '\'' && i + 1 < value.size() && value[i + 1] == '\'') {
          text += value[++i];
        } else if (value[i] == '\'') {
          closed = true;
        } else if (escapes && value[i] == '\\') {
          // Only what a quoting function writes: a doubled backslash or an escaped quote.
          if (i + 1 == value.size() || (value[i + 1] != '\\' && value[i + 1] != '\''))
            return std::nullopt;
          text += value[++i];
        } else {
          text += value[i];
        }
      }
      if (!closed) return std::nullopt;
      found.push_back({Item::Kind::text, std::move(text)});
    } else if (c == '"') {
      std::string text;
      bool closed = false;
      for (++i; i < value.size() && !closed; ++i) {
        if (value[i] != '"')
          text += value[i];
        else if (i + 1 < value.size() && value[i + 1] == '"')
          text += value[++i];
        else
          closed = true;
      }
      if (!closed) return std::nullopt;
      found.push_back({Item::Kind::text, std::move(text)});
    } else if (is_word(c)) {
      std::string word;
      while (i < value.size() && is_word(value[i])) word += value[i++];
      if (word.find("--") != std::string::npos) return std::nullopt;  // would begin a comment
      found.push_back({Item::Kind::word, std::move(word)});
    } else {
      return std::nullopt;
    }
  }
  if (found.empty()) return std::nullopt;
  return found;
}

// Settings whose SET makes a list of quoted identifiers of its arguments (GUC_LIST_QUOTE in
// Postgres, those that a session can change).
bool is_quoted_list(std::string_view name) {
  return name == "search_path" || name == "temp_tablespaces";
}

// The one string that SET makes of a list: what set_config would be given.
std::string as_one_string(std::string_view name, std::span<const Item> list) {
  std::string text;
  for (const Item& item : list) {
    switch (item.kind) {
      case Item::Kind::comma: text += ", "; break;
      case Item::Kind::word: text += item.text; break;
      case Item::Kind::text:
        if (!is_quoted_list(name)) {
          text += item.text;
          break;
        }
        text += '"';
        for (const char c : item.text) text += c == '"' ? "\"\"" : std::string(1, c);
        text += '"';
        break;
    }
  }
  return text;
}

bool is_interval(const Item& item) {
  constexpr std::string_view kInterval = "interval";
  const auto same_letter = [](char a, char b) {
    return (a >= 'A' && a <= 'Z' ? a + ('a' - 'A') : a) == b;
  };
  return item.kind == Item::Kind::word && std::ranges::equal(item.text, kInterval, same_letter);
}

std::string set_config(std::string_view name, std::string_view value, const std::string& encoding) {
  return "pg_catalog.set_config(" + text_expression(name, encoding) + ',' +
         text_expression(value, encoding) + ",false)";
}

std::string startup_value(const Setting& setting) {
  std::string value = setting.value;
  // Postgres does this with an application_name from the start-up packet.
  if (setting.name == "application_name")
    std::ranges::replace_if(value, [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return value;
}

// The start-up packet is not converted by Postgres: its bytes are in the database's encoding.
std::string startup_set_config(const Setting& setting) {
  return set_config(setting.name, startup_value(setting), "pg_catalog.getdatabaseencoding()");
}

// `"other", "public"` for what a start-up packet says of a list of names; nothing: it is no plain one.
std::optional<std::string> quoted_list(std::string_view value) {
  std::string list;
  bool wants_name = true;
  for (std::size_t i = 0; i < value.size();) {
    if (value[i] == ' ') {
      ++i;
    } else if (value[i] == ',' && !wants_name) {
      list += ", ";
      wants_name = true;
      ++i;
    } else if (value[i] == '"' && wants_name) {
      const std::size_t end = value.find('"', i + 1);
      if (end == value.npos || end == i + 1 || value.substr(end + 1).starts_with('"')) return std::nullopt;
      list += value.substr(i, end + 1 - i);
      wants_name = false;
      i = end + 1;
    } else if (is_word(value[i]) && wants_name) {
      list += '"';
      for (; i < value.size() && is_word(value[i]); ++i)
        list += value[i] >= 'A' && value[i] <= 'Z' ? static_cast<char>(value[i] + ('a' - 'A')) : value[i];
      list += '"';
      wants_name = false;
    } else {
      return std::nullopt;
    }
  }
  return wants_name ? std::nullopt : std::optional(list);
}

// A start-up value by SET, which, unlike set_config(), takes no snapshot: behind it a transaction can still be
// told its isolation level.
std::string startup_statement(const Setting& setting) {
  const std::string value = startup_value(setting);
  std::optional<std::string> sql;
  if (is_ascii(setting.name) && is_ascii(value))
    sql = is_quoted_list(setting.name) ? quoted_list(value) : literal(value);
  return sql ? "SET " + quoted_name(setting.name) + " TO " + *sql + ';'
             : "SELECT " + startup_set_config(setting) + ';';
}

std::string set_statement(const Setting& setting) {
  if (setting.from_startup) return "SELECT " + startup_set_config(setting) + ';';
  const auto list = items(setting.value);
  if (!is_ascii(setting.value) || !is_ascii(setting.name)) {
    // What the client sent was in its encoding; client_encoding is set before all others.
    return "SELECT " +
           set_config(setting.name, list ? as_one_string(setting.name, *list) : setting.value,
                      "pg_catalog.current_setting('client_encoding')") +
           ';';
  }
  const std::string set = "SET " + quoted_name(setting.name) + " TO ";
  if (!list) return set + literal(setting.value) + ';';

  // Postgres takes INTERVAL after SET TIME ZONE only.
  const bool special = setting.name == "timezone" && is_interval(list->front());
  std::string sql = special ? "SET TIME ZONE" : set;
  bool blank = sql.back() != ' ';
  for (const Item& item : *list) {
    if (blank && item.kind != Item::Kind::comma) sql += ' ';
    sql += item.kind == Item::Kind::text ? literal(item.text) : item.text;
    blank = true;
  }
  return sql += ';';
}

std::string reset_statement(const Setting& setting) {
  return "RESET " + quoted_name(setting.name) + ';';
}

bool same(const Setting* a, const Setting* b) { return a && b ? *a == *b : a == b; }

void to_lower(std::string& text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
}

// The words in what stands behind "SET datestyle TO ", lower case: 'SQL, dmy' has two.
std::vector<std::string> words_of(std::string_view value) {
  std::vector<std::string> words(1);
  for (const char c : value) {
    const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (word)
      words.back() += c;
    else if (!words.back().empty())
      words.emplace_back();
  }
  if (words.back().empty()) words.pop_back();
  for (std::string& word : words) to_lower(word);
  return words;
}

// DateStyle is two settings, a style and an order of day and month, and SET of one keeps the other.
struct DateStyle {
  std::string style, order;  // empty: not said
};
std::optional<DateStyle> date_style(std::string_view value) {
  DateStyle said;
  for (const std::string& word : words_of(value)) {
    const bool dmy = word == "dmy" || word.starts_with("euro");
    const bool mdy = word == "mdy" || word == "us" || word.starts_with("noneuro");
    if (dmy || mdy || word == "ymd") {
      said.order = dmy ? "dmy" : mdy ? "mdy" : "ymd";
    } else if (word == "iso" || word == "sql" || word.starts_with("postgres") || word == "german") {
      said.style = word;
    } else {
      return std::nullopt;  // "default", or what Postgres refuses
    }
  }
  if (said.style == "german" && said.order.empty()) said.order = "dmy";
  return said;
}

// What `value` leaves open is as it was: `before`, null when that is the server's own.
std::string whole_date_style(const Setting* before, const std::string& value) {
  const std::optional<DateStyle> now = date_style(value);
  const std::optional<DateStyle> was = before == nullptr ? std::nullopt : date_style(before->value);
  if (!now || !was) return value;
  const std::string& style = now->style.empty() ? was->style : now->style;
  const std::string& order = now->order.empty() ? was->order : now->order;
  if (style == now->style && order == now->order) return value;
  return '\'' + style + (style.empty() || order.empty() ? "" : ", ") + order + '\'';
}

// Ends with its transaction, so the session does not remember it.
bool is_of_transaction(std::string_view name) { return name.starts_with("transaction_"); }

}  // namespace

SettingsInterner::SettingsInterner() : empty_(std::make_shared<const SettingsSet>()) {}

SettingsRef SettingsInterner::intern(std::vector<Setting> entries) {
  if (entries.empty()) return empty_;
  for (Setting& entry : entries) to_lower(entry.name);
  std::ranges::stable_sort(entries, {}, &Setting::name);
  // Of several with one name the last stays.
  const auto [last, end] =
      std::ranges::unique(entries.rbegin(), entries.rend(), {}, &Setting::name);
  entries.erase(entries.begin(), last.base());

  auto set = std::make_shared<SettingsSet>();
  set->entries = std::move(entries);
  set->hash = hash_of(set->entries);
  if (SettingsRef known = find(*set)) return known;
  return keep(std::move(set));
}

SettingsRef SettingsInterner::adopt(const SettingsRef& foreign) {
  if (foreign->entries.empty()) return empty_;
  if (SettingsRef known = find(*foreign)) return known;
  return keep(foreign);
}

std::size_t SettingsInterner::size() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(sets_, [](const auto& entry) { return !entry.second.expired(); }));
}

SettingsRef SettingsInterner::find(const SettingsSet& wanted) const {
  const auto [begin, end] = sets_.equal_range(wanted.hash);
  for (auto it = begin; it != end; ++it)
    if (SettingsRef set = it->second.lock(); set && set->entries == wanted.entries) return set;
  return nullptr;
}

SettingsRef SettingsInterner::keep(SettingsRef set) {
  if (sets_.size() >= sweep_at_) {
    std::erase_if(sets_, [](const auto& entry) { return entry.second.expired(); });
    sweep_at_ = std::max<std::size_t>(64, sets_.size() * 2);
  }
  sets_.emplace(set->hash, set);
  return set;
}

std::string bare_value(const Setting& setting) {
  std::string_view value = setting.value;
  const bool escapes = value.starts_with("E'");
  if (escapes) value.remove_prefix(1);
  if (setting.from_startup || value.size() < 2 || value.front() != '\'' || value.back() != '\'')
    return setting.value;
  std::string bare;
  for (std::size_t i = 1; i + 1 < value.size(); ++i) {
    if (value[i] == '\'' || (escapes && value[i] == '\\')) ++i;  // both are doubled
    if (i + 1 < value.size()) bare += value[i];
  }
  return bare;
}

SettingsSet read_by(const SettingsSet& settings) {
  static constexpr std::string_view kRead[] = {
      "backslash_quote",  "client_encoding", "datestyle",
      "intervalstyle",    "search_path",     "standard_conforming_strings",
      "timezone",         "transform_null_equals"};
  SettingsSet some;
  for (const Setting& setting : settings.entries)
    if (std::ranges::binary_search(kRead, setting.name)) some.entries.push_back(setting);
  return some;
}

namespace {

enum class Startup : std::uint8_t { at_once, one_by_one };

std::vector<std::string> replay(const SettingsSet& from, const SettingsSet& to, Startup how) {
  const Setting* const from_user = find(from.entries, kAuthorization);
  const Setting* const from_role = find(from.entries, kRole);
  const Setting* const to_user = find(to.entries, kAuthorization);
  const Setting* const to_role = find(to.entries, kRole);

  std::vector<std::string> others, encoding, sets;
  std::string startup;
  for (const Setting& entry : from.entries) {
    if (is_identity(entry.name) || is_unsent(entry)) continue;
    const Setting* const wanted = find(to.entries, entry.name);
    if (wanted == nullptr || is_unsent(*wanted)) others.push_back(reset_statement(entry));
  }
  for (const Setting& entry : to.entries) {
    if (is_identity(entry.name) || is_unsent(entry)) continue;
    const Setting* const had = find(from.entries, entry.name);
    if (same(had, &entry)) continue;
    // One that says only a part of it goes by the server's own for the rest.
    if (had != nullptr && entry.name == kDateStyle) others.push_back(reset_statement(*had));
    if (entry.from_startup && how == Startup::one_by_one)
      sets.push_back(startup_statement(entry));
    else if (entry.from_startup)
      startup += (startup.empty() ? "SELECT " : ",") + startup_set_config(entry);
    else
      (entry.name == "client_encoding" ? encoding : sets).push_back(set_statement(entry));
  }
  const auto append = [](std::vector<std::string>& to_these, std::vector<std::string>& more) {
    std::ranges::move(more, std::back_inserter(to_these));
  };
  if (!startup.empty()) others.push_back(startup + ';');
  append(others, encoding);
  append(others, sets);

  const bool same_user = same(from_user, to_user);
  if (others.empty() && same_user) {
    if (same(from_role, to_role)) return {};
    return {to_role ? set_statement(*to_role) : reset_statement(*from_role)};
  }
  std::vector<std::string> all;
  if (from_role) all.push_back(reset_statement(*from_role));
  if (from_user) all.push_back(reset_statement(*from_user));
  append(all, others);
  if (to_user) all.push_back(set_statement(*to_user));
  if (to_role) all.push_back(set_statement(*to_role));
  return all;
}

}  // namespace

std::vector<std::string> replay_statements(const SettingsSet& from, const SettingsSet& to) {
  return replay(from, to, Startup::one_by_one);
}

std::string replay_sql(const SettingsSet& from, const SettingsSet& to) {
  std::string sql;
  for (const std::string& statement : replay(from, to, Startup::at_once)) sql += statement;
  return sql;
}

SettingsRef settings_after(const SettingsRef& before,
                           std::span<const routing::SettingChange> changes,
                           const SettingsRef& defaults, SettingsInterner& interner) {
  using What = routing::SettingChange::What;
  std::vector<Setting> entries = before->entries;
  bool changed = false;
  for (const routing::SettingChange& change : changes) {
    std::string name = change.name;
    to_lower(name);
    switch (change.what) {
      case What::set_local: continue;
      case What::set:
        if (is_of_transaction(name)) continue;
        if (name == kAuthorization) drop(entries, kRole);
        if (name == kDateStyle) {
          put(entries, {.name = name, .value = whole_date_style(find(entries, name), change.value)});
          break;
        }
        put(entries, {.name = std::move(name), .value = change.value});
        break;
      case What::reset:
        if (name == kAuthorization) drop(entries, kRole);
        if (const Setting* start = find(defaults->entries, name))
          put(entries, *start);
        else
          drop(entries, name);
        break;
      case What::reset_all: {
        std::vector<Setting> kept;
        for (const Setting& entry : defaults->entries)
          if (!is_identity(entry.name)) put(kept, entry);
        for (Setting& entry : entries)
          if (is_identity(entry.name)) put(kept, std::move(entry));
        entries = std::move(kept);
        break;
      }
      case What::discard_all: entries = defaults->entries; break;
      case What::commit:
      case What::rollback:
      case What::savepoint:
      case What::release:
      case What::rollback_to: continue;
    }
    changed = true;
  }
  return changed ? interner.intern(std::move(entries)) : before;
}

void SessionSettings::change_to(SettingsRef next) {
  if (next == current_) return;
  if (!trial_) trial_ = std::make_unique<Trial>(current_);
  current_ = std::move(next);
}

std::vector<SessionSettings::Savepoint>::iterator SessionSettings::find(std::string_view name) {
  const auto found = std::find_if(trial_->savepoints.rbegin(), trial_->savepoints.rend(),
                                  [name](const Savepoint& one) { return one.name == name; });
  return found == trial_->savepoints.rend() ? trial_->savepoints.end() : std::prev(found.base());
}

void SessionSettings::apply(std::span<const routing::SettingChange> changes, bool aborted,
                            SettingsInterner& interner) {
  using What = routing::SettingChange::What;
  while (!changes.empty()) {
    const auto first = std::ranges::find_if(
        changes, [](const routing::SettingChange& change) { return change.is_control(); });
    const auto run = static_cast<std::size_t>(first - changes.begin());
    if (run > 0) {
      change_to(settings_after(current_, changes.first(run), startup_, interner));
      changes = changes.subspan(run);
      continue;
    }
    const routing::SettingChange& step = changes.front();
    changes = changes.subspan(1);
    switch (step.what) {
      case What::set:
      case What::set_local:
      case What::reset:
      case What::reset_all:
      case What::discard_all: break;
      case What::commit:
      case What::rollback:
        end_transaction(step.what == What::commit && !aborted);
        aborted = false;
        break;
      case What::savepoint:
        if (trial_) trial_->savepoints.push_back({step.name, current_});
        break;
      case What::release:
        if (!trial_) break;
        // With it go those that were made after it; with one made before the first change, all.
        if (const auto found = find(step.name); found != trial_->savepoints.end())
          trial_->savepoints.erase(found, trial_->savepoints.end());
        else
          trial_->savepoints.clear();
        break;
      case What::rollback_to:
        aborted = false;
        if (!trial_) break;
        if (const auto found = find(step.name); found != trial_->savepoints.end()) {
          current_ = found->then;
          trial_->savepoints.erase(std::next(found), trial_->savepoints.end());
        } else {
          end_transaction(false);
        }
        break;
    }
  }
}

void SessionSettings::end_transaction(bool committed) {
  if (!trial_) return;
  if (!committed) current_ = std::move(trial_->before);
  trial_ = nullptr;
}

void SessionSettings::assume(SettingsRef current, bool in_transaction) {
  if (in_transaction) return change_to(std::move(current));
  current_ = std::move(current);
  trial_ = nullptr;
}

}  // namespace pool
