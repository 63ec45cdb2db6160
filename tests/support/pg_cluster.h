#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/pg.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace support {

// Users of every test cluster. All may log in from anywhere by `trust` unless the test replaces
// pg_hba; the names say how their secret is stored, and what kDefaultHba asks of them over TCP.
//   postgres  superuser, trust            pgsluice  monitor (pg_monitor), trust
//   app       owner of database app       scram_user, md5_user, password_user: password
//   "<name>-secret"
inline constexpr const char* kDefaultHba =
    "local all all trust\n"
    "host all scram_user 127.0.0.1/32 scram-sha-256\n"
    "host all md5_user 127.0.0.1/32 md5\n"
    "host all password_user 127.0.0.1/32 password\n"
    "host replication all 127.0.0.1/32 trust\n"
    "host all all 127.0.0.1/32 trust\n";

// Certificates for all tests of this run, made once with the openssl program: a CA, a server
// certificate (localhost, 127.0.0.1), one for a wrong host, a client certificate (CN=app), one of a
// service (CN=service 7, O=shop, with the alternative names that kServiceNames has), and a CA that
// signed none of them.
struct Certificates {
  std::string ca, server_cert, server_key, wrong_host_cert, wrong_host_key, client_cert, client_key,
      service_cert, service_key, other_ca;
};
inline constexpr const char* kServiceNames =
    "DNS:service.example,email:ops@service.example,URI:spiffe://example/shop";
const Certificates& certificates();

struct ClusterOptions {
  int replicas = 2;
  std::vector<std::string> settings{};  // further lines of postgresql.conf, for all nodes
  std::string hba = kDefaultHba;
};

// A real primary and its streaming replicas in a temporary folder, on free ports of 127.0.0.1 and
// unix sockets in that folder. Node 0 is the primary at first. Takes about a second: initdb runs
// once per run, every node starts from a copy of that template. Ends with this object.
class PgCluster {
 public:
  explicit PgCluster(const ClusterOptions& options = {});
  ~PgCluster();

  std::size_t size() const { return nodes_.size(); }
  std::uint16_t port(std::size_t node) const { return nodes_[node]->port; }
  std::string address(std::size_t node) const { return "127.0.0.1:" + std::to_string(port(node)); }
  const std::string& socket_dir() const { return folder_.path(); }
  std::string log(std::size_t node) const { return read_file(nodes_[node]->log); }
  const std::string& data_dir(std::size_t node) const { return nodes_[node]->data; }

  // conninfo of a client that goes straight to the node.
  std::string conninfo(std::size_t node, const std::string& user = "postgres",
                       const std::string& database = "app") const;
  // A superuser's connection straight to the node, over its unix socket.
  Connection connect(std::size_t node, const std::string& database = "app") const;
  std::string ask(std::size_t node, const std::string& sql) const {
    return connect(node).scalar(sql);
  }

  void start(std::size_t node);  // returns when it answers
  void stop(std::size_t node);   // fast shutdown
  void crash(std::size_t node);  // SIGKILL, backends too
  void pause(std::size_t node);  // SIGSTOP, backends too: connections stay open, nothing answers
  void resume(std::size_t node);
  bool is_up(std::size_t node) const;

  void pause_replay(std::size_t replica);
  void resume_replay(std::size_t replica);
  void promote(std::size_t replica);  // returns when it accepts writes
  void follow(std::size_t replica,
              std::size_t primary);  // restarts nothing: primary_conninfo + reload
  // Until every running replica has replayed all that the primary has written so far.
  void wait_replicated(std::size_t primary = 0);

  void set_hba(std::size_t node, const std::string& text);  // and reload
  void set_hba(const std::string& text);                    // all nodes
  // Lines for postgresql.conf (the last one of a name wins); applied by reload.
  void set(std::size_t node, const std::string& lines);
  void reload(std::size_t node);

 private:
  struct Node {
    std::uint16_t port = 0;
    std::string data, log;
    Process process;
  };

  TempDir folder_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

}  // namespace support
