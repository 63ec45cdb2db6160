#include "proxy/wire/startup.h"

#include <algorithm>

#include "proxy/wire/sqlstate.h"

namespace wire {
namespace {

// "Versions" of major 1234: requests that are made before the protocol begins.
constexpr std::uint32_t kCancelCode = 1234u << 16 | 5678u;
constexpr std::uint32_t kSslCode = 1234u << 16 | 5679u;
constexpr std::uint32_t kGssEncCode = 1234u << 16 | 5680u;

constexpr std::string_view kProtocolOptionPrefix = "_pq_.";

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  std::size_t at = 0;
  while (true) {
    while (at < text.size() && is_space(text[at])) ++at;
    if (at == text.size()) return words;
    std::string word;
    for (; at < text.size() && !is_space(text[at]); ++at) {
      if (text[at] == '\\' && ++at == text.size()) break;
      word.push_back(text[at]);
    }
    words.push_back(std::move(word));
  }
}

conf::Error bad_option(std::string message) { return {conf::Errc::config, std::move(message)}; }

Result<Startup> decode_parameters(Reader& reader, std::uint16_t minor) {
  Startup startup{.minor = minor, .parameters = {}};
  while (reader.ok()) {
    const std::string_view name = reader.cstring();
    if (name.empty()) break;  // the terminator, or cut off
    const std::string_view value = reader.cstring();
    if (reader.ok()) startup.parameters.emplace_back(name, value);
  }
  if (!reader.finished()) {
    return malformed("invalid startup packet layout: expected terminator as last byte");
  }
  return startup;
}

// Postgres's parse_bool takes unique prefixes and single digits.
std::optional<bool> parse_bool(std::string_view text) {
  std::string word;
  for (const char c : text) word.push_back(lower(c));
  const auto prefix_of = [&word](std::string_view whole, std::size_t at_least) {
    return word.size() >= at_least && whole.substr(0, word.size()) == word;
  };
  if (word == "1" || prefix_of("true", 1) || prefix_of("yes", 1) || word == "on") return true;
  if (word == "0" || prefix_of("false", 1) || prefix_of("no", 1) || prefix_of("off", 2)) {
    return false;
  }
  return std::nullopt;
}

std::optional<Replication> parse_replication(std::string_view value) {
  if (value == "database") return Replication::logical;
  const std::optional<bool> flag = parse_bool(value);
  if (!flag) return std::nullopt;
  return *flag ? Replication::physical : Replication::none;
}

}  // namespace

Peek<std::size_t> startup_packet_length(std::string_view bytes) {
  if (bytes.size() < 4) return std::optional<std::size_t>{};
  const std::size_t length = load_u32(bytes.data());
  if (length < kMinStartupPacket || length > kMaxStartupPacket) {
    return malformed("invalid length of startup packet");
  }
  return std::optional<std::size_t>{length};
}

Result<StartupPacket> decode_startup(std::string_view packet) {
  Reader reader(packet);
  const std::size_t length = reader.u32();
  const std::uint32_t code = reader.u32();
  if (!reader.ok() || length != packet.size() || length > kMaxStartupPacket) {
    return malformed("invalid length of startup packet");
  }
  if (code == kSslCode || code == kGssEncCode) {
    if (!reader.finished()) return malformed("invalid length of encryption request packet");
    StartupPacket request = SslRequest{};
    if (code == kGssEncCode) request = GssEncRequest{};
    return request;
  }
  if (code == kCancelCode) {
    const std::uint32_t pid = reader.u32();
    const std::string_view key = reader.rest();
    if (!reader.ok() || key.size() < kMinCancelKey || key.size() > kMaxCancelKey) {
      return malformed("invalid length of cancel request packet");
    }
    return StartupPacket{CancelRequest{.pid = pid, .key = key}};
  }
  const auto major = static_cast<std::uint16_t>(code >> 16);
  const auto minor = static_cast<std::uint16_t>(code & 0xffff);
  if (major != kMajorVersion) return StartupPacket{UnsupportedVersion{major, minor}};
  Result<Startup> startup = decode_parameters(reader, minor);
  if (!startup) return startup.error();
  return StartupPacket{std::move(*startup)};
}

std::string unsupported_version(UnsupportedVersion version) {
  return "unsupported frontend protocol " + std::to_string(version.major) + "." +
         std::to_string(version.minor) + ": server supports 3.0 to 3." +
         std::to_string(kMaxMinorVersion);
}

