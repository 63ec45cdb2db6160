#include "conf/users_file.h"

#include <optional>

namespace conf {
namespace {

constexpr std::size_t kMaxName = 63;  // Postgres cuts longer names (NAMEDATALEN)

void skip_blanks(std::string_view& line) {
  while (!line.empty() && (line[0] == ' ' || line[0] == '\t' || line[0] == '\r')) line.remove_prefix(1);
}

// What stands in quotes at the start of `line`, which is moved behind it.
std::optional<std::string> take_quoted(std::string_view& line) {
  if (!line.starts_with('"')) return std::nullopt;
  std::string text;
  for (std::size_t at = 1; at < line.size(); ++at) {
    if (line[at] != '"') {
      text += line[at];
    } else if (at + 1 < line.size() && line[at + 1] == '"') {
      text += '"';
      ++at;
    } else {
      line.remove_prefix(at + 1);
      return text;
    }
  }
  return std::nullopt;
}

}  // namespace

Result<UserSecrets> parse_users_file(std::string_view text, std::string_view file_name) {
  UserSecrets users;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == text.npos ? std::string_view() : text.substr(end + 1);
    const auto refuse = [&](std::string_view why) {
      std::string message(file_name);
      message.append(":").append(std::to_string(number)).append(": ").append(why);
      return Error{Errc::config, std::move(message)};
    };
    if (line.find('\0') != line.npos) return refuse("the line holds a zero byte");
    skip_blanks(line);
    if (line.empty() || line[0] == ';') continue;
    auto name = take_quoted(line);
    if (!name) return refuse("the line must be \"name\" \"secret\", and its name is not in quotes");
    if (name->empty() || name->size() > kMaxName)
      return refuse("the name must have 1 to " + std::to_string(kMaxName) + " bytes");
    skip_blanks(line);
    auto secret = take_quoted(line);
    if (!secret) return refuse("the line must be \"name\" \"secret\", and its secret is not in quotes");
    users[std::move(*name)] = std::move(*secret);
  }
  return users;
}

}  // namespace conf
