#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <thread>

#include "tests/differential/generator.h"
#include "tests/differential/player.h"
#include "tests/integration/fixture.h"
#include "tests/support/rng.h"

// Postgres's own words as the judge: the same random sessions straight to Postgres and through a proxy with
// fewer servers than clients, message by message. tests/run --differential runs ten thousand of them.
using namespace integration;
using namespace differential;

namespace {

constexpr std::size_t kSlots = 12;    // sessions at the same time
constexpr const char* kServers = "3";  // for all of them
// Differences, after which a run ends: a long one finds more of what is to be mended at once.
constexpr std::size_t kEnough = 3, kEnoughOfLong = 12;

// What is known to differ, and why: answers of Postgres and of pgsluice to one step.
struct Known {
  const char* what;
  const char* reason;
  bool (*fits)(const Player::Lines& direct, const Player::Lines& proxied);
};

// Up to its ReadyForQuery each; what is behind the last is one more.
std::vector<Player::Lines> sequences(const Player::Lines& lines) {
  std::vector<Player::Lines> found(1);
  for (const std::string& line : lines) {
    found.back().push_back(line);
    if (line.starts_with("ReadyForQuery")) found.emplace_back();
  }
  return found;
}

// The failed transaction refused one of the messages; Postgres has refused the same one, or has counted its
// parameters before that, or it was a Describe that it has answered, and went on to what is behind it.
bool refused_alike(const Player::Lines& direct, const Player::Lines& proxied) {
  if (direct == proxied) return true;
  const auto error_of = [](const Player::Lines& lines) {
    return std::ranges::find_if(lines, [](const std::string& line) { return line.starts_with("Error "); });
  };
  const auto has_code = [](const std::string& line, std::string_view code) {
    return line.find(" C=\"" + std::string(code) + "\" ") != line.npos;
  };
  const auto other = error_of(proxied);
  if (other == proxied.end() || !has_code(*other, "25P02")) return false;
  // In both: what is before the refusal, and behind it.
  const Player::Lines before(proxied.begin(), other), behind(other + 1, proxied.end());
  if (direct.size() < before.size() + behind.size() ||
      !std::equal(before.begin(), before.end(), direct.begin()) ||
      !std::equal(behind.rbegin(), behind.rend(), direct.rbegin()))
    return false;
  Player::Lines instead(direct.begin() + std::ssize(before), direct.end() - std::ssize(behind));
  if (instead.empty()) return false;
  if (instead.size() == 1 && (has_code(instead[0], "25P02") || has_code(instead[0], "08P01"))) return true;
  if (!instead.front().starts_with("ParameterDescription")) return false;
  if (instead.back().starts_with("Error ")) instead.pop_back();
  return std::ranges::all_of(instead, [](const std::string& line) {
    return line.starts_with("ParameterDescription") || line.starts_with("NoData") ||
           line.starts_with("CloseComplete");
  });
}

const std::vector<Known> kKnown = {
    {"which message of a sequence a failed transaction refuses",
     "A statement that the server lacks is parsed ahead of its Bind or Describe, and it is that Parse that is "
     "refused (25P02), where Postgres answers the Describe of a statement without rows and goes on behind it, "
     "or finds first that a Bind has not as many parameters as there are (08P01).",
     [](const Player::Lines& direct, const Player::Lines& proxied) {
       return std::ranges::equal(sequences(direct), sequences(proxied), refused_alike);
     }},
    {"the name of a statement in an error, when the client gave two names to one text",
     "On the server it is one statement, whose name is replaced by one of the client's.",
     [](const Player::Lines& direct, const Player::Lines& proxied) {
       const auto without_name = [](std::string line) {
         const std::size_t at = line.find("prepared statement \"s");
         if (at != std::string::npos) line.erase(at + 20, 4);
         return line;
       };
       return std::ranges::equal(direct, proxied, {}, without_name, without_name);
     }},
};

// Waiting for what Postgres does not say is the player's mistake.
bool same(const Player::Lines& direct, const Player::Lines& proxied) {
  if (!direct.empty() && direct.back() == "(no answer)") return false;
  return direct == proxied || std::ranges::any_of(kKnown, [&](const Known& one) {
           return one.fits(direct, proxied);
         });
}

struct Ports {
  std::uint16_t direct, proxied;
};

struct Difference {
  std::size_t step = 0;  // so many steps were answered alike
  Player::Lines direct, proxied;
};

// Plays a script on both sides, in step. None: both heard the same.
std::optional<Difference> play_both(const Script& script, const Ports& ports,
                                    std::chrono::milliseconds deadline) {
  Player direct(ports.direct, "diff_direct", deadline), proxied(ports.proxied, "diff_proxied", deadline);
  std::optional<Difference> found;
  const auto compare = [&found](std::size_t step, Player::Lines one, Player::Lines other) {
    if (!same(one, other)) found = Difference{step, std::move(one), std::move(other)};
    return !found;
  };
  bool alike = compare(0, direct.login(script), proxied.login(script));
  for (std::size_t i = 0; alike && i < script.steps.size() && !(direct.over() && proxied.over()); ++i)
    alike = compare(i + 1, direct.play(script.steps[i]), proxied.play(script.steps[i]));
  direct.leave(script.says_goodbye);
  proxied.leave(script.says_goodbye);
  return found;
}

std::string report(const Script& script, const Difference& difference) {
  std::string text = readable(script, difference.step) + "Postgres:\n";
  for (const std::string& line : difference.direct) text += "    " + line + "\n";
  text += "pgsluice:\n";
  for (const std::string& line : difference.proxied) text += "    " + line + "\n";
  return text;
}

// Other sessions that take servers away and give them back changed, while one is looked at.
class Company {
 public:
  // `absent`: the slot of the session that is looked at.
  Company(const Ports& ports, std::uint64_t seed, std::size_t absent, Nodes nodes) {
    for (std::size_t slot = 0; slot < kSlots; ++slot)
      if (slot != absent) threads_.emplace_back([this, ports, seed, slot, nodes] {
        for (std::size_t number = slot; !stop_; number += kSlots)
          (void)play_both(generate(seed, number, slot, nodes), ports, 2s);
      });
  }
  ~Company() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

// The smallest script found within a minute that still makes a difference: steps are left out, then
// messages. `in_company`: it does so only among others.
class Shrinker {
 public:
  Shrinker(const Ports& ports, std::uint64_t seed, std::size_t slot, Nodes nodes)
      : ports_(ports), seed_(seed), slot_(slot), nodes_(nodes) {}

