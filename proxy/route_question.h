#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "proxy/wire/backend.h"

namespace proxy {

class Client;
class Worker;

// EXPLAIN ROUTE [USER name] [DATABASE name] [APPLICATION name] statement. Whom the statement is from can be
// said on the console only; a client asks for itself. Names may be quoted.
struct RouteAsked {
  std::string user, database, application;  // "": not said
  std::string_view sql;                     // the rest of the text
  bool by_name() const { return !user.empty() || !database.empty() || !application.empty(); }
};
// None: the text is something else. A few comparisons for a text that begins with another word.
std::optional<RouteAsked> parse_route_question(std::string_view text);

// The answer for a client's own session: whole messages, rows and CommandComplete.
std::string explain_route(Worker& worker, const Client& client, std::string_view sql);
// The answer for the console, of a text that begins with EXPLAIN ROUTE; an ErrorResponse when it says nothing
// that could be explained. Who is not named is the console's user; the session has just begun.
std::string explain_route(Worker& worker, std::string_view text, const std::string& console_user, bool describe,
                          wire::Formats formats);

}  // namespace proxy
