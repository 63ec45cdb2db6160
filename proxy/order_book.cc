#include "proxy/order_book.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "conf/row.h"
#include "proxy/control.h"
#include "proxy/log.h"
#include "proxy/wire/sqlstate.h"
#include "routing/facts.h"

namespace proxy {

using namespace std::chrono_literals;

namespace {

// While an order waits for servers to be released, they are counted this often.
constexpr conf::Millis kLook = 10ms;

// Of digests, and of tenants: a process that takes over is told all in one packet.
constexpr std::size_t kMostLimits = 200;

using Outcome = OrderBook::Outcome;

Outcome refused(std::string message) {
  return {wire::sqlstate::kObjectNotInPrerequisiteState, std::move(message)};
}

std::string which(const std::string& database) {
  return database.empty() ? "everything" : "database \"" + database + "\"";
}

std::string_view word(OrderBook::Kind kind) {
  using enum OrderBook::Kind;
  switch (kind) {
    case pause: return "PAUSE";
    case resume: return "RESUME";
    case reconnect: return "RECONNECT";
    case kill: return "KILL";
    case disable: return "DISABLE";
    case enable: return "ENABLE";
    case wait_close: return "WAIT_CLOSE";
    case drain: return "DRAIN";
    case undrain: return "UNDRAIN";
    case kill_client: return "KILL CLIENT";
    case limit_digest: return "LIMIT DIGEST";
    case unlimit_digest: return "UNBLOCK DIGEST";
    case limit_tenant: return "LIMIT TENANT";
    case unlimit_tenant: return "UNLIMIT TENANT";
    case set_class: return "SET CLASS";
    case unset_class: return "UNSET CLASS";
  }
  return "";
}

// "w1/17/4", as print() makes it.
std::optional<ClientId> parse_client_id(const std::string& text) {
  ClientId id;
  unsigned worker = 0;
  int end = 0;
  if (std::sscanf(text.c_str(), "w%5u/%10u/%10u%n", &worker, &id.slot, &id.generation, &end) != 3 ||
      static_cast<std::size_t>(end) != text.size())
    return std::nullopt;
  id.worker = static_cast<std::uint16_t>(worker);
  return id;
}

}  // namespace

OrderBook::OrderBook(Control& control)
    : control_(control),
      look_again_(control.loop(), [this] { look(); }),
      expire_(control.loop(), [this] { expire(); }) {}

void OrderBook::adopt(Orders orders) { change(std::move(orders), OrderAction::none, "", 0); }

void OrderBook::change(Orders orders, OrderAction action, const std::string& database,
                       std::uint64_t ticket) {
  const bool other_nodes = orders.drained != orders_->drained;
  if (orders.digests != orders_->digests) orders.find_gate();
  if (orders.tenants != orders_->tenants) control_.shared().tenants.overrule(orders.tenants);
  orders_ = std::make_shared<const Orders>(std::move(orders));
  // The workers hear of drained nodes through the topology, which must come before they obey.
  if (other_nodes) control_.monitor().drain(orders_->drained);
  tell_workers(action, database, ticket);
  conf::Instant next = conf::Instant::max();
  for (const auto& [key, limit] : orders_->digests) next = std::min(next, limit->expires);
  for (const auto& [name, order] : orders_->tenants) next = std::min(next, order.expires);
  for (const auto& [name, order] : orders_->classes) next = std::min(next, order.expires);
  const conf::Instant now = control_.loop().now();
  if (next == conf::Instant::max()) {
    expire_.stop();
  } else {
    expire_.once(std::max(conf::Millis(1), std::chrono::ceil<conf::Millis>(next - now)));
  }
}

// --- limits ----------------------------------------------------------------------------------------

void OrderBook::spread(Orders orders, Kind kind, const std::string& name, const ClientId& asker, Done done) {
  const std::uint64_t ticket = ++last_ticket_;
  waiting_.push_back({.ticket = ticket, .kind = kind, .name = name, .asker = asker,
                      .unheard = control_.shared().workers.size(), .done = std::move(done)});
  change(std::move(orders), OrderAction::none, "", ticket);
}

void OrderBook::limit_digest(pool::DigestLimitRef limit, const ClientId& asker, Done done) {
  Orders next = *orders_;
  const pool::DigestKey key = limit->key;
  if (!next.digests.contains(key) && next.digests.size() >= kMostLimits)
    return done(refused("there are " + std::to_string(kMostLimits) + " limits on digests already"));
  next.digests[key] = std::move(limit);
  spread(std::move(next), Kind::limit_digest, "", asker, std::move(done));
}

void OrderBook::unlimit_digest(const pool::DigestKey& key, const ClientId& asker, Done done) {
  Orders next = *orders_;
  const std::size_t ended = std::erase_if(next.digests, [&key](const auto& one) {
    return one.first.digest == key.digest && (key.database.empty() || one.first.database == key.database);
  });
  if (ended == 0) return done(refused("nothing is ordered of digest " + routing::print_digest(key.digest)));
  spread(std::move(next), Kind::unlimit_digest, "", asker, std::move(done));
}

void OrderBook::limit_tenant(const std::string& name, pool::TenantOrder order, const ClientId& asker, Done done) {
  Orders next = *orders_;
  if (!next.tenants.contains(name) && next.tenants.size() >= kMostLimits)
    return done(refused("there are " + std::to_string(kMostLimits) + " limits on tenants already"));
  pool::TenantOrder& now = next.tenants[name];
  if (order.rate) now.burst = std::nullopt;
  if (order.rate) now.rate = order.rate;
  if (order.burst) now.burst = order.burst;
  if (order.concurrency) now.concurrency = order.concurrency;
  now.expires = order.expires;
  spread(std::move(next), Kind::limit_tenant, "", asker, std::move(done));
}

void OrderBook::unlimit_tenant(const std::string& name, const ClientId& asker, Done done) {
  Orders next = *orders_;
  if (next.tenants.erase(name) == 0) return done(refused("nothing is ordered of tenant \"" + name + "\""));
  spread(std::move(next), Kind::unlimit_tenant, "", asker, std::move(done));
}

void OrderBook::set_class(const std::string& tenant, ClassOrder order, const ClientId& asker, Done done) {
  Orders next = *orders_;
  if (!next.classes.contains(tenant) && next.classes.size() >= kMostLimits)
    return done(refused("there are " + std::to_string(kMostLimits) + " orders for classes already"));
  next.classes[tenant] = std::move(order);
  spread(std::move(next), Kind::set_class, "", asker, std::move(done));
}

void OrderBook::unset_class(const std::string& tenant, const ClientId& asker, Done done) {
  Orders next = *orders_;
  if (next.classes.erase(tenant) == 0)
    return done(refused("no class is ordered for tenant \"" + tenant + "\""));
  spread(std::move(next), Kind::unset_class, "", asker, std::move(done));
}

void OrderBook::expire() {
  const conf::Instant now = control_.loop().now();
  Orders next = *orders_;
  std::erase_if(next.digests, [now](const auto& one) {
    if (now < one.second->expires) return false;
    log_info("the limit on digest " + routing::print_digest(one.first.digest) + " (" + one.second->origin +
             ") has expired refused=" + std::to_string(one.second->refused.load(std::memory_order_relaxed)));
    return true;
  });
  std::erase_if(next.tenants, [now](const auto& one) {
    if (now < one.second.expires) return false;
    log_info("the limit on tenant " + conf::quote(one.first) + " has expired");
    return true;
  });
  std::erase_if(next.classes, [now](const auto& one) {
    if (now < one.second.expires) return false;
    log_info("class " + conf::quote(one.second.service_class) + " of tenant " + conf::quote(one.first) + " has expired");
    return true;
  });
  change(std::move(next), OrderAction::none, "", 0);
}

void OrderBook::server_lost(pool::CrashRecord::Lost lost) {
  if (control_.settings().digest_auto_block.count() > 0)
    block_crashing(crashes_.lost(std::move(lost), control_.loop().now()));
}

void OrderBook::crash_heard(std::uint16_t node) {
  if (control_.settings().digest_auto_block.count() > 0)
    block_crashing(crashes_.crashed(node, control_.loop().now()));
}

void OrderBook::block_crashing(const std::vector<pool::DigestKey>& guilty) {
  if (guilty.empty()) return;
  Orders next = *orders_;
  const conf::Millis time = control_.settings().digest_auto_block;
  for (const pool::DigestKey& key : guilty) {
    // What an operator has ordered of it stays, unless it lets it through.
    const auto known = next.digests.find(key);
    if (known != next.digests.end() && known->second->kind == pool::DigestLimitKind::block) continue;
    auto limit = std::make_shared<pool::DigestLimit>();
    limit->key = key;
    limit->expires = control_.loop().now() + time;
    limit->origin = "auto_block";
    log_error("digest " + routing::print_digest(key.digest) + " of database " + conf::quote(key.database) +
              " was at work at two crashes of a server within a minute: it is blocked for " + conf::print(time) +
              " (UNBLOCK DIGEST ends that)");
    next.digests[key] = std::move(limit);
  }
  change(std::move(next), OrderAction::none, "", 0);
}

// --- the others ------------------------------------------------------------------------------------

void OrderBook::tell_workers(OrderAction action, const std::string& database, std::uint64_t ticket) {
  for (Worker* worker : control_.shared().workers)
    worker->post(OrdersChanged{orders_, action, database, ticket});
}

// What is wrong with giving this order now.
std::optional<Outcome> OrderBook::objection(Kind kind, const std::string& name) const {
  const auto& databases = control_.settings().databases;
  if (kind == Kind::drain || kind == Kind::undrain) return std::nullopt;
  if (!name.empty() && !databases.contains(name) && !databases.contains("*"))
    return Outcome{wire::sqlstate::kInvalidCatalogName, "there is no database \"" + name + "\""};
  const bool now = name.empty() ? orders_->all_paused : orders_->paused.contains(name);
  if (kind == Kind::pause && now) return refused(which(name) + " is paused already");
  if (kind == Kind::resume && !now) return refused(which(name) + " is not paused");
  return std::nullopt;
}

void OrderBook::kill_client(const std::string& name, const ClientId& asker, Done done) {
  const std::optional<ClientId> client = parse_client_id(name);
  if (!client || client->worker >= control_.shared().workers.size())
    return done({wire::sqlstate::kUndefinedObject,
                 "there is no client \"" + name + "\"; SHOW CLIENTS lists them by id"});
  waiting_.push_back({.ticket = ++last_ticket_, .kind = Kind::kill_client, .name = name, .asker = asker,
                      .unheard = 1, .done = std::move(done)});
  control_.shared().workers[client->worker]->post(KillClient{*client, last_ticket_});
}

void OrderBook::give(Kind kind, const std::string& name, bool force, const ClientId& asker, Done done) {
  if (const std::optional<Outcome> wrong = objection(kind, name)) return done(*wrong);
  Orders next = *orders_;
  Waiting order{.ticket = ++last_ticket_, .kind = kind, .name = name, .asker = asker,
                .unheard = control_.shared().workers.size(), .done = std::move(done)};
  OrderAction action = OrderAction::none;
  const auto pause = [&next, &name](bool on) {
    if (name.empty()) next.all_paused = on;
    else if (on) next.paused.insert(name);
    else next.paused.erase(name);
  };
  switch (kind) {
    case Kind::pause: pause(true); break;
    case Kind::resume: pause(false); break;
    case Kind::kill:
      pause(true);
      action = OrderAction::kill;
      break;
    case Kind::reconnect: action = OrderAction::reconnect; break;
    case Kind::disable: next.disabled.insert(name); break;
    case Kind::enable: next.disabled.erase(name); break;
    case Kind::wait_close:
    case Kind::kill_client:
    case Kind::limit_digest:  // these have methods of their own
    case Kind::unlimit_digest:
    case Kind::limit_tenant:
    case Kind::unlimit_tenant:
    case Kind::set_class:
    case Kind::unset_class: break;
    case Kind::drain:
    case Kind::undrain: {
      std::optional<conf::NodeAddress> address;
      bool is_primary = false;
      for (const routing::ClusterState& cluster : control_.monitor().states())
        for (const routing::NodeState& node : cluster.nodes)
          if (node.address.name() == name) {
            address = node.address;
            order.node = node.id;
            is_primary |= cluster.primary == node.id;
          }
      if (!address)
        return order.done({wire::sqlstate::kUndefinedObject,
                           "there is no node \"" + name + "\"; SHOW NODES lists them"});
      if (kind == Kind::undrain) {
        if (next.drained.erase(*address) == 0) return order.done(refused("node " + name + " is not drained"));
        break;
      }
      if (is_primary && !force)
        return order.done(refused("node " + name + " is the accepted primary: without it nothing can be written. "
                                  "PAUSE lets clients wait for a switch-over; DRAIN " + name +
                                  " FORCE drains it all the same"));
      if (is_primary)
        order.notice = "node " + name + " is the accepted primary: writes wait for routing.primary_wait and then "
                       "fail, until UNDRAIN or a promotion";
      next.drained[*address] = force;
      break;
    }
  }
  const bool waits = kind == Kind::pause || kind == Kind::drain;
  if (const conf::Millis bound = control_.settings().pool_pause_timeout; waits && bound.count() > 0)
    order.give_up_at = control_.loop().now() + bound;
  const std::uint64_t ticket = order.ticket;
  waiting_.push_back(std::move(order));
  change(std::move(next), action, name, ticket);
  if (!look_again_.armed()) look_again_.every(kLook);
}

std::int64_t OrderBook::servers_left(const Waiting& order) const {
  switch (order.kind) {
    case Kind::wait_close: return static_cast<std::int64_t>(order.closing);
    case Kind::pause:
    case Kind::kill:
    case Kind::drain: break;
    default: return 0;
  }
  std::int64_t open = 0;
  for (const auto& [key, budget] : control_.shared().budgets.all())
    if (order.node ? key.node == *order.node : order.name.empty() || key.database == order.name)
      open += budget->open();
  return open;
}

bool OrderBook::still_ordered(const Waiting& order) const {
  if (order.kind == Kind::pause)
    return order.name.empty() ? orders_->all_paused : orders_->is_paused(order.name);
  if (order.kind == Kind::drain)
    return std::ranges::any_of(orders_->drained,
                               [&order](const auto& node) { return node.first.name() == order.name; });
  return true;
}

void OrderBook::obeyed(std::uint64_t ticket, std::size_t closing) {
  const auto found = std::ranges::find(waiting_, ticket, &Waiting::ticket);
  if (found == waiting_.end()) return;
  found->closing += closing;
  if (--found->unheard == 0) look();
}

void OrderBook::look() {
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    const auto order = next++;
    if (order->unheard > 0) continue;
    if (order->kind == Kind::kill_client && order->closing == 0) {
      fail(order, "there is no client \"" + order->name + "\"");
    } else if (!still_ordered(*order)) {
      fail(order, "it was taken back by another console");
    } else if (servers_left(*order) == 0) {
      const Done done = std::move(order->done);
      std::string notice = std::move(order->notice);
      waiting_.erase(order);
      done({"", std::move(notice)});
    } else if (order->kind == Kind::wait_close) {
      order->closing = 0;
      order->unheard = control_.shared().workers.size();
      tell_workers(OrderAction::none, order->name, order->ticket);
    } else if (order->give_up_at && control_.loop().now() > *order->give_up_at) {
      fail(order, "it took longer than " + conf::print(control_.settings().pool_pause_timeout) +
                      " (pool.pause_timeout)");
    }
  }
  if (waiting_.empty()) look_again_.stop();
}

void OrderBook::give_up(const ClientId& asker, const std::string& why) {
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    const auto order = next++;
    if (order->asker == asker) fail(order, why);
  }
}

void OrderBook::fail(std::list<Waiting>::iterator at, const std::string& why) {
  Waiting order = std::move(*at);
  waiting_.erase(at);
  const std::int64_t left = servers_left(order);
  std::string message = std::string(word(order.kind)) + " was not completed: " + why;
  if (left > 0) message += "; " + std::to_string(left) + " servers are still in use";
  const bool taken_back = order.kind == Kind::pause || order.kind == Kind::drain;
  if (taken_back && still_ordered(order)) {
    Orders next = *orders_;
    if (order.kind == Kind::drain)
      std::erase_if(next.drained, [&order](const auto& node) { return node.first.name() == order.name; });
    else if (order.name.empty()) next.all_paused = false;
    else next.paused.erase(order.name);
    change(std::move(next), OrderAction::none, order.name, 0);
    message += order.kind == Kind::drain ? "; the node is not drained" : "; nothing is paused by it";
  }
  log_warning("console: " + message);
  order.done({wire::sqlstate::kQueryCanceled, std::move(message)});
}

}  // namespace proxy
