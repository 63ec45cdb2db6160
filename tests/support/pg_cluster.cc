#include "tests/support/pg_cluster.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <sys/shm.h>
#include <sys/stat.h>

#include "tests/support/eventually.h"
#include "tests/support/free_port.h"

namespace support {

namespace {

void must_run(const std::vector<std::string>& command, const SpawnOptions& options = {}) {
  const Finished finished = run(command, options);
  if (finished.status == 0) return;
  std::fprintf(stderr, "%s failed with %d:\n%s\n", command[0].c_str(), finished.status,
               finished.output.c_str());
  std::abort();
}

[[noreturn]] void give_up(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

constexpr const char* kRoles = R"(
set password_encryption = 'scram-sha-256';
create role pgsluice login password 'pgsluice-secret' in role pg_monitor;
create role app login password 'app-secret';
create role other login password 'other-secret';
create role scram_user login password 'scram_user-secret';
create role password_user login password 'password_user-secret';
set password_encryption = 'md5';
create role md5_user login password 'md5_user-secret';
create database app owner app;
)";

// Small, quick, and with every delay that matters to a test short.
constexpr const char* kSettings = R"(
listen_addresses = '127.0.0.1'
fsync = off
full_page_writes = off
shared_buffers = 16MB
max_connections = 120
max_wal_senders = 10
superuser_reserved_connections = 5
wal_level = replica
hot_standby = on
wal_keep_size = 512MB
max_wal_size = 1GB
checkpoint_timeout = 1h
autovacuum = off
jit = off
wal_receiver_status_interval = 1
wal_retrieve_retry_interval = 100
log_recovery_conflict_waits = on
wal_receiver_timeout = 5s
unix_socket_permissions = 0777
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'ca.crt'
log_line_prefix = '%m [%p] %u@%d '
log_statement = none
)";

// The data folder that all nodes are copies of; lives as long as the run.
class Template {
 public:
  Template() : data_(folder_ / "data") {
    must_run({pg_program("initdb"), "--no-sync", "--no-instructions", "-A", "trust", "-U",
              "postgres", "-E", "UTF8", "--locale=C", "-D", data_},
             {.as_postgres = true});
    write_file(folder_ / "roles.sql", kRoles);
    // Single-user mode takes one statement per line and needs no port.
    must_run({"/bin/sh", "-c", "exec \"$1\" --single -D \"$2\" postgres < \"$3\"", "sh",
              pg_program("postgres"), data_, folder_ / "roles.sql"},
             {.as_postgres = true});
    append_file(data_ + "/postgresql.conf", kSettings);
    const Certificates& files = certificates();
    std::filesystem::copy_file(files.ca, data_ + "/ca.crt");
    std::filesystem::copy_file(files.server_cert, data_ + "/server.crt");
    std::filesystem::copy_file(files.server_key, data_ + "/server.key");
    chmod((data_ + "/server.key").c_str(), 0600);
    give_to_postgres(data_);
  }

  const std::string& data() const { return data_; }

