#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "pool/admission.h"
#include "pool/controlled_delay.h"
#include "pool/list.h"
#include "pool/service_class.h"
#include "pool/slots.h"

namespace pool {

class Pool;
struct Flow;

// The pool's record of one client that waits for a server. proxy::Client derives from it.
struct Waiter {
  Instant waiting_since{};  // for whatever it waits
  Instant queued_since{};   // for a server; whoever is in no queue may use it otherwise
  Flow* flow = nullptr;     // where it stands; null: in no queue
  ListNode<Waiter> in_queue;
  // As queued_since: put aside, to be refused.
  static constexpr Instant kTooLate = Instant::min();
};

// Those of one tenant and one class that wait at one pool, in the order in which they came. Made when the
// first of them waits, and kept for the next.
struct Flow {
  Pool& home;
  ClassId service_class;
  Tenant& tenant;
  List<Waiter, &Waiter::in_queue> waiters;
  std::int64_t start = 0;  // where its next begins, on the lane's virtual time
  ControlledDelay delay;
  ListNode<Flow> in_lane;

  std::uint32_t key() const { return key_of(service_class, tenant); }
  static std::uint32_t key_of(ClassId service_class, const Tenant& tenant) {
    return std::uint32_t{service_class} << 16 | tenant.number;
  }
};

// Who gets a pool's next server. Critical classes go before all. Of the others that class is next which
// will have had the least of the servers' time for its weight. In a class it is the tenant whose next begins earliest
// (start-time fair queueing: Goyal, Vin and Cheng, 1996): where its last one ended, on a time that counts cost for
// weight, but not before now, where whoever was served last began; so nobody saves up for later, and when nobody
// waits all is forgotten. What a statement will cost nobody knows: it is taken to
// cost what those of its tenant have cost lately. In a flow the first comes first; while it is overloaded the last,
// because that one's client is still there and waits least.
//
// Nothing is allocated for who waits but the first of its flow. With one class and one tenant it is a FIFO, and
// costs as much; else to serve or to join takes as many steps as tenants wait whose turn is later, or who are at
// their ceiling.
class FairQueue {
 public:
  explicit FairQueue(Pool& home) : home_(home) {}
  FairQueue(const FairQueue&) = delete;
  FairQueue& operator=(const FairQueue&) = delete;

  // May this flow's statements be given one more server? For those who ask about ceilings.
  struct Ceilings {
    const Slots& slots;
    std::int64_t servers;  // that the pool may have
    bool allow(const ServiceClass& service_class, const Tenant& tenant) const {
      return allow(service_class) && allow(tenant);
    }
    bool allow(const ServiceClass& service_class) const;
    bool allow(const Tenant& tenant) const;
  };

  void enqueue(Waiter& waiter, ClassId service_class, Tenant& tenant, const ClassTable& classes, Instant now);
  // Leaves, wherever in the queue it stands.
  void remove(Waiter& waiter);

  // Takes out whose turn it is; null when nobody waits, or nobody who may. Its tenant is charged.
  Waiter* take(Instant now, const ClassTable& classes, const Ceilings* ceilings = nullptr);
  // Does take() have somebody?
  bool has_turn(const ClassTable& classes, const Ceilings* ceilings = nullptr) const;

  // Looks at the clock: those who have waited longer than their class allows are next_late()'s.
  void sweep(Instant now, const ClassTable& classes);
  // One of those who are to be refused; still in the queue, for remove().
  Waiter* next_late() const { return late_.front(); }

  // Microseconds of servers' time until the end of one more statement of this class and tenant: what its own take
  // that wait here, and what of the others' of its class comes before. No more than a few dozen tenants are looked
  // at, the others are taken to be like them.
  std::int64_t ahead_of(ClassId service_class, const Tenant& tenant) const;

  std::size_t size() const { return size_; }  // with the late ones
  bool empty() const { return size_ == 0; }
  // Anybody at all; when everybody is to leave.
  Waiter* any() const;
  // When who has waited longest came, as other workers are to see it: a critical one waits longer than anybody
  // of another class, a low one counts as if it had come later. Instant::max() when nobody waits.
  Instant urgency(const ClassTable& classes) const;
  // The longest wait of anybody. Instant::max() when nobody waits.
  Instant waiting_since() const;
  // Does a queue of critical or high statements stand?
  bool overloaded(const ClassTable& classes) const;

  template <class See>
  void for_each_flow(See&& see) const {
    for (const auto& flow : flows_)
      if (!flow->waiters.empty()) see(*flow);
  }

 private:
  struct Lane {
    List<Flow, &Flow::in_lane> flows;  // of this class in which somebody waits, by start
    std::int64_t now = 0;               // virtual time: the start of who was served last
    std::int64_t end = 0;               // where the last of what has been served ends
    std::int64_t used = 0;              // servers' time for its weight, while somebody waits
    std::int64_t unit = 1000;           // of it, what one of its statements takes: the largest cost seen lately
  };
  static std::int64_t time_of(const Flow& flow);  // what those who wait in it will take
  Flow& flow_for(ClassId service_class, Tenant& tenant);
  Lane& lane_for(ClassId service_class);
  Waiter* take_from(Lane& lane, Instant now, const ServiceClass& service_class, const Ceilings* ceilings);
  void look_at(Flow& flow, Instant now, const ServiceClass& service_class);
  void leave(Flow& flow, Waiter& waiter);
  static void join(Lane& lane, Flow& flow);
  void tidy();

  static constexpr std::int64_t kLookedAt = 32;
  // Flows beyond so many are forgotten when nobody waits.
  static constexpr std::size_t kKept = 16;

  Pool& home_;
  std::size_t size_ = 0;
  std::vector<std::unique_ptr<Flow>> flows_;  // by key
  std::vector<std::unique_ptr<Lane>> lanes_;  // by ClassId; null where nobody has waited
  List<Waiter, &Waiter::in_queue> late_;
};

}  // namespace pool
