#include "proxy/console.h"

#include <algorithm>
#include <utility>

#include "conf/nearest.h"
#include "conf/options.h"
#include "conf/row.h"
#include "proxy/console_tables.h"
#include "proxy/control.h"
#include "proxy/log.h"
#include "proxy/wire/sqlstate.h"

namespace proxy {
namespace {

// How often the workers' silence is looked at.
constexpr conf::Millis kPatienceTick{100};

std::string error(std::string_view sqlstate, std::string_view message, std::string_view hint = {}) {
  std::string out;
  wire::append_error(
      out, {.severity = "ERROR", .sqlstate = sqlstate, .message = message, .detail = {}, .hint = hint});
  return out;
}

std::size_t count_words(std::string_view words) {
  return 1 + static_cast<std::size_t>(std::ranges::count(words, ' '));
}

}  // namespace

struct Console::Command {
  std::string_view words;
  std::string_view help;  // begins with the arguments
  bool acts;              // for admin.users only
  void (Console::*run)(const ConsoleCommand&);
  std::size_t least_arguments = 0, most_arguments = 0;
  std::span<const wire::Column> columns = {};  // of what it shows
};

// To add a command: a row here (SHOW HELP and dispatch follow from it) and its method.
const Console::Command Console::kCommands[] = {
    {"SHOW HELP", "this list", false, &Console::show_help, 0, 0, columns::kHelp},
    {"SHOW NODES", "every node: role, health, lag, position", false, &Console::show_nodes, 0, 0,
     columns::kNodes},
    {"SHOW BREAKERS", "which replicas are ejected, and why", false, &Console::show_breakers, 0, 0,
     columns::kBreakers},
    {"SHOW POOLS", "clients and servers per database and user, over all nodes", false, &Console::show_pools,
     0, 0, columns::kPools},
    {"SHOW NODE_POOLS", "servers per database, user and node", false, &Console::show_node_pools, 0, 0,
     columns::kNodePools},
    {"SHOW CLIENTS", "every client connection", false, &Console::show_clients, 0, 0, columns::kClients},
    {"SHOW SERVERS", "every server connection", false, &Console::show_servers, 0, 0, columns::kServers},
    {"SHOW SOCKETS", "both, with what is buffered", false, &Console::show_sockets, 0, 0, columns::kSockets},
    {"SHOW ACTIVE_SOCKETS", "those with something buffered", false, &Console::show_active_sockets, 0, 0,
     columns::kSockets},
    {"SHOW DATABASES", "what clients may connect to, and what is in use", false, &Console::show_databases,
     0, 0, columns::kDatabases},
    {"SHOW USERS", "users with a section and users seen", false, &Console::show_users, 0, 0, columns::kUsers},
    {"SHOW TENANTS", "limits and use of every tenant", false, &Console::show_tenants, 0, 0,
     columns::kTenants},
    {"SHOW CLASSES", "what each class of work may have where servers are short", false, &Console::show_classes, 0, 0,
     columns::kClasses},
    {"SHOW QUEUES", "statements that wait for a server, by pool, class and tenant", false, &Console::show_queues, 0,
     0, columns::kQueues},
    {"SHOW STATS", "statements, transactions, bytes and times by database; times in microseconds", false,
     &Console::show_stats, 0, 0, columns::kStats},
    {"SHOW STATS_TOTALS", "the total_... of SHOW STATS", false, &Console::show_stats_totals, 0, 0,
     columns::kStatsPart},
    {"SHOW STATS_AVERAGES", "the avg_... of SHOW STATS: over the last admin.stats_period", false,
     &Console::show_stats_averages, 0, 0, columns::kStatsPart},
    {"SHOW TOTALS", "SHOW STATS over all databases", false, &Console::show_totals, 0, 0, columns::kTotals},
    {"SHOW STATEMENTS", "by node, class and tenant, with percentiles in microseconds", false,
     &Console::show_statements, 0, 0, columns::kStatements},
    {"SHOW DIGESTS", "[COUNT]: the statements that take most of the servers' time; times in microseconds", false,
     &Console::show_digests, 0, 1, columns::kDigests},
    {"SHOW CACHE", "answers that are kept or shared, by worker", false, &Console::show_cache, 0, 0, columns::kCache},
    {"SHOW BLOCKS", "what is ordered of digests and tenants, and how often it refused", false,
     &Console::show_blocks, 0, 0, columns::kBlocks},
    {"SHOW ROUTES", "why statements went where they went", false, &Console::show_reasons, 0, 0, columns::kRoutes},
    {"EXPLAIN ROUTE", "[USER name] [DATABASE name] [APPLICATION name] STATEMENT: where it would go now, and why",
     false, &Console::show_nothing, 1, 100'000, columns::kExplainRoute},
    {"SHOW PINS", "what has tied clients to their servers", false, &Console::show_reasons, 0, 0,
     columns::kReasons},
    {"SHOW REFUSALS", "what was refused, and why connections were closed", false, &Console::show_reasons,
     0, 0, columns::kReasons},
    {"SHOW RETRIES", "reads that were run again on another node", false, &Console::show_reasons, 0, 0,
     columns::kReasons},
    {"SHOW CORRECTIONS", "statements that go to the primary because a replica has refused them", false,
     &Console::show_corrections, 0, 0, columns::kCorrections},
    {"SHOW LISTS", "how many there are of everything", false, &Console::show_lists, 0, 0, columns::kLists},
    {"SHOW MEM", "memory by what it is for", false, &Console::show_mem, 0, 0, columns::kMem},
    {"SHOW CONFIG", "every option, its value and default", false, &Console::show_config, 0, 0,
     columns::kConfig},
    {"SHOW STATE", "active, draining, ...", false, &Console::show_state, 0, 0, columns::kState},
    {"SHOW VERSION", "the version of this program", false, &Console::show_version, 0, 0, columns::kVersion},
    {"SHOW FLEET", "the processes that share limits with this one", false, &Console::show_fleet, 0, 0,
     columns::kFleet},
    {"SHOW DNS_HOSTS", "names of nodes and their addresses", false, &Console::show_dns_hosts, 0, 0,
     columns::kDnsHosts},
    {"SHOW DNS_ZONES", "empty: zones are not watched", false, &Console::show_nothing, 0, 0,
     columns::kDnsZones},
    {"SHOW PEERS", "empty: processes do not know of each other", false, &Console::show_nothing, 0, 0,
     columns::kPeers},
    {"SHOW PEER_POOLS", "empty, as SHOW PEERS", false, &Console::show_nothing, 0, 0, columns::kPeerPools},
    {"SHOW FDS", "refused: descriptors are handed to nobody", false, &Console::show_fds},
    {"SET CLASS", "TENANT CLASS [FOR 15m]: of all its statements, whatever is configured", true, &Console::set_class,
     2, 4},
    {"UNSET CLASS", "TENANT: end SET CLASS", true, &Console::unset_class, 1, 1},
    {"SET", "OPTION = VALUE: until the file is read again", true, &Console::set, 3, 3},
    {"PAUSE",
     "[DATABASE]: let statements wait, close servers as they are released; answers when none is left", true,
     &Console::pause, 0, 1},
    {"RESUME", "[DATABASE]: end PAUSE or KILL", true, &Console::resume, 0, 1},
    {"RECONNECT", "[DATABASE]: replace server connections as they are released", true, &Console::reconnect,
     0, 1},
    {"WAIT_CLOSE", "[DATABASE]: wait until those that RECONNECT replaces are closed", true,
     &Console::wait_close, 0, 1},
    {"DISABLE", "DATABASE: refuse new clients", true, &Console::disable, 1, 1},
    {"ENABLE", "DATABASE: end DISABLE", true, &Console::enable, 1, 1},
    {"KILL CLIENT", "ID: close a client's connection, by its id in SHOW CLIENTS", true,
     &Console::kill_client, 1, 1},
    {"KILL", "[DATABASE]: close all clients and servers at once, then as PAUSE", true, &Console::kill, 0, 1},
    {"DRAIN", "NODE [FORCE]: no new statements for this node; answers when its last server is closed", true,
     &Console::drain, 1, 2},
    {"UNDRAIN", "NODE: end DRAIN", true, &Console::undrain, 1, 1},
    {"BLOCK DIGEST", "DIGEST [DATABASE name] [FOR 15m]: refuse these statements", true, &Console::block_digest, 1, 5},
    {"UNBLOCK DIGEST", "DIGEST [DATABASE name]: end BLOCK DIGEST or LIMIT DIGEST", true, &Console::unblock_digest,
     1, 3},
    {"LIMIT DIGEST", "DIGEST RATE n | CONCURRENCY n [DATABASE name] [FOR 15m]: refuse more of these statements",
     true, &Console::limit_digest, 3, 7},
    {"LIMIT TENANT", "TENANT [RATE n] [BURST n] [CONCURRENCY n] [FOR 15m]: instead of what is configured", true,
     &Console::limit_tenant, 3, 9},
    {"UNLIMIT TENANT", "TENANT: end LIMIT TENANT", true, &Console::unlimit_tenant, 1, 1},
    {"CLEAR CORRECTIONS", "forget what SHOW CORRECTIONS shows", true, &Console::clear_corrections},
    {"RELOAD", "read the configuration file again", true, &Console::reload},
    {"SHUTDOWN", "finish transactions, then exit; a second time: exit now", true, &Console::shutdown},
};

Console::Console(Control& control, metrics::LabelNames names)
    : control_(control),
      names_(std::move(names)),
      patience_(control.loop(), [this] { lose_patience(); }),
      rates_(control.loop().now()),
      stats_period_(control.loop(), [this] {
        rates_.period_ended(control_.loop().now(), database_totals());
      }) {
  settings_changed();
}

void Console::settings_changed() {
  const conf::Millis period = control_.settings().admin_stats_period;
  if (std::exchange(period_, period) != period) stats_period_.every(period);
}

Console::Meaning Console::understand(std::span<const ConsoleWord> words) {
  std::vector<ConsoleWord> said(words.begin(), words.end());
  if (!said.empty() && said.front().is("HELP")) said.insert(said.begin(), {"SHOW", 0});
  if (!said.empty() && said.front().is("KILL_CLIENT")) {  // PgBouncer's spelling
    said.front() = {"KILL", 0};
    said.insert(said.begin() + 1, {"CLIENT", 0});
  }
  Meaning meaning;
  for (const Command& command : kCommands) {
    const std::size_t own = count_words(command.words);
    if (said.size() < own) continue;
    std::string first;
    bool quoted = false;
    for (std::size_t i = 0; i < own; ++i) {
      first += (i == 0 ? "" : " ") + upper_case(said[i].text);
      quoted |= said[i].quote != 0;
    }
    if (first != command.words || quoted) continue;
    const std::size_t arguments = said.size() - own;
    if (arguments < command.least_arguments || arguments > command.most_arguments) {
      meaning.problem = std::string(command.words) + " is not followed by " +
                        (arguments == 0 ? "nothing" : std::to_string(arguments) + " words");
      meaning.hint = std::string(command.words) + " " + std::string(command.help);
      continue;
    }
    meaning = {};
    meaning.words = command.words;
    meaning.columns = command.columns;
    for (std::size_t i = own; i < said.size(); ++i) meaning.arguments.push_back(said[i].text);
    return meaning;
  }
  if (!meaning.problem.empty()) return meaning;
  std::string text;
  for (const ConsoleWord& word : said) text += (text.empty() ? "" : " ") + word.text;
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  meaning.problem = "unknown console command \"" + text + "\"";
  // Of what has as many words as the command: arguments do not count as mistakes.
  std::string_view best;
  std::size_t fewest = 3;
  for (const Command& command : kCommands) {
    std::string begins;
    for (std::size_t i = 0; i < std::min(count_words(command.words), said.size()); ++i)
      begins += (i == 0 ? "" : " ") + upper_case(said[i].text);
    if (begins.size() > 2 * command.words.size()) continue;
    const std::size_t edits = conf::edit_distance(begins, command.words);
    if (edits < fewest) {
      fewest = edits;
      best = command.words;
    }
  }
  meaning.hint = best.empty() ? "SHOW HELP lists the commands."
                              : "Did you mean " + std::string(best) + "? SHOW HELP lists the commands.";
  return meaning;
}

void Console::answer(const ClientId& client, std::string messages) {
  control_.shared().workers[client.worker]->post(ConsoleAnswer{client, std::move(messages)});
}

void Console::show(const ConsoleCommand& asked, std::span<const wire::Column> columns, const Rows& rows,
                   std::string before) {
  std::string out;
  if (asked.describe) wire::append_row_description(out, columns, asked.formats);
  for (const auto& row : rows) wire::append_data_row(out, row, columns, asked.formats);
  out += before;
  wire::append_command_complete(out, "SHOW");
  answer(asked.client, std::move(out));
}

void Console::command(const ConsoleCommand& asked) {
  const auto found = std::ranges::find(kCommands, asked.words, &Command::words);
  if (found == std::end(kCommands))
    return answer(asked.client, error(wire::sqlstate::kSyntaxError, asked.words));
  if (found->acts && !asked.may_act) {
    answer(asked.client,
           error(wire::sqlstate::kInsufficientPrivilege,
                 "user \"" + asked.user + "\" may look but not act: it is not among admin.users"));
    return;
  }
  // Of SET only the option: its value may be a secret.
  if (found->acts) {
    std::string line = "console user=" + asked.user + " command=" + asked.words;
    for (const std::string& argument : asked.arguments) {
      line += " " + conf::quote(argument);
      if (asked.words == "SET") break;
    }
    log_info(line);
  }
  (this->*found->run)(asked);
}

// --- asking the workers ----------------------------------------------------------------------------

void Console::ask_workers(const ConsoleCommand& asked, std::span<const wire::Column> columns,
                          ConsoleQuestion question, Finish finish) {
  const std::uint64_t ticket = ++last_ticket_;
  Pending& pending = pending_[ticket];
  pending = {
      .asked = asked, .columns = columns, .silent_since = {}, .heard = {}, .finish = std::move(finish)};
  const conf::Instant now = control_.loop().now();
  for (Worker* worker : control_.shared().workers) {
    pending.silent_since[worker->number()] = now;
    worker->post(ConsoleAsk{.ticket = ticket, .question = question, .servers = {}, .identities = {}});
  }
  if (!patience_.armed()) patience_.every(kPatienceTick);
}

// For tables whose rows the workers make.
void Console::ask_rows(const ConsoleCommand& asked, std::span<const wire::Column> columns,
                       ConsoleQuestion question) {
  ask_workers(asked, columns, question, [this, columns](const ConsoleCommand& command, Heard&& heard,
                                                        std::string notices) {
    std::string out;
    if (command.describe) wire::append_row_description(out, columns, command.formats);
    out += heard.rows;
    out += notices;
    wire::append_command_complete(out, "SHOW");
    answer(command.client, std::move(out));
  });
}

// For tables of what is in use.
void Console::ask_use(const ConsoleCommand& asked, Finish finish) {
  ask_workers(asked, {}, ConsoleQuestion::use, std::move(finish));
}

void Console::rows(ConsoleRows&& message) {
  const auto found = pending_.find(message.ticket);
  if (found == pending_.end()) return;  // too late: it has been answered without
  Pending& pending = found->second;
  // Each piece at once, so that ten thousand clients are not a long stop of this thread.
  for (const auto& row : message.rows)
    wire::append_data_row(pending.heard.rows, row, pending.columns, pending.asked.formats);
  std::ranges::move(message.identities, std::back_inserter(pending.heard.identities));
  std::ranges::move(message.digests, std::back_inserter(pending.heard.digests));
  if (!message.last) {
    pending.silent_since[message.worker] = control_.loop().now();
    return;
  }
  pending.heard.workers.push_back(message.use);
  pending.silent_since.erase(message.worker);
  if (pending.silent_since.empty()) complete(found);
}

void Console::lose_patience() {
  const conf::Instant now = control_.loop().now();
  for (auto pending = pending_.begin(); pending != pending_.end();) {
    const auto one = pending++;
    if (std::ranges::all_of(one->second.silent_since,
                            [now](const auto& worker) { return now - worker.second >= kPatience; }))
      complete(one);
  }
  if (pending_.empty()) patience_.stop();
}

void Console::complete(std::map<std::uint64_t, Pending>::iterator found) {
  Pending pending = std::move(found->second);
  pending_.erase(found);
  std::string notices;
  for (const auto& [worker, since] : pending.silent_since)
    wire::append_notice(notices, {.severity = "WARNING",
                                  .sqlstate = "01000",
                                  .message = "worker " + std::to_string(worker) +
                                             " has not answered within " + conf::print(kPatience) +
                                             ": what it has is missing here"});
  pending.finish(pending.asked, std::move(pending.heard), std::move(notices));
}

void Console::show_help(const ConsoleCommand& asked) {
  Rows rows;
  for (const Command& command : kCommands)
    rows.push_back({std::string(command.words), command.acts ? "admin.users" : "admin.stats_users",
                    std::string(command.help)});
  show(asked, columns::kHelp, rows);
}

// --- the process -----------------------------------------------------------------------------------

void Console::done(const ConsoleCommand& asked, const std::vector<std::string>& notes) {
  std::string out;
  for (const std::string& note : notes)
    wire::append_notice(out, {.severity = "NOTICE", .sqlstate = "00000", .message = note});
  wire::append_command_complete(out, asked.words);
  answer(asked.client, std::move(out));
}

void Console::set(const ConsoleCommand& asked) {
  if (asked.arguments[1] != "=" && upper_case(asked.arguments[1]) != "TO") {
    answer(asked.client, error(wire::sqlstate::kSyntaxError, "expected SET OPTION = VALUE"));
    return;
  }
  const conf::Status status = control_.set(asked.arguments[0], asked.arguments[2]);
  if (status) return done(asked, {});
  answer(asked.client, error(conf::find_option(asked.arguments[0]) == nullptr
                                 ? wire::sqlstate::kUndefinedObject
                                 : wire::sqlstate::kInvalidParameterValue,
                             status.error().message));
}

void Console::reload(const ConsoleCommand& asked) {
  std::vector<std::string> notes;
  if (const conf::Status status = control_.reload(&notes); !status) {
    answer(asked.client,
           error("F0000", "nothing has changed: " + status.error().message));  // config_file_error
    return;
  }
  done(asked, notes);
}

void Console::clear_corrections(const ConsoleCommand& asked) {
  done(asked, {std::to_string(control_.clear_corrections()) + " forgotten"});
}

void Console::shutdown(const ConsoleCommand& asked) {
  done(asked, {});
  control_.begin_drain("console user=" + asked.user);
}

}  // namespace proxy
