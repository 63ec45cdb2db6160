#include "proxy/console_text.h"

#include <algorithm>

namespace proxy {
namespace {

// Not std::toupper: the locale is none of our business.
char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; }

bool blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

bool stands_alone(char c) { return c == '=' || c == ',' || c == '(' || c == ')'; }

// Where the quoted text or the comment at `from` ends; npos: it does not end. `from` itself: neither is there.
std::size_t skip(std::string_view text, std::size_t from) {
  const char c = text[from];
  if (c == '\'' || c == '"') {
    for (std::size_t i = from + 1; i < text.size(); ++i) {
      if (text[i] != c) continue;
      if (i + 1 == text.size() || text[i + 1] != c) return i + 1;
      ++i;
    }
    return std::string_view::npos;
  }
  if (text.substr(from).starts_with("--")) {
    const std::size_t end = text.find('\n', from);
    return end == std::string_view::npos ? text.size() : end + 1;
  }
  if (!text.substr(from).starts_with("/*")) return from;
  std::size_t depth = 0;
  for (std::size_t i = from; i + 1 < text.size(); ++i) {
    const bool opens = text[i] == '/' && text[i + 1] == '*';
    const bool closes = text[i] == '*' && text[i + 1] == '/';
    if (!opens && !closes) continue;
    if (opens) ++depth;
    ++i;
    if (closes && --depth == 0) return i + 1;
  }
  return std::string_view::npos;
}

}  // namespace

bool ConsoleWord::is(std::string_view keyword) const { return quote == 0 && upper_case(text) == keyword; }

std::string upper_case(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = upper(c);
  return out;
}

std::optional<std::vector<std::string_view>> console_statements(std::string_view text) {
  std::vector<std::string_view> statements;
  const auto add = [&statements](std::string_view one) {
    if (!console_words(one).empty()) statements.push_back(one);
  };
  std::size_t start = 0, at = 0;
  while (at < text.size()) {
    if (text[at] == ';') {
      add(text.substr(start, at - start));
      start = ++at;
      continue;
    }
    const std::size_t end = skip(text, at);
    if (end == std::string_view::npos) return std::nullopt;
    at = end == at ? at + 1 : end;
  }
  add(text.substr(start));
  return statements;
}

std::vector<ConsoleWord> console_words(std::string_view statement) {
  std::vector<ConsoleWord> words;
  bool inside = false;  // the last word is not quoted and goes on
  std::size_t at = 0;
  while (at < statement.size()) {
    const char c = statement[at];
    const std::size_t end = std::min(skip(statement, at), statement.size());
    if (end > at) {  // quoted, or a comment
      inside = false;
      if (c == '\'' || c == '"') {
        words.push_back({{}, c});
        for (std::size_t i = at + 1; i + 1 < end; ++i) {
          words.back().text += statement[i];
          if (statement[i] == c) ++i;
        }
      }
      at = end;
      continue;
    }
    ++at;
    if (blank(c)) {
      inside = false;
    } else if (stands_alone(c)) {
      inside = false;
      words.push_back({std::string(1, c), 0});
    } else {
      if (!inside) words.emplace_back();
      inside = true;
      words.back().text += c;
    }
  }
  return words;
}

}  // namespace proxy
