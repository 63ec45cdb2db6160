#include "conf/toml_guard.h"

#include <cstddef>

namespace conf {
namespace {

// Our keys have at most two dots. With the 256 nested values that toml++ allows, its recursion ends
// at about four thousand levels, under a megabyte of stack.
constexpr int kMaxDots = 16;

// The end of the string that starts at `at` with one quote or three.
std::size_t end_of_string(std::string_view text, std::size_t at, std::uint32_t& line) {
  const char quote = text[at];
  const bool escapes = quote == '"';
  const bool multiline = text.substr(at, 3) == std::string_view(escapes ? "\"\"\"" : "'''");
  for (at += multiline ? 3 : 1; at < text.size(); ++at) {
    if (text[at] == '\n') {
      if (!multiline) return at;  // not TOML
      ++line;
    } else if (text[at] == '\\' && escapes) {
      if (at + 1 < text.size() && text[at + 1] != '\n') ++at;
    } else if (text[at] == quote) {
      if (!multiline) return at + 1;
      std::size_t quotes = 1;  // up to two more than three belong to the text
      while (quotes < 5 && at + quotes < text.size() && text[at + quotes] == quote) ++quotes;
      if (quotes >= 3) return at + quotes;
      at += quotes - 1;
    }
  }
  return at;
}

}  // namespace

std::uint32_t line_nested_too_deep(std::string_view toml) {
  std::uint32_t line = 1;
  int dots = 0;  // of one key, quoted parts left out
  for (std::size_t at = 0; at < toml.size();) {
    switch (toml[at]) {
      case '"':
      case '\'': at = end_of_string(toml, at, line); continue;
      case '#':
        while (at < toml.size() && toml[at] != '\n') ++at;
        continue;
      case '\n': ++line; [[fallthrough]];
      case '=':
      case ',':
      case '[':
      case ']':
      case '{':
      case '}': dots = 0; break;
      case '.':
        if (++dots > kMaxDots) return line;
        break;
      default: break;
    }
    ++at;
  }
  return 0;
}

}  // namespace conf