  std::pair<Script, Difference> shrink(Script script, Difference difference) {
    script_ = std::move(script);
    difference_ = std::move(difference);
    script_.steps.resize(std::min(script_.steps.size(), difference_.step));
    std::optional<Company> company;
    if (!fails(script_, 3)) {
      company.emplace(ports_, seed_ + 1, slot_, nodes_);
      tries_ = 10;
      if (!fails(script_, 30)) {
        note = "It was seen once, and not again in 33 attempts.";
        return {script_, difference_};
      }
      note = "It needs other sessions at the same time.";
    }
    for (std::size_t size = script_.steps.size(); size > 0; size /= 2) drop_steps(size);
    for (std::size_t i = 0; i < script_.steps.size(); ++i) drop_messages(i);
    drop_steps(1);
    while (!script_.startup.empty()) {
      Script shorter = script_;
      shorter.startup.pop_back();
      if (!keep(shorter)) break;
    }
    return {script_, difference_};
  }
  std::string note;

 private:
  bool fails(const Script& script, int attempts) {
    for (int i = 0; i < attempts; ++i) {
      auto found = play_both(script, ports_, 3s);
      if (!found) continue;
      difference_ = *std::move(found);
      return true;
    }
    return false;
  }
  bool keep(const Script& shorter) {
    if (watch_.elapsed() > 60s || !fails(shorter, tries_)) return false;
    script_ = shorter;
    script_.steps.resize(std::min(script_.steps.size(), difference_.step));
    return true;
  }
  void drop_steps(std::size_t size) {
    for (std::size_t end = script_.steps.size(); end >= size && end > 0; --end) {
      if (end > script_.steps.size()) continue;
      Script shorter = script_;
      shorter.steps.erase(shorter.steps.begin() + static_cast<std::ptrdiff_t>(end - size),
                          shorter.steps.begin() + static_cast<std::ptrdiff_t>(end));
      keep(shorter);
    }
  }
  void drop_messages(std::size_t step) {
    for (std::size_t at = script_.steps[step].messages.size(); at > 0; --at) {
      if (step >= script_.steps.size() || at > script_.steps[step].messages.size()) continue;
      Script shorter = script_;
      auto& messages = shorter.steps[step].messages;
      messages.erase(messages.begin() + static_cast<std::ptrdiff_t>(at - 1));
      keep(shorter);
    }
  }

