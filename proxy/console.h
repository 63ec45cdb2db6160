#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/messages.h"
#include "proxy/wire/backend.h"

namespace proxy {

class Control;

// The admin console: what psql sees in database "pgsluice". Commands are rows of a table in console.cc;
// whatever has to be asked of the workers is asked of all at once and joined here.
class Console {
 public:
  explicit Console(Control& control) : control_(control) {}

  void command(const ConsoleCommand& command);
  void rows(ConsoleRows&& rows);

 private:
  struct Pending {
    ClientId client;
    std::size_t left = 0;  // workers that have not answered
    Rows rows;
    std::function<std::string(Rows)> finish;
  };
  struct Command;
  static const Command kCommands[];

  void answer(const ClientId& client, std::string messages);
  void ask_workers(const ClientId& client, ConsoleQuestion question, std::string argument,
                   std::function<std::string(Rows)> finish);
  void show_help(const ConsoleCommand& command);
  void show_version(const ConsoleCommand& command);
  void show_config(const ConsoleCommand& command);
  void show_nodes(const ConsoleCommand& command);
  void show_tenants(const ConsoleCommand& command);
  void show_stats(const ConsoleCommand& command);
  void show_clients(const ConsoleCommand& command);
  void show_servers(const ConsoleCommand& command);
  void show_pools(const ConsoleCommand& command);
  void reload(const ConsoleCommand& command);
  void shutdown(const ConsoleCommand& command);

  Control& control_;
  std::uint64_t last_ticket_ = 0;
  std::map<std::uint64_t, Pending> pending_;
};

// Columns of the tables whose rows the workers make (Worker::answer_console).
std::span<const wire::Column> client_columns();
std::span<const wire::Column> server_columns();
std::span<const wire::Column> pool_columns();

}  // namespace proxy
