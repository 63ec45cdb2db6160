#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "conf/settings.h"
#include "proxy/pg_connection.h"
#include "routing/scope.h"

namespace proxy {

// Reads the databases' catalogues for the classifier (routing::kCatalogQuery): from the primary of each cluster
// (any node that answers when there is none), every kEvery, and soon after a schema change. One short-lived
// connection at a time, one database after the other: the monitor's own, those named in [database.*], those that
// clients of [database."*"] are in, and others that allow connections, kMaxDatabases in all. Those of the same
// content share one catalogue; of all others only what Postgres itself ships is known.
class MonitorCatalog {
 public:
  using Targets = std::function<std::vector<PgTarget>(const std::string& cluster)>;
  using Publish = std::function<void(const routing::Catalogs&)>;

  MonitorCatalog(net::Loop& loop, Targets targets, Publish publish);
  ~MonitorCatalog();

  void configure(std::shared_ptr<const conf::Settings> settings);
  // Reads `cluster` anew after kSoon, or kSpacing after the last time; calls that come meanwhile
  // are one.
  void refresh_soon(const std::string& cluster);
  // Clients are in this database: it is read soon if it has not been, and before those that nobody is in.
  void want(const routing::DatabaseKey& where);
  // The same unless it has been read successfully before.
  void refresh_if_unread(const std::string& cluster);

  static constexpr conf::Millis kEvery{60'000};
  static constexpr conf::Millis kSoon{200};       // a migration makes many changes in a row
  static constexpr conf::Millis kSpacing{2'000};  // between the beginnings of two passes
  static constexpr conf::Millis kDeadline{5'000};        // of a connection
  static constexpr conf::Millis kQueryDeadline{20'000};  // a primary under load, with thousands of views
  static constexpr std::size_t kMaxDatabases = 50;

 private:
  struct Cluster;
  using Content = std::shared_ptr<const routing::CatalogContent>;

  void pump();
  void begin(Cluster& cluster);
  void next_database();
  void connect();
  void ask_catalog();
  Content same_as_known(routing::CatalogContent&& content) const;
  void ask_databases();
  void skip(const PgError& error);
  void finish();
  void publish_if_changed();

  net::Loop& loop_;
  const Targets targets_;
  const Publish publish_;
  std::shared_ptr<const conf::Settings> settings_;
  std::map<std::string, std::unique_ptr<Cluster>> clusters_;
  std::deque<std::string> queue_;  // clusters to read

  // The pass that is under way.
  Cluster* current_ = nullptr;
  std::deque<std::string> databases_;
  std::vector<PgTarget> targets_left_;  // worst first
  PgTarget target_;
  std::map<std::string, Content> found_;
  PgConnection connection_;

  // What was published last.
  bool published_ = false;
  routing::Overrides overrides_;
  std::map<routing::DatabaseKey, Content> contents_;
  std::map<Content, std::shared_ptr<const routing::Catalog>> catalogs_;
};

}  // namespace proxy
