#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "conf/options.h"
#include "conf/settings.h"
#include "proxy/net/loop.h"

namespace fake {

using namespace std::chrono_literals;
using Cells = std::vector<std::optional<std::string>>;
using Rows = std::vector<Cells>;

// Just enough of a Postgres for libpq and the monitor: lets everybody in and answers by the text of
// the query. Runs on a thread of its own; what it answers may be changed at any moment.
class Node {
 public:
  enum class Mood : std::uint8_t { answers, hangs, garbage, hangs_up };

  struct Face {
    Mood mood = Mood::answers;
    bool in_recovery = false;
    std::uint64_t system_id = 77;
    std::uint32_t timeline = 1;
    std::uint64_t lsn = 0x1000000 + 100;
    std::uint64_t left_at = 0;  // where it left recovery; 0: it does not say
    std::int64_t started_us = 1'000'000;
    // Instead of `lsn`, asked on the node's thread when a probe comes in.
    std::function<std::uint64_t()> live_lsn;
    std::string refuse_sqlstate;  // every query fails with it
    std::map<std::string, std::string> secrets;
    std::map<std::string, bool> functions{{"lower", false}, {"nextval", true}};
  };

  Node() {
    bind();
    start();
  }
  ~Node() {
    stop();
    ::close(listen_);
  }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  std::uint16_t port() const { return port_; }
  conf::NodeAddress address() const { return {"127.0.0.1", port_}; }

  template <class Change>
  void change(Change&& how) {
    const std::lock_guard lock(mutex_);
    how(face_);
  }

  // Ends all connections, without a word, and refuses new ones until start(). The port stays ours.
  void stop() {
    if (!thread_.joinable()) return;
    quit_ = true;
    thread_.join();
    ::close(listen_);
    bind();
  }
  void start() {
    if (thread_.joinable()) return;
    ::listen(listen_, 64);
    quit_ = false;
    thread_ = std::thread([this] { serve(); });
  }

  int connections() const { return connections_; }
  int probes() const { return probes_; }
  int lookups() const { return lookups_; }

 private:
  struct Link {
    int fd;
    std::string in;
    bool started = false;
    std::string sql, parameter;
  };

