#include "proxy/monitor_catalog.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "proxy/log.h"

namespace proxy {

using conf::Millis;

namespace {

// An aggregate is always called immutable in pg_proc; what runs are its parts.
constexpr const char* kFunctions =
    "select p.proname, bool_or(p.provolatile = 'v' or coalesce(t.provolatile = 'v', false)"
    " or coalesce(f.provolatile = 'v', false))"
    " from pg_proc p left join pg_aggregate a on a.aggfnoid = p.oid"
    " left join pg_proc t on t.oid = a.aggtransfn left join pg_proc f on f.oid = a.aggfinalfn"
    " group by p.proname";

constexpr const char* kDatabases =
    "select datname from pg_database where datallowconn and not datistemplate"
    " and has_database_privilege(oid, 'connect') order by datname limit $1::int";

}  // namespace

struct MonitorCatalog::Cluster {
  Cluster(MonitorCatalog& owner, net::Loop& loop, std::string cluster_name)
      : name(std::move(cluster_name)), timer(loop, [this, &owner] {
          if (std::find(owner.queue_.begin(), owner.queue_.end(), name) == owner.queue_.end())
            owner.queue_.push_back(name);
          owner.pump();
        }) {}

  const std::string name;
  net::Timer timer;
  bool soon = false;  // the timer is armed for kSoon, not for kEvery
  std::optional<conf::Instant> begun;  // the last pass
  std::map<std::string, Functions> databases;  // what was read last, by database
  std::map<std::string, std::string> complaints;  // logged, by database
};

MonitorCatalog::MonitorCatalog(net::Loop& loop, Targets targets, Publish publish)
    : loop_(loop), targets_(std::move(targets)), publish_(std::move(publish)), connection_(loop) {}

MonitorCatalog::~MonitorCatalog() = default;

void MonitorCatalog::configure(std::shared_ptr<const conf::Settings> settings) {
  settings_ = std::move(settings);
  for (auto one = clusters_.begin(); one != clusters_.end();) {
    if (settings_->clusters.contains(one->first)) {
      ++one;
      continue;
    }
    if (current_ == one->second.get()) {
      connection_.close();
      current_ = nullptr;
    }
    one = clusters_.erase(one);
  }
  for (const auto& [name, cluster] : settings_->clusters) {
    auto& known = clusters_[name];
    if (known == nullptr)
      known = std::make_unique<Cluster>(*this, loop_, name);
    else
      refresh_soon(name);  // other databases, perhaps
  }
  publish_if_changed();
  pump();
}

void MonitorCatalog::refresh_soon(const std::string& cluster) {
  const auto known = clusters_.find(cluster);
  if (known == clusters_.end() || known->second->soon) return;
  known->second->soon = true;
  Millis wait = kSoon;
  if (known->second->begun) {
    const auto since = loop_.now() - *known->second->begun;
    if (since < kSpacing) wait = std::max(wait, std::chrono::ceil<Millis>(kSpacing - since));
  }
  known->second->timer.once(wait);
}

void MonitorCatalog::refresh_if_unread(const std::string& cluster) {
  const auto known = clusters_.find(cluster);
  if (known == clusters_.end() || !known->second->databases.empty() ||
      current_ == known->second.get())
    return;
  refresh_soon(cluster);
}

void MonitorCatalog::pump() {
  while (current_ == nullptr && !queue_.empty()) {
    const std::string name = std::move(queue_.front());
    queue_.pop_front();
    const auto cluster = clusters_.find(name);
    if (cluster != clusters_.end()) begin(*cluster->second);
  }
}

void MonitorCatalog::begin(Cluster& cluster) {
  cluster.soon = false;
  cluster.begun = loop_.now();
  cluster.timer.once(kEvery);
  targets_left_ = targets_(cluster.name);
  if (targets_left_.empty()) return;  // asked again when a node is up
  std::reverse(targets_left_.begin(), targets_left_.end());
  target_ = targets_left_.back();
  targets_left_.pop_back();
  current_ = &cluster;
  found_.clear();
  databases_ = {settings_->clusters.at(cluster.name).monitor_database};
  for (const auto& [name, database] : settings_->databases) {
    if (database.cluster != cluster.name) continue;
    const std::string& there = database.dbname.empty() ? name : database.dbname;
    if (there != "*" && std::find(databases_.begin(), databases_.end(), there) == databases_.end())
      databases_.push_back(there);
  }
  connect();
}

void MonitorCatalog::connect() {
  const conf::ClusterSettings& cluster = settings_->clusters.at(current_->name);
  target_.user = cluster.monitor_user;
  target_.password = cluster.monitor_password;
  target_.database = databases_.front();
  connection_.connect(target_, kDeadline, [this](const std::optional<PgError>& error) {
    if (!error) return ask_functions();
    const PgFailure kind = error->kind;
    const bool node_is_gone = kind == PgFailure::refused || kind == PgFailure::reset ||
                              kind == PgFailure::timeout || kind == PgFailure::starting;
    if (!node_is_gone) return skip(*error);
    if (targets_left_.empty()) {
      current_->complaints[databases_.front()] = error->message;
      return finish();
    }
    target_ = targets_left_.back();
    targets_left_.pop_back();
    connect();
  });
}

void MonitorCatalog::ask_functions() {
  connection_.query(kFunctions, {}, kDeadline, [this](const PgAnswer& answer) {
    if (answer.error) return skip(*answer.error);
    Functions functions;
    for (const PgRow& row : answer.rows)
      if (row.size() == 2 && row[0]) functions.emplace(*row[0], row[1] != "f");
    found_[databases_.front()] = std::move(functions);
    current_->complaints.erase(databases_.front());
    // The first database is the monitor's own: from there the others are listed, if any may be
    // used.
    const auto any = settings_->databases.find("*");
    if (found_.size() == 1 && any != settings_->databases.end() &&
        any->second.cluster == current_->name && any->second.dbname.empty())
      return ask_databases();
    next_database();
  });
}

void MonitorCatalog::ask_databases() {
  connection_.query(kDatabases, {std::to_string(kMaxDatabases)}, kDeadline,
                    [this](const PgAnswer& answer) {
    if (answer.error) return skip(*answer.error);
    for (const PgRow& row : answer.rows)
      if (row.size() == 1 && row[0] &&
          std::find(databases_.begin(), databases_.end(), *row[0]) == databases_.end())
        databases_.push_back(*row[0]);
    next_database();
  });
}

// What was known of this database stays: a function that turned volatile meanwhile would be missed,
// but forgetting them all would send every read to the primary.
void MonitorCatalog::skip(const PgError& error) {
  const std::string& database = databases_.front();
  std::string& complaint = current_->complaints[database];
  if (complaint != error.message) {
    complaint = error.message;
    log_warning("cluster=" + current_->name + " database=" + database +
                " cannot read its functions: " + error.message);
  }
  const auto known = current_->databases.find(database);
  if (known != current_->databases.end()) found_.insert(*known);
  next_database();
}

void MonitorCatalog::next_database() {
  databases_.pop_front();
  if (databases_.empty()) return finish();
  connection_.close();
  connect();
}

void MonitorCatalog::finish() {
  connection_.close();
  for (const std::string& unread : databases_) {  // the node went away in the middle
    const auto known = current_->databases.find(unread);
    if (known != current_->databases.end()) found_.insert(*known);
  }
  if (!found_.empty()) current_->databases = std::exchange(found_, {});
  databases_.clear();
  current_ = nullptr;
  publish_if_changed();
  pump();
}

void MonitorCatalog::publish_if_changed() {
  Functions merged;
  bool any = false;
  for (const auto& [name, cluster] : clusters_)
    for (const auto& [database, functions] : cluster->databases) {
      any = true;
      for (const auto& [function, is_volatile] : functions) merged[function] |= is_volatile;
    }
  const bool overrides_differ = reads_ != settings_->routing_read_functions ||
                                writes_ != settings_->routing_write_functions ||
                                pins_ != settings_->routing_pin_functions;
  if (version_ != 0 && merged == functions_ && !overrides_differ) return;
  if (version_ == 0 && !any && !overrides_differ) return;  // the empty one is what everybody has
  functions_ = std::move(merged);
  reads_ = settings_->routing_read_functions;
  writes_ = settings_->routing_write_functions;
  pins_ = settings_->routing_pin_functions;
  std::vector<routing::Catalog::Function> list;
  list.reserve(functions_.size());
  for (const auto& [function, is_volatile] : functions_) list.push_back({function, is_volatile});
  publish_(std::make_shared<const routing::Catalog>(++version_, list, reads_, writes_, pins_));
  log_info("function catalogue version=" + std::to_string(version_) +
           " functions=" + std::to_string(list.size()));
}

}  // namespace proxy
