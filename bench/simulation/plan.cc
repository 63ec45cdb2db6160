#include "bench/simulation/plan.h"

namespace simulation {
namespace {

using namespace std::chrono_literals;
using What = Change::What;

// To add a size: a row.
const Scale kScales[] = {
    // For tests: as large, but for its statements, which are fewer and longer.
    {"small", 50, 4, 8, 20'000us, false, 3'000, 4, 0.1, {0.05, 0.65, 0.2, 0.1}, 1'000ms, 100'000},
    // 3.2 million statements per second of virtual time.
    {"full", 50, 16, 20, 250us, false, 3'000, 4, 0.1, {0.05, 0.65, 0.2, 0.1}, 250ms, 500'000},
    // What bench/admission makes of a real cluster: one node, eight servers, pg_sleep(0.04).
    {"admission", 1, 8, 8, 40'000us, true, 1, 1, 0, {0, 1, 0, 0}, 1'000ms, 0},
    // What bench/drill makes of one: two replicas, short statements.
    {"drill", 2, 2, 8, 500us, false, 1, 8, 0, {0, 1, 0, 0}, 1'000ms, 0},
};

// To add one: a row here, and its name in scenarios where it is compared.
const Policy kPolicies[] = {
    {.name = "pgsluice"},
    {.name = "eventual", .all_sessions = false},
    {.name = "round robin", .balance = Balance::round_robin, .all_sessions = false},
    {.name = "least connections", .balance = Balance::least_connections, .all_sessions = false},
    {.name = "FIFO", .fair = false},
    {.name = "no deadline", .deadline = false},
    {.name = "no retry budget", .budget = false},
    {.name = "no breakers", .breakers = false},
    {.name = "plain",
     .balance = Balance::round_robin,
     .fair = false,
     .deadline = false,
     .budget = false,
     .breakers = false,
     .all_sessions = false},
};

// To add one: a row. What goes wrong begins after three seconds of calm, which the figures are held against.
const Scenario kScenarios[] = {
    {.name = "overload",
     .says = "users ask for three times of what there is, for 5 s",
     .load = 0.7, .length = 13, .from = 3, .to = 8,
     .changes = {{What::load, 3, 3.0}, {What::load, 8, 0.7}},
     .compared = {"pgsluice", "FIFO", "no deadline", "plain"}},
    {.name = "neighbour",
     .says = "one tenant asks for five times of what there is, beside the others' 0.3",
     .load = 0.3, .length = 11, .from = 4, .to = 8,
     .changes = {{What::surge, 3, 5.0}, {What::surge, 8, 0.0}},
     .compared = {"pgsluice", "FIFO", "no deadline", "plain"},
     .settings = "[tenant]\nceiling = 50\n"},
    {.name = "slow",
     .says = "a tenth of the replicas become twenty times slower, for 7 s",
     .load = 0.7, .length = 14, .from = 3, .to = 10,
     .changes = {{What::slow, 3, 20, 0, 0.1}, {What::slow, 10, 1, 0, 0.1}},
     .compared = {"pgsluice", "eventual", "round robin", "least connections", "no breakers", "plain"}},
    {.name = "dead",
     .says = "a tenth of the replicas crash, another tenth falls silent; both are back 7 s later",
     .load = 0.7, .length = 14, .from = 3, .to = 10,
     .changes = {{What::crash, 3, 0, 0, 0.1}, {What::silence, 3, 0, 0.1, 0.1}, {What::back, 10, 0, 0, 0.2}},
     .compared = {"pgsluice", "eventual", "round robin", "least connections", "no breakers", "no retry budget",
                  "plain"}},
    {.name = "lag",
     .says = "a wave of lag: each replica replays nothing for 2 s, one after the other; max_lag is 1 s",
     .load = 0.7, .length = 16, .from = 3, .to = 15,
     .changes = {{What::stall, 3, 2.0, 0, 1, 0.2}},
     .compared = {"pgsluice", "eventual", "round robin", "least connections", "FIFO", "plain"},
     .settings = "[routing]\nmax_lag = \"1s\"\n"},
    {.name = "stampede",
     .says = "a cache is lost: one tenant asks for statements twenty times as long, twice what there is, 2 s",
     .load = 0.6, .length = 12, .from = 3, .to = 8,
     .changes = {{What::surge, 3, 2.0, 0, 1, 20}, {What::surge, 5, 0.0}},
     .compared = {"pgsluice", "FIFO", "no deadline", "plain"}},
    {.name = "storm",
     .says = "replicas cancel 60 % of their reads at the end, for 2 s, and users ask again, up to four times",
     .load = 0.8, .length = 14, .from = 3, .to = 12, .users = {.tries = 4, .pause = 50ms},
     .changes = {{What::conflicts, 3, 0.6, 0, 1}, {What::conflicts, 5, 0.0, 0, 1}},
     .compared = {"pgsluice", "no retry budget", "no deadline", "FIFO", "plain"}},
    {.name = "half",
     .says = "half of the replicas fall silent, and are back 6 s later; users ask again, up to three times",
     .load = 0.8, .length = 22, .from = 4, .to = 16, .users = {.tries = 3, .pause = 200ms},
     .changes = {{What::silence, 4, 0, 0, 0.5}, {What::back, 10, 0, 0, 0.5}},
     .compared = {"pgsluice", "eventual", "round robin", "FIFO", "no deadline", "no breakers", "plain"},
     .back = 10},
};

}  // namespace

std::span<const Scale> scales() { return kScales; }
std::span<const Policy> policies() { return kPolicies; }
std::span<const Scenario> scenarios() { return kScenarios; }

}  // namespace simulation
