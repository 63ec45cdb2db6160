#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"
#include "tests/support/rng.h"

// Many clients, few servers, and everything that a client says carries its own mark: a mark that another
// client hears has leaked. tests/run --differential runs this for a minute.
using namespace integration;

namespace {

constexpr std::size_t kClients = 200;
constexpr const char* kServers = "10";

// The mark of every life of a client is used once: "mark_17_3;" is the third life of the client 17.
std::string mark(std::size_t client, std::size_t life) {
  return "mark_" + std::to_string(client) + "_" + std::to_string(life) + ";";
}

// What stands in `text` of somebody else's marks; "" when nothing does.
std::string foreign_mark(std::string_view text, const std::string& own) {
  for (std::size_t at = text.find("mark_"); at != std::string_view::npos; at = text.find("mark_", at + 1)) {
    if (text.substr(at, own.size()) == own) continue;
    return std::string(text.substr(at, 30));
  }
  return "";
}

// One life of one client, from its login to whatever ends it. Every method returns what was wrong, "" for
// nothing.
class Life {
 public:
  Life(std::uint16_t port, std::size_t client, std::size_t life, std::mt19937_64& random)
      : port_(port), mark_(mark(client, life)), lock_(client * 1000000 + life), random_(random), client_(port) {}

  std::string live() {
    if (!client_.login()) return "login: " + client_.login_error.field('M');
    std::string wrong = nothing_inherited();
    const std::size_t deeds = 1 + random_() % 12;
    for (std::size_t i = 0; wrong.empty() && !in_transaction_ && i < deeds; ++i) wrong = deed();
    if (wrong.empty()) vanish();
    return wrong.empty() ? "" : mark_ + " " + wrong;
  }

 private:
  // Sends, and listens up to so many ReadyForQuery; whatever comes must not be another's.
  std::string ask(const std::string& bytes, int answers = 1) {
    heard_.clear();
    if (!client_.send(bytes)) return "the connection is lost";
    for (int i = 0; i < answers; ++i) {
      for (Message& message : client_.read_until('Z', 60s)) {
        const std::string foreign = foreign_mark(message.body, mark_);
        if (!foreign.empty()) return std::string("hears ") + message.type + " of " + foreign;
        heard_.push_back(std::move(message));
      }
      if (heard_.empty() || heard_.back().type != 'Z') return "no answer, but " + types(heard_);
    }
    return "";
  }
  std::string value() const {
    for (const Message& one : heard_)
      if (one.type == 'D') return one.columns().empty() ? "" : one.columns()[0];
    for (const Message& one : heard_)
      if (one.type == 'E') return "error " + one.field('C') + " " + one.field('M');
    return "nothing";
  }
  std::string expect(const std::string& sql, const std::string& expected) {
    if (std::string wrong = ask(query_message(sql)); !wrong.empty()) return sql + ": " + wrong;
    return value() == expected ? "" : sql + ": " + value() + " instead of " + expected;
  }
  std::string expect_types(const std::string& bytes, const std::string& expected, int answers = 1) {
    if (std::string wrong = ask(bytes, answers); !wrong.empty()) return wrong;
    return types(heard_) == expected ? "" : types(heard_) + " instead of " + expected + ": " + value();
  }

  // Nothing of those who used this server before.
  std::string nothing_inherited() {
    switch (random_() % 6) {
      case 0: return expect("select coalesce(current_setting('my.mark', true), '')", "");
      case 1: return expect("select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()", "0");
      case 2: return expect("select count(*) from pg_listening_channels()", "0");
      case 3: return expect("select coalesce(to_regclass('pg_temp.marked')::text, 'none')", "none");
      case 4: return expect("execute marked", "error 26000 prepared statement \"marked\" does not exist");
      default:
        return expect_types(bind_message("", "s") + execute_message("") + sync_message(), "EZ");
    }
  }

  std::string deed() {
    const std::string n = std::to_string(random_() % 1000);
    switch (random_() % 14) {
      case 0: return expect("select '" + mark_ + n + "'", mark_ + n);
      case 1: return setting();
      case 2: return prepared(n);
      case 3: return temporary();
      case 4: {
        const std::string wrong = expect_types(query_message("do $$ begin raise notice '" + mark_ + n + "'; end $$"), "NCZ");
        return !wrong.empty() || heard_[0].field('M') == mark_ + n ? wrong : "not its notice";
      }
      case 5: return expect("select '" + mark_ + "'::int",
                            "error 22P02 invalid input syntax for type integer: \"" + mark_ + "\"");
      case 6: return transaction(n);
      case 7: return time_out();
      case 8: return canceled();
      case 9: return expect("select pg_try_advisory_lock(" + std::to_string(lock_) + ")", "t");
      case 10: return notified(n);
      case 11: {  // a pipeline with an error in the middle
        const auto one = [this](const std::string& expression) {
          return parse_message("", "select " + expression) + bind_message("", "") + execute_message("") + sync_message();
        };
        return expect_types(one("'" + mark_ + "1'") + one("1/0") + one("'" + mark_ + "3'"), "12DCZ" "1EZ" "12DCZ", 3);
      }
      case 12: return expect("select string_agg('" + mark_ + "', '') from generate_series(1, 1000)",
                             [this] { std::string all; for (int i = 0; i < 1000; ++i) all += mark_; return all; }());
      default: {
        named_ = set_ = temporary_ = false;
        const std::string wrong = expect_types(query_message("discard all"), "CZ");
        return wrong.empty() ? nothing_inherited() : "discard all: " + wrong;
      }
    }
  }

