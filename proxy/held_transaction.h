#pragma once

#include <string>

#include "conf/units.h"

// A transaction that its client has begun and that no server knows of (routing.transactions). Its BEGIN was
// answered here; it goes to a server ahead of the first batch that shows which one it must be. Until then
// proven reads may run elsewhere, each by itself, which is what READ COMMITTED promises them: each
// statement sees what was committed before it began.
namespace proxy {

// Made at BEGIN, gone when a server has the transaction or it has ended without one. Clients outside such
// a transaction own a null pointer.
struct HeldTransaction {
  std::string begin;      // the client's own words
  conf::Instant since{};  // they came
  bool serializable = false;  // no standby takes it
  bool migrates = false;  // proven reads run elsewhere
  bool failed = false;    // one of them has: nothing but the end is taken
};

}  // namespace proxy
