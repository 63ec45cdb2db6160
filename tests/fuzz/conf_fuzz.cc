#include "conf/load.h"
#include "conf/render.h"
#include "tests/fuzz/fuzz_target.h"

// Input: a configuration file.

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto settings = conf::load_text(fuzz::text_of(data, size), "fuzz.toml");
  if (!settings) {
    // One problem per line, and each says where it is.
    const std::string_view message = settings.error().message;
    ENSURE(!message.empty());
    for (std::size_t at = 0; at < message.size();) {
      const std::string_view line = message.substr(at, message.find('\n', at) - at);
      ENSURE(line.starts_with("fuzz.toml:"));
      at += line.size() + 1;
    }
    return 0;
  }
  ENSURE((*settings)->file == "fuzz.toml");
  const auto rows = conf::config_rows(**settings);
  ENSURE(!rows.empty());
  for (const conf::ConfigRow& row : rows) {
    ENSURE(!row.key.empty());
    if (row.key.ends_with("password") && !row.value.empty()) ENSURE(row.value == "***");
  }
  return 0;
}