  std::string setting() {
    if (!std::exchange(set_, true)) return expect_types(query_message("set my.mark = '" + mark_ + "'"), "CZ");
    return expect("select current_setting('my.mark')", mark_);
  }
  // All clients use one name.
  std::string prepared(const std::string& n) {
    std::string bytes, expected;
    if (!std::exchange(named_, true)) {
      bytes = parse_message("s", "select '" + mark_ + "' || $1::text");
      expected = "1";
    }
    const std::string wrong = expect_types(
        bytes + bind_message("", "s", {n}) + execute_message("") + sync_message(), expected + "2DCZ");
    return !wrong.empty() || value() == mark_ + n ? wrong : "prepared: " + value();
  }
  std::string temporary() {
    if (!std::exchange(temporary_, true))
      return expect_types(query_message("create temp table marked as select '" + mark_ + "' as m"), "CZ");
    return expect("select m from marked", mark_);
  }
  std::string transaction(const std::string& n) {
    const bool commit = random_() % 2 == 0;
    std::string wrong = expect_types(query_message("begin"), "CZ");
    if (wrong.empty())
      wrong = expect("insert into marks values ('" + mark_ + n + "', " + (commit ? "true" : "false") + ") returning m",
                     mark_ + n);
    if (wrong.empty()) wrong = expect("select count(*) from marks where not kept and m not like '" + mark_ + "%'", "0");
    in_transaction_ = random_() % 4 == 0;  // which is the last that is heard of it
    if (!wrong.empty() || in_transaction_) return wrong;
    return expect_types(query_message(commit ? "commit" : "rollback"), "CZ");
  }
  std::string time_out() {
    return expect("begin; set local statement_timeout = 5; select '" + mark_ + "', pg_sleep(30); commit",
                  "error 57014 canceling statement due to statement timeout")
               .append(expect_types(query_message("rollback"), "CZ"));
  }
  std::string canceled() {
    if (!client_.send(query_message("select '" + mark_ + "' from pg_sleep(0.02)"))) return "lost";
    {
      RawClient canceller(port_);
      canceller.send(cancel_request(client_.pid, client_.key));
      canceller.wait_closed();
    }
    if (const std::string wrong = ask(""); !wrong.empty()) return wrong;
    if (value() != mark_ && !value().starts_with("error 57014 ")) return "canceled: " + value();
    // Postgres may get its signal after that statement: then the next is hit, which is still ours.
    return ask(query_message("select 1"));
  }
  std::string notified(const std::string& n) {
    const std::string channel = "\"" + mark_ + "\"";
    const std::string wrong =
        expect_types(query_message("listen " + channel + "; notify " + channel + ", '" + mark_ + n + "'"), "CCAZ");
    return !wrong.empty() || heard_[2].body.find(mark_ + n) != std::string::npos ? wrong : "not its notification";
  }

  // Ends in the middle of something.
  void vanish() {
    switch (random_() % 6) {
      case 0: client_.send(terminate_message()); return;
      case 1: client_.send(query_message("begin; insert into marks values ('" + mark_ + "', false)")); break;
      case 2: client_.send(query_message("select '" + mark_ + "' from pg_sleep(0.01)")); break;
      case 3: client_.send(query_message("select '" + mark_ + "'").substr(0, 9)); break;
      case 4: client_.send(parse_message("half", "select '" + mark_ + "'")); break;
      default: client_.send(query_message("copy marks from stdin") + message('d', mark_ + "\tf\n")); break;
    }
    client_.reset();
  }

  std::uint16_t port_;
  std::string mark_;
  std::size_t lock_;
  std::mt19937_64& random_;
  RawClient client_;
  std::vector<Message> heard_;
  bool set_ = false, named_ = false, temporary_ = false, in_transaction_ = false;
};

}  // namespace

TEST_SUITE("differential") {
  TEST_CASE(
      "promise 4: of two hundred clients that fail, are cancelled and vanish on ten servers, none hears "
      "another's mark [multi-worker]") {
    const char* given = std::getenv("PGSLUICE_MARKER_SECONDS");
    const auto period = std::chrono::seconds(given == nullptr ? 4 : std::atoi(given));
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "marks", "m text, kept boolean");
    ProxyProcess proxy(config_for(cluster)
                           .set("", "workers", "2")
                           .set("pool", "size", kServers)
                           .set("pool", "queue_timeout", "\"60s\""));
    REQUIRE(eventually([&] { return proxy.ready(2); }));
    const Stopwatch watch;
    std::atomic<std::size_t> lives{0};
    std::atomic<bool> wrong{false};
    const auto problems = at_once(kClients, [&](std::size_t client) -> std::string {
      std::mt19937_64 random = rng(client + 1);
      for (std::size_t life = 0; watch.elapsed() < period && !wrong; ++life, ++lives) {
        const std::string problem = Life(proxy.port(), client, life, random).live();
        if (problem.empty()) continue;
        wrong = true;
        return problem;
      }
      return "";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
    CHECK(lives > kClients);
    // What the dead have left: nothing.
    CHECK(cluster.ask(0, "select count(*) from marks where not kept") == "0");
    CHECK(eventually([&] {
      return cluster.ask(0, "select count(*) from pg_locks l join pg_stat_activity a using (pid) "
                            "where l.locktype = 'advisory' and a.usename = 'app'") == "0" &&
             cluster.ask(0, "select count(*) from pg_stat_activity where usename = 'app' and state <> 'idle'") == "0";
    }));
  }
}
