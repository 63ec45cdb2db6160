#pragma once

#include <span>
#include <string>
#include <vector>

#include "pool/session_settings.h"

// Statements of ours among a client's messages, over the extended protocol: unlike a Query they leave its
// unnamed statement and portal alone, and end neither its sequence nor the transaction that this is in.
namespace proxy {

class Server;

// Appends them, to be executed one after the other. The answers are nobody's. When one fails the session is
// not what we think, and the server is closed (ServerEnd::replay_failed); what Postgres skips because of an
// error before it does no harm.
void append_own(Server& server, std::span<const std::string> statements, std::string& out);

// What is executed around a Parse so that the text is read by other settings than those of now, which hold
// again behind it.
struct Reading {
  std::vector<std::string> before, after;
};
// `then`: the settings of a client's own Parse, as read_by() has them. Nothing: there is no difference.
// In a transaction a savepoint brings back also what SET LOCAL has said.
Reading read_as(const Server& server, const pool::SettingsSet& then, bool in_transaction);

}  // namespace proxy
