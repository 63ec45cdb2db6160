#include "bench/simulation/postgres.h"

namespace simulation {
namespace {

std::size_t milli(Instant now) {
  return now <= kBeginning ? 0 : static_cast<std::size_t>((now - kBeginning) / Millis(1));
}

}  // namespace

void Postgres::commit(Instant now) {
  while (history_.size() <= milli(now)) history_.push_back(written_);
  written_ += 200;
}

routing::Lsn Postgres::position(std::size_t at, Instant now) const {
  if (at == 0) return {written_};
  const Node& node = nodes_[at];
  Instant replayed = now - kReplayDelay;
  if (node.stalled_from != Instant{} && now > node.stalled_from) {
    Instant caught_up = node.stalled_from;
    if (now > node.stalled_until) caught_up += (now - node.stalled_until) * kCatchUp;
    replayed = std::min(replayed, caught_up);
  }
  const std::size_t moment = milli(replayed);
  return {moment < history_.size() ? history_[moment] : written_};
}

}  // namespace simulation
