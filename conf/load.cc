#include "conf/load.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <toml++/toml.h>
#include <unistd.h>

#include "conf/nearest.h"
#include "conf/sections.h"
#include "conf/toml_guard.h"

namespace conf {
namespace {

constexpr std::size_t kMaxFile = 4 << 20;     // ten thousand sections fit
constexpr std::size_t kMaxUsers = 64 << 20;   // of auth.file: some 400,000 SCRAM secrets
constexpr std::size_t kMaxSecret = 64 << 10;  // Postgres itself stops at about a kilobyte
constexpr std::size_t kMaxGroups = 64;        // one bit each
constexpr std::size_t kMaxShown = 64;         // of a wrong value, in a message
constexpr std::size_t kMaxAddress = 300;      // a name in the DNS has 253 bytes
constexpr std::size_t kMaxName = 63;          // Postgres cuts longer names (NAMEDATALEN)

std::uint32_t line_of(const toml::node& node) { return node.source().begin.line; }

// Not in the middle of a UTF-8 character.
std::string cut(std::string_view text) {
  if (text.size() <= kMaxShown) return std::string(text);
  auto end = kMaxShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

std::string_view kind_of(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::none: return "nothing";
    case toml::node_type::table: return "a table";
    case toml::node_type::array: return "a list";
    case toml::node_type::string: return "a string";
    case toml::node_type::integer: return "an integer";
    case toml::node_type::floating_point: return "a fraction";
    case toml::node_type::boolean: return "a boolean";
    case toml::node_type::date: return "a date";
    case toml::node_type::time: return "a time";
    case toml::node_type::date_time: return "a date and time";
  }
  return "something else";
}

// What a wrong value looks like in a message.
std::string shown(const toml::node& node) {
  if (const auto* text = node.as_string()) return quote(cut(text->get()));
  if (const auto* number = node.as_integer()) return std::to_string(number->get());
  if (const auto* flag = node.as_boolean()) return plain(flag->get());
  return std::string(kind_of(node));
}

std::string did_you_mean(std::string_view name, const std::vector<std::string_view>& candidates) {
  const auto best = nearest(name, candidates);
  return best.empty() ? "" : "; did you mean " + std::string(best) + "?";
}

std::string join(std::string_view prefix, std::string_view name) {
  std::string path(prefix);
  if (!path.empty()) path += '.';
  return path += key_text(cut(name));
}

bool loopback(std::string_view host) {
  return host == "localhost" || host.starts_with("127.") || host == "::1" || host == "[::1]";
}

bool only_loopback(std::string_view addresses) {
  while (!addresses.empty()) {
    const auto comma = addresses.find(',');
    auto one = addresses.substr(0, comma);
    while (one.starts_with(' ')) one.remove_prefix(1);
    while (one.ends_with(' ')) one.remove_suffix(1);
    if (!one.empty() && !loopback(one)) return false;
    addresses = comma == addresses.npos ? "" : addresses.substr(comma + 1);
  }
  return true;
}

// The whole of a regular file; a pipe or a device could block or never end.
Result<std::string> read_file(const std::string& path, std::size_t limit) {
  const auto refuse = [&path](std::string_view why) {
    return Error{Errc::io, "reading " + quote(path) + ": " + std::string(why)};
  };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return refuse(std::strerror(errno));
  struct stat facts {};
  std::string text;
  std::string_view why;
  if (::fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode)) why = "not a regular file";
  while (why.empty() && text.size() <= limit) {
    char piece[16 << 10];
    const auto got = ::read(file, piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) why = std::strerror(errno);
    if (got <= 0) break;
    text.append(piece, static_cast<std::size_t>(got));
  }
  ::close(file);
  if (why.empty() && text.size() > limit) why = "larger than it may be";
  if (!why.empty()) return refuse(why);
  return text;
}

// Messages of the parser may quote what they stumbled over.
std::string one_line(std::string_view text) {
  std::string line(text);
  for (char& c : line)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';
  return line;
}

bool has_control(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; });
}

bool is_kind(std::string_view name) {
  return std::apply([name](const auto&... each) { return ((each.kind == name) || ...); },
                    sections());
}

// Is it [[path]]?
bool is_list_kind(std::string_view path) {
  const auto here = [path]<class T>(const T& section) {
    return section.kind == path && !requires { section.example; };
  };
  return std::apply([&here](const auto&... each) { return (here(each) || ...); }, sections());
}

// Is `path` a section that holds options, such as "pool" or "tls.client"?
bool holds_options(std::string_view path) {
  return std::any_of(options().begin(), options().end(), [path](const Option& option) {
    return option.name.size() > path.size() && option.name.starts_with(path) &&
           option.name[path.size()] == '.';
  });
}

// One load. walk() reads the tree into settings_, check() looks at what belongs together; both only
// collect problems, so that all of them are reported.
class Loader {
 public:
  explicit Loader(std::string file) : file_(std::move(file)), settings_(default_settings()) {
    settings_.file = file_;
  }

  // Changes settings that are complete.
  explicit Loader(const Settings& settings) : file_("SET"), settings_(settings), complete_(true) {}

  Result<std::shared_ptr<const Settings>> load(const toml::table& root) {
    walk(root, "");
    read_users();
    if (!complete_) complete_tenants();
    check();
    if (!problems_.empty()) return Error{Errc::config, report()};
    return std::shared_ptr<const Settings>(std::make_shared<Settings>(std::move(settings_)));
  }

