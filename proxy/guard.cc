#include "proxy/guard.h"

#include <algorithm>
#include <utility>

#include "proxy/log.h"
#include "proxy/net/memory.h"
#include "proxy/worker.h"

namespace proxy {
Guard::Guard(net::Loop& loop, Shared& shared, std::shared_ptr<const conf::Settings> settings)
    : loop_(loop), shared_(shared), settings_(std::move(settings)), timer_(loop, [this] { look(); }) {}

std::int64_t Guard::memory_percent() const {
  const std::uint64_t limit =
      settings_->limits_memory.count > 0 ? settings_->limits_memory.count : net::memory_allowed();
  if (limit == 0) return 0;
  return static_cast<std::int64_t>(static_cast<double>(net::memory_in_use()) / static_cast<double>(limit) * 100);
}

void Guard::see(const routing::Topology& topology) {
  replicas_out_ = 0;
  for (const routing::ClusterState& cluster : topology.clusters)
    replicas_out_ = std::max(replicas_out_, routing::percent_out(cluster));
}

void Guard::look() {
  pool::Signs signs{.memory_percent = memory_percent(), .replicas_out = replicas_out_};
  for (Worker* worker : shared_.workers) {
    signs.loop_delay = std::max(signs.loop_delay, worker->take_loop_delay());
    signs.queues_overloaded |= worker->has_overloaded_queue();
  }
  const pool::Protection::Rule rule{.loop_delay = settings_->limits_loop_delay,
                                    .memory_high = settings_->limits_memory_high,
                                    .memory_full = settings_->limits_memory_full,
                                    .replicas_out = settings_->limits_replicas_out,
                                    .hold = settings_->limits_protection_hold};
  if (!protection_.look(loop_.now(), signs, rule)) return;
  const int level = protection_.level();
  shared_.protection.store(level, std::memory_order_relaxed);
  shared_.protection_why.store(static_cast<int>(protection_.why()), std::memory_order_relaxed);
  log(level == 0 ? conf::LogLevel::info : conf::LogLevel::warning,
      "self-protection level=" + std::to_string(level) + " reason=" + std::string(name(protection_.why())) +
          " loop_delay_ms=" + std::to_string(signs.loop_delay.count() / 1'000'000) +
          " memory_percent=" + std::to_string(signs.memory_percent) +
          " replicas_out_percent=" + std::to_string(signs.replicas_out));
}

}  // namespace proxy
