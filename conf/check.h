#pragma once

#include <cstdio>
#include <cstdlib>

// Our own invariants. A broken one is our bug: the process says which and stops, in release builds
// too, because a crash costs a reconnect and a wrong answer costs data. What the outside world does
// wrong is a Result, never an ENSURE. (The name CHECK belongs to doctest; see README.md.)
#define ENSURE(condition)                                    \
  do {                                                       \
    if (!(condition)) [[unlikely]]                           \
      ::conf::ensure_failed(#condition, __FILE__, __LINE__); \
  } while (false)

namespace conf {

[[noreturn]] inline void ensure_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "pgsluice: broken invariant: %s (%s:%d)\n", condition, file, line);
  std::abort();
}

}  // namespace conf
