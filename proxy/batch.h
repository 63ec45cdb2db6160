#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "proxy/server.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/frontend.h"
#include "routing/facts.h"

// The messages of a batch, read: what scan.cc learns of them and relay.cc sends on.
namespace proxy {

class Client;
class Worker;
struct ClientStatement;

using FactsRef = std::shared_ptr<const routing::Facts>;

// A message of a batch, and the names in it: looked for once, when the batch is scanned. Its views point
// into the batch.
struct BatchMessage {
  wire::Frame frame;
  std::string_view name;        // Parse, Bind, Describe, Close: the statement's or (`named`) the portal's
  std::string_view text;        // Query, Parse
  std::size_t after_names = 0;  // offset in the body: Parse, Bind
  wire::Named named = wire::Named::statement;
  bool text_complete = false;
  std::string_view portal;      // Bind, Execute
};
static_assert(std::is_trivially_destructible_v<BatchMessage>);
// So many of a batch are remembered from its scan; those behind are cut again. Most batches have four.
inline constexpr std::size_t kRemembered = 64;

enum class Read : std::uint8_t { whole, need_more, malformed };
// Finds the names in a message; `problem` says how it is malformed.
Read read_names(BatchMessage* message, std::string* problem);

// What a statement of the client's is, by the settings that it is read by. Good until the next call.
const FactsRef& classify(Worker& worker, const Client& client, std::string_view sql);
// What a prepared statement does, judged by the newest scope.
const FactsRef& current_facts(Worker& worker, const Client& client, ClientStatement& statement);

// Transaction control matters to a session that has changed settings in the transaction, or may have.
bool settings_on_trial(const Client& client);
bool has_portals(const Client& client);
// COMMIT, ROLLBACK, ROLLBACK TO, and their kin: what a failed transaction takes.
bool may_end_failure(const routing::Facts& facts);

// Appends what one client's batch asks, so that two which ask the same in the same session are told the same:
// its messages, with the names that statements have on servers instead of the client's own. False: it is not of a
// shape that is shared (one Query; or Bind and Execute of one statement, which has a name or is parsed ahead of them,
// perhaps with Describe; no named portals, no row limits).
bool append_question(const Client& client, std::span<const BatchMessage> messages, std::string* question);

}  // namespace proxy
