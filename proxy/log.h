#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "conf/settings.h"

namespace proxy {

// One event, one line on standard error: time, level, who, what, why, then key=value. Lines are
// written by one system call each, so those of several threads do not mix. Control characters in
// `text` (it may quote what a client sent) are replaced. Never pass a secret.
//
//   2026-11-22 10:15:00.123 info client=w2/17 tenant=shop closing: client_gone queries=12
void log(conf::LogLevel level, std::string_view text);
void set_log_level(conf::LogLevel level);
bool log_enabled(conf::LogLevel level);

inline void log_error(std::string_view text) { log(conf::LogLevel::error, text); }
inline void log_warning(std::string_view text) { log(conf::LogLevel::warning, text); }
inline void log_info(std::string_view text) { log(conf::LogLevel::info, text); }
inline void log_debug(std::string_view text) {
  if (log_enabled(conf::LogLevel::debug)) log(conf::LogLevel::debug, text);
}

// For an event that may come ten times a second for hours: one line of it in ten seconds.
class SeldomLog {
 public:
  static constexpr conf::Millis kEvery{10'000};
  // None: leave it out. Else what the line ends with: how many have been left out since the last one.
  std::optional<std::string> due(conf::Instant now);

 private:
  std::optional<conf::Instant> last_;
  std::size_t left_out_ = 0;
};

}  // namespace proxy
