#include "proxy/wire/frontend.h"

#include <algorithm>

namespace wire {
namespace {

// The fields could not be read. If more of the message is still to come that may be why.
template <class T>
Peek<T> incomplete(std::string_view available, std::size_t payload_size, const char* what) {
  if (available.size() < payload_size) return std::optional<T>{};
  return malformed(std::string("invalid ") + what + " message");
}

// What has arrived belongs to this message and to no later one.
std::string_view own_bytes(std::string_view available, std::size_t payload_size) {
  return available.substr(0, payload_size);
}

}  // namespace

Result<QueryHead> peek_query(std::string_view available, std::size_t payload_size) {
  available = own_bytes(available, payload_size);
  const std::size_t end = available.find('\0');
  if (end == std::string_view::npos) {
    if (available.size() == payload_size) return malformed("invalid string in Query message");
    return QueryHead{.text = available, .text_complete = false};
  }
  if (end + 1 != payload_size) return malformed("invalid Query message format");
  return QueryHead{.text = available.substr(0, end), .text_complete = true};
}

Peek<ParseHead> peek_parse(std::string_view available, std::size_t payload_size) {
  available = own_bytes(available, payload_size);
  Reader reader(available);
  ParseHead head;
  head.name = reader.cstring();
  if (!reader.ok()) return incomplete<ParseHead>(available, payload_size, "Parse");
  head.after_name = reader.offset();

  const std::string_view behind_name = available.substr(head.after_name);
  head.text = reader.cstring();
  if (!reader.ok()) {
    if (available.size() == payload_size) return malformed("invalid string in Parse message");
    head.text = behind_name;
    return std::optional<ParseHead>{head};
  }
  head.text_complete = true;

  const std::size_t types_at = reader.offset();
  const std::size_t type_bytes = std::size_t{reader.u16()} * 4;
  if (reader.ok() && payload_size - types_at - 2 != type_bytes) {
    return malformed("invalid Parse message format");
  }
  const std::string_view types = reader.bytes(type_bytes);
  if (reader.ok()) {
    head.param_types = types;
    head.types_complete = true;
  } else if (available.size() == payload_size) {
    return malformed("insufficient data left in Parse message");
  }
  return std::optional<ParseHead>{head};
}

Peek<BindHead> peek_bind(std::string_view available, std::size_t payload_size) {
  available = own_bytes(available, payload_size);
  Reader reader(available);
  BindHead head;
  head.portal = reader.cstring();
  head.statement = reader.cstring();
  head.after_names = reader.offset();
  if (!reader.ok()) return incomplete<BindHead>(available, payload_size, "Bind");
  return std::optional<BindHead>{head};
}

Result<BindRest> decode_bind_rest(std::string_view payload, std::size_t after_names) {
  Reader reader(payload.substr(std::min(after_names, payload.size())));
  const std::uint16_t parameter_formats = reader.u16();
  reader.bytes(std::size_t{2} * parameter_formats);
  BindRest rest;
  rest.parameters = reader.u16();
  for (std::size_t i = 0; i < rest.parameters && reader.ok(); ++i) {
    const std::int32_t length = reader.i32();
    if (length > 0) reader.bytes(static_cast<std::size_t>(length));
  }
  const std::uint16_t formats = reader.u16();
  for (std::size_t i = 0; i < formats && reader.ok(); ++i) rest.result_formats.push_back(reader.u16());
  if (!reader.finished()) return malformed("invalid Bind message format");
  return rest;
}

Peek<DescribeHead> peek_describe(std::string_view available, std::size_t payload_size) {
  available = own_bytes(available, payload_size);
  Reader reader(available);
  const std::uint8_t kind = reader.u8();
  const std::string_view name = reader.cstring();
  if (!available.empty() && kind != 'S' && kind != 'P') {
    return malformed("invalid DESCRIBE or CLOSE message subtype " + std::to_string(kind));
  }
  if (!reader.ok()) return incomplete<DescribeHead>(available, payload_size, "Describe or Close");
  if (reader.offset() != payload_size) return malformed("invalid Describe or Close message format");
  return std::optional<DescribeHead>{DescribeHead{.kind = static_cast<Named>(kind), .name = name}};
}

Peek<ExecuteHead> peek_execute(std::string_view available, std::size_t payload_size) {
  available = own_bytes(available, payload_size);
  Reader reader(available);
  const std::string_view portal = reader.cstring();
  const std::int32_t max_rows = reader.i32();
  if (!reader.ok()) return incomplete<ExecuteHead>(available, payload_size, "Execute");
  if (reader.offset() != payload_size) return malformed("invalid Execute message format");
  return std::optional<ExecuteHead>{ExecuteHead{.portal = portal, .max_rows = max_rows}};
}

Result<std::string_view> decode_password(std::string_view payload) {
  Reader reader(payload);
  const std::string_view password = reader.cstring();
  if (!reader.finished()) return malformed("invalid password packet size");
  return password;
}

Result<std::string_view> decode_copy_fail(std::string_view payload) {
  Reader reader(payload);
  const std::string_view reason = reader.cstring();
  if (!reader.finished()) return malformed("invalid CopyFail message format");
  return reason;
}

Result<SaslInitialResponse> decode_sasl_initial(std::string_view payload) {
  Reader reader(payload);
  SaslInitialResponse initial;
  initial.mechanism = reader.cstring();
  const std::uint32_t length = reader.u32();
  if (length != 0xffff'ffff) initial.response = reader.bytes(length);
  if (!reader.finished()) return malformed("invalid SASLInitialResponse message");
  return initial;
}

bool rename_fits(std::size_t payload_size, std::string_view old_name, std::string_view new_name) {
  const std::size_t kept = payload_size - old_name.size();
  return kept <= kMaxMessageLength - 4 && new_name.size() <= kMaxMessageLength - 4 - kept;
}

void append_renamed_parse(std::string& out, const ParseHead& head, std::string_view new_name,
                          std::size_t payload_size) {
  ENSURE(rename_fits(payload_size, head.name, new_name));
  out.push_back(frontend::kParse);
  append_u32(out,
             static_cast<std::uint32_t>(4 + payload_size - head.name.size() + new_name.size()));
  out.append(new_name).push_back('\0');
}

void append_renamed_bind(std::string& out, const BindHead& head, std::string_view new_statement,
                         std::size_t payload_size) {
  ENSURE(rename_fits(payload_size, head.statement, new_statement));
  const std::size_t size = kHeaderSize + head.portal.size() + 1 + new_statement.size() + 1;
  const auto length = static_cast<std::uint32_t>(4 + payload_size - head.statement.size() +
                                                 new_statement.size());
  // In one piece if it is short: this is the path of every execution of a prepared statement.
  char piece[128];
  if (size <= sizeof piece) {
    piece[0] = frontend::kBind;
    store_u32(piece + 1, length);
    char* to = std::copy_n(head.portal.data(), head.portal.size(), piece + kHeaderSize);
    *to++ = '\0';
    to = std::copy_n(new_statement.data(), new_statement.size(), to);
    *to = '\0';
    out.append(piece, size);
    return;
  }
  out.push_back(frontend::kBind);
  append_u32(out, length);
  out.append(head.portal).push_back('\0');
  out.append(new_statement).push_back('\0');
}

void append_query(std::string& out, std::string_view sql) {
  Writer(out, frontend::kQuery).cstring(sql);
}

void append_parse(std::string& out, std::string_view name, std::string_view text,
                  std::string_view param_types) {
  ENSURE(param_types.size() % 4 == 0 && param_types.size() / 4 <= 0xffff);
  Writer(out, frontend::kParse)
      .cstring(name)
      .cstring(text)
      .u16(static_cast<std::uint16_t>(param_types.size() / 4))
      .bytes(param_types);
}

void append_parse(std::string& out, std::string_view name, std::string_view tail) {
  Writer(out, frontend::kParse).cstring(name).bytes(tail);
}

void append_bind(std::string& out, std::string_view portal, std::string_view statement) {
  Writer(out, frontend::kBind).cstring(portal).cstring(statement).u16(0).u16(0).u16(0);
}

void append_describe(std::string& out, Named kind, std::string_view name) {
  Writer(out, frontend::kDescribe).u8(static_cast<std::uint8_t>(kind)).cstring(name);
}

void append_close(std::string& out, Named kind, std::string_view name) {
  Writer(out, frontend::kClose).u8(static_cast<std::uint8_t>(kind)).cstring(name);
}

void append_execute(std::string& out, std::string_view portal, std::int32_t max_rows) {
  Writer(out, frontend::kExecute).cstring(portal).u32(static_cast<std::uint32_t>(max_rows));
}

void append_sync(std::string& out) { Writer(out, frontend::kSync); }

void append_flush(std::string& out) { Writer(out, frontend::kFlush); }

void append_terminate(std::string& out) { Writer(out, frontend::kTerminate); }

void append_copy_fail(std::string& out, std::string_view reason) {
  Writer(out, frontend::kCopyFail).cstring(reason);
}

void append_password(std::string& out, std::string_view password) {
  Writer(out, frontend::kPassword).cstring(password);
}

void append_sasl_initial(std::string& out, std::string_view mechanism, std::string_view response) {
  Writer(out, frontend::kPassword)
      .cstring(mechanism)
      .u32(static_cast<std::uint32_t>(response.size()))
      .bytes(response);
}

void append_sasl_response(std::string& out, std::string_view response) {
  Writer(out, frontend::kPassword).bytes(response);
}

}  // namespace wire
