#include "proxy/link.h"

#include "conf/check.h"
#include "proxy/client.h"
#include "proxy/server.h"
#include "proxy/wire/frontend.h"
#include "proxy/worker.h"

namespace proxy {

bool must_stay(const Client& client) {
  const Server* server = client.server;
  if (server == nullptr) return false;
  return client.sticky || client.streaming() || server->status != 'I' || server->pipeline.open_sequence() ||
         server->pipeline.copying_in() || routing::any(client.pins) ||
         client.identity->mode == conf::PoolMode::session;
}

void link(Client& client, Server& server) {
  ENSURE(client.server == nullptr && server.client == nullptr);
  client.server = &server;
  server.client = &client;
}

void unlink(Client& client, Server& server) {
  ENSURE(client.server == &server && server.client == &client);
  client.server = nullptr;
  server.client = nullptr;
  client.sticky = false;
  if (server.healing.armed()) [[unlikely]] server.healing.disarm();  // nobody else's answer
}

bool prepare_session(Worker& worker, Client& client, Server& server, std::string& prefix) {
  const pool::SettingsRef& wanted = client.session->current();
  if (server.session.current() == wanted || !server.pipeline.idle() || server.status == 'E')
    return true;
  const std::string sql = pool::replay_sql(*server.session.current(), *wanted);
  // What a statement runs as, and, unless it only reads, on which objects, must be certain before it runs.
  const bool must_be_certain = [&] {
    for (const pool::SettingsRef& set : {server.session.current(), wanted})
      for (const pool::Setting& setting : set->entries)
        if (setting.name == "role" || setting.name == "session_authorization" ||
            (setting.name == "search_path" && client.batch.kind > routing::StatementClass::read))
          return true;
    return false;
  }();
  server.session.assume(wanted, server.status == 'T');
  if (sql.empty()) return true;
  worker.count().settings_replays.add();
  server.pipeline.sent({wire::Request::query, wire::For::nobody});
  server.unnamed_version = 0;
  wire::append_query(prefix, sql);
  return !must_be_certain && client.state() != ClientState::login;
}

}  // namespace proxy