  Ports ports_;
  std::uint64_t seed_;
  std::size_t slot_;
  Nodes nodes_;
  Script script_;
  Difference difference_;
  int tries_ = 1;
  Stopwatch watch_;
};

// Two databases with the same content: one for each side.
void make_databases(PgCluster& cluster) {
  Connection admin = cluster.connect(0, "postgres");
  for (const std::string name : {"diff_direct", "diff_proxied"}) {
    admin.exec("drop database if exists " + name + " with (force)");
    const Result made = admin.exec("create database " + name + " owner app");
    REQUIRE_MESSAGE(made.ok(), made.message());
  }
  REQUIRE(admin.exec(roles_sql()).ok());
  for (const std::string name : {"diff_direct", "diff_proxied"}) {
    const Result made = cluster.connect(0, name).exec("set role app; " + schema_sql(kSlots));
    REQUIRE_MESSAGE(made.ok(), made.message());
  }
  cluster.wait_replicated();
}

void drop_databases(PgCluster& cluster) {
  Connection admin = cluster.connect(0, "postgres");
  for (const std::string name : {"diff_direct", "diff_proxied"})
    admin.exec("drop database if exists " + name + " with (force)");
}

std::size_t sessions_or(std::size_t usual) {
  const char* given = std::getenv("PGSLUICE_DIFFERENTIAL");
  return given == nullptr ? usual : static_cast<std::size_t>(std::atoll(given));
}

void run(const ProxyConfig& config, std::size_t sessions, Nodes nodes) {
  PgCluster& cluster = shared_cluster();
  make_databases(cluster);
  nodes.postgres = std::stoi(cluster.ask(0, "show server_version_num")) / 10000;
  {
    ProxyProcess proxy(config);
    const Ports ports{cluster.port(0), proxy.port()};
    // The few sessions of a usual run are always the same.
    const bool long_run = std::getenv("PGSLUICE_DIFFERENTIAL") != nullptr;
    const std::uint64_t seed = long_run ? support::seed() : 4;
    const std::size_t enough = long_run ? kEnoughOfLong : kEnough;
    std::atomic<std::size_t> found{0};
    std::mutex mutex;
    struct Found {
      std::size_t number;
      Script script;
      Difference difference;
    };
    std::vector<Found> differences;
    std::atomic<std::size_t> played{0};
    at_once(kSlots, [&](std::size_t slot) -> std::string {
      for (std::size_t number = slot; number < sessions && found < enough; number += kSlots) {
        const Script script = generate(seed, number, slot, nodes);
        auto difference = play_both(script, ports, 20s);
        ++played;
        if (!difference) continue;
        ++found;
        const std::lock_guard lock(mutex);
        differences.push_back({number, script, *std::move(difference)});
      }
      return "";
    });
    for (Found& one : differences) {
      const std::string whole = report(one.script, one.difference);
      Shrinker shrinker(ports, seed, one.number % kSlots, nodes);
      const auto [script, difference] = shrinker.shrink(one.script, one.difference);
      FAIL_CHECK("session " << one.number << " of seed " << seed << "\n"
                            << (std::getenv("PGSLUICE_KEEP") != nullptr ? whole : "") << "--- made small: "
                            << shrinker.note << "\n"
                            << report(script, difference));
    }
    if (long_run) {
      std::cout << played << " sessions played, " << differences.size() << " differ. Not compared:\n";
      for (const Exclusion& one : kExclusions) std::cout << "  " << one.what << "\n    " << one.reason << "\n";
      for (const Known& one : kKnown) std::cout << "  " << one.what << "\n    " << one.reason << "\n";
    }
    CHECK(differences.empty());
  }
  drop_databases(cluster);
}

}  // namespace

TEST_SUITE("differential") {
  TEST_CASE("promise 5: random sessions hear from pgsluice what they hear from Postgres") {
    const ProxyConfig config = config_for(shared_cluster())
                                   .servers({shared_cluster().address(0)})
                                   .set("pool", "size", kServers)
                                   .set("pool", "queue_timeout", "\"60s\"");
    run(config, sessions_or(60), {.replicas = false});
  }

  TEST_CASE("promises 2 and 5: random sessions hear the same when replicas serve their reads") {
    const ProxyConfig config = config_for(shared_cluster())
                                   .set("pool", "size", kServers)
                                   .set("pool", "queue_timeout", "\"60s\"")
                                   .set("routing", "consistency", "\"session\"");
    run(config, sessions_or(25), {.replicas = true});
  }
}
