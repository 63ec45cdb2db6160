#pragma once

#include <cstdarg>
#include <cstdio>
#include <string>

namespace simulation {

// Appends a line or less, as printf would write it.
[[gnu::format(printf, 2, 3)]] inline void print(std::string& out, const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  out += line;
}

}  // namespace simulation
