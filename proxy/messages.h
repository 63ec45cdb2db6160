#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "conf/result.h"
#include "conf/settings.h"
#include "metrics/digest_stats.h"
#include "pool/address_counts.h"
#include "pool/budget.h"
#include "pool/digest_gate.h"
#include "proxy/net/socket.h"
#include "proxy/wire/backend.h"
#include "proxy/orders.h"
#include "routing/scope.h"
#include "routing/topology.h"

namespace proxy {

class Server;
struct Identity;

// Names a client across threads and time. It may be gone: whoever holds an id looks it up.
struct ClientId {
  std::uint16_t worker = 0;
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  friend auto operator<=>(const ClientId&, const ClientId&) = default;
};
std::string print(const ClientId& id);
// As the worker of a requester: another process (proxy/takeover.h).
inline constexpr std::uint16_t kElsewhere = 0xffff;

// A table that the console shows: rows of text, in the columns of the command.
using Rows = std::vector<std::vector<std::optional<std::string>>>;

// What a console command asks of every worker: rows of SHOW CLIENTS and its kin, or how much is in use.
enum class ConsoleQuestion : std::uint8_t { clients, servers, sockets, active_sockets, use, digests, cache };

// Those of one tenant and class that wait at one pool of one worker.
struct QueueUse {
  std::string service_class, tenant;
  std::int64_t waiting = 0;
  conf::Micros longest_wait{0}, cost{0};
  bool overloaded = false;
};
// What a worker has of one pool, and of one (database, user) with its pools.
struct PoolUse {
  std::string node, role;
  std::int64_t waiting = 0;
  std::int64_t active = 0, idle = 0, cleaning = 0, connecting = 0;  // servers
  std::int64_t cancels = 0, canceled = 0;  // cancels under way; servers kept back until theirs has arrived
  std::int64_t limit = 0;                  // of servers, over all workers
  conf::Micros longest_wait{0};
  std::vector<QueueUse> queues;
};
struct IdentityUse {
  std::string database, user;
  conf::PoolMode mode{};
  std::int64_t clients = 0;  // that are logged in, those that wait included
  std::int64_t waiting = 0;
  conf::Micros longest_wait{0};
  std::vector<PoolUse> pools;
};
// And in all.
struct WorkerUse {
  std::int64_t clients = 0, logging_in = 0, consoles = 0, free_slots = 0, servers = 0, spare_buffers = 0;
};

// --- to a worker -----------------------------------------------------------------------------------

struct NewClient {
  net::Socket::Parts socket;
  pool::AddressCounts::Ticket from;
  std::int64_t of_its_address = 0;  // its number among the connections of its address, from 1
  bool only_console = false;  // accepted with a descriptor that was kept for the console
};
struct SettingsChanged {
  std::shared_ptr<const conf::Settings> settings;
  std::shared_ptr<const net::TlsContext> client_tls, server_tls;
};
struct TopologyChanged {
  std::shared_ptr<const routing::Topology> topology;
};
struct ScopesChanged {
  std::shared_ptr<const routing::Scopes> scopes;
};
// Somebody has changed the schema of that cluster, or who may see what there: it stands before sample `sample`.
struct Redefined {
  std::string cluster;
  std::uint64_t sample = 0;
};
// A cancel key arrived at some worker; the client that it names may be here.
struct CancelClient {
  std::uint32_t pid = 0;
  std::string key;
  ClientId requester;
};
// The cancel of `requester` has been delivered, or led nowhere: its connection may close.
struct CancelDelivered {
  ClientId requester;
};
// A server that another worker gives to this one, which is starving for it.
struct ServerHandover {
  pool::PoolKey key;
  std::unique_ptr<Server> server;
};
// Worker `worker` waits for a server of this key and may not open one: whoever has an idle one gives it.
struct Starving {
  pool::PoolKey key;
};
// Somebody waits at the pool of this key, which may not open a server because `limit`, which it shares
// with other pools, is reached: one of theirs gives way. A busy one too: the pool has none at all.
struct RoomWanted {
  pool::PoolKey key;
  pool::ServerLimit limit{};
  bool busy_too = false;
};
// A statement runs that Postgres refuses while anybody else is in that database, after five seconds in which they
// may leave: idle servers do.
struct DatabaseWanted {
  std::string cluster, dbname;
};
// File descriptors have run out: an idle server gives way to who knocks.
struct DescriptorWanted {};
struct SecretFound {
  ClientId client;
  conf::Result<std::optional<std::string>> secret;
};
struct ConsoleAsk {
  std::uint64_t ticket = 0;
  ConsoleQuestion question{};
  // A worker answers in pieces, one per turn of its loop, and asks itself for the next.
  std::size_t from = 0;                       // the slot of the next client
  std::vector<const Server*> servers;         // those whose turn has not come
  std::vector<std::string> identities;        // by their keys: one may be forgotten meanwhile
};
// What the control thread answers to a console command: whole messages, ready to be sent. When the client is
// ready for the next is for its ConsoleSession to say.
struct ConsoleAnswer {
  ClientId client;
  std::string messages;
};
// Operators have ordered something. `database`: whom the action is for; "" is all.
struct OrdersChanged {
  std::shared_ptr<const Orders> orders;
  OrderAction action = OrderAction::none;
  std::string database;
  std::uint64_t ticket = 0;
};
struct KillClient {
  ClientId client;
  std::uint64_t ticket = 0;
};
// Turns the loop once: a worker that does not is stuck.
struct Nudge {};
// `handed_over`: a successor accepts already; who has just come here is let in and served first.
struct BeginDrain {
  bool handed_over = false;
};
struct StopNow {};

using WorkerMessage =
    std::variant<NewClient, SettingsChanged, TopologyChanged, ScopesChanged, Redefined, CancelClient,
                 CancelDelivered, ServerHandover, Starving, RoomWanted, DatabaseWanted, DescriptorWanted,
                 SecretFound, ConsoleAsk, ConsoleAnswer, OrdersChanged, KillClient, Nudge, BeginDrain, StopNow>;

// --- to the control thread -------------------------------------------------------------------------

// A worker could not reach the node, or lost it.
struct NodeSuspected {
  routing::NodeId node;
};
// A worker has made a connection to the node, or failed to because of the node, or lost one in the middle of
// a statement.
struct NodeOutcome {
  routing::NodeId node;
  bool good = false;
};
// A session waits for the next sample of this cluster's primary.
struct SampleWanted {
  std::string cluster;
  std::uint64_t sample = 0;  // this one or a later one
};
// A connection to a server was lost without a word while it was at work.
struct ServerLost {
  pool::CrashRecord::Lost lost;
};
// A server has told of a crash (57P02).
struct CrashHeard {
  routing::NodeId node;
};
struct SchemaChanged {
  std::string cluster;
};
// A client is the first of its (database, user) on its worker.
struct DatabaseMet {
  routing::DatabaseKey where;
};
// A replica has refused what was thought a read.
struct ReadRefused {
  routing::Corrections::Refused refused;
};
struct SecretWanted {
  ClientId client;
  std::string cluster;
  std::string user;
};
// A login with the secret that was found has failed: it may have been changed since.
struct SecretDoubted {
  std::string cluster;
  std::string user;
};
struct ConsoleCommand {
  ClientId client;
  std::string user;
  bool may_act = false;                // an admin; else only SHOW
  std::string words;                   // the command's, as in the console's table
  std::vector<std::string> arguments;  // what follows them, without quotes
  bool describe = true;                // its rows come with their description
  std::vector<wire::Format> formats;   // and in these formats
};
// A piece of the answer to a ConsoleAsk.
struct ConsoleRows {
  std::uint64_t ticket = 0;
  std::size_t worker = 0;
  bool last = false;
  Rows rows;
  std::vector<IdentityUse> identities;
  std::vector<metrics::DigestStats::Use> digests;
  WorkerUse use;  // with the last piece
};
// The client of a console cancels its command (`gone`: because it is no more).
struct ConsoleCanceled {
  ClientId client;
  bool gone = false;
};
// A cancel whose key another process issued.
struct CancelElsewhere {
  CancelClient request;
};
// A worker has done what the order of this ticket says. `closing`: its servers of that database that will
// be closed when they are released; of KillClient: the clients that it found.
struct OrdersObeyed {
  std::uint64_t ticket = 0;
  std::size_t closing = 0;
};
// A worker has nothing left to drain.
struct WorkerDrained {
  std::size_t worker = 0;
};

using ControlMessage = std::variant<NodeSuspected, NodeOutcome, SampleWanted, ServerLost, CrashHeard, SchemaChanged,
                                    DatabaseMet, ReadRefused, SecretWanted,
                                    SecretDoubted, ConsoleCommand, ConsoleRows,
                                    ConsoleCanceled, OrdersObeyed, CancelElsewhere, CancelDelivered,
                                    WorkerDrained>;

}  // namespace proxy
