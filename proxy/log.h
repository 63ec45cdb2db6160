#pragma once

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

}  // namespace proxy
