#include "proxy/check_command.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "conf/load.h"
#include "proxy/log.h"
#include "proxy/monitor_prober.h"
#include "proxy/monitor_secrets.h"

namespace proxy {
namespace {

using conf::Millis;
using routing::FailureKind;

void say(const std::string& line) { std::printf("%s\n", line.c_str()); }

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// What an operator can do about a failure.
std::string advice(FailureKind kind, const PgError& error, const std::string& section) {
  if (error.sqlstate == "3D000") return "set " + section + "_database to a database that exists";
  if (error.sqlstate == "28P01")
    return "check " + section + "_user and " + section + "_password";
  if (contains(error.message, "no password supplied")) return "set " + section + "_password";
  if (contains(error.message, "pg_hba.conf"))
    return "add a line for this user and this machine's address to the node's pg_hba.conf, and "
           "reload it";
  if (contains(error.message, "does not exist"))
    return "create the role named by " + section + "_user on the primary";
  if (error.sqlstate == "42501")
    return "grant what the message names to the role named by " + section + "_user";
  if (contains(error.message, "invalid response")) return "what listens there does not speak Postgres";
  if (contains(error.message, "SSL") || contains(error.message, "certificate"))
    return "check tls.server.mode, tls.server.ca and the server's own TLS set-up";
  switch (kind) {
    case FailureKind::refused:
      return "is Postgres running there, and does listen_addresses cover this address and port?";
    case FailureKind::timeout:
      return "nothing answers: a firewall, a wrong address, or a node that hangs";
    case FailureKind::reset: return "what listens there closed the connection: is it Postgres?";
    case FailureKind::resolve: return "check the name, or the machine's resolver";
    case FailureKind::shutting_down:
      return "wait until it has started; a standby also needs hot_standby = on";
    case FailureKind::too_many:
      return "raise max_connections there, or lower pool.size here";
    case FailureKind::auth: return "check " + section + "_user and its rights to log in";
    case FailureKind::terminated:
    case FailureKind::other: return "see the node's own log";
  }
  return "";
}

struct NodeCheck {
  std::string cluster;
  conf::NodeAddress address;
  std::unique_ptr<MonitorProber> prober;
  bool done = false;
  std::optional<ProbeAnswer> answer;
  FailureKind kind = FailureKind::timeout;
  PgError error;
  std::string ip, version;
  Millis took{};
};

class Check {
 public:
  explicit Check(std::shared_ptr<const conf::Settings> settings)
      : settings_(std::move(settings)),
        deadline_(loop_, [this] { on_deadline(); }),
        resolver_(loop_),
        secrets_(loop_, [this](const std::string& cluster) { return targets(cluster); }) {
    secrets_.configure(settings_);
  }

  int run() {
    const Millis timeout = settings_->pool_connect_timeout;
    began_ = loop_.now();
    for (const auto& [name, cluster] : settings_->clusters)
      for (const conf::NodeAddress& address : cluster.servers) start(cluster, address, timeout);
    if (nodes_.empty()) {
      say("no cluster has a server, so there is nothing to try");
      return 1;
    }
    deadline_.once(timeout + Millis(100));
    loop_.run();
    // Handles are closed before the loop that they belong to.
    connections_.clear();
    nodes_.clear();
    std::fflush(stdout);
    return failed_ ? 1 : 0;
  }

 private:
  void start(const conf::ClusterSettings& cluster, const conf::NodeAddress& address,
             Millis timeout) {
    NodeCheck& node = *nodes_.emplace_back(std::make_unique<NodeCheck>());
    node.cluster = cluster.name;
    node.address = address;
    node.error = {PgFailure::timeout, "", "no answer within " + conf::print(timeout)};
    node.prober = std::make_unique<MonitorProber>(
        loop_, resolver_, address,
        MonitorProber::Events{
            .asking = [] {},
            .full =
                [this, &node](const ProbeAnswer& answer) {
                  node.answer = answer;
                  on_node(node);
                },
            .quick = [](const QuickAnswer&) {},
            .failed =
                [this, &node](FailureKind kind, const PgError& error) {
                  node.kind = kind;
                  node.error = error;
                  on_node(node);
                }});
    PgTarget target = pg_target(*settings_, address, "");
    target.user = cluster.monitor_user;
    target.password = cluster.monitor_password;
    target.database = cluster.monitor_database;
    target.application_name = "pgsluice check";
    node.prober->configure(std::move(target), timeout, settings_->probe_dns_ttl);
    node.prober->probe(false);
  }

