#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>

// Random statements over schema.sql for the judge of the classifier: SELECTs of every shape, and now and then
// something in them, however deep, that must not run on a standby.
namespace judge {

struct Statement {
  std::string sql;
  // A standby may run it without complaint, and it must go to the primary all the same: what it names, else "".
  std::string_view trap;
};

class Statements {
 public:
  explicit Statements(std::uint64_t seed) : random_(seed) {}
  Statement next();

 private:
  template <std::size_t N>
  std::string_view one_of(const std::string_view (&list)[N]) {
    return list[random_() % N];
  }
  bool chance(unsigned percent) { return random_() % 100 < percent; }
  std::string_view trapped(std::string_view what) { return trap_ = what; }

  std::string query(int depth);
  std::string body(int depth);
  std::string source(int depth);
  std::string relation();
  std::string number(int depth);
  std::string condition(int depth);
  std::string change();

  std::mt19937_64 random_;
  std::string_view trap_;
  int ctes_ = 0, aliases_ = 0;
};

}  // namespace judge
