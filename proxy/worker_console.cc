// What a worker tells the console about itself: in pieces, one per turn of its loop, so that clients are served
// in between however many there are.
#include <ctime>

#include <sys/socket.h>

#include "proxy/cancel.h"
#include "proxy/client_login.h"
#include "proxy/console_tables.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

using Row = std::vector<std::optional<std::string>>;

// Of a piece: a fraction of a millisecond.
constexpr std::size_t kConnectionsPerTurn = 100, kIdentitiesPerTurn = 100, kDigestsPerTurn = 200;
// A pool's oldest waiter is looked for among so many clients that wait for other things than its servers.
constexpr std::size_t kWaitersLookedAt = 1000;

std::string digits(std::size_t value) { return std::to_string(value); }

std::string seconds(conf::Nanos time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(time).count());
}
conf::Micros micros(conf::Nanos time) { return std::chrono::duration_cast<conf::Micros>(time); }

// Host and port of "10.1.2.3:50123", "[::1]:50123" and "unix", which has no port.
void append_address(Row& row, const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) {
    row.insert(row.end(), {text, std::nullopt});
    return;
  }
  const bool brackets = text.starts_with('[');
  row.insert(row.end(), {text.substr(brackets ? 1 : 0, colon - (brackets ? 2 : 0)), text.substr(colon + 1)});
}

// As PgBouncer prints moments. Ours are of a clock that has no date.
std::string date(conf::Instant at, conf::Instant now) {
  const auto age = std::chrono::duration_cast<std::chrono::system_clock::duration>(now - at);
  const std::time_t when = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now() - age);
  std::tm utc{};
  gmtime_r(&when, &utc);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &utc)};
}

// The process at the other end of a unix socket.
std::string peer_process(int fd) {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0 || credentials.pid < 0) return "0";
  return std::to_string(credentials.pid);
}

std::string print(const routing::Floor& floor) {
  switch (floor.kind) {
    case routing::Floor::Kind::none: return "";
    case routing::Floor::Kind::pending: return "pending";
    case routing::Floor::Kind::known: return routing::print(floor.lsn);
    case routing::Floor::Kind::at_node:
    case routing::Floor::Kind::leaving: return "node:" + std::to_string(routing::index(floor.node));
  }
  return "";
}

// What the console calls a server: the node's number and the backend's process.
std::string id_of(const Server& server) {
  return "n" + digits(routing::index(server.node_id())) + "/" + std::to_string(server.backend_pid());
}

std::string application_name(const Client* client) {
  if (client == nullptr || !client->session) return "";
  for (const pool::Setting& setting : client->session->current()->entries) {
    if (setting.name != "application_name") continue;
    const std::string& value = setting.value;
    const bool quoted = value.size() >= 2 && value.front() == '\'' && value.back() == '\'';
    return quoted ? value.substr(1, value.size() - 2) : value;
  }
  return "";
}

// Columns of columns::kConnection.
Row row_of(const Client& client, conf::Instant now) {
  const bool waits = client.state() == ClientState::waiting;
  const conf::Micros wait = waits ? micros(now - client.waiting_since) : conf::Micros(0);
  const Server* server = client.server;
  const std::string peer = client.peer();
  Row row = {"C",
             client.identity != nullptr ? client.identity->user : std::string(client.console_user()),
             client.identity != nullptr          ? client.identity->database
             : client.state() == ClientState::console ? "pgsluice"
                                                      : "",
             std::string(name(client.state()))};
  append_address(row, peer);
  append_address(row, net::local_end_of(client.socket().fd()).text);
  row.insert(row.end(), {date(client.connected_at(), now), date(client.quiet_since(), now),
                         std::to_string(wait.count() / 1'000'000), std::to_string(wait.count() % 1'000'000), "0",
                         proxy::print(client.id()), server == nullptr ? "" : id_of(*server),
                         peer == "unix" ? peer_process(client.socket().fd()) : "0", client.tls_description(),
                         application_name(&client), digits(client.prepared ? client.prepared->named().size() : 0),
                         proxy::print(client.id())});
  return row;
}

Row row_of(Server& server, bool stale, conf::Instant now) {
  const bool idle = server.state == pool::ServerState::idle;
  const conf::Instant request = !server.in_flight.empty() ? server.in_flight.front().sent
                                : idle                    ? server.idle_since
                                                          : server.connected_at;
  Row row = {"S", server.identity().user, server.identity().database,
             server.state == pool::ServerState::connecting ? "new"
             : server.is_reset_running()                   ? "tested"
             : server.cancels > 0                          ? "being_canceled"
                                                           : std::string(name(server.state)),
             server.ip(), std::to_string(server.port())};
  if (server.socket().is_open()) append_address(row, net::local_end_of(server.socket().fd()).text);
  else row.insert(row.end(), {"", std::nullopt});
  row.insert(row.end(), {date(server.connected_at, now), date(request, now), "0", "0", stale ? "1" : "0",
                         id_of(server), server.client == nullptr ? "" : proxy::print(server.client->id()),
                         std::to_string(server.backend_pid()), server.tls_description(),
                         application_name(server.client), digits(server.statements.size()), id_of(server)});
  return row;
}

