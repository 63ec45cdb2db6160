#include "proxy/monitor_secrets.h"

#include <algorithm>
#include <utility>

#include "proxy/log.h"

namespace proxy {

using conf::Errc;
using conf::Error;
using conf::Instant;
using conf::Millis;

namespace {

Error as_error(const std::string& cluster, const PgError& error) {
  Error result{Errc::io, "auth.query in cluster " + cluster + ": " + error.message +
                             (error.sqlstate.empty() ? "" : " (" + error.sqlstate + ")")};
  switch (error.kind) {
    case PgFailure::auth: result.code = Errc::auth; break;
    case PgFailure::timeout: result.code = Errc::timeout; break;
    case PgFailure::sql: result.code = Errc::config; break;
    case PgFailure::too_many: result.code = Errc::overloaded; break;
    case PgFailure::refused:
    case PgFailure::reset:
    case PgFailure::starting:
    case PgFailure::shutting_down:
    case PgFailure::other: break;
  }
  return result;
}

}  // namespace

struct MonitorSecrets::Lane {
  Lane(net::Loop& loop, std::string cluster_name)
      : cluster(std::move(cluster_name)),
        connection(loop),
        idle(loop, [this] { connection.close(); }) {}

  const std::string cluster;
  PgConnection connection;
  net::Timer idle;
  std::deque<std::string> queue;  // users; the first one is being looked up while `busy`
  std::map<std::string, std::vector<Done>> waiting;
  std::vector<PgTarget> left;  // targets not tried yet, worst first
  bool busy = false;
  bool second_try = false;
  bool move = false;  // another primary: connect anew before the next look-up
  std::string logged;
};

MonitorSecrets::MonitorSecrets(net::Loop& loop, Targets targets)
    : loop_(loop), targets_(std::move(targets)) {}

MonitorSecrets::~MonitorSecrets() = default;

void MonitorSecrets::configure(std::shared_ptr<const conf::Settings> settings) {
  const bool same = settings_ != nullptr && settings_->auth_query == settings->auth_query &&
                    settings_->auth_query_user == settings->auth_query_user &&
                    settings_->auth_query_password == settings->auth_query_password &&
                    settings_->auth_query_database == settings->auth_query_database;
  settings_ = std::move(settings);
  if (!same) known_.clear();
  for (const auto& [cluster, lane] : lanes_) reconnect(cluster);
}

void MonitorSecrets::look_up(const std::string& cluster, const std::string& user, Done done) {
  if (settings_->auth_query_user.empty())
    return done(Error{Errc::config, "auth.query_user is not set, so nobody can be looked up"});
  const auto known = known_.find({cluster, user});
  if (known != known_.end()) {
    if (loop_.now() < known->second.until) return done(Secret(known->second.secret));
    known_.erase(known);
  }
  auto& lane = lanes_[cluster];
  if (lane == nullptr) lane = std::make_unique<Lane>(loop_, cluster);
  const auto asked = lane->waiting.find(user);
  if (asked != lane->waiting.end()) {
    asked->second.push_back(std::move(done));
    return;
  }
  if (lane->queue.size() >= kMaxWaiting)
    return done(Error{Errc::overloaded, "too many users are being looked up"});
  lane->waiting[user].push_back(std::move(done));
  lane->queue.push_back(user);
  pump(*lane);
}

void MonitorSecrets::forget(const std::string& cluster, const std::string& user) {
  known_.erase({cluster, user});
}

void MonitorSecrets::reconnect(const std::string& cluster) {
  const auto lane = lanes_.find(cluster);
  if (lane == lanes_.end()) return;
  if (lane->second->busy)
    lane->second->move = true;
  else
    lane->second->connection.close();
}

void MonitorSecrets::pump(Lane& lane) {
  if (lane.busy) return;
  if (lane.queue.empty()) return lane.idle.once(kIdle);
  lane.busy = true;
  lane.second_try = false;
  lane.idle.stop();
  if (std::exchange(lane.move, false)) lane.connection.close();
  if (lane.connection.ready()) return ask(lane);
  lane.left = targets_(lane.cluster);
  std::reverse(lane.left.begin(), lane.left.end());
  if (lane.left.empty())
    return fail_all(lane, {PgFailure::refused, "", "no node of the cluster answers"});
  connect(lane);
}

void MonitorSecrets::connect(Lane& lane) {
  PgTarget target = std::move(lane.left.back());
  lane.left.pop_back();
  target.user = settings_->auth_query_user;
  target.password = settings_->auth_query_password;
  target.database = settings_->auth_query_database;
  lane.connection.connect(target, kDeadline, [this, &lane](const std::optional<PgError>& error) {
    if (!error) return ask(lane);
    if (!lane.left.empty() && error->kind != PgFailure::auth) return connect(lane);
    fail_all(lane, *error);
  });
}

void MonitorSecrets::ask(Lane& lane) {
  lane.connection.query(settings_->auth_query, {lane.queue.front()}, kDeadline,
                        [this, &lane](const PgAnswer& got) {
    if (got.error && got.error->kind != PgFailure::sql && !lane.second_try) {
      // The connection had broken unnoticed; this is not the user's fault.
      lane.second_try = true;
      lane.left = targets_(lane.cluster);
      std::reverse(lane.left.begin(), lane.left.end());
      if (!lane.left.empty()) return connect(lane);
    }
    if (got.error) return answer(lane, as_error(lane.cluster, *got.error));
    lane.logged.clear();
    if (got.rows.empty()) return answer(lane, Secret());
    if (got.rows.size() > 1 || got.rows[0].empty())
      return answer(lane, Error{Errc::protocol, "auth.query in cluster " + lane.cluster +
                                                    " must answer with one row, the secret last"});
    answer(lane, got.rows[0].back());
  });
}

void MonitorSecrets::answer(Lane& lane, const conf::Result<Secret>& result) {
  const std::string user = std::move(lane.queue.front());
  lane.queue.pop_front();
  const std::vector<Done> waiters = std::exchange(lane.waiting[user], {});
  lane.waiting.erase(user);
  if (result) {
    remember(lane.cluster, user, *result);
  } else if (lane.logged != result.error().message) {
    lane.logged = result.error().message;
    log_warning(lane.logged);
  }
  lane.busy = false;
  for (const Done& done : waiters) done(result);
  pump(lane);
}

// Nobody can be looked up: everybody who waits is told now, not one deadline after the other.
void MonitorSecrets::fail_all(Lane& lane, const PgError& error) {
  const conf::Result<Secret> result = as_error(lane.cluster, error);
  if (lane.logged != result.error().message) {
    lane.logged = result.error().message;
    log_warning(lane.logged);
  }
  const auto waiting = std::exchange(lane.waiting, {});
  lane.queue.clear();
  lane.busy = false;
  for (const auto& [user, waiters] : waiting)
    for (const Done& done : waiters) done(result);
}

void MonitorSecrets::remember(const std::string& cluster, const std::string& user,
                              const Secret& secret) {
  const Millis ttl = secret ? settings_->auth_query_ttl
                            : std::min(settings_->auth_query_ttl, kNegativeTtl);
  if (ttl == Millis(0)) return;
  if (known_.size() >= kMaxRemembered) {
    // Full of names that do not exist, most likely: those go first.
    std::erase_if(known_, [](const auto& entry) { return !entry.second.secret; });
    if (known_.size() >= kMaxRemembered) known_.clear();
  }
  known_[{cluster, user}] = {secret, loop_.now() + ttl};
}

}  // namespace proxy
