#include "pool/protection.h"

#include <algorithm>

namespace pool {
namespace {

struct Asked {
  int level = 0;
  Strain why = Strain::none;
};

Asked asked_by(const Signs& signs, const Protection::Rule& rule) {
  Asked most;
  const auto ask = [&most](int level, Strain why) {
    if (level > most.level) most = {level, why};
  };
  if (signs.memory_percent >= rule.memory_full)
    ask(4, Strain::memory);
  else if (signs.memory_percent >= rule.memory_high)
    ask(2, Strain::memory);
  if (const Nanos limit = rule.loop_delay; limit.count() > 0 && signs.loop_delay > limit)
    ask(signs.loop_delay > 5 * limit ? 3 : signs.loop_delay > 2 * limit ? 2 : 1, Strain::loop_delay);
  if (signs.queues_overloaded) ask(1, Strain::queues);
  if (rule.replicas_out > 0 && signs.replicas_out >= rule.replicas_out) ask(1, Strain::replicas_out);
  return most;
}

}  // namespace

std::string_view name(Strain strain) {
  switch (strain) {
    case Strain::none: return "none";
    case Strain::loop_delay: return "loop_delay";
    case Strain::memory: return "memory";
    case Strain::queues: return "queues";
    case Strain::replicas_out: return "replicas_out";
    case Strain::count_: break;
  }
  return "unknown";
}

bool Protection::look(Instant now, const Signs& signs, const Rule& rule) {
  const Asked asked = asked_by(signs, rule);
  if (asked.level >= level_) needed_at_ = now;
  if (asked.level > level_) {
    least_asked_ = looks_ == 0 ? asked.level : std::min(least_asked_, asked.level);
    if (asked.level == least_asked_) asked_by_ = asked.why;
    if (++looks_ < kLooks && asked.why != Strain::memory) return false;
    level_ = asked.why == Strain::memory ? asked.level : least_asked_;
    why_ = asked.why == Strain::memory ? asked.why : asked_by_;
    looks_ = 0;
    return true;
  }
  looks_ = 0;
  if (level_ == 0 || now - needed_at_ < rule.hold) return false;
  --level_;
  needed_at_ = now;
  if (level_ == 0) why_ = Strain::none;
  return true;
}

}  // namespace pool