// What SHOW SOCKETS adds, in the words of PgBouncer's buffers: what has been received and not used, and what has
// been kept because the other side does not take it.
void append_buffers(Row& row, std::size_t input, std::size_t remain, std::size_t sent, std::size_t unsent,
                    std::size_t worker) {
  row.insert(row.end(), {digits(input), "0", digits(remain), digits(sent), digits(unsent), digits(input),
                         digits(unsent), digits(worker)});
}

std::string_view socket_state(std::string_view kind, std::string_view state) {
  if (kind == "C") return state == "waiting" ? "cl_waiting" : state == "login" ? "cl_login" : "cl_active";
  return state == "new"      ? "sv_login"
         : state == "idle"   ? "sv_idle"
         : state == "tested" ? "sv_tested"
                             : "sv_active";
}

bool about_sockets(ConsoleQuestion question) {
  return question == ConsoleQuestion::sockets || question == ConsoleQuestion::active_sockets;
}

}  // namespace

void Worker::answer_console(ConsoleAsk&& question) {
  if (question.from == 0) {
    if (question.question == ConsoleQuestion::use) {
      for (const auto& [key, identity] : identities_) question.identities.push_back(key);
    } else if (question.question != ConsoleQuestion::clients && question.question != ConsoleQuestion::digests &&
               question.question != ConsoleQuestion::cache) {
      for (const auto& [address, server] : servers_) question.servers.push_back(address);
    }
  }
  ConsoleRows piece{.ticket = question.ticket, .worker = number_, .rows = {}, .identities = {}, .digests = {}, .use = {}};
  switch (question.question) {
    case ConsoleQuestion::clients: piece.last = tell_clients(question, &piece.rows); break;
    case ConsoleQuestion::servers: piece.last = tell_servers(question, &piece.rows); break;
    case ConsoleQuestion::sockets:
    case ConsoleQuestion::active_sockets:
      piece.last = tell_clients(question, &piece.rows) && tell_servers(question, &piece.rows);
      break;
    case ConsoleQuestion::use: piece.last = tell_use(question, &piece); break;
    case ConsoleQuestion::cache:
      piece.rows = tell_cache();
      piece.last = true;
      break;
    case ConsoleQuestion::digests: piece.last = tell_digests(question, &piece); break;
  }
  const bool last = piece.last;
  shared_.tell_control(std::move(piece));
  if (!last) mailbox_.post(std::move(question));
}

// The next clients. True when they were the last.
bool Worker::tell_clients(ConsoleAsk& question, Rows* rows) {
  const conf::Instant at = now();
  const std::size_t end = std::min(slots_.size(), question.from + kConnectionsPerTurn);
  for (; question.from < end; ++question.from) {
    const Slot& slot = slots_[question.from];
    if (!slot.client || slot.client->state() == ClientState::closing) continue;
    Client& client = *slot.client;
    const Client::Kept kept = client.kept();
    if (question.question == ConsoleQuestion::active_sockets && kept.input + kept.unsent + kept.streaming == 0)
      continue;
    Row row = row_of(client, at);
    if (about_sockets(question.question)) {
      row[3] = std::string(socket_state("C", *row[3]));
      append_buffers(row, kept.input, kept.streaming, kept.sent, kept.unsent, number_);
    } else {
      row.insert(row.end(),
                 {client.waiting_for == WaitingFor::nothing ? "" : std::string(name(client.waiting_for)),
                  client.tenant == nullptr ? "" : client.tenant->name,
                  client.server == nullptr ? "" : client.server->node_name(), routing::names(client.pins),
                  print(client.route_state.floor), std::to_string(client.statements),
                  seconds(at - client.connected_at()), seconds(at - client.quiet_since()), digits(number_)});
    }
    rows->push_back(std::move(row));
  }
  // Never 0 again, which would be the beginning.
  if (slots_.empty()) question.from = 1;
  return question.from >= slots_.size();
}

