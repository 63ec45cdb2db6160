#include "proxy/own_statements.h"

#include "proxy/server.h"
#include "proxy/wire/frontend.h"

namespace proxy {

using wire::For;
using wire::Request;

namespace {

// Of the statement and of its portal, while it is executed.
constexpr std::string_view kOwnName = "pgsluice_own";

}  // namespace

void append_own(Server& server, std::span<const std::string> statements, std::string& out) {
  const auto sent = [&server](Request request) {
    server.pipeline.sent({request, For::nobody, Server::kReplays});
  };
  for (const std::string& statement : statements) {
    wire::append_parse(out, kOwnName, statement, {});
    sent(Request::parse);
    wire::append_bind(out, kOwnName, kOwnName);
    sent(Request::bind);
    wire::append_execute(out, kOwnName, 0);
    sent(Request::execute);
    wire::append_close(out, wire::Named::portal, kOwnName);
    sent(Request::close);
    wire::append_close(out, wire::Named::statement, kOwnName);
    sent(Request::close);
  }
}

Reading read_as(const Server& server, const pool::SettingsSet& then, bool in_transaction) {
  const pool::SettingsSet now = pool::read_by(*server.session.current());
  Reading reading{.before = pool::replay_statements(now, then), .after = {}};
  if (reading.before.empty()) return reading;
  if (in_transaction) {
    reading.before.insert(reading.before.begin(), "SAVEPOINT pgsluice_own");
    reading.after = {"ROLLBACK TO SAVEPOINT pgsluice_own", "RELEASE SAVEPOINT pgsluice_own"};
  } else {
    reading.after = pool::replay_statements(then, now);
  }
  return reading;
}

}  // namespace proxy