 private:
  struct Problem {
    std::uint32_t line;  // 0: of no line
    std::string text;
  };
  // What the file said about a key or a section.
  struct Said {
    std::uint32_t line;
    bool good;
  };

  void problem(std::uint32_t line, std::string text) {
    problems_.push_back({line, std::move(text)});
  }

  std::string report() {
    std::stable_sort(problems_.begin(), problems_.end(), [](const Problem& a, const Problem& b) {
      return a.line - 1 < b.line - 1;  // unsigned: those of no line come last
    });
    std::string text;
    for (const auto& [line, what] : problems_) {
      if (!text.empty()) text += '\n';
      text += file_;
      if (line != 0) text += ':' + std::to_string(line);
      text += ": " + what;
    }
    return text;
  }

  // --- the tree of the file ---

  void walk(const toml::table& table, const std::string& prefix) {
    for (auto&& [key, node] : table) {
      const std::string path = join(prefix, key.str());
      if (const Option* option = find_option(path)) {
        read(node, *option, path, settings_);
      } else if (is_list_kind(path)) {
        walk_list(node, path);
      } else if (is_kind(prefix)) {
        walk_named(node, prefix, std::string(key.str()));
      } else if (is_kind(path) || holds_options(path)) {
        if (const auto* inner = node.as_table())
          walk(*inner, path);
        else
          must_be_section(node, path, is_kind(path) ? path + ".NAME" : path);
      } else {
        unknown_option(node, path);
      }
    }
  }

  void walk_named(const toml::node& node, const std::string& kind, std::string name) {
    const std::string path = join(kind, name);
    const auto* table = node.as_table();
    if (table == nullptr && holds_options(kind)) return unknown_option(node, path);
    if (table == nullptr) return must_be_section(node, path, path);
    said_[path] = {line_of(node), true};
    const std::size_t longest = kind == "node" ? kMaxAddress : kMaxName;
    if (name.empty() || name.size() > longest || has_control(name))
      return problem(line_of(node), path + " is no name; it must have 1 to " +
                                        std::to_string(longest) +
                                        " bytes and no control characters");
    std::apply(
        [&](const auto&... each) {
          ((each.kind == kind ? read_section(each, *table, path, name) : void()), ...);
        },
        sections());
  }

  void walk_list(const toml::node& node, const std::string& kind) {
    const auto* list = node.as_array();
    std::size_t number = 0;
    if (list != nullptr)
      for (const toml::node& one : *list)
        if (one.is_table()) ++number;
    if (list == nullptr || number != list->size())
      return problem(line_of(node), kind + " is " + shown(node) +
                                        "; it must be a section that may stand there several times, [[" +
                                        kind + "]]");
    number = 0;
    for (const toml::node& one : *list) {
      const std::string path = kind + "." + std::to_string(++number);
      said_[path] = {line_of(one), true};
      std::apply(
          [&](const auto&... each) {
            ((each.kind == kind ? read_list_section(each, *one.as_table(), path) : void()), ...);
          },
          sections());
    }
  }

  template <class T>
  void read_section(const Section<T>& section, const toml::table& table, const std::string& path,
                    const std::string& name) {
    T& entry = (settings_.*section.where)[name];
    if constexpr (requires { entry.name; }) entry.name = name;
    read_keys(section, table, path, entry);
  }
  template <class T>
  void read_section(const ListSection<T>&, const toml::table&, const std::string&,
                    const std::string&) {}

  template <class T>
  void read_list_section(const ListSection<T>& section, const toml::table& table,
                         const std::string& path) {
    read_keys(section, table, path, (settings_.*section.where).emplace_back());
  }
  template <class T>
  void read_list_section(const Section<T>&, const toml::table&, const std::string&) {}

  template <class AnySection, class T>
  void read_keys(const AnySection& section, const toml::table& table, const std::string& path,
                 T& entry) {
    for (const Row<T>& row : section.rows) set_default(row, entry);
    for (auto&& [key, node] : table) {
      const std::string key_path = join(path, key.str());
      const std::string_view said = key.str();
      const auto row = std::find_if(section.rows.begin(), section.rows.end(),
                                    [&](const Row<T>& one) { return one.name == said; });
      if (row != section.rows.end()) {
        read(node, *row, key_path, entry);
        continue;
      }
      std::vector<std::string_view> known;
      for (const Row<T>& one : section.rows) known.push_back(one.name);
      problem(line_of(node), key_path + " is not an option" + did_you_mean(said, known));
    }
    for (const Row<T>& row : section.rows) {
      const std::string key_path = path + "." + std::string(row.name);
      if (row.presence != Presence::required || said_.contains(key_path)) continue;
      problem(line_of(table), key_path + " is missing; it must be " + expectation(row));
    }
  }

  void must_be_section(const toml::node& node, const std::string& path, const std::string& header) {
    problem(line_of(node),
            path + " is " + shown(node) + "; it must be a section, [" + header + "]");
  }

  void unknown_option(const toml::node& node, const std::string& path) {
    // A table at the top is compared with sections, everything else with options.
    const bool section = node.is_table() && path.find('.') == path.npos;
    std::vector<std::string_view> known;
    for (const Option& option : options())
      if (!section || option.name.find('.') != option.name.npos)
        known.push_back(section ? option.name.substr(0, option.name.find('.')) : option.name);
    if (section)
      std::apply([&](const auto&... each) { (known.push_back(each.kind), ...); }, sections());
    problem(line_of(node), path + (section ? " is not a section" : " is not an option") +
                               did_you_mean(path, known));
  }

  // --- one value ---

