#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proxy/pg_connection.h"
#include "routing/lsn.h"

namespace proxy {

// The questions that the monitor asks a node, and what the answers mean. Pure.

// What one answer said. Everything that a node may keep from an ordinary role, or that only one of
// the two roles has, is optional: unknown is never guessed.
struct ProbeAnswer {
  bool in_recovery = false;
  routing::Lsn position;         // primary: insert position, normalised; replica: replayed
  // The highest that can be seen; 0: unknown. A replica's may be late, never early.
  std::uint32_t timeline = 0;
  std::uint32_t following = 0;   // replica: the receiver's timeline; 0: no receiver or not visible
  std::uint64_t system_id = 0;   // 0: unknown
  // Primary: where it left the timeline that it replayed as a standby; zero once it has restarted.
  routing::Lsn left_at;
  std::uint64_t wal_segment_size = 0;  // primary only: to normalise later quick answers
  std::int64_t started_us = 0;   // pg_postmaster_start_time(), microseconds since 1970
  bool receiver_running = false;  // replica only
  std::optional<std::int64_t> active_backends;  // asked for now and then; needs pg_monitor
  bool sees_everything = false;                 // the monitor role has pg_monitor
};

// The whole question: one statement, about 0.5 ms of the node's time (Postgres 15). $1 (boolean)
// asks for the number of active backends as well, another 0.7 ms.
const std::string& full_probe();
// The same without the functions that an administrator may have taken away from PUBLIC
// (pg_control_*): asked after full_probe() was refused with 42501.
const std::string& humble_probe();
// Role, timeline (of a primary) and position only, about 0.2 ms: what a session waits for.
const std::string& quick_probe();

// Nothing: the answer makes no sense (a program that only looks like Postgres).
std::optional<ProbeAnswer> read_full_probe(const std::vector<PgRow>& rows);

struct QuickAnswer {
  bool in_recovery = false;
  std::uint32_t timeline = 0;  // 0: a replica's, which this probe does not ask
  routing::Lsn position;       // of a primary not normalised yet
};
std::optional<QuickAnswer> read_quick_probe(const std::vector<PgRow>& rows);

}  // namespace proxy
