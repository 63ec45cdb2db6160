#pragma once

#include <string>

namespace proxy {

// `pgsluice check FILE`: loads the configuration, asks every node as the monitor user (all at once,
// on a loop of its own), and tries auth.query and the listed databases. Prints one line per node
// and what to do about each failure to standard output, problems of the file to standard error.
// Ends within pool.connect_timeout for the nodes and as much again for the rest.
//
// Returns the exit code: 0 when the file is right, all nodes answered, every cluster has exactly
// one primary and one system identifier, and auth.query works where it is configured; else 1.
// Warnings (no pg_monitor, a replica without a receiver) do not count.
int run_check(const std::string& file);

}  // namespace proxy
