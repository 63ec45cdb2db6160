#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "conf/settings.h"

// What is played: how large a world, under which policy, and what goes wrong in it. Tables, in plan.cc.
namespace simulation {

using conf::Micros;
using conf::Millis;
using conf::Priority;

// The size of the world. What it can do, C, is replicas x cores / statement.
struct Scale {
  std::string_view name;
  std::size_t replicas;
  int cores;           // of each node: more statements than these slow each other down
  int servers;         // pool.size: connections to each node
  Micros statement;    // mean time of one at a node that is well
  bool even;           // all take exactly that (pg_sleep); else they vary
  std::size_t tenants, sessions;  // sessions per tenant, in the mean: who asks for more has more
  double writers;      // so many of the sessions write at all, a twentieth of their statements
  std::array<double, conf::kPriorities> mix;  // what part of the load each priority has
  // How long users wait; later answers are for nobody. Those of low statements wait five times as long.
  Millis patience;
  std::int64_t max_waiting;

  double capacity() const {
    return static_cast<double>(replicas) * cores * 1e6 / static_cast<double>(statement.count());
  }
};
std::span<const Scale> scales();

// How a replica is chosen: in turn; the one with the fewest statements, waiting ones too; as pgsluice does.
enum class Balance : std::uint8_t { round_robin, least_connections, two_choices };

struct Policy {
  std::string_view name;
  Balance balance = Balance::two_choices;
  bool fair = true;      // by class and tenant; else one queue in order of arrival
  bool deadline = true;  // what waits in a queue that stands is refused; and self-protection
  bool budget = true;    // of what is run again; else each read is, up to three times
  bool breakers = true;  // and slow start
  // Who never reads backwards: all sessions, as by default (routing.consistency); else those that write, and
  // the others are eventual.
  bool all_sessions = true;
};
std::span<const Policy> policies();

// Something that happens in a scenario.
struct Change {
  enum class What : std::uint8_t {
    load,        // users ask for `value` x C
    surge,       // beside them one tenant asks for `value` x C, of statements `factor` times as long
    slow,        // nodes [first, first + count) of the replicas take `value` times as long
    crash,       // they end all connections and refuse new ones
    silence,     // they say nothing any more, as if the network were cut
    back,        // they serve as before
    stall,       // they replay nothing for `value` seconds, each `factor` seconds after its neighbour
    conflicts,   // they cancel `value` of their reads at the end, to replay
  } what;
  double at = 0;  // seconds
  double value = 0;
  double first = 0, count = 1;  // of all replicas: parts
  double factor = 1;
};

struct Users {
  int tries = 1;            // an answer that is no good, or too late, is asked for so often
  Millis pause{0};          // before each further try, more or less
};

struct Scenario {
  std::string_view name, says;
  double load;               // of C
  double length;             // seconds
  double from, to;           // what is compared is what happens between these moments
  Users users{};
  std::vector<Change> changes{};
  std::vector<std::string_view> compared{};  // policies
  std::string_view settings{};  // more configuration
  double back = 0;           // when lost nodes are back, and recovery is measured
};
std::span<const Scenario> scenarios();

}  // namespace simulation
