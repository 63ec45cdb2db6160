#include <string>

#include "proxy/wire/backend.h"
#include "tests/fuzz/fuzz_target.h"

// Input: the type of a server's message, then its payload. Types that we do not decode are taken
// for errors, the most intricate ones.

namespace {

void ensure_payload(const std::string& message, std::string_view payload) {
  ENSURE(std::string_view(message).substr(wire::kHeaderSize) == payload);
}

void try_error(std::string_view payload) {
  const wire::ErrorFields head = wire::peek_error(payload);
  const auto whole = wire::decode_error(payload);
  if (!whole) return;
  ENSURE(whole->sqlstate == head.sqlstate && whole->message == head.message);
  std::string again;
  wire::append_error(again, *whole);
  const auto reread = wire::decode_error(std::string_view(again).substr(wire::kHeaderSize));
  ENSURE(reread.has_value());
  ENSURE(reread->severity == whole->severity && reread->sqlstate == whole->sqlstate);
  ENSURE(reread->message == whole->message && reread->detail == whole->detail);
  ENSURE(reread->hint == whole->hint);
}

void try_authentication(std::string_view payload) {
  const auto request = wire::decode_authentication(payload);
  if (!request) return;
  std::string again;
  switch (request->kind) {
    case wire::AuthenticationKind::ok: wire::append_authentication_ok(again); break;
    case wire::AuthenticationKind::cleartext_password:
      wire::append_authentication_cleartext(again);
      break;
    case wire::AuthenticationKind::md5_password:
      wire::append_authentication_md5(again, request->data);
      break;
    case wire::AuthenticationKind::sasl:
      wire::append_authentication_sasl(again, request->mechanisms);
      break;
    case wire::AuthenticationKind::sasl_continue:
      wire::append_authentication_sasl_continue(again, request->data);
      break;
    case wire::AuthenticationKind::sasl_final:
      wire::append_authentication_sasl_final(again, request->data);
      break;
    case wire::AuthenticationKind::kerberos_v5:
    case wire::AuthenticationKind::gss:
    case wire::AuthenticationKind::gss_continue:
    case wire::AuthenticationKind::sspi: return;
  }
  ensure_payload(again, payload);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view payload = fuzz::text_of(data + 1, size - 1);
  std::string again;
  switch (static_cast<char>(data[0])) {
    case wire::backend::kAuthentication: try_authentication(payload); break;
    case wire::backend::kParameterStatus:
      if (const auto status = wire::decode_parameter_status(payload)) {
        wire::append_parameter_status(again, *status);
        ensure_payload(again, payload);
      }
      break;
    case wire::backend::kBackendKeyData:
      if (const auto key = wire::decode_backend_key_data(payload)) {
        wire::append_backend_key_data(again, *key);
        ensure_payload(again, payload);
      }
      break;
    case wire::backend::kReadyForQuery:
      if (const auto status = wire::decode_ready_for_query(payload)) {
        wire::append_ready_for_query(again, *status);
        ensure_payload(again, payload);
      }
      break;
    case wire::backend::kNegotiateProtocolVersion:
      static_cast<void>(wire::decode_negotiate_protocol_version(payload));
      break;
    case wire::backend::kCommandComplete:
      if (const auto tag = wire::decode_command_complete(payload)) {
        static_cast<void>(wire::tag_rows(*tag));
        wire::append_command_complete(again, *tag);
        ensure_payload(again, payload);
      }
      break;
    default: try_error(payload);
  }
  return 0;
}
