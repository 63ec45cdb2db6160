#pragma once

#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "metrics/counter.h"
#include "metrics/histogram.h"

namespace metrics {

// What statements are told apart by. Small integers: enumerators and ids of higher layers, turned
// into words by LabelNames when somebody looks.
struct SeriesKey {
  std::uint16_t node = 0;    // routing::NodeId
  std::uint8_t role = 0;     // routing::NodeRole, when the statement ran
  std::uint8_t kind = 0;     // routing::StatementClass; the label `class`
  std::uint16_t tenant = 0;  // pool::Tenant::number
  // DatabaseCounters::number, which is the worker's own: no label, and sums over workers leave it out.
  std::uint16_t database = 0;
  friend constexpr auto operator<=>(const SeriesKey&, const SeriesKey&) = default;
};

// The node of statements that no node has seen: SeriesKey::node.
inline constexpr std::uint16_t kNoNode = 0xfffe;

// Stands for every key that came after kMaxSeries; its labels all read "other".
inline constexpr SeriesKey kOverflowKey{
    .node = 0xffff, .role = 0xff, .kind = 0xff, .tenant = 0xffff};

// The statements of one key. About 1.1 kB, and 256 more bytes per histogram and octave in use.
struct StatementSeries {
  explicit StatementSeries(SeriesKey k) : key(k) {}

  const SeriesKey key;
  Counter served;  // ended without an ErrorResponse
  Counter failed;  // ended with one, Postgres's or ours
  Counter left_open;   // of both: after them a transaction was open
  Counter idle_nanos;  // between the statements of a transaction: its client's own time

  // `queue`: waiting for admission and for a server; `server`: from the batch sent to a server to that
  // server's ReadyForQuery. Most statements do not wait, and cost one recording instead of three.
  void record(Nanos queue, Nanos server) {
    if (queue <= Nanos(0)) {
      at_once_.record(server);
      return;
    }
    total_.record(queue + server);
    server_.record(server);
    queue_.record(queue);
  }
  Nanos server_time() const { return at_once_.sum() + server_.sum(); }
  Nanos queue_time() const { return queue_.sum(); }

 private:
  friend struct SeriesTotals;
  Histogram at_once_;                  // those that did not wait: total and server time are the same
  Histogram total_, server_, queue_;   // those that did
};

// What the clients of one database cause beside the statements of their series.
struct DatabaseCounters {
  DatabaseCounters(std::string n, std::uint16_t k) : name(std::move(n)), number(k) {}

  const std::string name;
  const std::uint16_t number;  // SeriesKey::database
  Counter received, sent;      // bytes from and to its clients
  Counter assignments;         // times that a client got a server
};

// Everything that one worker counts. Written by that worker alone; HTTP threads and the console
// read it at any time, so it must outlive them. Cache-line aligned, so that two workers never write
// to one line.
//
// To add a metric: a field here, a row in catalog.h, and the new name in the golden file
// (README.md says how). The exporter, SHOW ROUTES and its kin, and the reference follow from the row.
struct alignas(64) WorkerMetrics {
  WorkerMetrics() = default;
  WorkerMetrics(const WorkerMetrics&) = delete;
  WorkerMetrics& operator=(const WorkerMetrics&) = delete;

  Counter clients_accepted;
  Counter clients_closed;
  Counter clients_authenticated;
  Counter login_failures;
  Counter logins_deferred;
  Counter servers_opened;
  Counter servers_closed;
  Counter server_connect_failures;
  Counter server_handovers_in;
  Counter server_handovers_out;
  Counter client_bytes_received;  // of connections without a database: logging in, console
  Counter client_bytes_sent;
  Counter server_bytes_received;
  Counter server_bytes_sent;
  Counter transactions;
  Counter cancels_received;
  Counter cancels_forwarded;
  Counter prepared_parses_injected;
  Counter settings_replays;
  Counter floor_waits;
  Counter floor_waits_in_vain;
  Counter floors_lost;
  Counter classifier_hits;
  Counter classifier_misses;
  Counter digest_evictions;
  Counter reads_refused;  // by a replica, because they are no reads
  Counter loop_turns;
  Counter series_overflows;  // counted by series()

  Gauge clients_idle;
  Gauge clients_active;
  Gauge clients_waiting;
  Gauge servers_idle;
  Gauge servers_active;
  Gauge servers_connecting;

  CounterArray refusals;
  CounterArray routes;
  CounterArray read_choices;
  CounterArray spills;
  CounterArray pins, unpins;  // by the number of the bit, not by the mask
  CounterArray retries_served, retries_failed, retry_refusals;
  CounterArray client_closes;
  CounterArray server_closes;
  CounterArray server_limits;
  CounterArray class_reasons;
  CounterArray dry_routes;
  CounterArray rules;  // by NameNumbers of their names
  CounterArray shared_answers;

  // Series per worker, a bound on memory: at 7 kB each (measured, README.md) they take 30 MB. Fifty
  // nodes, two classes and forty tenants fit.
  static constexpr std::size_t kMaxSeries = 4096;

  // The series of a key, made at its first use. The reference is good for the life of this object:
  // keep it where the key stays the same. Worker thread only. Costs one hash look-up (9 ns); when
  // the key is new also an allocation. Beyond kMaxSeries every new key gets the series of
  // kOverflowKey, and each such call counts in series_overflows.
  StatementSeries& series(SeriesKey key);

  // Databases that have counters of their own; clients name them, so there must be an end.
  static constexpr std::size_t kMaxDatabases = 1000;

  // The counters of a database, made at its first use, good for the life of this object. Worker thread
  // only, at a client's login. Beyond kMaxDatabases all others share number 0, "other".
  DatabaseCounters& database(std::string_view name);
  template <class See>
  void for_each_database(See&& see) const {
    for (const DatabaseNode* node = newest_database_.load(std::memory_order_acquire); node != nullptr;
         node = node->older)
      see(node->counters);
  }

  // Calls see(const StatementSeries&) for each series, newest first. Any thread; never blocks the
  // worker, and misses only what was added after the call began.
  template <class See>
  void for_each_series(See&& see) const {
    for (const Node* node = newest_.load(std::memory_order_acquire); node != nullptr;
         node = node->older)
      see(node->series);
  }

 private:
  // A list that only grows: a node is complete before the release store that publishes it, and its
  // place in the list never changes afterwards.
  struct Node {
    StatementSeries series;
    const Node* older;
  };
  struct DatabaseNode {
    DatabaseCounters counters;
    const DatabaseNode* older;
  };
  StatementSeries& append(SeriesKey key);

  std::atomic<const DatabaseNode*> newest_database_{nullptr};
  std::map<std::string, std::unique_ptr<DatabaseNode>, std::less<>> databases_;  // the worker's own
  std::unique_ptr<DatabaseNode> other_databases_;
  std::atomic<const Node*> newest_{nullptr};
  std::unordered_map<std::uint64_t, std::unique_ptr<Node>> by_key_;  // the worker's own
};

// One key over several workers: what the console, the demo and the exporter show.
struct SeriesTotals {
  SeriesKey key;
  HistogramSnapshot total;   // from the batch's last byte in to its ReadyForQuery out
  HistogramSnapshot server;  // the part of it that a server took
  HistogramSnapshot queue;   // and the part before
  std::uint64_t served = 0;
  std::uint64_t failed = 0;

  void merge(const SeriesTotals& other);  // keeps its own key
  void merge(const StatementSeries& series);
};

// Sums over workers, ordered by key. Any thread.
std::vector<SeriesTotals> totals(std::span<const WorkerMetrics* const> workers);

}  // namespace metrics