  void on_node(NodeCheck& node) {
    if (node.done || told_) return;
    node.done = true;
    node.took = std::chrono::ceil<Millis>(loop_.now() - began_);
    node.version = node.prober->server_version();
    node.version.resize(std::min(node.version.find(' '), node.version.size()));
    if (!node.prober->ips().empty()) node.ip = node.prober->ips().front();
    if (std::all_of(nodes_.begin(), nodes_.end(), [](const auto& one) { return one->done; }))
      tell();
  }

  void on_deadline() {
    if (!told_) return tell();
    for (const std::string& line : open_) problem(line + ": no answer in time", "");
    loop_.stop();
  }

  void problem(const std::string& text, const std::string& what_to_do) {
    failed_ = true;
    say("FAILED  " + text);
    if (!what_to_do.empty()) say("        -> " + what_to_do);
  }

  void tell() {
    told_ = true;
    for (const auto& [name, cluster] : settings_->clusters) tell_cluster(name);
    deadline_.once(settings_->pool_connect_timeout);
    for (const auto& [name, cluster] : settings_->clusters) ask_the_rest(name);
    finish_if_done();
  }

  void tell_cluster(const std::string& cluster) {
    std::vector<const NodeCheck*> primaries;
    std::set<std::uint64_t> systems;
    for (const auto& node : nodes_) {
      if (node->cluster != cluster || !node->answer) continue;
      if (!node->answer->in_recovery) primaries.push_back(node.get());
      if (node->answer->system_id != 0) systems.insert(node->answer->system_id);
    }
    bool blind = false;
    for (const auto& node : nodes_) {
      if (node->cluster != cluster) continue;
      const std::string who = "cluster=" + cluster + " node=" + node->address.name() +
                              (node->ip.empty() || node->ip == node->address.host
                                   ? ""
                                   : " (" + node->ip + ")");
      if (!node->answer) {
        problem(who + ": " + std::string(name(node->kind)) + ": " + node->error.message +
                    (node->error.sqlstate.empty() ? "" : " (" + node->error.sqlstate + ")"),
                advice(node->kind, node->error, "cluster." + cluster + ".monitor"));
        continue;
      }
      const ProbeAnswer& answer = *node->answer;
      std::string line = "ok      " + who + ": " + (answer.in_recovery ? "replica" : "primary") +
                         ", PostgreSQL " + node->version + ", timeline " +
                         std::to_string(answer.timeline) +
                         (answer.in_recovery ? ", replayed " : ", at ") + print(answer.position);
      if (answer.in_recovery && primaries.size() == 1) {
        const std::uint64_t there = primaries[0]->answer->position.value;
        const std::uint64_t here = answer.position.value;
        line += ", " + std::to_string(there > here ? there - here : 0) + " bytes behind";
      }
      say(line + ", answered in " + std::to_string(node->took.count()) + " ms");
      if (answer.in_recovery && !answer.receiver_running)
        say("warning " + who + ": no WAL receiver is running, so it falls behind");
      blind = blind || !answer.sees_everything;
    }
    if (blind)
      say("warning cluster=" + cluster +
          ": the monitor role has no pg_monitor; replicas are recognised late after a failover "
          "(GRANT pg_monitor TO " +
          settings_->clusters.at(cluster).monitor_user + ")");
    if (primaries.empty())
      problem("cluster=" + cluster + ": no primary: no node that answers is out of recovery",
              "writes will wait and then fail; promote a replica or start the primary");
    if (primaries.size() > 1) {
      std::string both;
      for (const NodeCheck* node : primaries)
        both += (both.empty() ? "" : " and ") + node->address.name() + " (timeline " +
                std::to_string(node->answer->timeline) + ")";
      problem("cluster=" + cluster + ": more than one primary: " + both,
              "stop the old one before it takes writes, or list it in a cluster of its own");
    }
    if (systems.size() > 1)
      problem("cluster=" + cluster + ": the nodes have " + std::to_string(systems.size()) +
                  " different system identifiers",
              "one [cluster] is one primary and its own replicas; list foreign nodes elsewhere");
  }

