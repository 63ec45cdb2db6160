#pragma once

#include <map>
#include <string>
#include <string_view>

#include "conf/result.h"

namespace conf {

// Names and secrets of a file as PgBouncer's userlist.txt is written: a user per line,
//   "name" "secret"
// both in double quotes, a quote inside doubled. The secret is plain, "md5...", or
// "SCRAM-SHA-256$..."; what stands behind it is ignored, as are lines that are empty or begin with
// ';'. Of several lines for one name the last counts.
using UserSecrets = std::map<std::string, std::string, std::less<>>;

// The error names `file_name` and the line, and shows nothing of the line.
Result<UserSecrets> parse_users_file(std::string_view text, std::string_view file_name);

}  // namespace conf
