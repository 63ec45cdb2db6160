#include "tests/integration/fixture.h"

// That the drills of bench/ play, on a small scale: what they print is right before their figures mean anything.
// The figures are not looked at.
using namespace integration;

namespace {

// What the script says.
std::string play(const std::string& script, std::vector<std::string> options) {
  std::vector<std::string> command = {"/usr/bin/python3", "-B", std::string(PGSLUICE_SOURCE_ROOT) + "/bench/" + script,
                                      "--binary", proxy_binary()};
  for (std::string& option : options) command.push_back(std::move(option));
  const Finished played = run(command);
  CHECK_MESSAGE(played.status == 0, played.output);
  return played.output;
}

bool says(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }

}  // namespace

TEST_SUITE("integration/bench") {
  TEST_CASE("bench/stampede plays, on a small scale") {
    const std::string output = play("stampede", {"--clients", "60", "--smoke"});
    CHECK_MESSAGE(says(output, "60 right answers"), output);
  }

  TEST_CASE("bench/cascade plays, on a small scale") {
    const std::string output = play("cascade", {"--quick", "--only", "pgsluice"});
    CHECK_MESSAGE(says(output, "during  noisy"), output);
    CHECK_MESSAGE(says(output, "others' success >= 99 %"), output);
  }

  TEST_CASE("bench/crowd plays, on a small scale") {
    const std::string output =
        play("crowd", {"--idle-clients", "50", "--logins", "10", "--rate", "50", "--seconds", "1"});
    CHECK_MESSAGE(says(output, "bytes per idle client"), output);
    CHECK_MESSAGE(says(output, "; 0 failed"), output);
  }

  TEST_CASE("bench/transactions plays, on a small scale") {
    const std::string output = play("transactions", {"--seconds", "1"});
    CHECK_MESSAGE(says(output, "migrate"), output);
    CHECK_MESSAGE(!says(output, "migrate           0 reads"), output);
  }

  TEST_CASE("bench/compare plays, on a small scale") {
    const std::string output = play("compare", {"--rows", "select-simple", "--contenders", "direct,pgsluice",
                                                "--rounds", "1", "--seconds", "1", "--quick"});
    CHECK_MESSAGE(says(output, "CPU us/tx"), output);
    CHECK_MESSAGE(says(output, "how pgsluice spread its reads"), output);
  }
}