const std::string* Login::setting(std::string_view name) const {
  for (const StartupSetting& setting : settings) {
    if (same_name(setting.name, name)) return &setting.value;
  }
  return nullptr;
}

void set_setting(std::vector<StartupSetting>& settings, std::string_view name,
                 std::string_view value) {
  for (StartupSetting& setting : settings) {
    if (same_name(setting.name, name)) {
      setting.value = value;
      return;
    }
  }
  settings.push_back({std::string(name), std::string(value)});
}

Result<std::vector<StartupSetting>> parse_options(std::string_view options) {
  std::vector<StartupSetting> settings;
  const std::vector<std::string> words = split_words(options);
  const std::string not_understood = "invalid command-line argument for server process: ";
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--" && i + 1 == words.size()) break;  // the end of the switches, as for getopt
    const bool dashes = word.starts_with("--") && word.size() > 2;
    if (!dashes && !word.starts_with("-c")) {
      return bad_option(not_understood + word);
    }
    std::string_view assignment = std::string_view(word).substr(2);
    if (assignment.empty()) {
      if (++i == words.size()) return bad_option(not_understood + word);
      assignment = words[i];
    }
    const std::size_t equals = assignment.find('=');
    if (equals == std::string_view::npos) {
      const std::string what = (dashes ? "--" : "-c ") + std::string(assignment);
      return bad_option(what + " requires a value");
    }
    std::string name(assignment.substr(0, equals));
    std::replace(name.begin(), name.end(), '-', '_');
    if (name.empty()) return bad_option("invalid configuration parameter name \"\"");
    set_setting(settings, name, assignment.substr(equals + 1));
  }
  return settings;
}

std::string escape_option(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || is_space(c)) out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

std::variant<Login, StartupRefusal> interpret(const Startup& startup) {
  Login login;
  std::string options;
  std::string replication;
  std::vector<StartupSetting> direct;
  for (const auto& [name, value] : startup.parameters) {
    if (name == "user") {
      login.user = value;
    } else if (name == "database") {
      login.database = value;
    } else if (name == "options") {
      options = value;
    } else if (name == "replication") {
      replication = value;
    } else if (name.starts_with(kProtocolOptionPrefix)) {
      if (std::find(login.protocol_options.begin(), login.protocol_options.end(), name) ==
          login.protocol_options.end()) {
        login.protocol_options.push_back(name);
      }
    } else {
      set_setting(direct, name, value);
    }
  }

  if (login.user.empty()) {
    return StartupRefusal{sqlstate::kInvalidAuthorizationSpecification,
                          "no PostgreSQL user name specified in startup packet"};
  }
  if (!replication.empty()) {
    const std::optional<Replication> asked = parse_replication(replication);
    if (!asked) {
      return StartupRefusal{sqlstate::kInvalidParameterValue,
                            "invalid value for parameter \"replication\": \"" + replication + "\""};
    }
    login.replication = *asked;
  }
  Result<std::vector<StartupSetting>> from_options = parse_options(options);
  if (!from_options) return StartupRefusal{sqlstate::kSyntaxError, from_options.error().message};
  login.settings = std::move(*from_options);
  for (const StartupSetting& setting : direct) {
    set_setting(login.settings, setting.name, setting.value);
  }

  if (login.database.empty()) login.database = login.user;
  if (login.user.size() > kMaxNameLength) login.user.resize(kMaxNameLength);
  if (login.database.size() > kMaxNameLength) login.database.resize(kMaxNameLength);
  login.minor = std::min(startup.minor, kMaxMinorVersion);
  login.negotiate = startup.minor > kMaxMinorVersion || !login.protocol_options.empty();
  return login;
}

void append_ssl_request(std::string& out) { Writer(out, Writer::Untyped{}).u32(kSslCode); }

void append_gssenc_request(std::string& out) { Writer(out, Writer::Untyped{}).u32(kGssEncCode); }

void append_cancel_request(std::string& out, const CancelRequest& request) {
  ENSURE(request.key.size() >= kMinCancelKey && request.key.size() <= kMaxCancelKey);
  Writer(out, Writer::Untyped{}).u32(kCancelCode).u32(request.pid).bytes(request.key);
}

void append_startup(std::string& out, std::uint16_t minor,
                    const std::vector<std::pair<std::string, std::string>>& parameters) {
  Writer writer(out, Writer::Untyped{});
  writer.u32(std::uint32_t{kMajorVersion} << 16 | minor);
  for (const auto& [name, value] : parameters) writer.cstring(name).cstring(value);
  writer.u8(0);
}

}  // namespace wire
