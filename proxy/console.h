#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "metrics/catalog.h"
#include "metrics/database_stats.h"
#include "proxy/console_text.h"
#include "proxy/messages.h"
#include "proxy/net/loop.h"
#include "proxy/order_book.h"
#include "proxy/wire/backend.h"

namespace proxy {

class Control;

// The admin console's commands: rows of a table in console.cc. On the control thread; ConsoleSession speaks the
// protocol. Whatever has to be asked of the workers is asked of all at once and joined here. A worker that is
// silent for kPatience is left out, and the answer says so.
class Console {
 public:
  Console(Control& control, metrics::LabelNames names);

  // What a statement means. Pure, any thread.
  struct Meaning {
    std::string words;                      // the command's; "" when there is none
    std::vector<std::string> arguments;     // what follows them
    std::span<const wire::Column> columns;  // of its answer; none: it has no rows
    std::string problem, hint;              // why there is none
  };
  static Meaning understand(std::span<const ConsoleWord> words);

  void command(const ConsoleCommand& command);
  void rows(ConsoleRows&& rows);
  void settings_changed();

  static constexpr conf::Millis kPatience{1000};

 private:
  struct Command;
  static const Command kCommands[];

  // What the workers have said to a question.
  struct Heard {
    std::string rows;  // DataRows, in the formats of the command
    std::vector<IdentityUse> identities;
    std::vector<WorkerUse> workers;
    std::vector<metrics::DigestStats::Use> digests;
  };
  using Finish = std::function<void(const ConsoleCommand&, Heard&&, std::string out)>;
  struct Pending {
    ConsoleCommand asked;
    std::span<const wire::Column> columns;
    std::map<std::size_t, conf::Instant> silent_since;  // workers that have not finished
    Heard heard;
    Finish finish;
  };

  void answer(const ClientId& client, std::string messages);
  // The table as the command wants it, after `before` (notices).
  void show(const ConsoleCommand& asked, std::span<const wire::Column> columns, const Rows& rows,
            std::string before = {});
  void ask_workers(const ConsoleCommand& asked, std::span<const wire::Column> columns, ConsoleQuestion question,
                   Finish finish);
  void ask_rows(const ConsoleCommand& asked, std::span<const wire::Column> columns, ConsoleQuestion question);
  void ask_use(const ConsoleCommand& asked, Finish finish);
  void lose_patience();
  void complete(std::map<std::uint64_t, Pending>::iterator pending);

  // SHOW: console_tables.cc.
  void show_help(const ConsoleCommand& asked);
  void show_version(const ConsoleCommand& asked);
  void show_config(const ConsoleCommand& asked);
  void show_state(const ConsoleCommand& asked);
  void show_nodes(const ConsoleCommand& asked);
  void show_breakers(const ConsoleCommand& asked);
  void show_tenants(const ConsoleCommand& asked);
  void show_classes(const ConsoleCommand& asked);
  void show_queues(const ConsoleCommand& asked);
  void show_statements(const ConsoleCommand& asked);
  void show_digests(const ConsoleCommand& asked);
  void show_cache(const ConsoleCommand& asked);
  void show_blocks(const ConsoleCommand& asked);
  void show_reasons(const ConsoleCommand& asked);
  void show_corrections(const ConsoleCommand& asked);
  void show_stats(const ConsoleCommand& asked);
  void show_stats_totals(const ConsoleCommand& asked);
  void show_stats_averages(const ConsoleCommand& asked);
  void show_totals(const ConsoleCommand& asked);
  void show_clients(const ConsoleCommand& asked);
  void show_servers(const ConsoleCommand& asked);
  void show_sockets(const ConsoleCommand& asked);
  void show_active_sockets(const ConsoleCommand& asked);
  void show_pools(const ConsoleCommand& asked);
  void show_node_pools(const ConsoleCommand& asked);
  void show_databases(const ConsoleCommand& asked);
  void show_users(const ConsoleCommand& asked);
  void show_lists(const ConsoleCommand& asked);
  void show_mem(const ConsoleCommand& asked);
  void show_fleet(const ConsoleCommand& asked);
  void show_dns_hosts(const ConsoleCommand& asked);
  void show_nothing(const ConsoleCommand& asked);
  void show_fds(const ConsoleCommand& asked);
  std::vector<const metrics::WorkerMetrics*> worker_metrics() const;
  metrics::DatabaseSums database_totals() const;
  // What concerns the process: reads and changes the configuration, ends it.
  // Orders: console_orders.cc.
  void pause(const ConsoleCommand& asked);
  void resume(const ConsoleCommand& asked);
  void reconnect(const ConsoleCommand& asked);
  void kill(const ConsoleCommand& asked);
  void kill_client(const ConsoleCommand& asked);
  void disable(const ConsoleCommand& asked);
  void enable(const ConsoleCommand& asked);
  void wait_close(const ConsoleCommand& asked);
  void drain(const ConsoleCommand& asked);
  void undrain(const ConsoleCommand& asked);
  // Limits: console_digests.cc.
  void block_digest(const ConsoleCommand& asked);
  void unblock_digest(const ConsoleCommand& asked);
  void limit_digest(const ConsoleCommand& asked);
  void limit_tenant(const ConsoleCommand& asked);
  void unlimit_tenant(const ConsoleCommand& asked);
  void set_class(const ConsoleCommand& asked);
  void unset_class(const ConsoleCommand& asked);
  void order(OrderBook::Kind kind, const ConsoleCommand& asked, bool force = false);
  OrderBook::Done tell(const ConsoleCommand& asked);
  void set(const ConsoleCommand& asked);
  void reload(const ConsoleCommand& asked);
  void clear_corrections(const ConsoleCommand& asked);
  void shutdown(const ConsoleCommand& asked);
  void done(const ConsoleCommand& asked, const std::vector<std::string>& notes);

  Control& control_;
  const metrics::LabelNames names_;
  std::uint64_t last_ticket_ = 0;
  std::map<std::uint64_t, Pending> pending_;
  net::Timer patience_;
  metrics::DatabaseRates rates_;
  net::Timer stats_period_;
  conf::Millis period_{0};
};

}  // namespace proxy
