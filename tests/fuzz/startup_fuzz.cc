#include <string>

#include "proxy/wire/startup.h"
#include "tests/fuzz/fuzz_target.h"

// Input: the first packet of a connection.

namespace {

void decode(std::string_view packet) {
  const auto decoded = wire::decode_startup(packet);
  if (!decoded) return;
  std::string again;
  if (const auto* cancel = std::get_if<wire::CancelRequest>(&*decoded)) {
    wire::append_cancel_request(again, *cancel);
    ENSURE(again == packet);
  }
  const auto* startup = std::get_if<wire::Startup>(&*decoded);
  if (startup == nullptr) return;
  wire::append_startup(again, startup->minor, startup->parameters);
  ENSURE(again == packet);

  const auto answer = wire::interpret(*startup);
  if (const auto* login = std::get_if<wire::Login>(&answer)) {
    ENSURE(!login->user.empty() && login->user.size() <= wire::kMaxNameLength);
    ENSURE(!login->database.empty() && login->database.size() <= wire::kMaxNameLength);
    ENSURE(login->minor <= wire::kMaxMinorVersion);
    for (const wire::StartupSetting& setting : login->settings) {
      ENSURE(login->setting(setting.name) == &setting.value);
    }
  } else {
    ENSURE(std::get<wire::StartupRefusal>(answer).sqlstate.size() == 5);
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input = fuzz::text_of(data, size);
  const auto length = wire::startup_packet_length(input);
  if (length && *length) ENSURE(**length <= wire::kMaxStartupPacket);
  decode(input);

  // Most mutations break the length; put right, they reach what is behind it.
  if (size >= wire::kMinStartupPacket && size <= wire::kMaxStartupPacket) {
    std::string patched(input);
    wire::store_u32(patched.data(), static_cast<std::uint32_t>(size));
    decode(patched);
  }

  if (const auto settings = wire::parse_options(input)) {
    std::string again;
    for (const wire::StartupSetting& setting : *settings) {
      again +=
          " -c " + wire::escape_option(setting.name) + "=" + wire::escape_option(setting.value);
    }
    const auto reparsed = wire::parse_options(again);
    ENSURE(reparsed.has_value() && reparsed->size() == settings->size());
    for (std::size_t i = 0; i < settings->size(); ++i) {
      ENSURE((*reparsed)[i].name == (*settings)[i].name);
      ENSURE((*reparsed)[i].value == (*settings)[i].value);
    }
  }
  return 0;
}
