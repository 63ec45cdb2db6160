#include "tests/support/process.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/eventually.h"
#include "tests/support/temp_dir.h"

namespace support {

namespace {

int exit_code(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

// pid -> parent, of everything that runs.
std::map<pid_t, pid_t> parents() {
  std::map<pid_t, pid_t> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string stat = read_file("/proc/" + name + "/stat");
    const std::size_t end = stat.rfind(')');  // the command's name may hold anything, ")" too
    if (end == std::string::npos) continue;
    int parent = 0;
    if (std::sscanf(stat.c_str() + end + 1, " %*c %d", &parent) == 1)
      found[static_cast<pid_t>(std::atoi(name.c_str()))] = parent;
  }
  return found;
}

bool is_below(const std::map<pid_t, pid_t>& parents, pid_t pid, pid_t ancestor) {
  while (true) {
    const auto at = parents.find(pid);
    if (at == parents.end() || at->second <= 1) return false;
    if (at->second == ancestor) return true;
    pid = at->second;
  }
}

}  // namespace

Process::Process(const std::vector<std::string>& command, const SpawnOptions& options) {
  // Everything that allocates happens before fork: other threads may hold locks that the child
  // would wait for.
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  std::map<std::string, std::string> environment = options.environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::size_t equals = text.find('=');
    if (equals != std::string::npos)
      environment.try_emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  std::vector<std::string> lines;
  for (const auto& [name, value] : environment) lines.push_back(name + "=" + value);
  std::vector<char*> variables;
  for (std::string& line : lines) variables.push_back(line.data());
  variables.push_back(nullptr);

  const passwd* user = options.as_postgres && geteuid() == 0 ? getpwnam("postgres") : nullptr;
  const uid_t uid = user != nullptr ? user->pw_uid : geteuid();
  const gid_t gid = user != nullptr ? user->pw_gid : getegid();
  int output = -1;
  if (!options.output.empty()) {
    output = open(options.output.c_str(),
                  O_WRONLY | O_CREAT | O_CLOEXEC | (options.append ? O_APPEND : O_TRUNC), 0644);
  }

  pid_ = fork();
  if (pid_ < 0) {
    std::perror("fork");
    std::abort();
  }
  if (pid_ == 0) {
    if (output >= 0) {
      dup2(output, 1);
      dup2(output, 2);
    }
    if (user != nullptr && (setgroups(0, nullptr) != 0 || setgid(gid) != 0 || setuid(uid) != 0))
      _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // after setuid, which clears it
    std::signal(SIGPIPE, SIG_DFL);
    if (user != nullptr && chdir("/") != 0) _exit(126);
    execvpe(arguments[0], arguments.data(), variables.data());
    std::perror(arguments[0]);
    _exit(127);
  }
  if (output >= 0) close(output);
}

Process::~Process() { kill(); }

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), status_(std::exchange(other.status_, std::nullopt)) {}

Process& Process::operator=(Process&& other) noexcept {
  if (this != &other) {
    kill();
    pid_ = std::exchange(other.pid_, -1);
    status_ = std::exchange(other.status_, std::nullopt);
  }
  return *this;
}

bool Process::running() {
  if (pid_ < 0 || status_) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  status_ = exit_code(status);
  return false;
}

std::optional<int> Process::wait(std::chrono::milliseconds deadline) {
  if (!eventually([this] { return !running(); }, deadline, 5ms)) return std::nullopt;
  return status_;
}

void Process::signal(int number) {
  if (running()) ::kill(pid_, number);
}

void Process::signal_tree(int number) {
  if (!running()) return;
  const auto all = parents();
  ::kill(pid_, number);
  for (const auto& [pid, parent] : all)
    if (is_below(all, pid, pid_)) ::kill(pid, number);
}

void Process::kill() {
  if (!running()) return;
  signal_tree(SIGKILL);
  int status = 0;
  waitpid(pid_, &status, 0);
  status_ = exit_code(status);
}

Finished run(const std::vector<std::string>& command, SpawnOptions options,
             std::chrono::milliseconds deadline) {
  const TempDir folder;
  options.output = folder / "output";
  Process process(command, options);
  const std::optional<int> status = process.wait(deadline);
  if (!status) process.kill();
  return {status.value_or(-1), read_file(options.output)};
}

constexpr const char* kDebian = "/usr/lib/postgresql/15/bin";

std::string pg_program(const std::string& name) {
  const char* given = std::getenv("PGSLUICE_PG_BIN");
  const std::string there = std::string(given != nullptr ? given : kDebian) + "/" + name;
  return std::filesystem::exists(there) ? there : kDebian + ("/" + name);
}

}  // namespace support
