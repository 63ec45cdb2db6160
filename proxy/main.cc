// The wiring diagram: what there is, and who knows whom.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include <sys/resource.h>

#include "conf/load.h"
#include "conf/render.h"
#include "metrics/exporter.h"
#include "proxy/check_command.h"
#include "proxy/control.h"
#include "proxy/listeners.h"
#include "proxy/log.h"
#include "proxy/notify.h"
#include "proxy/random.h"
#include "proxy/takeover.h"
#include "proxy/version.h"
#include "proxy/worker.h"

namespace {

// Exit codes: 0 well, 1 a problem with the configuration or the system, 2 wrong usage.
constexpr int kProblem = 1, kUsage = 2;

constexpr std::string_view kHelp =
    "pgsluice: one connection string for a Postgres primary and its replicas\n"
    "\n"
    "  pgsluice FILE              run with this configuration\n"
    "  pgsluice FILE --takeover   the same, in the place of the process that runs with it now:\n"
    "                             no connection is refused meanwhile (listen.takeover_socket)\n"
    "  pgsluice check FILE        validate it, and try every node\n"
    "  pgsluice --sample          print a commented configuration to start from\n"
    "  pgsluice --reference       print all options as Markdown\n"
    "  pgsluice --help, --version\n"
    "\n"
    "SIGHUP reloads, SIGTERM drains and exits, a second SIGTERM exits at once, SIGUSR2 starts\n"
    "a new process of the same file that takes over.\n"
    "\n"
    "Options of the configuration file:\n";

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// Every client and server takes one; the system's soft limit is often 1024.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// One of 32 that no process whose clients may still send cancels has.
std::uint8_t process_number(std::uint32_t taken) {
  const std::uint32_t start = proxy::random_u32();
  for (std::uint32_t i = 0; i < 32; ++i)
    if ((taken >> ((start + i) % 32) & 1U) == 0) return static_cast<std::uint8_t>((start + i) % 32);
  return static_cast<std::uint8_t>(start % 32);
}

int run(const std::string& file, bool takeover) {
  using namespace proxy;
  const Notifier notifier = Notifier::from_environment();
  auto given = sockets_from_systemd();
  if (!given) {
    log_error(given.error().message);
    return kProblem;
  }
  const auto settings = conf::load_file(file);
  if (!settings) {
    std::fprintf(stderr, "%s\n", settings.error().message.c_str());
    return kProblem;
  }
  set_log_level((*settings)->log_level);
  const auto tls = make_tls(**settings);
  if (!tls) {
    log_error(tls.error().message);
    return kProblem;
  }
  raise_descriptor_limit();
  // A peer that is gone is an error of the write, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);

  std::optional<Inheritance> heir;
  if (takeover) {
    const std::string& path = (*settings)->listen_takeover_socket;
    auto claimed = path.empty() ? conf::Error{conf::Errc::config, "--takeover: listen.takeover_socket is empty"}
                                : claim_inheritance(path);
    if (!claimed) {
      log_error(claimed.error().message);
      return kProblem;
    }
    heir = std::move(*claimed);
    if (heir)
      given = std::move(heir->sockets);
    else
      log_info("--takeover: nobody listens on " + path + "; starting as usual");
  }

  Shared shared(**settings);
  shared.cancel_secret = random_bytes(32);
  shared.mock_key = heir ? heir->mock_key : random_bytes(32);
  shared.other_processes = heir ? heir->processes : 0;
  shared.process = process_number(shared.other_processes);

  const std::size_t asked = static_cast<std::size_t>((*settings)->workers);
  const std::size_t count = std::clamp<std::size_t>(
      asked == 0 ? std::thread::hardware_concurrency() : asked, 1, pool::kMaxWorkers);
  std::vector<std::unique_ptr<Worker>> workers;
  for (std::size_t i = 0; i < count; ++i) {
    workers.push_back(std::make_unique<Worker>(i, shared, *settings, tls->client, tls->server));
    shared.workers.push_back(workers.back().get());
  }

  Status status;
  auto control = std::make_unique<Control>(file, *settings, shared, status, notifier);
  std::mutex exporter_mutex;  // a successor makes it stop on another thread
  std::unique_ptr<metrics::Exporter> exporter;
  const auto start_metrics = [&]() -> conf::Status {
    if ((*settings)->metrics_port == 0) return conf::ok;
    const std::lock_guard lock(exporter_mutex);
    auto started = metrics::Exporter::start((*settings)->metrics_address,
                                            static_cast<std::uint16_t>((*settings)->metrics_port),
                                            metrics_source(status, shared));
    if (!started) return started.error();
    exporter = std::move(*started);
    log_info("metrics on http://" + (*settings)->metrics_address + ":" +
             std::to_string(exporter->port()) + "/metrics");
    return conf::ok;
  };
  const auto stop_metrics = [&] {
    const std::lock_guard lock(exporter_mutex);
    exporter.reset();
  };
  if (const conf::Status listening = control->listen(std::move(*given), heir ? &*heir : nullptr,
                                                     {.start = start_metrics, .stop = stop_metrics});
      !listening) {
    log_error(listening.error().message);
    return kProblem;
  }
  for (const auto& worker : workers) worker->start();
  const bool well = control->run();
  for (const auto& worker : workers) worker->join();
  stop_metrics();
  control.reset();
  workers.clear();
  log_info("stopped");
  return well ? 0 : kProblem;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string first = argc > 1 ? argv[1] : "";
  if (argc == 2 && (first == "--help" || first == "-h")) {
    print(kHelp);
    print(conf::options_help());
    return 0;
  }
  if (argc == 2 && first == "--version") {
    print("pgsluice " + std::string(proxy::kVersion) + "\n");
    return 0;
  }
  if (argc == 2 && first == "--sample") {
    print(conf::sample_file());
    return 0;
  }
  if (argc == 2 && first == "--reference") {
    print(conf::reference_markdown());
    return 0;
  }
  if (argc == 3 && first == "check") return proxy::run_check(argv[2]);
  if (argc == 2 && !first.starts_with("-")) return run(first, false);
  if (argc == 3 && !first.starts_with("-") && std::string_view(argv[2]) == "--takeover") return run(first, true);
  std::fprintf(stderr,
               "usage: pgsluice FILE [--takeover] | check FILE | --sample | --reference | --help | --version\n");
  return kUsage;
}