bool Worker::tell_servers(ConsoleAsk& question, Rows* rows) {
  const conf::Instant at = now();
  for (std::size_t i = 0; i < kConnectionsPerTurn && !question.servers.empty(); ++i) {
    const auto found = servers_.find(question.servers.back());
    question.servers.pop_back();
    if (found == servers_.end()) continue;  // closed meanwhile
    Server& server = *found->second;
    const Server::Kept kept = server.kept();
    if (question.question == ConsoleQuestion::active_sockets && kept.input + kept.unsent + kept.passing == 0)
      continue;
    Row row = row_of(server, stale(server), at);
    if (about_sockets(question.question)) {
      row[3] = std::string(socket_state("S", *row[3]));
      append_buffers(row, kept.input, kept.passing, kept.sent, kept.unsent, number_);
    } else {
      row.insert(row.end(),
                 {server.node_name(), std::string(name(role_of(server.identity(), server.node_id()))),
                  std::string(1, server.status), seconds(at - server.connected_at),
                  server.state == pool::ServerState::idle ? std::optional(seconds(at - server.idle_since))
                                                          : std::nullopt,
                  digits(number_)});
    }
    rows->push_back(std::move(row));
  }
  if (question.from == 0) question.from = 1;
  return question.servers.empty();
}

// The next digests; one that changes its place meanwhile may be missing or be told twice.
bool Worker::tell_digests(ConsoleAsk& question, ConsoleRows* piece) {
  const std::size_t end = std::min(digests_.size(), question.from + kDigestsPerTurn);
  for (; question.from < end; ++question.from) piece->digests.push_back(digests_.use(question.from));
  return question.from >= digests_.size();
}

bool Worker::tell_use(ConsoleAsk& question, ConsoleRows* piece) {
  const conf::Instant at = now();
  std::unordered_map<const Identity*, conf::Micros> waits;
  std::size_t looked_at = 0;
  for (Client* client = waiting_.front(); client != nullptr && looked_at < kWaitersLookedAt;
       client = waiting_.after(*client), ++looked_at)
    waits.try_emplace(client->identity, micros(at - client->waiting_since));  // the oldest comes first
  for (std::size_t i = 0; i < kIdentitiesPerTurn && !question.identities.empty(); ++i) {
    const auto found = identities_.find(question.identities.back());
    question.identities.pop_back();
    if (found == identities_.end()) continue;
    const Identity& identity = *found->second;
    IdentityUse use{.database = identity.database, .user = identity.user, .mode = identity.mode,
                    .clients = static_cast<std::int64_t>(identity.clients), .waiting = identity.waiting,
                    .longest_wait = waits[&identity], .pools = {}};
    for (const auto& its_pool : identity.pools) {
      if (!its_pool) continue;
      const routing::NodeId node = its_pool->key().node;
      const routing::ClusterState* state = cluster(identity);
      const routing::NodeState* known = state == nullptr ? nullptr : state->find(node);
      PoolUse one{.node = known == nullptr ? "(removed)" : known->address.name(),
                  .role = std::string(name(role_of(identity, node))),
                  .waiting = static_cast<std::int64_t>(its_pool->waiting()),
                  .idle = static_cast<std::int64_t>(its_pool->count(pool::ServerState::idle)),
                  .connecting = static_cast<std::int64_t>(its_pool->count(pool::ServerState::connecting)),
                  .limit = its_pool->budget().limit(),
                  .longest_wait = its_pool->waiting() == 0 ? conf::Micros(0)
                                                           : micros(at - its_pool->queue().waiting_since()),
                  .queues = {}};
      its_pool->queue().for_each_flow([&](const pool::Flow& flow) {
        one.queues.push_back(
            {.service_class = classes_->at(flow.service_class).name,
             .tenant = flow.tenant.name,
             .waiting = static_cast<std::int64_t>(flow.waiters.size()),
             .longest_wait = micros(at - flow.waiters.front()->waiting_since),
             .cost = conf::Micros(flow.tenant.cost.load(std::memory_order_relaxed)),
             .overloaded = flow.delay.overloaded()});
      });
      for (pool::PooledServer* record = its_pool->first(pool::ServerState::active); record != nullptr;
           record = its_pool->next(*record)) {
        const Server& server = *server_of(record);
        if (server.is_reset_running()) ++one.cleaning;
        else if (server.client == nullptr && server.cancels > 0) ++one.canceled;
        else ++one.active;
      }
      for (const auto& canceller : cancellers_)
        if (canceller->server != nullptr && canceller->server->home == its_pool.get()) ++one.cancels;
      use.pools.push_back(std::move(one));
    }
    piece->identities.push_back(std::move(use));
  }
  question.from = 1;
  if (!question.identities.empty()) return false;
  piece->use = {.clients = static_cast<std::int64_t>(live_clients_),
                .logging_in = static_cast<std::int64_t>(count(ClientState::login)),
                .consoles = static_cast<std::int64_t>(count(ClientState::console)),
                .free_slots = static_cast<std::int64_t>(free_slots_.size()),
                .servers = static_cast<std::int64_t>(servers_.size()),
                .spare_buffers = static_cast<std::int64_t>(spare_.size())};
  return true;
}

}  // namespace proxy