  template <class Owner>
  void read(const toml::node& node, const Row<Owner>& row, const std::string& path, Owner& owner) {
    const std::string must_be = expectation(row);
    const Given given{node, path, must_be};
    const bool good =
        std::visit([&](const auto& kind) { return read_kind(given, kind, kind.field.in(owner)); }, row.value);
    said_[path] = {line_of(node), good};
    if (!good || row.presence != Presence::required) return;
    if (shown_value(row, owner).empty()) problem(line_of(node), path + " is empty; it must be " + must_be);
  }

  // What stands in the file, where, and what it must be.
  struct Given {
    const toml::node& node;
    const std::string& path;
    const std::string& must_be;
  };

  // Each kind of value by what it is read into. The work is done below, once for all owners.
  template <class O>
  bool read_kind(const Given& given, const Flag<O>&, bool& field) {
    return read_flag(given, field);
  }
  template <class O, class T>
  bool read_kind(const Given& given, const Bounded<O, T>& kind, T& field) {
    return read_number(given, kind.min, kind.max, field);
  }
  template <class O, class T>
  bool read_kind(const Given& given, const Own<O, T>& kind, std::optional<T>& field) {
    T value{};
    const bool good = read_number(given, kind.min, kind.max, value);
    if (good) field = value;
    return good;
  }
  template <class O, class Enum>
  bool read_kind(const Given& given, const Choice<O, Enum>&, Enum& field) {
    return read_word(given, field);
  }
  template <class O, class Enum>
  bool read_kind(const Given& given, const OwnChoice<O, Enum>&, std::optional<Enum>& field) {
    Enum value{};
    const bool good = read_word(given, value);
    if (good) field = value;
    return good;
  }
  template <class O>
  bool read_kind(const Given& given, const Text<O>&, std::string& field) {
    return read_text(given, field);
  }
  template <class O>
  bool read_kind(const Given& given, const Secret<O>&, std::string& field) {
    return read_secret(given, field);
  }
  template <class O>
  bool read_kind(const Given& given, const Names<O>&, std::vector<std::string>& field) {
    return read_names(given, field);
  }
  template <class O>
  bool read_kind(const Given& given, const Networks<O>&, std::vector<Network>& field) {
    return read_networks(given, field);
  }
  template <class O>
  bool read_kind(const Given& given, const Servers<O>&, std::vector<NodeAddress>& field) {
    return read_servers(given, field);
  }

  // Each says what is wrong itself and returns whether the value was taken.

  bool wrong(const Given& given) {
    problem(line_of(given.node), given.path + " is " + shown(given.node) + "; it must be " + given.must_be);
    return false;
  }

  bool read_flag(const Given& given, bool& field) {
    const auto* flag = given.node.as_boolean();
    if (flag == nullptr) return wrong(given);
    field = flag->get();
    return true;
  }

  template <class T>
  bool read_number(const Given& given, T min, T max, T& field) {
    const auto value = number<T>(given.node);
    if (!value || *value < min || *value > max) return wrong(given);
    field = *value;
    return true;
  }

  template <class Enum>
  bool read_word(const Given& given, Enum& field) {
    const auto* text = given.node.as_string();
    const auto value = text ? parse_word<Enum>(text->get()) : std::nullopt;
    if (!value) return wrong(given);
    field = *value;
    return true;
  }

  bool read_text(const Given& given, std::string& field) {
    const auto* text = given.node.as_string();
    if (text == nullptr) return wrong(given);
    return take_string(given.node, given.path, text->get(), field);
  }

  bool read_secret(const Given& given, std::string& field) {
    const auto& [node, path, must_be] = given;
    if (const auto* text = node.as_string()) return take_string(node, path, text->get(), field);
    const auto* table = node.as_table();
    const auto* env = table && table->size() == 1 ? table->get_as<std::string>("env") : nullptr;
    const auto* file = table && table->size() == 1 ? table->get_as<std::string>("file") : nullptr;
    if (env != nullptr) {
      const char* value = std::getenv(env->get().c_str());
      if (value != nullptr) return take_string(node, path, value, field);
      problem(line_of(node), path + " comes from the environment variable " +
                                 quote(cut(env->get())) + ", which is not set");
      return false;
    }
    if (file != nullptr) {
      auto text = read_file(file->get(), kMaxSecret);
      if (text) return take_string(node, path, without_newline(std::move(*text)), field);
      problem(line_of(node), path + " comes from a file: " + text.error().message);
      return false;
    }
    // Even of a secret that is wrong only the kind is shown.
    problem(line_of(node), path + " is " + std::string(kind_of(node)) + "; it must be " + must_be);
    return false;
  }

  bool read_names(const Given& given, std::vector<std::string>& field) {
    const auto* list = given.node.as_array();
    if (list == nullptr) return wrong(given);
    field.clear();
    for (const toml::node& one : *list) {
      const auto* text = one.as_string();
      if (text == nullptr || text->get().empty()) {
        problem(line_of(one), given.path + " has " + shown(one) + "; it must be " + given.must_be);
        return false;
      }
      if (!take_string(one, given.path, text->get(), field.emplace_back())) return false;
    }
    return true;
  }

  bool read_networks(const Given& given, std::vector<Network>& field) {
    const auto* list = given.node.as_array();
    if (list == nullptr) return wrong(given);
    for (const toml::node& one : *list) {
      const auto* text = one.as_string();
      const auto network = text ? parse_network(text->get()) : Error{Errc::config, "no string"};
      if (!network) {
        problem(line_of(one), given.path + " has " + shown(one) + ", which has " + network.error().message +
                                  "; it must be " + given.must_be);
        return false;
      }
      field.push_back(*network);
    }
    return true;
  }

