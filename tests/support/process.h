#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace support {

struct SpawnOptions {
  bool as_postgres = false;                          // when we are root: become the user postgres
  std::string output{};                              // file that takes stdout and stderr; "": ours
  bool append = false;                               // to `output`
  std::map<std::string, std::string> environment{};  // added to ours
};

// A child process. It dies with us, and with this object.
class Process {
 public:
  Process() = default;
  Process(const std::vector<std::string>& command, const SpawnOptions& options);
  ~Process();
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;

  pid_t pid() const { return pid_; }
  bool running();  // false once it has ended; then `status()` says how
  // Waits until it ends, at most `deadline`. Exit code, or 128 + signal; none: it still runs.
  std::optional<int> wait(std::chrono::milliseconds deadline);
  void signal(int number);
  // `signal` to it and to all processes below it (Postgres' backends, for one).
  void signal_tree(int number);
  void kill();  // SIGKILL to the whole tree, and wait

 private:
  pid_t pid_ = -1;
  std::optional<int> status_;
};

struct Finished {
  int status;          // exit code, or 128 + signal; -1: `deadline` passed and it was killed
  std::string output;  // stdout and stderr
};

// Runs to the end and returns all that it printed.
Finished run(const std::vector<std::string>& command, SpawnOptions options = {},
             std::chrono::milliseconds deadline = std::chrono::seconds(120));

// Postgres' own programs: below $PGSLUICE_PG_BIN if they are there, else Debian's Postgres 15.
std::string pg_program(const std::string& name);

}  // namespace support
