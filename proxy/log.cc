#include "proxy/log.h"

#include <atomic>
#include <cstdio>
#include <ctime>
#include <utility>

#include <unistd.h>

namespace proxy {
namespace {

// The one process-wide variable: the log is where everything that has no owner ends up.
std::atomic<conf::LogLevel> threshold{conf::LogLevel::info};

std::string_view name(conf::LogLevel level) {
  switch (level) {
    case conf::LogLevel::error: return "error";
    case conf::LogLevel::warning: return "warning";
    case conf::LogLevel::info: return "info";
    case conf::LogLevel::debug: return "debug";
  }
  return "?";
}

}  // namespace

void set_log_level(conf::LogLevel level) { threshold.store(level, std::memory_order_relaxed); }

bool log_enabled(conf::LogLevel level) {
  return level <= threshold.load(std::memory_order_relaxed);
}

void log(conf::LogLevel level, std::string_view text) {
  if (!log_enabled(level)) return;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  char stamp[64];
  const std::size_t length = std::strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", &utc);
  char fraction[24];
  std::snprintf(fraction, sizeof fraction, ".%03ld ", now.tv_nsec / 1'000'000);
  std::string line(stamp, length);
  line += fraction;
  line += name(level);
  line += ' ';
  for (const char c : text) line += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  line += '\n';
  // A log that cannot be written must not stop the proxy.
  [[maybe_unused]] const auto written = write(STDERR_FILENO, line.data(), line.size());
}

std::optional<std::string> SeldomLog::due(conf::Instant now) {
  if (last_ && now - *last_ < kEvery) {
    ++left_out_;
    return std::nullopt;
  }
  last_ = now;
  const std::size_t before = std::exchange(left_out_, 0);
  return before == 0 ? "" : " (and " + std::to_string(before) + " times before that)";
}

}  // namespace proxy