  // auth.query and the databases, where a node answers.
  void ask_the_rest(const std::string& cluster) {
    const std::vector<PgTarget> nodes = targets(cluster);
    if (nodes.empty()) return;
    if (!settings_->auth_query_user.empty()) {
      const std::string what = "cluster=" + cluster + " auth.query";
      open_.insert(what);
      const std::string user = settings_->auth_query_user;
      using Answer = conf::Result<MonitorSecrets::Secret>;
      secrets_.look_up(cluster, user, [this, what, user](const Answer& got) {
        open_.erase(what);
        if (!got)
          problem(got.error().message,
                  "check auth.query_user, auth.query_password, auth.query_database, and that this "
                  "user may run auth.query");
        else
          say("ok      " + what + ": works" +
              (*got ? "" : " (and finds no secret for " + user + ")"));
        finish_if_done();
      });
    }
    ask_databases(cluster, nodes.front());
  }

  void ask_databases(const std::string& cluster, PgTarget target) {
    const conf::ClusterSettings& section = settings_->clusters.at(cluster);
    target.user = section.monitor_user;
    target.password = section.monitor_password;
    target.database = section.monitor_database;
    target.application_name = "pgsluice check";
    const std::string what = "cluster=" + cluster + " databases";
    open_.insert(what);
    PgConnection& connection =
        *connections_.emplace_back(std::make_unique<PgConnection>(loop_));
    const auto failed = [this, what](const PgError& error) {
      open_.erase(what);
      problem(what + ": " + error.message, "");
      finish_if_done();
    };
    connection.connect(target, settings_->pool_connect_timeout,
                       [this, what, cluster, failed, &connection](
                           const std::optional<PgError>& refused) {
      if (refused) return failed(*refused);
      connection.query("select datname from pg_database where datallowconn", {},
                       settings_->pool_connect_timeout,
                       [this, what, cluster, failed](const PgAnswer& answer) {
        if (answer.error) return failed(*answer.error);
        open_.erase(what);
        std::set<std::string> there;
        for (const PgRow& row : answer.rows)
          if (!row.empty() && row[0]) there.insert(*row[0]);
        for (const auto& [name, database] : settings_->databases) {
          const std::string& wanted = database.dbname.empty() ? name : database.dbname;
          if (database.cluster == cluster && wanted != "*" && !there.contains(wanted))
            problem("database." + name + ": cluster " + cluster + " has no database \"" + wanted +
                        "\"",
                    "create it, or set database." + name + ".dbname");
        }
        finish_if_done();
      });
    });
  }

  void finish_if_done() {
    if (told_ && open_.empty()) loop_.stop();
  }

  // Nodes that answered, the primary first.
  std::vector<PgTarget> targets(const std::string& cluster) const {
    std::vector<PgTarget> found;
    for (const bool replicas : {false, true})
      for (const auto& node : nodes_)
        if (node->cluster == cluster && node->answer && node->answer->in_recovery == replicas)
          found.push_back(pg_target(*settings_, node->address, node->ip));
    return found;
  }

  const std::shared_ptr<const conf::Settings> settings_;
  net::Loop loop_;
  net::Timer deadline_;
  MonitorResolver resolver_;
  MonitorSecrets secrets_;
  std::vector<std::unique_ptr<NodeCheck>> nodes_;
  std::vector<std::unique_ptr<PgConnection>> connections_;
  std::set<std::string> open_;  // questions that are not answered yet
  conf::Instant began_{};
  bool told_ = false, failed_ = false;
};

}  // namespace

int run_check(const std::string& file) {
  const auto loaded = conf::load_file(file);
  if (!loaded) {
    std::fprintf(stderr, "%s\n", loaded.error().message.c_str());
    return 1;
  }
  set_log_level(conf::LogLevel::error);  // what would be logged is printed
  say("ok      " + file);
  return Check(*loaded).run();
}

}  // namespace proxy
