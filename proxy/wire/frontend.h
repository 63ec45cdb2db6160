#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/wire/message.h"

// Messages that clients send: looked at without copying on the per-statement path, and built where
// we are the client.
//
// A peek_…() takes the part of the payload that has arrived (`available`) and the size that the
// message declares (`payload_size`, header excluded), so that a large message can be judged by its
// head while the rest is still under way. The views point into `available`. Errors are 08P01.
// None of these allocate, unless they fail.
namespace wire {

// Prepared statements and portals, as Describe and Close name them.
enum class Named : char { statement = 'S', portal = 'P' };

struct QueryHead {
  std::string_view text;
  bool text_complete = false;  // false: `text` is what has arrived of it
};
// Never needs more bytes: text that has not arrived is text that is not complete.
Result<QueryHead> peek_query(std::string_view available, std::size_t payload_size);

struct ParseHead {
  std::string_view name;  // empty: the unnamed statement
  std::string_view text;
  bool text_complete = false;  // false: `text` is what has arrived of it
  // Parameter type OIDs as on the wire, four bytes each, big-endian. Only when types_complete;
  // that and text_complete together mean that the whole message is here.
  std::string_view param_types;
  bool types_complete = false;
  std::size_t after_name = 0;  // offset in the payload of what follows the name: the text
};
Peek<ParseHead> peek_parse(std::string_view available, std::size_t payload_size);

struct BindHead {
  std::string_view portal;
  std::string_view statement;
  std::size_t after_names = 0;  // offset in the payload of what follows both names
};
Peek<BindHead> peek_bind(std::string_view available, std::size_t payload_size);

// What follows the names of a Bind, of a whole payload: how many parameters, and the formats that the
// results are wanted in (as on the wire: 0 text, 1 binary). 08P01 when it is not of that form.
struct BindRest {
  std::uint16_t parameters = 0;
  std::vector<std::uint16_t> result_formats;
};
Result<BindRest> decode_bind_rest(std::string_view payload, std::size_t after_names);

struct DescribeHead {
  Named kind = Named::statement;
  std::string_view name;
};
// Also for Close, which has the same payload.
Peek<DescribeHead> peek_describe(std::string_view available, std::size_t payload_size);

struct ExecuteHead {
  std::string_view portal;
  std::int32_t max_rows = 0;  // 0 or less: all
};
Peek<ExecuteHead> peek_execute(std::string_view available, std::size_t payload_size);

// The same for payloads that are whole and as drivers send them, at a tenth of the cost. False: ask the
// peek_...(), which know everything else and what to say about it.
inline bool quick_bind(std::string_view payload, BindHead* head) {
  const std::size_t portal = payload.starts_with('\0') ? 0 : payload.find('\0');
  if (portal == std::string_view::npos) return false;
  const std::size_t statement = payload.find('\0', portal + 1);
  if (statement == std::string_view::npos) return false;
  *head = {payload.substr(0, portal), payload.substr(portal + 1, statement - portal - 1), statement + 1};
  return true;
}
inline bool quick_describe(std::string_view payload, DescribeHead* head) {
  if (payload.size() < 2 || payload.back() != '\0' || (payload[0] != 'S' && payload[0] != 'P')) return false;
  *head = {static_cast<Named>(payload[0]), payload.substr(1, payload.size() - 2)};
  return head->name.empty() || head->name.find('\0') == std::string_view::npos;
}
// Of the unnamed portal, all rows.
inline bool quick_execute(std::string_view payload, ExecuteHead* head) {
  *head = {};
  return payload == std::string_view("\0\0\0\0\0", 5);
}
inline bool quick_query(std::string_view payload, QueryHead* head) {
  if (payload.find('\0') + 1 != payload.size()) return false;
  *head = {payload.substr(0, payload.size() - 1), true};
  return true;
}

// Whole payloads, while a client logs in or fails a COPY.
Result<std::string_view> decode_password(std::string_view payload);
Result<std::string_view> decode_copy_fail(std::string_view payload);
struct SaslInitialResponse {
  std::string_view mechanism;
  std::optional<std::string_view> response;  // absent is not the same as empty
};
Result<SaslInitialResponse> decode_sasl_initial(std::string_view payload);
// A SASLResponse is nothing but its payload.

// True if a payload whose `old_name` becomes `new_name` still fits the protocol. Ask before
// renaming; otherwise refuse the message with sqlstate::kProgramLimitExceeded.
bool rename_fits(std::size_t payload_size, std::string_view old_name, std::string_view new_name);

// The head of the same message with another statement name. The caller forwards the payload from
// after_name (after_names) on, unchanged. Requires rename_fits().
void append_renamed_parse(std::string& out, const ParseHead& head, std::string_view new_name,
                          std::size_t payload_size);
void append_renamed_bind(std::string& out, const BindHead& head, std::string_view new_statement,
                         std::size_t payload_size);

// Whole messages.
void append_query(std::string& out, std::string_view sql);
// `param_types` as in ParseHead: a multiple of four bytes.
void append_parse(std::string& out, std::string_view name, std::string_view text,
                  std::string_view param_types);
// `tail`: what stands behind the name, as it came.
void append_parse(std::string& out, std::string_view name, std::string_view tail);
// A Bind without parameters, all results as text.
void append_bind(std::string& out, std::string_view portal, std::string_view statement);
void append_describe(std::string& out, Named kind, std::string_view name);
void append_close(std::string& out, Named kind, std::string_view name);
void append_execute(std::string& out, std::string_view portal, std::int32_t max_rows);
void append_sync(std::string& out);
void append_flush(std::string& out);
void append_terminate(std::string& out);
void append_copy_fail(std::string& out, std::string_view reason);
void append_password(std::string& out, std::string_view password);
void append_sasl_initial(std::string& out, std::string_view mechanism, std::string_view response);
void append_sasl_response(std::string& out, std::string_view response);

}  // namespace wire
