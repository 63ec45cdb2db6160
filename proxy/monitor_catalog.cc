#include "proxy/monitor_catalog.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "proxy/log.h"
#include "proxy/wire/sqlstate.h"
#include "routing/catalog_query.h"

namespace proxy {

using conf::Millis;

namespace {

constexpr const char* kDatabases =
    "select datname from pg_database where datallowconn and not datistemplate"
    " and has_database_privilege(oid, 'connect') order by datname limit $1::int";

routing::Overrides overrides_of(const conf::Settings& settings) {
  return {.read_functions = settings.routing_read_functions,
          .write_functions = settings.routing_write_functions,
          .pin_functions = settings.routing_pin_functions,
          .read_tables = settings.routing_read_tables,
          .primary_tables = settings.routing_primary_tables};
}

void log_catalog(const routing::DatabaseKey& where, const routing::Catalog& catalog) {
  const routing::Catalog::Size size = catalog.size();
  log_info("cluster=" + where.cluster + " database=" + where.database + " catalogue functions=" +
           std::to_string(size.functions) + " primary_relations=" + std::to_string(size.relations) +
           " primary_types=" + std::to_string(size.types) + " primary_operators=" + std::to_string(size.operators));
}

// What every database has: of the others, until they have been read.
routing::CatalogContent shipped(const routing::CatalogContent& content) {
  routing::CatalogContent system;
  for (const routing::CatalogContent::Function& f : content.functions)
    if (f.schema == "pg_catalog" && f.is_shipped) system.functions.push_back(f);
  return system;
}

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
  std::map<std::string, Content> databases;  // what was read last, by database
  std::set<std::string> wanted;              // clients are in them; at most kMaxDatabases
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

void MonitorCatalog::want(const routing::DatabaseKey& where) {
  const auto known = clusters_.find(where.cluster);
  if (known == clusters_.end()) return;
  Cluster& cluster = *known->second;
  if (cluster.wanted.size() >= kMaxDatabases || !cluster.wanted.insert(where.database).second) return;
  if (!cluster.databases.contains(where.database)) refresh_soon(where.cluster);
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
  for (const std::string& there : cluster.wanted)
    if (std::find(databases_.begin(), databases_.end(), there) == databases_.end()) databases_.push_back(there);
  connect();
}

void MonitorCatalog::connect() {
  const conf::ClusterSettings& cluster = settings_->clusters.at(current_->name);
  target_.user = cluster.monitor_user;
  target_.password = cluster.monitor_password;
  target_.database = databases_.front();
  connection_.connect(target_, kDeadline, [this](const std::optional<PgError>& error) {
    if (!error) return ask_catalog();
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

// Databases that were made from one template have the same, and keep it once.
MonitorCatalog::Content MonitorCatalog::same_as_known(routing::CatalogContent&& content) const {
  for (const auto& [where, known] : contents_)
    if (*known == content) return known;
  for (const auto& [database, known] : found_)
    if (*known == content) return known;
  return std::make_shared<const routing::CatalogContent>(std::move(content));
}

void MonitorCatalog::ask_catalog() {
  connection_.query(routing::kCatalogQuery, {}, kQueryDeadline, [this](const PgAnswer& answer) {
    if (answer.error) return skip(*answer.error);
    found_[databases_.front()] = same_as_known(routing::catalog_content(answer.rows));
    if (found_[databases_.front()]->cut)
      log_warning("cluster=" + current_->name + " database=" + databases_.front() +
                  " has too many views and functions to be read: its tables are read on the primary");
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
      if (row.size() == 1 && row[0] && databases_.size() < kMaxDatabases &&
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
                " cannot read its catalogue: " + error.message);
  }
  if (error.sqlstate == wire::sqlstate::kInvalidCatalogName) {
    current_->wanted.erase(database);
  } else if (const auto known = current_->databases.find(database); known != current_->databases.end()) {
    found_.insert(*known);
  }
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
  std::map<routing::DatabaseKey, Content> contents;
  for (const auto& [name, cluster] : clusters_)
    for (const auto& [database, content] : cluster->databases) contents[{name, database}] = content;
  routing::Overrides overrides = overrides_of(*settings_);
  const bool overrides_differ = overrides != overrides_;
  if (contents == contents_ && !overrides_differ) return;
  if (!published_ && contents.empty() && !overrides_differ) return;  // what everybody begins with
  if (overrides_differ) catalogs_.clear();
  published_ = true;
  overrides_ = std::move(overrides);
  contents_ = std::move(contents);

  routing::Catalogs found;
  const routing::CatalogContent system =
      contents_.empty() ? routing::CatalogContent{} : shipped(*contents_.begin()->second);
  found.unknown = std::make_shared<const routing::Catalog>(system, overrides_);
  std::map<Content, std::shared_ptr<const routing::Catalog>> used;
  for (const auto& [where, content] : contents_) {
    auto& catalog = used[content];
    if (catalog == nullptr) {
      const auto known = catalogs_.find(content);
      catalog = known != catalogs_.end() ? known->second
                                         : std::make_shared<const routing::Catalog>(*content, overrides_);
      if (known == catalogs_.end()) log_catalog(where, *catalog);
    }
    found.by_database.emplace(where, catalog);
  }
  catalogs_ = std::move(used);
  publish_(found);
}

}  // namespace proxy
