#include "pool/slots.h"

#include <memory>

#include "conf/check.h"

namespace pool {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

}  // namespace

Slots::~Slots() { delete tenants_.load(kRelaxed); }

Slots::ByTenant& Slots::by_tenant() {
  ByTenant* known = tenants_.load(std::memory_order_acquire);
  if (known != nullptr) return *known;
  auto made = std::make_unique<ByTenant>();
  if (tenants_.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *known;  // another worker was faster
}

void Slots::take(conf::Priority priority, std::uint16_t tenant) {
  ENSURE(tenant < kTenants);
  running_[static_cast<std::size_t>(priority)].fetch_add(1, kRelaxed);
  by_tenant()[tenant].fetch_add(1, kRelaxed);
}

void Slots::give_back(conf::Priority priority, std::uint16_t tenant) {
  ENSURE(running_[static_cast<std::size_t>(priority)].fetch_sub(1, kRelaxed) > 0);
  by_tenant()[tenant].fetch_sub(1, kRelaxed);
}

std::int64_t Slots::running(conf::Priority priority) const {
  std::int64_t sum = 0;
  for (auto at = static_cast<std::size_t>(priority); at < running_.size(); ++at)
    sum += running_[at].load(kRelaxed);
  return sum;
}

std::int64_t Slots::running_of(std::uint16_t tenant) const {
  const ByTenant* known = tenants_.load(std::memory_order_acquire);
  return known == nullptr ? 0 : (*known)[tenant].load(kRelaxed);
}

}  // namespace pool
