#include "proxy/wire/backend.h"

#include <charconv>

#include "proxy/wire/sqlstate.h"
#include "proxy/wire/startup.h"

namespace wire {
namespace {

// What a RowDescription says of a column that comes from no table.
constexpr std::uint32_t kNoTable = 0;
constexpr std::uint16_t kNoColumn = 0;
constexpr std::uint32_t kNoModifier = 0xffff'ffff;
// In place of a value's length.
constexpr std::uint32_t kNull = 0xffff'ffff;

Format format_of(Formats formats, std::size_t column) {
  if (formats.empty()) return Format::text;
  return formats[formats.size() == 1 ? 0 : column];
}

struct Scan {
  ErrorFields fields;
  bool complete = false;  // the terminator was reached, and nothing follows it
};

Scan scan_error(std::string_view payload) {
  Scan scan;
  Reader reader(payload);
  std::string_view localized_severity;
  while (reader.remaining() > 0) {
    const auto code = static_cast<char>(reader.u8());
    if (code == '\0') {
      scan.complete = reader.finished();
      break;
    }
    const std::string_view value = reader.cstring();
    if (!reader.ok()) break;
    switch (code) {
      case 'S': localized_severity = value; break;
      case 'V': scan.fields.severity = value; break;
      case 'C': scan.fields.sqlstate = value; break;
      case 'M': scan.fields.message = value; break;
      case 'D': scan.fields.detail = value; break;
      case 'H': scan.fields.hint = value; break;
      case 'R': scan.fields.routine = value; break;
      default: break;  // fields that we do not need, and those of later versions
    }
  }
  if (scan.fields.severity.empty()) scan.fields.severity = localized_severity;
  return scan;
}

void append_fields(std::string& out, char type, const ErrorFields& fields) {
  Writer writer(out, type);
  const auto field = [&writer](char code, std::string_view value) {
    writer.u8(static_cast<std::uint8_t>(code)).cstring(value);
  };
  field('S', fields.severity);
  field('V', fields.severity);
  field('C', fields.sqlstate);
  field('M', fields.message);
  if (!fields.detail.empty()) field('D', fields.detail);
  if (!fields.hint.empty()) field('H', fields.hint);
  writer.u8(0);
}

bool is_known(std::uint32_t kind) {
  switch (static_cast<AuthenticationKind>(kind)) {
    case AuthenticationKind::ok:
    case AuthenticationKind::kerberos_v5:
    case AuthenticationKind::cleartext_password:
    case AuthenticationKind::md5_password:
    case AuthenticationKind::gss:
    case AuthenticationKind::gss_continue:
    case AuthenticationKind::sspi:
    case AuthenticationKind::sasl:
    case AuthenticationKind::sasl_continue:
    case AuthenticationKind::sasl_final: return true;
  }
  return false;
}

void append_authentication(std::string& out, AuthenticationKind kind, std::string_view data) {
  Writer(out, backend::kAuthentication).u32(static_cast<std::uint32_t>(kind)).bytes(data);
}

}  // namespace

Result<ErrorFields> decode_error(std::string_view payload) {
  const Scan scan = scan_error(payload);
  if (!scan.complete) return malformed("reading an error or notice: it is cut off");
  return scan.fields;
}

ErrorFields peek_error(std::string_view available) { return scan_error(available).fields; }

bool refused_in_recovery(const ErrorFields& error) {
  if (error.sqlstate == sqlstate::kReadOnlySqlTransaction) return true;
  const bool kin = error.sqlstate == sqlstate::kFeatureNotSupported ||
                   error.sqlstate == sqlstate::kObjectNotInPrerequisiteState ||
                   error.sqlstate == sqlstate::kInternalError;
  if (!kin) return false;
  // Messages are translated, names of routines are not: the planner's look at a relation that is not logged has
  // no other reason to say 0A000.
  if (error.routine == "get_relation_info" && error.sqlstate == sqlstate::kFeatureNotSupported) return true;
  const auto speaks_of = [&error](std::string_view word) {
    return error.message.find(word) != error.message.npos || error.hint.find(word) != error.hint.npos;
  };
  return speaks_of("recovery") || speaks_of("standby");
}

void append_error(std::string& out, const ErrorFields& fields) {
  append_fields(out, backend::kErrorResponse, fields);
}

void append_renamed_error(std::string& out, std::string_view payload, const Renaming& renaming) {
  Writer writer(out, backend::kErrorResponse);
  const std::string quoted = '"' + std::string(renaming.ours) + '"';
  const std::string_view text = peek_error(payload).message;
  const std::size_t in_text = text.find(quoted);
  if (in_text == std::string_view::npos) {
    writer.bytes(payload);
    return;
  }
  const std::size_t at = static_cast<std::size_t>(text.data() - payload.data()) + in_text + 1;
  writer.bytes(payload.substr(0, at)).bytes(renaming.theirs).bytes(payload.substr(at + renaming.ours.size()));
}

void append_notice(std::string& out, const ErrorFields& fields) {
  append_fields(out, backend::kNoticeResponse, fields);
}

Result<ParameterStatus> decode_parameter_status(std::string_view payload) {
  Reader reader(payload);
  ParameterStatus status;
  status.name = reader.cstring();
  status.value = reader.cstring();
  if (!reader.finished()) return malformed("reading ParameterStatus: it is not two strings");
  return status;
}

void append_parameter_status(std::string& out, const ParameterStatus& status) {
  Writer(out, backend::kParameterStatus).cstring(status.name).cstring(status.value);
}

Result<BackendKeyData> decode_backend_key_data(std::string_view payload) {
  Reader reader(payload);
  BackendKeyData data;
  data.pid = reader.u32();
  data.key = reader.rest();
  if (!reader.ok() || data.key.size() < kMinCancelKey || data.key.size() > kMaxCancelKey) {
    return malformed("reading BackendKeyData: a key has 4 to 256 bytes");
  }
  return data;
}

void append_backend_key_data(std::string& out, const BackendKeyData& data) {
  ENSURE(data.key.size() >= kMinCancelKey && data.key.size() <= kMaxCancelKey);
  Writer(out, backend::kBackendKeyData).u32(data.pid).bytes(data.key);
}

Result<Authentication> decode_authentication(std::string_view payload) {
  Reader reader(payload);
  const std::uint32_t kind = reader.u32();
  if (!reader.ok()) return malformed("reading an authentication request: it is cut off");
  if (!is_known(kind)) {
    return malformed("reading an authentication request: unknown kind " + std::to_string(kind));
  }
  Authentication request{
      .kind = static_cast<AuthenticationKind>(kind), .data = {}, .mechanisms = {}};
  if (request.kind == AuthenticationKind::sasl) {
    for (std::string_view name = reader.cstring(); !name.empty(); name = reader.cstring()) {
      request.mechanisms.push_back(name);
    }
    if (!reader.finished() || request.mechanisms.empty()) {
      return malformed("reading an authentication request: the list of mechanisms is broken");
    }
    return request;
  }
  request.data = reader.rest();
  const bool has_data = request.kind == AuthenticationKind::gss_continue ||
                        request.kind == AuthenticationKind::sasl_continue ||
                        request.kind == AuthenticationKind::sasl_final;
  const std::size_t expected = request.kind == AuthenticationKind::md5_password ? 4 : 0;
  if (!has_data && request.data.size() != expected) {
    return malformed("reading an authentication request: wrong length");
  }
  return request;
}

void append_authentication_ok(std::string& out) {
  append_authentication(out, AuthenticationKind::ok, {});
}

void append_authentication_cleartext(std::string& out) {
  append_authentication(out, AuthenticationKind::cleartext_password, {});
}

void append_authentication_md5(std::string& out, std::string_view salt) {
  ENSURE(salt.size() == 4);
  append_authentication(out, AuthenticationKind::md5_password, salt);
}

void append_authentication_sasl(std::string& out, std::span<const std::string_view> mechanisms) {
  Writer writer(out, backend::kAuthentication);
  writer.u32(static_cast<std::uint32_t>(AuthenticationKind::sasl));
  for (const std::string_view mechanism : mechanisms) writer.cstring(mechanism);
  writer.u8(0);
}

void append_authentication_sasl_continue(std::string& out, std::string_view data) {
  append_authentication(out, AuthenticationKind::sasl_continue, data);
}

void append_authentication_sasl_final(std::string& out, std::string_view data) {
  append_authentication(out, AuthenticationKind::sasl_final, data);
}

Result<TransactionStatus> decode_ready_for_query(std::string_view payload) {
  if (payload == "I") return TransactionStatus::idle;
  if (payload == "T") return TransactionStatus::in_transaction;
  if (payload == "E") return TransactionStatus::failed;
  return malformed("reading ReadyForQuery: unknown transaction status");
}

void append_ready_for_query(std::string& out, TransactionStatus status) {
  Writer(out, backend::kReadyForQuery).u8(static_cast<std::uint8_t>(status));
}

Result<NegotiateProtocolVersion> decode_negotiate_protocol_version(std::string_view payload) {
  Reader reader(payload);
  const std::uint32_t version = reader.u32();
  const std::uint32_t count = reader.u32();
  NegotiateProtocolVersion negotiated;
  // Postgres sends the whole version; the documentation says the minor one. Take either.
  negotiated.minor = static_cast<std::uint16_t>(version & 0xffff);
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) {
    const std::string_view name = reader.cstring();
    if (reader.ok()) negotiated.unknown_options.push_back(name);
  }
  const std::uint32_t major = version >> 16;
  if (!reader.finished() || (major != 0 && major != kMajorVersion)) {
    return malformed("reading NegotiateProtocolVersion: it is broken");
  }
  return negotiated;
}