  bool read_servers(const Given& given, std::vector<NodeAddress>& field) {
    const auto* list = given.node.as_array();
    if (list == nullptr) return wrong(given);
    bool good = true;
    for (const toml::node& one : *list) {
      const auto* text = one.as_string();
      auto address = text ? parse_node_address(text->get())
                          : Error{Errc::config, shown(one) + " is not a string"};
      if (address && std::find(field.begin(), field.end(), *address) != field.end())
        address = Error{Errc::config, "address " + quote(cut(text->get())) + " is there twice"};
      if (address) {
        field.push_back(*address);
        continue;
      }
      problem(line_of(one), given.path + ": " + address.error().message + "; it must be " + given.must_be);
      good = false;
    }
    return good;
  }

  // A zero needs no unit; every other duration and size is a string with one.
  template <class T>
  static std::optional<T> number(const toml::node& node) {
    const auto* integer = node.as_integer();
    const auto* text = node.as_string();
    if constexpr (std::is_same_v<T, std::int64_t>) {
      return integer ? std::optional(integer->get()) : std::nullopt;
    } else {
      if (integer && integer->get() == 0) return T{};
      if (text == nullptr) return std::nullopt;
      const auto value = parse_unit(text->get(), T{});
      return value ? std::optional(*value) : std::nullopt;
    }
  }
  static Result<Millis> parse_unit(std::string_view text, Millis) { return parse_duration(text); }
  static Result<Bytes> parse_unit(std::string_view text, Bytes) { return parse_bytes(text); }

  bool take_string(const toml::node& node, const std::string& path, std::string text,
                   std::string& field) {
    if (text.find('\0') != text.npos) {
      problem(line_of(node), path + " holds a zero byte; it must be text without one");
      return false;
    }
    field = std::move(text);
    return true;
  }

  // Editors and `echo` end a file with a line end that nobody means as part of a password.
  static std::string without_newline(std::string text) {
    if (text.ends_with('\n')) text.pop_back();
    if (text.ends_with('\r')) text.pop_back();
    return text;
  }

  void read_users() {
    const std::string& path = settings_.auth_file;
    if (path.empty()) return;
    auto text = read_file(path, kMaxUsers);
    auto users = text ? parse_users_file(*text, path) : Result<UserSecrets>(text.error());
    if (users)
      settings_.file_secrets = std::move(*users);
    else
      problem(line_of_key({"auth.file"}), "auth.file cannot be used: " + users.error().message);
    if (auto& said = said_["auth.file"]; !users) said.good = false;
  }

  // --- what belongs together ---

  // What a [tenant.NAME] leaves out is as in [tenant]. Its own rate does not come with the burst of
  // another rate.
  void complete_tenants() {
    const TenantLimits& general = settings_.tenant_default;
    for (auto& [name, limits] : settings_.tenants) {
      const std::string path = join("tenant", name);
      const bool own_rate = said_.contains(path + ".rate");
      if (!own_rate) limits.rate = general.rate;
      if (!own_rate && !said_.contains(path + ".burst")) limits.burst = general.burst;
      if (!said_.contains(path + ".concurrency")) limits.concurrency = general.concurrency;
      const bool own_time = said_.contains(path + ".server_time");
      if (!own_time) limits.server_time = general.server_time;
      if (!own_time && !said_.contains(path + ".server_burst")) limits.server_burst = general.server_burst;
      if (!said_.contains(path + ".weight")) limits.weight = general.weight;
      if (!said_.contains(path + ".ceiling")) limits.ceiling = general.ceiling;
      if (!said_.contains(path + ".replicas")) limits.replicas = general.replicas;
      if (!said_.contains(path + ".max_waiting")) limits.max_waiting = general.max_waiting;
    }
  }

  // The line of the first of these keys that the file has; 0 if it has none.
  std::uint32_t line_of_key(std::initializer_list<std::string_view> keys) const {
    for (const auto key : keys)
      if (const auto said = said_.find(key); said != said_.end()) return said->second.line;
    return 0;
  }

  // False when one of these was refused: a conclusion drawn from its default would mislead.
  bool sound(std::initializer_list<std::string_view> keys) const {
    return std::all_of(keys.begin(), keys.end(), [this](std::string_view key) {
      const auto said = said_.find(key);
      return said == said_.end() || said->second.good;
    });
  }

  void check() {
    check_sections();
    check_nodes();
    check_breaker();
    check_listen();
    check_fleet();
    check_auth();
    check_tls();
    check_pool();
    check_routing();
    check_routes();
    check_tenants();
    check_classes();
    if (settings_.limits_memory_high > settings_.limits_memory_full &&
        sound({"limits.memory_high", "limits.memory_full"}))
      problem(line_of_key({"limits.memory_high", "limits.memory_full"}),
              "limits.memory_high is " + plain(settings_.limits_memory_high) +
                  "; it must not be more than limits.memory_full, " + plain(settings_.limits_memory_full));
  }

