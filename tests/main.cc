#define DOCTEST_CONFIG_IMPLEMENT
#include <csignal>
#include <cstdio>

#include <doctest/doctest.h>

#include "tests/support/rng.h"

// The main of every test binary: doctest, plus the seed of this run, which PGSLUICE_SEED overrides.
int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed peer is a result that tests look at, not an end
  std::printf("seed: PGSLUICE_SEED=%llu\n", static_cast<unsigned long long>(support::seed()));
  std::fflush(stdout);
  doctest::Context context(argc, argv);
  return context.run();
}