void append_negotiate_protocol_version(std::string& out, std::uint16_t minor,
                                       std::span<const std::string> unknown_options) {
  Writer writer(out, backend::kNegotiateProtocolVersion);
  writer.u32(std::uint32_t{kMajorVersion} << 16 | minor);
  writer.u32(static_cast<std::uint32_t>(unknown_options.size()));
  for (const std::string& name : unknown_options) writer.cstring(name);
}

Result<std::string_view> decode_command_complete(std::string_view payload) {
  Reader reader(payload);
  const std::string_view tag = reader.cstring();
  if (!reader.finished()) return malformed("reading CommandComplete: it is not one string");
  return tag;
}

std::optional<std::uint64_t> tag_rows(std::string_view tag) {
  const std::size_t space = tag.rfind(' ');
  if (space == std::string_view::npos) return std::nullopt;
  const char* const end = tag.data() + tag.size();
  std::uint64_t rows = 0;
  const auto [at, error] = std::from_chars(tag.data() + space + 1, end, rows);
  if (error != std::errc{} || at != end) return std::nullopt;
  return rows;
}

void append_command_complete(std::string& out, std::string_view tag) {
  Writer(out, backend::kCommandComplete).cstring(tag);
}

void append_row_description(std::string& out, std::span<const Column> columns, Formats formats) {
  ENSURE(columns.size() <= kMaxColumns);
  Writer writer(out, backend::kRowDescription);
  writer.u16(static_cast<std::uint16_t>(columns.size()));
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const Column& column = columns[i];
    // pg_type.typlen: eight bytes for the numbers, -1 for what varies.
    const std::uint16_t size = column.type == ColumnType::text ? 0xffff : 8;
    writer.cstring(column.name)
        .u32(kNoTable)
        .u16(kNoColumn)
        .u32(static_cast<std::uint32_t>(column.type))
        .u16(size)
        .u32(kNoModifier)
        .u16(static_cast<std::uint16_t>(format_of(formats, i)));
  }
}