  // Who names a class, and the nodes that classes name.
  void check_classes() {
    const auto check = [this](const std::string& path, const std::string& named) {
      if (named.empty() || parse_word<Priority>(named) || settings_.classes.contains(named)) return;
      std::vector<std::string_view> known(kWords<Priority>.begin(), kWords<Priority>.end());
      for (const auto& [name, unused] : settings_.classes) known.push_back(name);
      problem(line_of_key({path + ".class"}), path + ".class is " + quote(cut(named)) +
                                                  "; it must be critical, high, low, sheddable or the "
                                                  "NAME of a [class.NAME]" +
                                                  did_you_mean(named, known));
    };
    for (const auto& [name, database] : settings_.databases)
      check(join("database", name), database.service_class);
    for (const auto& [name, user] : settings_.users) check(join("user", name), user.service_class);
    for (std::size_t i = 0; i < settings_.routes.size(); ++i)
      check("route." + std::to_string(i + 1), settings_.routes[i].service_class);
    if (settings_.classes.size() > kMaxClasses)
      problem(0, "there are " + plain(static_cast<std::int64_t>(settings_.classes.size())) +
                     " classes; there must be at most " + plain(static_cast<std::int64_t>(kMaxClasses)));
    for (const auto& [name, one] : settings_.classes) {
      const std::string path = join("class", name);
      if (const auto own = parse_word<Priority>(name); own && one.priority && *one.priority != *own)
        problem(line_of_key({path + ".priority"}), path + ".priority is " + plain(*one.priority) +
                                                       "; it must be " + name + ", as its name says");
      for (const std::string& node : one.nodes) check_node(path + ".nodes", node);
    }
  }

  void check_node(const std::string& path, const std::string& text) {
    const auto address = parse_node_address(text);
    if (address)
      for (const auto& [name, cluster] : settings_.clusters)
        if (std::ranges::find(cluster.servers, *address) != cluster.servers.end()) return;
    problem(line_of_key({path}),
            path + " has " + quote(cut(text)) + "; it must be in the servers of a [cluster.NAME]");
  }

  void check_sections() {
    if (settings_.clusters.empty())
      problem(0, "there is no cluster; it must have a section such as [cluster.main]");
    if (settings_.databases.empty())
      problem(0, "there is no database; it must have a section such as [database.\"*\"]");
    for (const auto& [name, database] : settings_.databases) {
      const std::string path = join("database", name);
      if (name == kAdminDatabase)
        problem(line_of_key({path}), path +
                                         " has the name of the admin console; it must be "
                                         "another (dbname can still lead to this one)");
      if (name == "*" && !database.min_size_users.empty())
        problem(line_of_key({path + ".min_size_users"}),
                path + ".min_size_users names users; it must be in a section that names a database");
      if (database.cluster.empty() || settings_.clusters.contains(database.cluster)) continue;
      std::vector<std::string_view> known;
      for (const auto& [cluster, unused] : settings_.clusters) known.push_back(cluster);
      problem(line_of_key({path + ".cluster"}), path + ".cluster is " +
                                                    quote(cut(database.cluster)) +
                                                    "; it must be the NAME of a [cluster.NAME]" +
                                                    did_you_mean(database.cluster, known));
    }
  }

  // Nodes are named as people write them in `servers`, and looked for as NodeAddress prints them.
  void check_nodes() {
    std::vector<std::string> servers;
    for (const auto& [cluster, entry] : settings_.clusters)
      for (const NodeAddress& server : entry.servers) servers.push_back(server.name());
    const std::vector<std::string_view> known(servers.begin(), servers.end());
    std::map<std::string, NodeSettings> named;
    std::set<std::string> groups;
    for (auto& [name, node] : settings_.nodes) {
      const std::string path = join("node", name);
      const auto address = parse_node_address(name);
      if (!address || std::ranges::find(servers, address->name()) == servers.end()) {
        problem(line_of_key({path}), path + " is not a server of any cluster; it must be one that stands in "
                                            "cluster.NAME.servers" + did_you_mean(name, known));
        continue;
      }
      groups.insert(node.groups.begin(), node.groups.end());
      if (!named.emplace(address->name(), node).second)
        problem(line_of_key({path}), path + " is there twice, in two spellings");
    }
    if (groups.size() > kMaxGroups)
      problem(0, "there are " + std::to_string(groups.size()) + " groups of nodes; there may be " +
                     std::to_string(kMaxGroups));
    settings_.nodes = std::move(named);
  }

  void check_breaker() {
    const Settings& s = settings_;
    if (s.breaker_open_min > s.breaker_open_max && sound({"breaker.open_min", "breaker.open_max"}))
      problem(line_of_key({"breaker.open_min", "breaker.open_max"}),
              "breaker.open_min is " + quote(print(s.breaker_open_min)) +
                  "; it must be at most breaker.open_max, " + quote(print(s.breaker_open_max)));
  }

  void check_listen() {
    const std::string& folder = settings_.listen_unix_socket_dir;
    if (settings_.listen_address.empty() && folder.empty() &&
        sound({"listen.address", "listen.unix_socket_dir"}))
      problem(line_of_key({"listen.address"}),
              "listen.address is \"\"; it must be an address where there is no "
              "listen.unix_socket_dir");
    // The kernel's sun_path has room for 107 bytes, and "/.s.PGSQL.65535" takes 15 of them.
    if (!folder.empty() && (!folder.starts_with('/') || folder.size() > 92))
      problem(line_of_key({"listen.unix_socket_dir"}),
              "listen.unix_socket_dir is " + quote(cut(folder)) +
                  "; it must be a folder that starts with / and has at most 92 characters");
    const std::string& takeover = settings_.listen_takeover_socket;
    if (!takeover.empty() && (!takeover.starts_with('/') || takeover.size() > 107))
      problem(line_of_key({"listen.takeover_socket"}),
              "listen.takeover_socket is " + quote(cut(takeover)) +
                  "; it must be a path that starts with / and has at most 107 characters");
    if (settings_.listen_admin_reserved >= settings_.listen_max_client_connections &&
        sound({"listen.admin_reserved", "listen.max_client_connections"}))
      problem(line_of_key({"listen.admin_reserved", "listen.max_client_connections"}),
              "listen.admin_reserved is " + plain(settings_.listen_admin_reserved) +
                  "; it must be less than listen.max_client_connections, " +
                  plain(settings_.listen_max_client_connections));
  }

