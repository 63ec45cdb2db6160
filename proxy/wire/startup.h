#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "proxy/wire/message.h"

// The packets that may open a connection. They carry no type byte.
namespace wire {

// Length word included. Postgres allows 10,000 bytes behind it.
inline constexpr std::size_t kMinStartupPacket = 8;
inline constexpr std::size_t kMaxStartupPacket = 10'004;
// Postgres's own limit (PG_MAX_AUTH_TOKEN_LENGTH) on password and SASL messages, length included.
inline constexpr std::size_t kMaxAuthMessage = 65'535;
// Secret part of a cancel key: four bytes up to version 3.1, and up to 256 from 3.2 on.
inline constexpr std::size_t kMinCancelKey = 4;
inline constexpr std::size_t kMaxCancelKey = 256;
// We speak 3.0 and 3.2, whose only difference is the length of cancel keys. 3.1 was never used.
inline constexpr std::uint16_t kMajorVersion = 3;
inline constexpr std::uint16_t kMaxMinorVersion = 2;
inline constexpr std::uint16_t kLongCancelKeysSince = 2;
// Names longer than this are cut, as Postgres does before it looks them up (NAMEDATALEN - 1).
inline constexpr std::size_t kMaxNameLength = 63;

struct SslRequest {};
struct GssEncRequest {};
struct CancelRequest {
  std::uint32_t pid = 0;
  std::string_view key;  // kMinCancelKey to kMaxCancelKey bytes
};
// Some other major version: answer with unsupported_version() and SQLSTATE 0A000, then close.
struct UnsupportedVersion {
  std::uint16_t major = 0;
  std::uint16_t minor = 0;
};
struct Startup {
  std::uint16_t minor = 0;  // of version 3
  // As sent: in order, duplicates included.
  std::vector<std::pair<std::string, std::string>> parameters;
};
using StartupPacket =
    std::variant<SslRequest, GssEncRequest, CancelRequest, UnsupportedVersion, Startup>;

// Size of the packet that begins `bytes`, length word included; nothing while the length word is
// incomplete. An error means that this is no Postgres client, and is to be answered by closing.
Peek<std::size_t> startup_packet_length(std::string_view bytes);
// True for the first byte of a TLS handshake: a client that starts TLS without asking. No startup
// packet of an allowed length begins with it.
inline bool begins_tls(std::string_view bytes) { return !bytes.empty() && bytes[0] == '\x16'; }
// Decodes one whole packet, length word included. Views point into `packet`. Errors are 08P01.
Result<StartupPacket> decode_startup(std::string_view packet);
std::string unsupported_version(UnsupportedVersion version);

// A run-time setting by name. Names compare without regard to case, as in Postgres.
struct StartupSetting {
  std::string name;
  std::string value;
};

// What `replication` asked for: a walsender without or with a database.
enum class Replication : std::uint8_t { none, physical, logical };

// A Startup, read as Postgres reads it: who asks for which database, with which settings.
struct Login {
  std::string user;
  std::string database;  // the user's name unless given
  Replication replication = Replication::none;
  // From `options` first, then every parameter that is not one of user, database, options,
  // replication or _pq_.*: application_name and client_encoding are among them. The last of
  // several values of one name wins; a name appears once.
  std::vector<StartupSetting> settings;
  // Names that begin with _pq_. We know none, so all are listed in NegotiateProtocolVersion.
  std::vector<std::string> protocol_options;
  std::uint16_t minor = 0;  // the version to speak from here on: at most what both sides know
  // The client asked for more than we speak: send NegotiateProtocolVersion(minor,
  // protocol_options) before anything else. A client that asked for exactly what we speak must
  // not get one: libpq takes a negotiation without a change for an error.
  bool negotiate = false;

  // The value of a setting, or nothing.
  const std::string* setting(std::string_view name) const;
};

// FATAL for the client, with Postgres's SQLSTATE and words.
struct StartupRefusal {
  std::string_view sqlstate;
  std::string message;
};

// Refuses what Postgres refuses: no user name (28000), an `options` string that does not parse
// (42601), a strange value of `replication` (22023).
std::variant<Login, StartupRefusal> interpret(const Startup& startup);

// Splits an `options` string as Postgres does: words separated by white space, a backslash keeps
// the next character, then `-c name=value`, `-cname=value` or `--name=value`, with '-' in names
// read as '_'. Other switches of the postgres program are refused: they mean nothing to a server
// that is already running. The error's message is for the client, with SQLSTATE 42601.
Result<std::vector<StartupSetting>> parse_options(std::string_view options);
// The reverse of the splitting: one value, safe as a word of an `options` string.
std::string escape_option(std::string_view value);

// Sets `name` in `settings`, replacing an earlier value of it.
void set_setting(std::vector<StartupSetting>& settings, std::string_view name,
                 std::string_view value);

void append_ssl_request(std::string& out);
void append_gssenc_request(std::string& out);
void append_cancel_request(std::string& out, const CancelRequest& request);
// `parameters` must name `user`. Names and values are as for Postgres.
void append_startup(std::string& out, std::uint16_t minor,
                    const std::vector<std::pair<std::string, std::string>>& parameters);

}  // namespace wire
