#pragma once

#include "pool/digest_gate.h"

namespace proxy {

// What few batches have. Goes with the batch: from its client, while it waits, to what is in flight at its
// server.
struct BatchExtras {
  pool::DigestHold hold;  // places under limits of concurrency
};

}  // namespace proxy