  void check_fleet() {
    const std::string& fleet = settings_.fleet_name;
    const auto fits = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    };
    if (fleet.size() > 16 || !std::ranges::all_of(fleet, fits))
      problem(line_of_key({"fleet.name"}),
              "fleet.name is " + quote(cut(fleet)) + "; it must have up to 16 letters, digits, - and _");
    if (settings_.fleet_gone_after <= settings_.fleet_interval &&
        sound({"fleet.gone_after", "fleet.interval"}))
      problem(line_of_key({"fleet.gone_after", "fleet.interval"}),
              "fleet.gone_after is " + print(settings_.fleet_gone_after) +
                  "; it must be longer than fleet.interval, " + print(settings_.fleet_interval));
  }

  void check_auth() {
    const bool looks_up = !settings_.auth_query_user.empty();
    if (looks_up && settings_.auth_query.find("$1") == std::string::npos)
      problem(line_of_key({"auth.query"}), "auth.query is " + quote(cut(settings_.auth_query)) +
                                               "; it must take the user's name as $1");
    if (!sound({"auth.method", "auth.query_user", "auth.trust_anywhere", "listen.address", "auth.file"}))
      return;
    const bool knows_secrets =
        !settings_.file_secrets.empty() ||
        std::any_of(settings_.users.begin(), settings_.users.end(), [this](const auto& user) {
          const std::string path = join("user", user.first) + ".password";
          return !user.second.password.empty() || !sound({path});
        });
    const std::vector<AuthRule>& rules = settings_.auth_rules;
    for (std::size_t i = 0; i < rules.size(); ++i)
      check_rule(rules[i], "auth.rule." + std::to_string(i + 1));
    if (rules.empty()) check_method(settings_.auth_method, "auth.method", false);
    // Whoever has a password must be known; trust and certificates need nobody to be.
    const auto lets_in = [&](AuthMethod method) {
      if (method == AuthMethod::reject) return false;
      return method == AuthMethod::trust || method == AuthMethod::cert || looks_up || knows_secrets;
    };
    if (!rules.empty()) {
      bool all_known = true;
      for (std::size_t i = 0; i < rules.size(); ++i) {
        const auto method = said_.find("auth.rule." + std::to_string(i + 1) + ".method");
        all_known = all_known && method != said_.end() && method->second.good;
      }
      if (all_known && std::none_of(rules.begin(), rules.end(),
                       [&](const AuthRule& rule) { return lets_in(rule.method); }))
        problem(line_of_key({"auth.rule.1"}),
                "auth.rule lets nobody in: no rule has another method than reject and a user whose "
                "secret is known (auth.query_user, auth.file, [user.NAME])");
    } else if (settings_.auth_method == AuthMethod::reject) {
      problem(line_of_key({"auth.method"}),
              "auth.method is \"reject\"; it must be another, or nobody could log in");
    } else if (!lets_in(settings_.auth_method)) {
      problem(line_of_key({"auth.method", "auth.query_user"}),
              "auth.query_user is \"\"; it must be set, or a [user.NAME] must have a password, or "
              "nobody could log in with auth.method " +
                  quote(word(settings_.auth_method)));
    }
  }

  // `near`: nobody from another machine can meet this method.
  void check_method(AuthMethod method, const std::string& path, bool near) {
    if (method == AuthMethod::trust && !near && !only_loopback(settings_.listen_address) &&
        !settings_.auth_trust_anywhere)
      problem(line_of_key({path}),
              path + " is \"trust\"; it must be another while listen.address is " +
                  quote(cut(settings_.listen_address)) +
                  ", or auth.trust_anywhere must be true: anyone could log in as anybody");
    if (method != AuthMethod::cert || !sound({"tls.client.mode"})) return;
    if (settings_.tls_client_mode == TlsMode::disable)
      problem(line_of_key({path}),
              path + " is \"cert\"; it must be another while tls.client.mode is \"disable\"");
    need("tls.client.ca", settings_.tls_client_ca, path);
  }

  void check_rule(const AuthRule& rule, const std::string& path) {
    const std::string connection = path + ".connection", method = path + ".method",
                      clientcert = path + ".clientcert";
    if (!sound({connection, method, clientcert, path + ".addresses", "tls.client.mode"})) return;
    const bool certificate = rule.method == AuthMethod::cert || rule.clientcert != ClientCert::no;
    if (certificate && rule.connection != RuleConnection::tls)
      problem(line_of_key({connection, path}),
              connection + " is " + quote(word(rule.connection)) +
                  "; it must be \"tls\" in a rule that wants a certificate");
    else if (rule.connection == RuleConnection::tls && settings_.tls_client_mode == TlsMode::disable)
      problem(line_of_key({connection}),
              connection + " is \"tls\"; it must be another while tls.client.mode is \"disable\"");
    else if (certificate)
      need("tls.client.ca", settings_.tls_client_ca,
           rule.method == AuthMethod::cert ? method : clientcert);
    if (rule.connection == RuleConnection::local && !rule.addresses.empty())
      problem(line_of_key({path + ".addresses"}),
              path + ".addresses is set; it must not be in a rule for unix sockets");
    const bool near =
        rule.connection == RuleConnection::local ||
        (!rule.addresses.empty() &&
         std::all_of(rule.addresses.begin(), rule.addresses.end(),
                     [](const Network& network) { return network.is_loopback(); }));
    if (rule.method == AuthMethod::trust) check_method(rule.method, method, near);
  }

  void need(std::string_view key, const std::string& value, std::string_view because) {
    if (!value.empty() || !sound({key})) return;
    problem(line_of_key({key, because}),
            std::string(key) + " is \"\"; it must name a file because of " + std::string(because));
  }

  void check_tls() {
    const Settings& s = settings_;
    if (s.tls_client_mode != TlsMode::disable) {
      need("tls.client.cert", s.tls_client_cert, "tls.client.mode");
      need("tls.client.key", s.tls_client_key, "tls.client.mode");
    }
    if (s.tls_client_mode >= TlsMode::verify_ca)
      need("tls.client.ca", s.tls_client_ca, "tls.client.mode");
    if (s.tls_server_mode >= TlsMode::verify_ca)
      need("tls.server.ca", s.tls_server_ca, "tls.server.mode");
    if (!s.tls_server_cert.empty()) need("tls.server.key", s.tls_server_key, "tls.server.cert");
    if (!s.tls_server_key.empty()) need("tls.server.cert", s.tls_server_cert, "tls.server.key");
  }

  void check_pool() {
    const Settings& s = settings_;
    if (s.pool_connect_backoff_min > s.pool_connect_backoff_max &&
        sound({"pool.connect_backoff_min", "pool.connect_backoff_max"}))
      problem(line_of_key({"pool.connect_backoff_min", "pool.connect_backoff_max"}),
              "pool.connect_backoff_min is " + quote(print(s.pool_connect_backoff_min)) +
                  "; it must be at most pool.connect_backoff_max, " +
                  quote(print(s.pool_connect_backoff_max)));
  }

  void check_digests(const std::string& path, const std::vector<std::string>& digests) {
    for (const std::string& digest : digests) {
      if (digest.size() == 16 && digest.find_first_not_of("0123456789abcdef") == digest.npos) continue;
      problem(line_of_key({path}), path + " has " + quote(cut(digest)) + "; it must have 16 digits of 0-9 and a-f");
    }
  }

  void check_routing() {
    for (const std::string& name : settings_.routing_read_functions) {
      const auto& writes = settings_.routing_write_functions;
      if (std::find(writes.begin(), writes.end(), name) == writes.end()) continue;
      problem(line_of_key({"routing.read_functions"}),
              "routing.read_functions has " + quote(cut(name)) +
                  "; it must not be in routing.write_functions too");
    }
    check_digests("routing.read_digests", settings_.routing_read_digests);
    check_digests("routing.primary_digests", settings_.routing_primary_digests);
  }

  void check_words(const std::string& path, const std::vector<std::string>& list,
                   std::span<const std::string_view> words) {
    for (const std::string& one : list) {
      if (std::ranges::find(words, one) != words.end()) continue;
      problem(line_of_key({path}), path + " has " + quote(cut(one)) + "; it must be " +
                                       expect_words(words.data(), words.size()));
    }
  }

  void check_routes() {
    check_words("routing.hints", settings_.routing_hints, kHints);
    std::vector<std::string> names;
    for (std::size_t i = 0; i < settings_.routes.size(); ++i) {
      RouteRule& rule = settings_.routes[i];
      const std::string path = "route." + std::to_string(i + 1);
      check_words(path + ".statement_classes", rule.statement_classes, kStatementClasses);
      for (const std::string& digest : rule.digests)
        if (digest.size() != 16 || digest.find_first_not_of("0123456789abcdef") != digest.npos)
          problem(line_of_key({path + ".digests"}), path + ".digests has " + quote(cut(digest)) +
                                                        "; it must be 16 hexadecimal digits in lower case");
      for (const std::string& tag : rule.tags)
        if (tag.find('=') == tag.npos || tag.starts_with('='))
          problem(line_of_key({path + ".tags"}),
                  path + ".tags has " + quote(cut(tag)) + "; it must be key=value");
      if (rule.name.empty()) rule.name = std::to_string(i + 1);
      if (rule.name.size() > kMaxName || has_control(rule.name))
        problem(line_of_key({path + ".name", path}),
                path + ".name is no name; it must have at most " + std::to_string(kMaxName) +
                    " bytes and no control characters");
      if (std::ranges::find(names, rule.name) != names.end())
        problem(line_of_key({path + ".name", path}),
                path + ".name is " + quote(cut(rule.name)) + "; it must be another than that of the rules before");
      names.push_back(rule.name);
      const bool limited = rule.rate > 0 || rule.concurrency > 0;
      if (rule.block && (rule.target != RouteTarget::any || rule.consistency || rule.max_lag || rule.query_timeout ||
                         rule.transactions || !rule.service_class.empty() || !rule.groups.empty() || limited || rule.coalesce || rule.cache))
        problem(line_of_key({path + ".block"}),
                path + ".block is true; it must stand alone: what is not run has no target or time-out");
      std::vector<std::string_view> groups;
      for (const auto& [name, node] : settings_.nodes) groups.insert(groups.end(), node.groups.begin(), node.groups.end());
      for (const std::string& group : rule.groups)
        if (std::ranges::find(groups, group) == groups.end())
          problem(line_of_key({path + ".groups"}), path + ".groups has " + quote(cut(group)) +
                                                       "; it must be in the groups of a [node.\"HOST:PORT\"]" +
                                                       did_you_mean(group, groups));
      if (rule.target == RouteTarget::primary && !rule.groups.empty())
        problem(line_of_key({path + ".groups"}),
                path + ".groups is set; it must not be where target is \"primary\"");
      if ((rule.coalesce || rule.cache) && rule.consistency && *rule.consistency >= Consistency::strong)
        problem(line_of_key({path + ".consistency"}),
                path + ".consistency is " + quote(word(*rule.consistency)) + "; it must be another where coalesce or cache shares answers: who "
                       "reads with it is never given another's");
      if (rule.target == RouteTarget::replica && rule.consistency == Consistency::primary)
        problem(line_of_key({path + ".consistency"}),
                path + ".consistency is \"primary\"; it must be another where target is \"replica\"");
      if (rule.target == RouteTarget::primary && rule.max_lag)
        problem(line_of_key({path + ".max_lag"}),
                path + ".max_lag is set; it must not be where target is \"primary\"");
    }
  }

  void check_tenants() {
    check_limits("tenant", settings_.tenant_default);
    for (const auto& [name, limits] : settings_.tenants) check_limits(join("tenant", name), limits);
  }

  void check_limits(const std::string& path, const TenantLimits& limits) {
    const std::string rate = path + ".rate";
    const std::string burst = path + ".burst";
    // Of a section only what it says itself: the default is judged once.
    if (limits.burst != 0 && limits.rate == 0 && said_.contains(burst) && sound({rate}))
      problem(line_of_key({burst}),
              burst + " is " + plain(limits.burst) + "; it must have a " + rate + " beside it");
    const std::string time = path + ".server_time";
    const std::string time_burst = path + ".server_burst";
    if (limits.server_burst != 0 && limits.server_time == 0 && said_.contains(time_burst) && sound({time}))
      problem(line_of_key({time_burst}),
              time_burst + " is " + plain(limits.server_burst) + "; it must have a " + time + " beside it");
  }

  std::string file_;
  Settings settings_;
  const bool complete_ = false;  // nothing is to be filled in
  std::map<std::string, Said, std::less<>> said_;
  std::vector<Problem> problems_;
};

}  // namespace

