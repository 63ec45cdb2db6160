#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

// Reads what is typed on the admin console. Pure. A small language: words, names in double quotes, strings in
// single quotes (both double the quote to hold one), comments as in SQL, statements separated by semicolons.
namespace proxy {

// The statements of one text, without those that are blank. None: a quote or a comment is not closed.
std::optional<std::vector<std::string_view>> console_statements(std::string_view text);

struct ConsoleWord {
  std::string text;  // without its quotes
  char quote = 0;    // ' or " when it stood in them; then it is no keyword

  // Case counts for nothing in keywords. `keyword` is in upper case.
  bool is(std::string_view keyword) const;
};

// The words of one of these statements. = , ( and ) are words of their own outside of quotes.
std::vector<ConsoleWord> console_words(std::string_view statement);

// "SHOW POOLS": words as keywords, for comparison and for messages.
std::string upper_case(std::string_view text);

}  // namespace proxy
