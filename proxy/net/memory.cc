#include "proxy/net/memory.h"

#include <uv.h>

namespace net {

std::uint64_t memory_allowed() {
  const std::uint64_t machine = uv_get_total_memory(), group = uv_get_constrained_memory();
  return group > 0 && group < machine ? group : machine;
}

std::uint64_t memory_in_use() {
  std::size_t used = 0;
  return uv_resident_set_memory(&used) == 0 ? used : 0;
}

}  // namespace net
