#include "proxy/lending.h"

#include "proxy/client.h"
#include "proxy/server.h"
#include "proxy/wire/frontend.h"

namespace proxy {
namespace {

using wire::For;
using wire::Request;

void sync_for_nobody(Server& server, std::string& out) {
  wire::append_sync(out);
  server.pipeline.sent({Request::sync, For::nobody});
}

struct How {
  std::uint32_t tag = 0;
  bool has_text = true;  // else it cannot fail
};
void lend_one(Client& client, Server& server, const std::string& name, How how, std::string& out) {
  clear_name(server, name, out);
  if (how.has_text) {
    wire::append_parse(out, name, client.find_statement(name)->statement->tail);
  } else {
    wire::append_parse(out, name, {}, {});
  }
  server.pipeline.sent({Request::parse, For::nobody, how.tag});
  client.prepared->lending->names.push_back(name);
}

Lending& lending_of(Client& client) {
  std::unique_ptr<Lending>& lending = client.preparing().lending;
  if (!lending) lending = std::make_unique<Lending>();
  return *lending;
}

bool is_prepared_by(const Client& client, const pool::Prepared& statement) {
  return client.prepared && !client.prepared->name_of(statement.id).empty();
}

bool names(const FactsList& changes, std::string_view name) {
  const auto among = [name](const std::vector<std::string>& some) {
    return std::ranges::find(some, name) != some.end();
  };
  return std::ranges::any_of(changes, [&](const auto& facts) {
    return among(facts->executes_names) || among(facts->prepares_names) || among(facts->deallocates_names);
  });
}

// Nothing of anybody else's is there when the batch runs, and nothing of this client's that the batch could
// take for something else. Each statement has a Sync of its own, because one that does not parse any more
// must not keep the others away. In a transaction it would fail that, so there this client's own keep our
// names.
void clear_view(Client& client, Server& server, const FactsList& changes, bool alone, std::string& out) {
  const auto closed = server.statements.take_if([&](const pool::Prepared& one) {
    return alone || !is_prepared_by(client, one) || names(changes, one.server_name);
  });
  for (const pool::PreparedRef& one : closed) {
    wire::append_close(out, wire::Named::statement, one->server_name);
    server.pipeline.sent({Request::close, For::nobody});
  }
  wire::append_close(out, wire::Named::statement, kTakenName);
  server.pipeline.sent({Request::close, For::nobody, Server::kUnaccounted});
  if (!alone) return;
  sync_for_nobody(server, out);
  Lending& lending = lending_of(client);
  lending.everything = true;
  for (const auto& [name, one] : client.prepared->named()) {
    if (!one.statement || names(changes, name)) continue;
    lend_one(client, server, name, {.tag = Server::kQuiet}, out);
    sync_for_nobody(server, out);
  }
}

}  // namespace

std::vector<std::string> names_to_lend(Client& client, const Server& server, const FactsList& changes,
                                       bool only_deallocated) {
  std::vector<std::string> found;
  // Behind a COMMIT or ROLLBACK of the same batch the failed transaction is no more.
  const bool ended = only_deallocated && client.batch.step == routing::TransactionStep::end;
  if (server.status == 'E' && !ended) return found;
  const auto look = [&](const std::string& name) {
    const ClientStatement* statement = client.find_statement(name);
    if (statement == nullptr || !statement->statement) return;
    if (std::ranges::find(found, name) == found.end()) found.push_back(name);
  };
  for (const auto& facts : changes) {
    if (!only_deallocated) {
      std::ranges::for_each(facts->executes_names, look);
      std::ranges::for_each(facts->prepares_names, look);
    }
    std::ranges::for_each(facts->deallocates_names, look);
  }
  return found;
}

void clear_name(Server& server, std::string_view name, std::string& out) {
  if (!server.uncertain()) return;
  wire::append_close(out, wire::Named::statement, name);
  server.pipeline.sent({Request::close, For::nobody, Server::kUnaccounted});
}

void lend(Client& client, Server& server, LendTo batch, std::string& out) {
  static const FactsList kNone;
  if (server.pipeline.skipping()) return;  // as everything up to the Sync
  const FactsList& changes = client.batch_changes ? *client.batch_changes : kNone;
  const bool sees = client.batch.unread_text ||
                    std::ranges::any_of(changes, [](const auto& facts) { return facts->sees_prepared; });
  const bool was_open = server.pipeline.open_sequence();
  if (sees) clear_view(client, server, changes, batch.alone, out);
  // What a Query behind messages without a Sync were lent could not be taken back.
  if (batch.is_query && was_open) return;
  for (const std::string& name : names_to_lend(client, server, changes, false)) {
    if (lending_of(client).has(name)) continue;
    // A simple Query has its own error to give; in a sequence this one is the client's. What is only
    // deallocated need not parse any more.
    const bool runs = std::ranges::any_of(changes, [&name](const auto& facts) {
      return std::ranges::find(facts->executes_names, name) != facts->executes_names.end();
    });
    lend_one(client, server, name, {.tag = batch.is_query ? Server::kQuiet : 0, .has_text = runs}, out);
  }
  if (batch.is_query && server.pipeline.open_sequence()) sync_for_nobody(server, out);
}

void take_back(Client& client, Server& server, std::string& out) {
  const std::unique_ptr<Lending> lent = std::move(client.prepared->lending);
  if (server.pipeline.skipping()) {
    if (!lent->names.empty()) server.statements_are_uncertain();
    return;
  }
  for (const std::string& name : lent->names) {
    wire::append_close(out, wire::Named::statement, name);
    server.pipeline.sent({Request::close, For::nobody});
  }
}

}  // namespace proxy
