#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "proxy/messages.h"
#include "proxy/net/loop.h"
#include "proxy/orders.h"
#include "routing/topology.h"

namespace proxy {

class Control;

// Orders of operators on the control thread: PAUSE, RESUME, RECONNECT, KILL, DISABLE, ENABLE, WAIT_CLOSE,
// DRAIN, UNDRAIN, and limits on digests and tenants, which end by themselves. It keeps what is ordered, tells
// every worker, and calls back when the order is carried out everywhere.
//
// An order whose command ends in an error is not in force: a PAUSE or DRAIN that waits too long, is
// cancelled, or whose console goes away is taken back.
class OrderBook {
 public:
  enum class Kind : std::uint8_t {
    pause, resume, reconnect, kill, disable, enable, wait_close, drain, undrain, kill_client,
    limit_digest, unlimit_digest, limit_tenant, unlimit_tenant, set_class, unset_class,
  };
  // How it went: "" and perhaps a notice for the operator; or an SQLSTATE and what is wrong.
  struct Outcome {
    std::string_view sqlstate;
    std::string text;
  };
  using Done = std::function<void(const Outcome&)>;

  explicit OrderBook(Control& control);

  const Orders& current() const { return *orders_; }
  // What the process before this one was ordered to do.
  void adopt(Orders orders);

  // `name`: a database ("" for all), or a node as SHOW NODES names it. `done` may be called at once.
  void give(Kind kind, const std::string& name, bool force, const ClientId& asker, Done done);
  // KILL CLIENT: `name` as SHOW CLIENTS prints its id.
  void kill_client(const std::string& name, const ClientId& asker, Done done);
  // BLOCK DIGEST and LIMIT DIGEST: instead of what was ordered of the same key. UNBLOCK DIGEST: of that key, or
  // of that digest in every database when its database is "".
  void limit_digest(pool::DigestLimitRef limit, const ClientId& asker, Done done);
  void unlimit_digest(const pool::DigestKey& key, const ClientId& asker, Done done);
  // LIMIT TENANT: what it does not speak of stays as it was ordered before.
  void limit_tenant(const std::string& name, pool::TenantOrder order, const ClientId& asker, Done done);
  void unlimit_tenant(const std::string& name, const ClientId& asker, Done done);
  // SET CLASS: instead of what was ordered of the same tenant.
  void set_class(const std::string& tenant, ClassOrder order, const ClientId& asker, Done done);
  void unset_class(const std::string& tenant, const ClientId& asker, Done done);

  // A connection has ended without a word while it worked; a node has told one of its backends' crash.
  void server_lost(pool::CrashRecord::Lost lost);
  void crash_heard(std::uint16_t node);

  // The console that asked has cancelled its command, or is gone.
  void give_up(const ClientId& asker, const std::string& why);

  // A worker has done what the order of this ticket says, and still has so many servers to close.
  void obeyed(std::uint64_t ticket, std::size_t closing);

 private:
  struct Waiting {
    std::uint64_t ticket = 0;
    Kind kind{};
    std::string name;
    std::optional<routing::NodeId> node{};  // of a DRAIN
    ClientId asker;
    std::optional<conf::Instant> give_up_at{};
    std::size_t unheard = 0;  // workers that have not obeyed yet
    std::size_t closing = 0;
    std::string notice{};
    Done done;
  };

  std::optional<Outcome> objection(Kind kind, const std::string& name) const;
  void tell_workers(OrderAction action, const std::string& database, std::uint64_t ticket);
  // Tells every worker; `done` is called when all have heard.
  void spread(Orders orders, Kind kind, const std::string& name, const ClientId& asker, Done done);
  void block_crashing(const std::vector<pool::DigestKey>& guilty);
  void expire();
  void change(Orders orders, OrderAction action, const std::string& database, std::uint64_t ticket);
  // How many servers stand between this order and its end.
  std::int64_t servers_left(const Waiting& order) const;
  bool still_ordered(const Waiting& order) const;
  void look();
  void fail(std::list<Waiting>::iterator order, const std::string& why);

  Control& control_;
  std::shared_ptr<const Orders> orders_ = std::make_shared<Orders>();
  std::uint64_t last_ticket_ = 0;
  std::list<Waiting> waiting_;
  net::Timer look_again_;
  net::Timer expire_;  // when the next limit ends
  pool::CrashRecord crashes_;
};

}  // namespace proxy