Result<std::shared_ptr<const Settings>> load_text(std::string_view toml, std::string file_name) {
  if (const auto line = line_nested_too_deep(toml); line != 0)
    return Error{Errc::config,
                 file_name + ":" + std::to_string(line) + ": a key has more dots than any option"};
  try {
    const toml::table root = toml::parse(toml);
    return Loader(std::move(file_name)).load(root);
  } catch (const toml::parse_error& error) {
    const auto at = error.source().begin;
    return Error{Errc::config, file_name + ":" + std::to_string(at.line) + ":" +
                                   std::to_string(at.column) + ": " +
                                   one_line(error.description())};
  } catch (const std::exception& error) {  // out of memory
    return Error{Errc::config, file_name + ": " + one_line(error.what())};
  }
}

Result<std::shared_ptr<const Settings>> with_option(const Settings& settings, const std::string& option,
                                                    const std::string& value) {
  const auto refuse = [](std::string why) { return Error{Errc::config, std::move(why)}; };
  const Option* row = find_option(option);
  if (row == nullptr) {
    std::vector<std::string_view> known;
    for (const Option& one : options()) known.push_back(one.name);
    return refuse(cut(option) + " is not an option" + did_you_mean(option, known));
  }
  if (row->applies == Applies::at_start) return refuse(option + " can only be changed by a restart");
  toml::table root;
  toml::table* section = &root;
  std::string_view path = option;
  for (auto dot = path.find('.'); dot != path.npos; dot = path.find('.')) {
    section = section->insert(path.substr(0, dot), toml::table{}).first->second.as_table();
    path.remove_prefix(dot + 1);
  }
  const bool is_flag = std::holds_alternative<Flag<Settings>>(row->value);
  const bool is_text = std::holds_alternative<Text<Settings>>(row->value) || is_secret(*row);
  std::int64_t number = 0;
  const auto [end, wrong] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (std::holds_alternative<Names<Settings>>(row->value)) {
    toml::array list;
    std::string_view rest = value;
    while (!rest.empty()) {
      const auto comma = rest.find(',');
      std::string_view one = rest.substr(0, comma);
      while (one.starts_with(' ')) one.remove_prefix(1);
      while (one.ends_with(' ')) one.remove_suffix(1);
      list.push_back(std::string(one));
      rest = comma == rest.npos ? "" : rest.substr(comma + 1);
    }
    section->insert(path, std::move(list));
  } else if (is_flag && (value == "true" || value == "false")) {
    section->insert(path, value == "true");
  } else if (!is_text && wrong == std::errc() && end == value.data() + value.size()) {
    section->insert(path, number);
  } else {
    section->insert(path, value);
  }
  // A list is added to, not replaced, by the loader.
  Settings changed = settings;
  set_default(*row, changed);
  auto loaded = Loader(changed).load(root);
  if (loaded) return loaded;
  std::string text = loaded.error().message;
  if (text.starts_with("SET: ")) text.erase(0, 5);
  return refuse(std::move(text));
}

Result<std::shared_ptr<const Settings>> load_file(const std::string& path) {
  const auto text = read_file(path, kMaxFile);
  if (!text) return text.error();
  return load_text(*text, path);
}

}  // namespace conf