void append_data_row(std::string& out, std::span<const std::optional<std::string>> values,
                     std::span<const Column> columns, Formats formats) {
  ENSURE(values.size() <= kMaxColumns && (formats.empty() || values.size() == columns.size()));
  Writer writer(out, backend::kDataRow);
  writer.u16(static_cast<std::uint16_t>(values.size()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!values[i]) {
      writer.u32(kNull);
    } else if (format_of(formats, i) == Format::binary && columns[i].type == ColumnType::int8) {
      std::int64_t number = 0;
      const char* end = values[i]->data() + values[i]->size();
      const auto [stopped, error] = std::from_chars(values[i]->data(), end, number);
      ENSURE(error == std::errc() && stopped == end);
      const auto bits = static_cast<std::uint64_t>(number);
      writer.u32(8).u32(static_cast<std::uint32_t>(bits >> 32)).u32(static_cast<std::uint32_t>(bits));
    } else {
      ENSURE(format_of(formats, i) == Format::text || columns[i].type == ColumnType::text);
      writer.u32(static_cast<std::uint32_t>(values[i]->size())).bytes(*values[i]);
    }
  }
}

void append_parameter_description(std::string& out, std::span<const std::uint32_t> type_oids) {
  ENSURE(type_oids.size() <= 0xffff);
  Writer writer(out, backend::kParameterDescription);
  writer.u16(static_cast<std::uint16_t>(type_oids.size()));
  for (const std::uint32_t oid : type_oids) writer.u32(oid);
}

void append_empty_query_response(std::string& out) { Writer(out, backend::kEmptyQueryResponse); }

void append_portal_suspended(std::string& out) { Writer(out, backend::kPortalSuspended); }

void append_parse_complete(std::string& out) { Writer(out, backend::kParseComplete); }

void append_bind_complete(std::string& out) { Writer(out, backend::kBindComplete); }

void append_close_complete(std::string& out) { Writer(out, backend::kCloseComplete); }

void append_no_data(std::string& out) { Writer(out, backend::kNoData); }

}  // namespace wire