 private:
  TempDir folder_;
  std::string data_;
};

const Template& node_template() {
  static const Template one;
  return one;
}

class CertificateFolder {
 public:
  CertificateFolder() {
    const auto file = [this](const char* name) { return folder_ / name; };
    const auto authority = [&](const std::string& name, const std::string& subject) {
      must_run({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-nodes", "-days", "2", "-subj", "/CN=" + subject, "-keyout",
                folder_ / (name + ".key"), "-out", folder_ / (name + ".crt")});
    };
    const auto signed_by_ca = [&](const std::string& name, const std::string& subject,
                                  const std::string& extension) {
      must_run({"openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-subj", "/CN=" + subject, "-keyout", folder_ / (name + ".key"), "-out",
                folder_ / (name + ".csr")});
      write_file(folder_ / (name + ".ext"), extension);
      must_run({"openssl", "x509", "-req", "-days", "2", "-in", folder_ / (name + ".csr"), "-CA",
                folder_ / "ca.crt", "-CAkey", folder_ / "ca.key", "-CAcreateserial", "-extfile",
                folder_ / (name + ".ext"), "-out", folder_ / (name + ".crt")});
      chmod((folder_ / (name + ".key")).c_str(), 0600);
    };
    authority("ca", "pgsluice test CA");
    authority("other_ca", "another CA");
    signed_by_ca("server", "localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    signed_by_ca("wrong_host", "elsewhere.example", "subjectAltName=DNS:elsewhere.example\n");
    signed_by_ca("client", "app", "extendedKeyUsage=clientAuth\n");
    signed_by_ca("service", "service 7/O=shop", std::string("subjectAltName=") + kServiceNames + "\n");
    files = {.ca = file("ca.crt"),
             .server_cert = file("server.crt"),
             .server_key = file("server.key"),
             .wrong_host_cert = file("wrong_host.crt"),
             .wrong_host_key = file("wrong_host.key"),
             .client_cert = file("client.crt"),
             .client_key = file("client.key"),
             .service_cert = file("service.crt"),
             .service_key = file("service.key"),
             .other_ca = file("other_ca.crt")};
  }

  Certificates files;

 private:
  TempDir folder_;
};

}  // namespace

const Certificates& certificates() {
  static const CertificateFolder folder;
  return folder.files;
}

PgCluster::PgCluster(const ClusterOptions& options) {
  const std::string& source = node_template().data();
  for (int i = 0; i <= options.replicas; ++i) {
    auto node = std::make_unique<Node>();
    node->port = free_port();
    node->data = folder_ / ("node" + std::to_string(i));
    node->log = node->data + ".log";
    must_run({"cp", "-a", source, node->data});
    std::string lines = "port = " + std::to_string(node->port) + "\nunix_socket_directories = '" +
                        folder_.path() + "'\ncluster_name = 'node" + std::to_string(i) + "'\n";
    if (i > 0) {
      lines += "primary_conninfo = 'host=127.0.0.1 user=postgres port=" +
               std::to_string(nodes_[0]->port) + " application_name=node" + std::to_string(i) +
               "'\n";
      write_file(node->data + "/standby.signal", "");
    }
    for (const std::string& setting : options.settings) lines += setting + "\n";
    append_file(node->data + "/postgresql.conf", lines);
    write_file(node->data + "/pg_hba.conf", options.hba);
    give_to_postgres(node->data);
    nodes_.push_back(std::move(node));
  }
  for (std::size_t i = 0; i < nodes_.size(); ++i) start(i);
  if (nodes_.size() > 1 && !eventually([&] {
        return ask(0, "select count(*) from pg_stat_replication where state = 'streaming'") ==
               std::to_string(nodes_.size() - 1);
      })) {
    give_up("replicas do not stream:\n" + log(0) + log(1));
  }
}

// A postmaster that is killed leaves a small piece of System V shared memory behind, and the kernel has 4,096.
PgCluster::~PgCluster() {
  for (const auto& node : nodes_) {
    node->process.kill();
    std::ifstream file(node->data + "/postmaster.pid");
    std::string line;
    for (int i = 0; i < 7 && std::getline(file, line);) ++i;  // the seventh is "key id"
    int id = 0;
    if (file && std::sscanf(line.c_str(), "%*d %d", &id) == 1) shmctl(id, IPC_RMID, nullptr);
  }
}

std::string PgCluster::conninfo(std::size_t node, const std::string& user,
                                const std::string& database) const {
  return "host=127.0.0.1 port=" + std::to_string(port(node)) + " user=" + user +
         " dbname=" + database + " sslmode=disable gssencmode=disable";
}

Connection PgCluster::connect(std::size_t node, const std::string& database) const {
  return Connection("host=" + folder_.path() + " port=" + std::to_string(port(node)) +
                    " user=postgres dbname=" + database + " application_name=test_harness");
}

void PgCluster::start(std::size_t node) {
  Node& it = *nodes_[node];
  if (it.process.running()) return;
  it.process = Process({pg_program("postgres"), "-D", it.data},
                       {.as_postgres = true, .output = it.log, .append = true});
  if (!eventually([&] { return is_up(node) || !it.process.running(); }, 30s) || !is_up(node))
    give_up("node" + std::to_string(node) + " did not start:\n" + log(node));
}

bool PgCluster::is_up(std::size_t node) const {
  return nodes_[node]->process.pid() > 0 && connect(node).ok();
}

void PgCluster::stop(std::size_t node) {
  Process& process = nodes_[node]->process;
  process.signal(SIGINT);
  if (!process.wait(20s)) process.kill();
}

void PgCluster::crash(std::size_t node) { nodes_[node]->process.kill(); }

void PgCluster::pause(std::size_t node) { nodes_[node]->process.signal_tree(SIGSTOP); }

void PgCluster::resume(std::size_t node) { nodes_[node]->process.signal_tree(SIGCONT); }

void PgCluster::pause_replay(std::size_t replica) {
  Connection connection = connect(replica);
  connection.exec("select pg_wal_replay_pause()");
  if (!eventually(
          [&] { return connection.scalar("select pg_get_wal_replay_pause_state()") == "paused"; }))
    give_up("replay does not pause on node" + std::to_string(replica));
}

void PgCluster::resume_replay(std::size_t replica) {
  connect(replica).exec("select pg_wal_replay_resume()");
}

void PgCluster::promote(std::size_t replica) {
  if (ask(replica, "select pg_promote(true, 30)") != "t")
    give_up("node" + std::to_string(replica) + " was not promoted:\n" + log(replica));
}

void PgCluster::follow(std::size_t replica, std::size_t primary) {
  set(replica,
      "primary_conninfo = 'host=127.0.0.1 user=postgres port=" + std::to_string(port(primary)) +
          " application_name=node" + std::to_string(replica) + "'\n");
}

void PgCluster::wait_replicated(std::size_t primary) {
  const std::string lsn = ask(primary, "select pg_current_wal_lsn()");
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (i == primary || !nodes_[i]->process.running()) continue;
    // A statement that an earlier test has left behind there may hold replay up for max_standby_streaming_delay, 30 s.
    if (!eventually([&] { return ask(i, "select pg_last_wal_replay_lsn() >= '" + lsn + "'::pg_lsn") == "t"; }, 45s))
      give_up("node" + std::to_string(i) + " does not catch up:\n" + log(i));
  }
}

void PgCluster::set_hba(std::size_t node, const std::string& text) {
  write_file(nodes_[node]->data + "/pg_hba.conf", text);
  reload(node);
}

void PgCluster::set_hba(const std::string& text) {
  for (std::size_t i = 0; i < nodes_.size(); ++i) set_hba(i, text);
}

void PgCluster::set(std::size_t node, const std::string& lines) {
  append_file(nodes_[node]->data + "/postgresql.conf", lines);
  reload(node);
}

void PgCluster::reload(std::size_t node) {
  // The time of the load tells when the new rules hold for new connections; a reload that changes
  // nothing moves it too.
  const std::string before = ask(node, "select pg_conf_load_time()");
  nodes_[node]->process.signal(SIGHUP);
  if (!eventually([&] { return ask(node, "select pg_conf_load_time()") != before; }))
    give_up("node" + std::to_string(node) + " does not reload:\n" + log(node));
}

}  // namespace support
