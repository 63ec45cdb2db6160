#include "pool/fair_queue.h"

#include <algorithm>
#include <utility>

#include "conf/check.h"

namespace pool {
namespace {

using namespace std::chrono_literals;

// Between workers only moments are compared: how much later a class counts as having come.
constexpr Nanos kCountsLater[conf::kPriorities] = {-1h, 0s, 1s, 2s};

// A flow in which nobody waits too long has no reason to serve its newest.
bool newest_first(const Flow& flow) { return flow.delay.overloaded(); }

std::int64_t cost_of(const Tenant& tenant) {
  return std::max<std::int64_t>(1, tenant.cost.load(std::memory_order_relaxed));
}
std::int64_t weight_of(const Tenant& tenant) { return tenant.weight.load(std::memory_order_relaxed); }

// Virtual time has a thousand units per microsecond of weight 1, so that what the heaviest tenant's statements cost
// is not rounded away. It lasts for three hundred years of one tenant's.
constexpr std::int64_t kUnits = 1000;

}  // namespace

bool FairQueue::Ceilings::allow(const ServiceClass& service_class) const {
  for (std::size_t above = 0; above <= static_cast<std::size_t>(service_class.priority); ++above) {
    const std::int64_t percent = service_class.ceilings[above];
    if (percent < 100 && slots.running(static_cast<Priority>(above)) >= Slots::allowed(servers, percent))
      return false;
  }
  return true;
}

bool FairQueue::Ceilings::allow(const Tenant& tenant) const {
  const std::int64_t own = tenant.ceiling.load(std::memory_order_relaxed);
  return own >= 100 || slots.running_of(tenant.number) < Slots::allowed(servers, own);
}

Flow& FairQueue::flow_for(ClassId service_class, Tenant& tenant) {
  const std::uint32_t key = Flow::key_of(service_class, tenant);
  const auto place = std::ranges::lower_bound(flows_, key, {}, [](const auto& flow) { return flow->key(); });
  if (place != flows_.end() && (*place)->key() == key) return **place;
  auto made = std::make_unique<Flow>(home_, service_class, tenant);
  return **flows_.insert(place, std::move(made));
}

FairQueue::Lane& FairQueue::lane_for(ClassId service_class) {
  if (lanes_.size() <= service_class) lanes_.resize(service_class + std::size_t{1});
  if (!lanes_[service_class]) lanes_[service_class] = std::make_unique<Lane>();
  return *lanes_[service_class];
}

void FairQueue::enqueue(Waiter& waiter, ClassId service_class, Tenant& tenant, const ClassTable& classes,
                        Instant now) {
  ENSURE(waiter.flow == nullptr);
  Flow& flow = flow_for(service_class, tenant);
  if (flow.waiters.empty()) {
    Lane& lane = lane_for(service_class);
    if (lane.flows.empty()) {
      // Who has not waited has no claim on what others have used meanwhile.
      std::optional<std::int64_t> least;
      for (std::size_t id = 0; id < lanes_.size(); ++id)
        if (lanes_[id] && !lanes_[id]->flows.empty() &&
            classes.priority(static_cast<ClassId>(id)) != Priority::critical)
          least = std::min(least.value_or(lanes_[id]->used), lanes_[id]->used);
      lane.used = least ? std::max(lane.used, *least) : 0;
      lane.now = lane.end;
    }
    flow.start = std::max(flow.start, lane.now);
    join(lane, flow);
  }
  waiter.flow = &flow;
  waiter.queued_since = now;
  flow.waiters.push_back(waiter);
  ++size_;
}

// Behind those that begin no later. Looked for from the end: who has just been served begins late.
void FairQueue::join(Lane& lane, Flow& flow) {
  Flow* before = lane.flows.back();
  while (before != nullptr && before->start > flow.start) before = lane.flows.before(*before);
  lane.flows.insert_after(before, flow);
}

// The flow's list has lost somebody.
void FairQueue::leave(Flow& flow, Waiter& waiter) {
  flow.waiters.remove(waiter);
  if (flow.waiters.empty()) lanes_[flow.service_class]->flows.remove(flow);
}

void FairQueue::remove(Waiter& waiter) {
  ENSURE(waiter.flow != nullptr);
  Flow& flow = *std::exchange(waiter.flow, nullptr);
  if (waiter.queued_since == Waiter::kTooLate) {
    late_.remove(waiter);
  } else {
    leave(flow, waiter);
  }
  --size_;
  tidy();
}

void FairQueue::tidy() {
  if (size_ == 0 && flows_.size() > kKept) flows_.clear();
}

Waiter* FairQueue::take(Instant now, const ClassTable& classes, const Ceilings* ceilings) {
  if (size_ == 0) return nullptr;
  std::uint64_t tried = 0;
  for (;;) {
    std::optional<std::size_t> next;
    std::int64_t soonest = 0;
    for (std::size_t id = 0; id < lanes_.size(); ++id) {
      if (!lanes_[id] || lanes_[id]->flows.empty() || (tried >> id & 1) != 0) continue;
      if (classes.priority(static_cast<ClassId>(id)) == Priority::critical) {
        next = id;
        break;
      }
      // What it will have used when its next one has run: so the heavier of two that begin together begins.
      const std::int64_t then =
          lanes_[id]->used + lanes_[id]->unit * 1000 / classes.at(static_cast<ClassId>(id)).weight;
      if (next && then >= soonest) continue;
      next = id;
      soonest = then;
    }
    if (!next) return nullptr;
    tried |= std::uint64_t{1} << *next;
    // A class at its ceiling may have thousands of tenants: nobody looks at each of them to find that out.
    if (ceilings != nullptr && !ceilings->allow(classes.at(static_cast<ClassId>(*next)))) continue;
    if (Waiter* waiter = take_from(*lanes_[*next], now, classes.at(static_cast<ClassId>(*next)), ceilings)) {
      waiter->flow = nullptr;
      --size_;
      tidy();
      return waiter;
    }
  }
}

Waiter* FairQueue::take_from(Lane& lane, Instant now, const ServiceClass& service_class,
                             const Ceilings* ceilings) {
  for (Flow* next = lane.flows.front(); next != nullptr;) {
    Flow& flow = *next;
    next = lane.flows.after(flow);
    look_at(flow, now, service_class);
    if (flow.waiters.empty()) continue;  // all of them were late
    if (ceilings != nullptr && !ceilings->allow(flow.tenant)) continue;
    // Those in front are at their ceilings: what they may not have now they do not get later.
    for (Flow* held = lane.flows.front(); held != &flow; held = lane.flows.after(*held)) held->start = flow.start;
    lane.now = std::max(lane.now, flow.start);
    const std::int64_t cost = cost_of(flow.tenant);
    lane.unit = std::max(lane.unit - lane.unit / 64, cost);
    lane.used += cost * 1000 / service_class.weight;
    flow.start += cost * kUnits / weight_of(flow.tenant);
    lane.end = std::max(lane.end, flow.start);
    Waiter& waiter = newest_first(flow) ? *flow.waiters.back() : *flow.waiters.front();
    lane.flows.remove(flow);
    flow.waiters.remove(waiter);
    if (!flow.waiters.empty()) join(lane, flow);
    return &waiter;
  }
  return nullptr;
}

std::int64_t FairQueue::time_of(const Flow& flow) {
  return static_cast<std::int64_t>(flow.waiters.size()) * cost_of(flow.tenant);
}

std::int64_t FairQueue::ahead_of(ClassId service_class, const Tenant& tenant) const {
  std::int64_t own = cost_of(tenant);
  if (service_class >= lanes_.size() || !lanes_[service_class] || lanes_[service_class]->flows.empty()) return own;
  const auto& flows = lanes_[service_class]->flows;
  const auto place = std::ranges::lower_bound(flows_, Flow::key_of(service_class, tenant), {},
                                              [](const auto& flow) { return flow->key(); });
  if (place != flows_.end() && &(*place)->tenant == &tenant && (*place)->service_class == service_class)
    own += time_of(**place);
  // Until it has had so much, another has had as much for its weight, if it wants it.
  std::int64_t others = 0, looked = 0;
  for (const Flow* flow = flows.front(); flow != nullptr && looked < kLookedAt; flow = flows.after(*flow), ++looked)
    if (&flow->tenant != &tenant)
      others += std::min(time_of(*flow), own / weight_of(tenant) * weight_of(flow->tenant));
  return own + others * static_cast<std::int64_t>(flows.size()) / std::max<std::int64_t>(1, looked);
}

bool FairQueue::has_turn(const ClassTable& classes, const Ceilings* ceilings) const {
  for (std::size_t id = 0; id < lanes_.size(); ++id) {
    if (!lanes_[id]) continue;
    const auto& flows = lanes_[id]->flows;
    if (ceilings == nullptr && !flows.empty()) return true;
    if (flows.empty() || !ceilings->allow(classes.at(static_cast<ClassId>(id)))) continue;
    for (const Flow* flow = flows.front(); flow != nullptr; flow = flows.after(*flow))
      if (ceilings->allow(flow->tenant)) return true;
  }
  return false;
}

// Notes how long the flow's first has waited, and puts those aside who have waited too long.
void FairQueue::look_at(Flow& flow, Instant now, const ServiceClass& service_class) {
  if (service_class.target.count() == 0 && service_class.deadline.count() == 0) {
    flow.delay.forget();
    return;
  }
  if (service_class.target.count() > 0) {
    flow.delay.observe(now, now - flow.waiters.front()->queued_since,
                       {.target = service_class.target, .interval = service_class.interval});
  } else {
    flow.delay.forget();
  }
  Nanos longest = service_class.deadline.count() > 0 ? Nanos(service_class.deadline) : Nanos::max();
  if (flow.delay.overloaded()) longest = std::min(longest, Nanos(2 * service_class.target));
  while (!flow.waiters.empty()) {
    Waiter& waiter = *flow.waiters.front();
    if (now - waiter.queued_since <= longest) return;
    leave(flow, waiter);
    waiter.queued_since = Waiter::kTooLate;
    late_.push_back(waiter);
  }
}

void FairQueue::sweep(Instant now, const ClassTable& classes) {
  if (size_ == 0 || !classes.deadlines) return;
  for (const auto& flow : flows_)
    if (!flow->waiters.empty()) look_at(*flow, now, classes.at(flow->service_class));
}

Waiter* FairQueue::any() const {
  for (const auto& flow : flows_)
    if (!flow->waiters.empty()) return flow->waiters.front();
  return late_.front();
}

Instant FairQueue::urgency(const ClassTable& classes) const {
  Instant first = Instant::max();
  for (const auto& flow : flows_)
    if (!flow->waiters.empty())
      first = std::min(first, flow->waiters.front()->waiting_since +
                                  kCountsLater[static_cast<std::size_t>(classes.priority(flow->service_class))]);
  return first;
}

Instant FairQueue::waiting_since() const {
  Instant first = Instant::max();
  for (const auto& flow : flows_)
    if (!flow->waiters.empty()) first = std::min(first, flow->waiters.front()->waiting_since);
  return first;
}

bool FairQueue::overloaded(const ClassTable& classes) const {
  return std::ranges::any_of(flows_, [&classes](const auto& flow) {
    return !flow->waiters.empty() && flow->delay.overloaded() &&
           classes.priority(flow->service_class) <= Priority::high;
  });
}

}  // namespace pool
