#pragma once

#include <memory>

#include "pool/digest_gate.h"
#include "proxy/shared_read.h"

namespace proxy {

// What few batches have. Goes with the batch: from its client, while it waits, to what is in flight at its
// server.
struct BatchExtras {
  pool::DigestHold hold;               // places under limits of concurrency
  std::unique_ptr<SharedRead> shared;  // its answer, or another's
};

}  // namespace proxy
