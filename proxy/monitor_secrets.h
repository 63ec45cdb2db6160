#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conf/result.h"
#include "conf/settings.h"
#include "proxy/pg_connection.h"

namespace proxy {

// Looks users' secrets up in Postgres (auth.query), so that no password file is needed: on one
// connection per cluster, made when somebody asks and closed when nobody has for a while.
//
// Answers are remembered for auth.query_ttl; that a user has no secret only for kNegativeTtl, so
// that a new user need not wait. One look-up per user at a time, whoever asks; at most kMaxWaiting
// users wait and kMaxRemembered are remembered: names come from strangers. Nothing is remembered of
// a look-up that failed, and a secret that is out of date is never used because a new one cannot be
// had.
class MonitorSecrets {
 public:
  // The secret as pg_authid keeps it; nothing: no such user, or one that may not log in.
  using Secret = std::optional<std::string>;
  using Done = std::function<void(conf::Result<Secret>)>;
  // Where to ask, best first (the primary, then whoever answers); user, password and database are
  // filled in here.
  using Targets = std::function<std::vector<PgTarget>(const std::string& cluster)>;

  MonitorSecrets(net::Loop& loop, Targets targets);
  ~MonitorSecrets();

  // Forgets everything that another query or user may answer differently.
  void configure(std::shared_ptr<const conf::Settings> settings);
  // `done` may be called at once. Errors: config (no auth.query_user), overloaded, auth (our own
  // login failed), io, timeout, protocol.
  void look_up(const std::string& cluster, const std::string& user, Done done);
  // The next look-up asks Postgres again: a login failed, so the password may have changed.
  void forget(const std::string& cluster, const std::string& user);
  // Another primary: the next look-up goes there.
  void reconnect(const std::string& cluster);

  static constexpr conf::Millis kNegativeTtl{2'000};
  static constexpr conf::Millis kDeadline{3'000};  // of a connection, and of a look-up
  static constexpr conf::Millis kIdle{30'000};
  static constexpr std::size_t kMaxWaiting = 1'000;
  static constexpr std::size_t kMaxRemembered = 10'000;

 private:
  struct Lane;
  struct Known {
    Secret secret;
    conf::Instant until;
  };

  void pump(Lane& lane);
  void connect(Lane& lane);
  void ask(Lane& lane);
  void answer(Lane& lane, const conf::Result<Secret>& result);
  void fail_all(Lane& lane, const PgError& error);
  void remember(const std::string& cluster, const std::string& user, const Secret& secret);

  net::Loop& loop_;
  const Targets targets_;
  std::shared_ptr<const conf::Settings> settings_;
  std::map<std::string, std::unique_ptr<Lane>> lanes_;  // by cluster
  std::map<std::pair<std::string, std::string>, Known> known_;
};

}  // namespace proxy
