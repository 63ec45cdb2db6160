#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/wire/message.h"

// Messages that servers send: decoded where we are the client, built where we are the server.
// Decoders take whole payloads; their views point into them. Errors mean that the peer does not
// speak the protocol, and the connection is of no further use.
namespace wire {

// The fields of an ErrorResponse or NoticeResponse that we read or write. Any may be missing in
// what a server sends: then it is empty. Empty fields are not written, except for the first three,
// which every client may expect.
struct ErrorFields {
  std::string_view severity;  // never translated when the server is 9.6 or newer
  std::string_view sqlstate;
  std::string_view message;
  std::string_view detail = {};
  std::string_view hint = {};
  std::string_view routine = {};  // of Postgres's source; read, never written
};
Result<ErrorFields> decode_error(std::string_view payload);
// The same for a message of which only `available` has arrived, or is broken at its end: whatever
// fields are whole. Severity, SQLSTATE and message come first from every server.
ErrorFields peek_error(std::string_view available);
// What a standby says to what only a primary can do: 25006, and what is said in other words for unlogged
// relations (0A000), positions in the log (55000) and transaction ids (XX000). Such a statement has changed
// nothing.
bool refused_in_recovery(const ErrorFields& error);
void append_error(std::string& out, const ErrorFields& fields);
// An ErrorResponse with that payload, in whose message `ours` in quotes has become `theirs`.
struct Renaming {
  std::string_view ours, theirs;
};
void append_renamed_error(std::string& out, std::string_view payload, const Renaming& renaming);
void append_notice(std::string& out, const ErrorFields& fields);

// The count at the end of a CommandComplete: "SELECT 5", "INSERT 0 1". 0: it has none.
inline std::uint64_t affected_rows(std::string_view payload) {
  if (payload.empty()) return 0;
  std::size_t at = payload.size() - 1;  // of the NUL
  std::uint64_t rows = 0;
  for (std::uint64_t unit = 1; at > 0 && payload[at - 1] >= '0' && payload[at - 1] <= '9'; --at, unit *= 10)
    rows += unit * static_cast<std::uint64_t>(payload[at - 1] - '0');
  return rows;
}

struct ParameterStatus {
  std::string_view name;
  std::string_view value;
};
Result<ParameterStatus> decode_parameter_status(std::string_view payload);
void append_parameter_status(std::string& out, const ParameterStatus& status);

struct BackendKeyData {
  std::uint32_t pid = 0;
  std::string_view key;  // kMinCancelKey to kMaxCancelKey bytes (startup.h)
};
Result<BackendKeyData> decode_backend_key_data(std::string_view payload);
void append_backend_key_data(std::string& out, const BackendKeyData& data);

enum class AuthenticationKind : std::uint32_t {
  ok = 0,
  kerberos_v5 = 2,
  cleartext_password = 3,
  md5_password = 5,
  gss = 7,
  gss_continue = 8,
  sspi = 9,
  sasl = 10,
  sasl_continue = 11,
  sasl_final = 12,
};
struct Authentication {
  AuthenticationKind kind = AuthenticationKind::ok;
  std::string_view data;  // md5: four bytes of salt; sasl_continue, sasl_final: the SASL message
  std::vector<std::string_view> mechanisms;  // sasl: in the server's order of preference
};
// A request of a kind not listed above is an error.
Result<Authentication> decode_authentication(std::string_view payload);
void append_authentication_ok(std::string& out);
void append_authentication_cleartext(std::string& out);
void append_authentication_md5(std::string& out, std::string_view salt);  // four bytes
void append_authentication_sasl(std::string& out, std::span<const std::string_view> mechanisms);
void append_authentication_sasl_continue(std::string& out, std::string_view data);
void append_authentication_sasl_final(std::string& out, std::string_view data);

enum class TransactionStatus : char { idle = 'I', in_transaction = 'T', failed = 'E' };
Result<TransactionStatus> decode_ready_for_query(std::string_view payload);
void append_ready_for_query(std::string& out, TransactionStatus status);

struct NegotiateProtocolVersion {
  std::uint16_t minor = 0;                        // the newest that the server speaks
  std::vector<std::string_view> unknown_options;  // names that begin with _pq_.
};
Result<NegotiateProtocolVersion> decode_negotiate_protocol_version(std::string_view payload);
void append_negotiate_protocol_version(std::string& out, std::uint16_t minor,
                                       std::span<const std::string> unknown_options);

// "SELECT 5", "INSERT 0 1", "BEGIN".
Result<std::string_view> decode_command_complete(std::string_view payload);
// The row count at the end of a tag, or nothing: "INSERT 0 3" has 3, "BEGIN" none.
std::optional<std::uint64_t> tag_rows(std::string_view tag);
void append_command_complete(std::string& out, std::string_view tag);

// What the admin console answers with. Values are kept as text; the type tells the client how to
// align and compare them, and what they are in binary.
enum class ColumnType : std::uint32_t { int8 = 20, text = 25, float8 = 701 };  // pg_type OIDs
struct Column {
  std::string_view name;
  ColumnType type = ColumnType::text;
};
// Postgres's own limit on result columns is 1664; beyond it is our bug.
inline constexpr std::size_t kMaxColumns = 1664;
// How values are sent, as a Bind asks for it: none is text, one counts for all, else one per column.
enum class Format : std::uint16_t { text = 0, binary = 1 };
using Formats = std::span<const Format>;
void append_row_description(std::string& out, std::span<const Column> columns, Formats formats = {});
// Where formats are asked for, `values` are as many as `columns`, and an int8 is a whole number in decimal digits.
void append_data_row(std::string& out, std::span<const std::optional<std::string>> values,
                     std::span<const Column> columns = {}, Formats formats = {});
void append_portal_suspended(std::string& out);
void append_parameter_description(std::string& out, std::span<const std::uint32_t> type_oids);
void append_empty_query_response(std::string& out);
void append_parse_complete(std::string& out);
void append_bind_complete(std::string& out);
void append_close_complete(std::string& out);
void append_no_data(std::string& out);

}  // namespace wire
