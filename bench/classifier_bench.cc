// How long the classifier takes: on a hit (lexer, digest, look-up), on a hit of a statement whose
// literals matter (two look-ups), and on a miss (the grammar). Prints nanoseconds of this thread's
// processor time per statement, the best of several rounds, as other work on the machine only adds.
//
//   classifier_bench [milliseconds per round, default 100]

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <time.h>

#include "routing/classifier.h"
#include "routing/lexer.h"

namespace {

double thread_ns() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

template <class Work>
double best_ns(double round_ms, Work work) {
  double best = 1e18;
  for (int round = 0; round < 7; ++round) {
    std::size_t runs = 0;
    const double start = thread_ns();
    double ns = 0;
    do {
      for (int i = 0; i < 256; ++i) work();
      runs += 256;
      ns = thread_ns() - start;
    } while (ns < round_ms * 1e6);
    best = std::min(best, ns / static_cast<double>(runs));
  }
  return best;
}

struct Row {
  const char* what;
  const char* sql;
};

constexpr Row kRows[] = {
    {"pgbench select", "SELECT abalance FROM pgbench_accounts WHERE aid = 1234567;"},
    {"prepared select", "SELECT abalance FROM pgbench_accounts WHERE aid = $1;"},
    {"pgbench update",
     "UPDATE pgbench_accounts SET abalance = abalance + -2345 WHERE aid = 1234567;"},
    {"BEGIN", "BEGIN"},
    {"COMMIT", "COMMIT;"},
    {"SET (by text)", "SET application_name = 'worker 7'"},
    {"ORM select",
     "SELECT \"users\".\"id\", \"users\".\"name\", \"users\".\"email\", \"users\".\"created_at\" "
     "FROM \"users\" "
     "INNER JOIN \"orders\" ON \"orders\".\"user_id\" = \"users\".\"id\" WHERE \"users\".\"state\" "
     "= 'active' "
     "AND \"orders\".\"total\" > 99.50 ORDER BY \"users\".\"created_at\" DESC LIMIT 20 OFFSET 40"},
    {"IN list of 50",
     "SELECT * FROM t WHERE id IN "
     "(101,102,103,104,105,106,107,108,109,110,111,112,113,114,115,116,117,118,119,"
     "120,121,122,123,124,125,126,127,128,129,130,131,132,133,134,135,136,137,138,139,140,141,142,"
     "143,144,145,"
     "146,147,148,149,150)"},
};

}  // namespace

int main(int argc, char** argv) {
  const double round_ms = argc > 1 ? std::atof(argv[1]) : 100;
  const routing::DigestKey key = routing::DigestKey::random();
  routing::Classifier classifier({.cache_entries = 10'000, .max_statement = 64 * 1024});
  std::uint64_t keep = 0;
  std::printf("%-18s %6s %10s %10s %10s\n", "statement", "bytes", "digest ns", "hit ns", "miss ns");
  for (const Row& row : kRows) {
    const std::string sql = row.sql;
    const double digest = best_ns(round_ms, [&] { keep += routing::digest(sql, true, key).check; });
    const double hit = best_ns(round_ms, [&] { keep += classifier.classify(sql, true)->digest; });
    std::uint64_t version = 0;
    routing::Scope scope;
    routing::Classifier small({.cache_entries = 8, .max_statement = 64 * 1024});
    const double miss = best_ns(round_ms, [&] {
      scope.version = ++version;  // nothing is known in it
      keep += small.classify(sql, true, routing::Classifier::Encoding::ascii_safe, scope)->digest;
    });
    std::printf("%-18s %6zu %10.0f %10.0f %10.0f\n", row.what, sql.size(), digest, hit, miss);
  }
  // Many shapes: the cache's memory is no longer in the processor's.
  std::vector<std::string> shapes;
  for (int i = 0; i < 8000; ++i) {
    shapes.push_back("SELECT c" + std::to_string(i) +
                     " FROM pgbench_accounts WHERE aid = " + std::to_string(i));
  }
  for (const std::string& s : shapes) classifier.classify(s, true);
  std::size_t next = 0;
  const double spread = best_ns(round_ms, [&] {
    keep += classifier.classify(shapes[next], true)->digest;
    next = next + 1 == shapes.size() ? 0 : next + 1;
  });
  std::printf("%-18s %6s %10s %10.0f\n", "8000 shapes", "", "", spread);
  return keep == 1 ? 1 : 0;  // keeps the compiler from leaving the work out
}