  // The first time the system picks the port, later it is the same again. Bound but not listening,
  // it refuses connections.
  void bind() {
    listen_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    ::setsockopt(listen_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    where.sin_port = htons(port_);
    socklen_t length = sizeof where;
    if (::bind(listen_, reinterpret_cast<sockaddr*>(&where), length) != 0) std::abort();
    ::getsockname(listen_, reinterpret_cast<sockaddr*>(&where), &length);
    port_ = ntohs(where.sin_port);
  }

  static void put32(std::string& to, std::uint32_t n) {
    const std::uint32_t wire = htonl(n);
    to.append(reinterpret_cast<const char*>(&wire), 4);
  }
  static void put16(std::string& to, std::size_t n) {
    const std::uint16_t wire = htons(static_cast<std::uint16_t>(n));
    to.append(reinterpret_cast<const char*>(&wire), 2);
  }
  static std::uint32_t get32(const char* from) {
    std::uint32_t wire = 0;
    std::memcpy(&wire, from, 4);
    return ntohl(wire);
  }
  static std::string message(char type, const std::string& body) {
    std::string whole(1, type);
    put32(whole, static_cast<std::uint32_t>(body.size() + 4));
    return whole + body;
  }

  Face face() {
    const std::lock_guard lock(mutex_);
    return face_;
  }

  void serve() {
    std::vector<Link> links;
    while (!quit_) {
      std::vector<pollfd> fds{{listen_, POLLIN, 0}};
      for (const Link& link : links) fds.push_back({link.fd, POLLIN, 0});
      if (::poll(fds.data(), fds.size(), 2) <= 0) continue;
      for (std::size_t i = links.size(); i-- > 0;)
        if (fds[i + 1].revents != 0 && !serve(links[i])) {
          ::close(links[i].fd);
          links.erase(links.begin() + static_cast<std::ptrdiff_t>(i));
        }
      if (fds[0].revents != 0) {
        const int fd = ::accept(listen_, nullptr, nullptr);
        if (fd >= 0) links.push_back({fd, "", false, "", ""});
        ++connections_;
      }
    }
    for (const Link& link : links) ::close(link.fd);
  }

  static void send(const Link& link, const std::string& bytes) {
    [[maybe_unused]] const auto sent = ::send(link.fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }

  // False: close it.
  bool serve(Link& link) {
    char buffer[8192];
    const auto got = ::recv(link.fd, buffer, sizeof buffer, 0);
    if (got <= 0) return false;
    const Face now = face();
    if (now.mood == Mood::hangs) return true;
    if (now.mood == Mood::hangs_up) return false;
    if (now.mood == Mood::garbage) {
      send(link, "HTTP/1.1 400 Bad Request\r\n\r\n");
      return false;
    }
    link.in.append(buffer, static_cast<std::size_t>(got));
    while (true) {
      const std::size_t head = link.started ? 5 : 4;
      if (link.in.size() < head) return true;
      const std::size_t length = get32(link.in.data() + head - 4) + head - 4;
      if (link.in.size() < length) return true;
      const std::string one = link.in.substr(0, length);
      link.in.erase(0, length);
      if (!handle(link, one, now)) return false;
    }
  }

  bool handle(Link& link, const std::string& one, const Face& now) {
    if (!link.started) {
      if (get32(one.data() + 4) == 80877103) {
        send(link, "N");
        return true;
      }
      link.started = true;
      send(link, message('R', std::string(4, '\0')) +
                     message('S', std::string("server_version\0fake 15\0", 23)) +
                     message('Z', "I"));
      return true;
    }
    switch (one[0]) {
      case 'X': return false;
      case 'P': link.sql = one.c_str() + 6; return true;  // the unnamed statement: one zero byte
      case 'B': {
        // "" "" formats(2) count(2) length(4) value
        const std::size_t formats = 7;
        const auto n = static_cast<std::size_t>(one[formats + 1]);
        const std::size_t count = formats + 2 + 2 * n;
        link.parameter.clear();
        if (one[count + 1] == 0) return true;
        const std::uint32_t size = get32(one.data() + count + 2);
        link.parameter = one.substr(count + 6, size);
        return true;
      }
      case 'S': answer(link, now); return true;
      default: return true;
    }
  }

  void answer(Link& link, const Face& now) {
    if (!now.refuse_sqlstate.empty()) {
      using std::string_literals::operator""s;
      const std::string error =
          "SERROR\0VERROR\0C"s + now.refuse_sqlstate + "\0Mrefused by the test\0\0"s;
      send(link, message('E', error) + message('Z', "I"));
      return;
    }
    const Rows rows = rows_for(link, now);
    const std::size_t columns = rows.empty() ? 2 : rows[0].size();
    std::string fields;
    put16(fields, columns);
    for (std::size_t i = 0; i < columns; ++i) {
      fields += "c";
      fields.push_back('\0');
      put32(fields, 0);
      put16(fields, 0);
      put32(fields, 25);
      put16(fields, 0xffff);
      put32(fields, 0xffffffff);
      put16(fields, 0);
    }
    std::string all = message('1', "") + message('2', "") + message('T', fields);
    for (const Cells& row : rows) {
      std::string data;
      put16(data, row.size());
      for (const auto& cell : row) {
        put32(data, cell ? static_cast<std::uint32_t>(cell->size()) : 0xffffffff);
        if (cell) data += *cell;
      }
      all += message('D', data);
    }
    all += message('C', std::string("SELECT 1\0", 9)) + message('Z', "I");
    send(link, all);
  }

  Rows rows_for(const Link& link, const Face& now) {
    const std::string& sql = link.sql;
    if (sql.find("pg_proc") != std::string::npos) {
      Rows rows;
      for (const auto& [name, is_volatile] : now.functions)
        rows.push_back({"f", "public", name, is_volatile ? "v" : "s", is_volatile ? "u" : "s", ""});
      return rows;
    }
    if (sql.find("pg_database") != std::string::npos) return {{"postgres"}};
    if (sql.find("pg_authid") != std::string::npos) {
      ++lookups_;
      const auto known = now.secrets.find(link.parameter);
      if (known == now.secrets.end()) return {};
      return {{known->first, known->second}};
    }
    ++probes_;
    const std::uint64_t lsn = now.live_lsn ? now.live_lsn() : now.lsn;
    char position[40], file[40];
    std::snprintf(position, sizeof position, "%X/%X", static_cast<unsigned>(lsn >> 32),
                  static_cast<unsigned>(lsn & 0xffffffff));
    std::snprintf(file, sizeof file, "%08X0000000000000001", now.timeline);
    const std::string recovery = now.in_recovery ? "t" : "f";
    const std::optional<std::string> segment_file =
        now.in_recovery ? std::nullopt : std::optional<std::string>(file);
    if (sql.find("pg_postmaster_start_time") == std::string::npos)
      return {{recovery, segment_file, position}};
    const std::optional<std::string> timeline =
        now.in_recovery ? std::optional(std::to_string(now.timeline)) : std::nullopt;
    char left[32];
    std::snprintf(left, sizeof left, "0/%X", static_cast<unsigned>(now.left_at));
    const std::optional<std::string> left_at =
        now.in_recovery || now.left_at == 0 ? std::nullopt : std::optional<std::string>(left);
    return {{recovery, std::to_string(now.system_id), timeline, timeline, segment_file, position,
             std::to_string(now.started_us), recovery, "16777216", "t", std::nullopt, left_at}};
  }

  std::uint16_t port_ = 0;
  int listen_ = -1;
  std::thread thread_;
  std::atomic<bool> quit_{false};
  std::mutex mutex_;
  Face face_;
  std::atomic<int> connections_{0}, probes_{0}, lookups_{0};
};

// Runs the loop until the condition holds, asked every millisecond. False: it did not within
// `limit`.
inline bool run_until(net::Loop& loop, const std::function<bool()>& condition,
                      conf::Millis limit = 10s) {
  bool held = false;
  net::Timer look(loop, [&] {
    if (!condition()) return;
    held = true;
    loop.stop();
  });
  net::Timer limit_timer(loop, [&] { loop.stop(); });
  look.every(conf::Millis(1));
  limit_timer.once(limit);
  loop.run();
  return held;
}

inline void run_for(net::Loop& loop, conf::Millis time) {
  (void)run_until(loop, [] { return false; }, time);
}

// One cluster "main" of these nodes, probed quickly.
inline conf::Settings settings(const std::vector<conf::NodeAddress>& servers) {
  conf::Settings made = conf::default_settings();
  made.probe_interval = conf::Millis(20);
  made.probe_timeout = conf::Millis(200);
  made.routing_max_lag = conf::Millis(10'000);
  made.tls_server_mode = conf::TlsMode::disable;
  made.auth_query_user = "asker";
  conf::ClusterSettings cluster;
  cluster.name = "main";
  cluster.servers = servers;
  cluster.monitor_user = "monitor";
  made.clusters.emplace("main", cluster);
  conf::DatabaseSettings any;
  any.name = "*";
  any.cluster = "main";
  made.databases.emplace("*", any);
  return made;
}

}  // namespace fake
