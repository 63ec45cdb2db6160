#include <string>

#include "proxy/console_chores.h"
#include "proxy/console_text.h"
#include "proxy/wire/frontend.h"
#include "tests/fuzz/fuzz_target.h"

// Input: how much of the payload has arrived (one byte, 255 is all), then the payload of a client's
// message. It is taken for every kind of message in turn.

namespace {

// A head of a good message is never an error, and what it shows is what the whole shows.
template <class T, class Same>
void compare(const wire::Peek<T>& whole, const wire::Peek<T>& part, Same same) {
  if (!whole) return;
  ENSURE(whole->has_value());
  ENSURE(part.has_value());
  if (part->has_value()) ENSURE(same(**whole, **part));
}

void try_query(std::string_view payload, std::string_view head) {
  const auto whole = wire::peek_query(payload, payload.size());
  const auto part = wire::peek_query(head, payload.size());
  if (!whole) return;
  ENSURE(whole->text_complete);
  ENSURE(part.has_value() && whole->text.starts_with(part->text));
  std::string again;
  wire::append_query(again, whole->text);
  ENSURE(std::string_view(again).substr(wire::kHeaderSize) == payload);
}

void try_parse(std::string_view payload, std::string_view head) {
  const auto whole = wire::peek_parse(payload, payload.size());
  compare(whole, wire::peek_parse(head, payload.size()),
          [](const wire::ParseHead& a, const wire::ParseHead& b) {
            return a.name == b.name && a.after_name == b.after_name && a.text.starts_with(b.text);
          });
  if (!whole) return;
  const wire::ParseHead& parse = **whole;
  ENSURE(parse.text_complete && parse.types_complete);
  std::string again;
  wire::append_parse(again, parse.name, parse.text, parse.param_types);
  ENSURE(std::string_view(again).substr(wire::kHeaderSize) == payload);

  std::string renamed;
  wire::append_renamed_parse(renamed, parse, "another", payload.size());
  renamed += payload.substr(parse.after_name);
  ENSURE(wire::load_u32(renamed.data() + 1) == renamed.size() - 1);
  const std::string_view new_payload = std::string_view(renamed).substr(wire::kHeaderSize);
  const auto reread = wire::peek_parse(new_payload, new_payload.size());
  ENSURE(reread.has_value() && reread->has_value());
  ENSURE((*reread)->name == "another" && (*reread)->text == parse.text);
  ENSURE((*reread)->param_types == parse.param_types);
}

void try_bind(std::string_view payload, std::string_view head) {
  const auto whole = wire::peek_bind(payload, payload.size());
  compare(whole, wire::peek_bind(head, payload.size()),
          [](const wire::BindHead& a, const wire::BindHead& b) {
            return a.portal == b.portal && a.statement == b.statement;
          });
  if (!whole) return;
  std::string renamed;
  wire::append_renamed_bind(renamed, **whole, "another", payload.size());
  renamed += payload.substr((*whole)->after_names);
  ENSURE(wire::load_u32(renamed.data() + 1) == renamed.size() - 1);
  const std::string_view new_payload = std::string_view(renamed).substr(wire::kHeaderSize);
  const auto reread = wire::peek_bind(new_payload, new_payload.size());
  ENSURE(reread.has_value() && reread->has_value());
  ENSURE((*reread)->portal == (*whole)->portal && (*reread)->statement == "another");
  ENSURE(new_payload.substr((*reread)->after_names) == payload.substr((*whole)->after_names));
}

void try_small(std::string_view payload, std::string_view head) {
  compare(wire::peek_describe(payload, payload.size()), wire::peek_describe(head, payload.size()),
          [](const wire::DescribeHead& a, const wire::DescribeHead& b) {
            return a.kind == b.kind && a.name == b.name;
          });
  compare(wire::peek_execute(payload, payload.size()), wire::peek_execute(head, payload.size()),
          [](const wire::ExecuteHead& a, const wire::ExecuteHead& b) {
            return a.portal == b.portal && a.max_rows == b.max_rows;
          });
  if (const auto initial = wire::decode_sasl_initial(payload); initial && initial->response) {
    std::string again;
    wire::append_sasl_initial(again, initial->mechanism, *initial->response);
    ENSURE(std::string_view(again).substr(wire::kHeaderSize) == payload);
  }
  if (const auto password = wire::decode_password(payload)) {
    ENSURE(password->size() + 1 == payload.size());
  }
  static_cast<void>(wire::decode_copy_fail(payload));
  static_cast<void>(wire::decode_bind_rest(payload, 1));
}

// What the admin console reads: the words of a text are those of its statements.
void try_console(std::string_view text) {
  const auto statements = proxy::console_statements(text);
  if (!statements) return;
  for (const std::string_view one : *statements) {
    const auto words = proxy::console_words(one);
    ENSURE(!words.empty());
    static_cast<void>(proxy::driver_chore(words, "fuzz"));
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view payload = fuzz::text_of(data + 1, size - 1);
  const std::size_t arrived = data[0] == 255 ? payload.size() : payload.size() * data[0] / 255;
  // Its own storage, so that reading past what has arrived is seen.
  const std::string head(payload.substr(0, arrived));
  try_query(payload, head);
  try_parse(payload, head);
  try_bind(payload, head);
  try_small(payload, head);
  try_console(payload);
  return 0;
}
