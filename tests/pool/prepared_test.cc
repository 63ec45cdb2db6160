#include "pool/prepared.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <list>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/rng.h"

using namespace pool;

namespace {

// What follows the name in a Parse message: text, NUL, count and types of the parameters.
std::string tail_of(std::string text, std::string types = std::string("\0\0", 2)) {
  return std::move(text) + '\0' + types;
}

PreparedRef statement(std::uint32_t id) {
  auto made = std::make_shared<Prepared>();
  made->id = id;
  made->server_name = "pgsluice_" + std::to_string(id);
  return made;
}

}  // namespace

TEST_SUITE("pool/prepared registry") {
  TEST_CASE("the same text and types are one statement, whoever asks") {
    PreparedRegistry registry;
    const PreparedRef first = registry.intern(tail_of("select 1"));
    CHECK(registry.intern(tail_of("select 1")) == first);
    CHECK(registry.size() == 1);
  }

  TEST_CASE("another text, another type or another count of types is another statement") {
    PreparedRegistry registry;
    const PreparedRef plain = registry.intern(tail_of("select $1"));
    const PreparedRef typed = registry.intern(tail_of("select $1", {"\0\1\0\0\0\x17", 6}));
    const PreparedRef other_type = registry.intern(tail_of("select $1", {"\0\1\0\0\0\x19", 6}));
    const PreparedRef text = registry.intern(tail_of("select  $1"));
    const std::set<std::uint32_t> ids = {plain->id, typed->id, other_type->id, text->id};
    CHECK(ids.size() == 4);
    const std::set<std::string> names = {plain->server_name, typed->server_name,
                                         other_type->server_name, text->server_name};
    CHECK(names.size() == 4);
  }

  TEST_CASE("requirement 15: the same text read by other settings is another statement") {
    PreparedRegistry registry;
    const PreparedRef plain = registry.intern(tail_of("select 1"));
    const SettingsSet in_tokyo{.entries = {{.name = "timezone", .value = "'Asia/Tokyo'"}}};
    const PreparedRef tokyo = registry.intern(tail_of("select 1"), in_tokyo);
    CHECK(tokyo != plain);
    CHECK(tokyo->tail == plain->tail);
    CHECK(registry.intern(tail_of("select 1"), in_tokyo) == tokyo);
    CHECK(registry.intern(tail_of("select 1"), in_tokyo, "a client's own") != tokyo);
    const PreparedRef renewed = registry.renew(tokyo);
    CHECK(renewed->read_by.entries == tokyo->read_by.entries);
    CHECK(registry.intern(tail_of("select 1"), in_tokyo) == renewed);
    CHECK(registry.intern(tail_of("select 1")) == plain);
  }

  TEST_CASE("a statement knows its text, its whole tail and its name on servers") {
    PreparedRegistry registry;
    const PreparedRef made = registry.intern(tail_of("select $1", {"\0\1\0\0\0\x17", 6}));
    CHECK(made->text() == "select $1");
    CHECK(made->tail == tail_of("select $1", {"\0\1\0\0\0\x17", 6}));
    CHECK(made->server_name == "pgsluice_" + std::to_string(made->id));
    CHECK(made->id != 0);  // which means "none"
  }

  TEST_CASE("a number is never given again, even when nobody has the statement any more") {
    PreparedRegistry registry;
    PreparedRef held = registry.intern(tail_of("select 1"));
    const std::uint32_t before = held->id;
    held = nullptr;
    const PreparedRef again = registry.intern(tail_of("select 1"));
    CHECK(again->id != before);
    CHECK(registry.size() == 1);
  }

  TEST_CASE("what nobody holds does not pile up") {
    PreparedRegistry registry;
    const PreparedRef kept = registry.intern(tail_of("kept"));
    for (int i = 0; i < 10'000; ++i) (void)registry.intern(tail_of("select " + std::to_string(i)));
    CHECK(registry.size() <= 1025);
    CHECK(registry.intern(tail_of("kept")) == kept);
  }

  TEST_CASE("what somebody holds survives every sweep") {
    PreparedRegistry registry;
    std::vector<PreparedRef> held;
    for (int i = 0; i < 3'000; ++i)
      held.push_back(registry.intern(tail_of("select " + std::to_string(i))));
    for (int i = 0; i < 5'000; ++i) (void)registry.intern(tail_of("gone " + std::to_string(i)));
    bool same = true;
    for (int i = 0; i < 3'000; ++i)
      same &= registry.intern(tail_of("select " + std::to_string(i))) ==
              held[static_cast<std::size_t>(i)];
    CHECK(same);
    CHECK(registry.size() < 8'000);
  }

  TEST_CASE("workers that prepare at once agree on every statement") {
    PreparedRegistry registry;
    std::vector<std::vector<PreparedRef>> got(4);
    std::vector<std::thread> threads;
    for (auto& mine : got)
      threads.emplace_back([&registry, &mine] {
        for (int i = 0; i < 1'000; ++i) {
          (void)registry.intern(tail_of("gone " + std::to_string(i)));
          mine.push_back(registry.intern(tail_of("select " + std::to_string(i))));
        }
      });
    for (std::thread& thread : threads) thread.join();
    for (const auto& mine : got) CHECK(mine == got[0]);
    std::set<std::uint32_t> ids;
    for (const PreparedRef& one : got[0]) ids.insert(one->id);
    CHECK(ids.size() == 1'000);
  }
}

TEST_SUITE("pool/prepared of a server") {
  TEST_CASE("a statement is known from when it was added to when it was removed") {
    ServerStatements known;
    CHECK_FALSE(known.touch(1));
    known.add(statement(1));
    CHECK(known.touch(1));
    CHECK_FALSE(known.touch(2));
    known.remove(1);
    CHECK_FALSE(known.touch(1));
    CHECK(known.size() == 0);
    known.remove(1);  // twice is once
    CHECK(known.size() == 0);
  }

  TEST_CASE("a statement that is added twice is there once") {
    ServerStatements known;
    known.add(statement(1));
    known.add(statement(2));
    known.add(statement(1));
    CHECK(known.size() == 2);
    CHECK(known.evict()->id == 2);
  }

  TEST_CASE("requirement 15: the one not used for longest is evicted first") {
    ServerStatements known;
    for (std::uint32_t id = 1; id <= 4; ++id) known.add(statement(id));
    CHECK(known.touch(1));
    CHECK(known.touch(3));
    CHECK(known.touch(3));
    CHECK(known.evict()->id == 2);
    CHECK(known.evict()->id == 4);
    CHECK(known.evict()->id == 1);
    CHECK(known.evict()->id == 3);
    CHECK(known.evict() == nullptr);
  }

  TEST_CASE("the one used last is forgotten like any other") {
    ServerStatements known;
    known.add(statement(1));
    SUBCASE("removed") { known.remove(1); }
    SUBCASE("evicted") { CHECK(known.evict()->id == 1); }
    SUBCASE("cleared") { known.clear(); }
    CHECK_FALSE(known.touch(1));
    known.add(statement(1));
    CHECK(known.size() == 1);
  }

  TEST_CASE("any sequence of uses keeps the order of a plain list") {
    auto random = support::rng(2);
    ServerStatements known;
    std::list<std::uint32_t> model;  // most recent last
    bool same = true;
    for (int step = 0; step < 20'000 && same; ++step) {
      const auto id = static_cast<std::uint32_t>(random() % 12 + 1);
      const bool was_there = std::find(model.begin(), model.end(), id) != model.end();
      switch (random() % 16) {
        case 0:
          known.remove(id);
          model.remove(id);
          break;
        case 1: {
          const PreparedRef oldest = known.evict();
          same = (oldest == nullptr ? 0 : oldest->id) == (model.empty() ? 0 : model.front());
          if (!model.empty()) model.pop_front();
          break;
        }
        case 2:
          if (random() % 20 == 0) {
            known.clear();
            model.clear();
          }
          break;
        case 3:
        case 4:
        case 5:
          known.add(statement(id));
          model.remove(id);
          model.push_back(id);
          break;
        default:
          same = known.touch(id) == was_there;
          if (was_there) {
            model.remove(id);
            model.push_back(id);
          }
      }
      same = same && known.size() == model.size();
    }
    CHECK(same);
  }

  TEST_CASE("requirement 16: a renewed statement is another one, for everybody and once") {
    PreparedRegistry registry;
    const std::string tail("select 1\0\0\0", 11);
    const PreparedRef old = registry.intern(tail);
    const PreparedRef fresh = registry.renew(old);
    CHECK(fresh != old);
    CHECK(fresh->tail == old->tail);
    CHECK(fresh->server_name != old->server_name);
    CHECK(registry.intern(tail) == fresh);
    CHECK(registry.renew(old) == fresh);
    CHECK(registry.renew(fresh) != fresh);
    CHECK(registry.size() == 1);
    ServerStatements server;
    server.add(old);
    CHECK(server.find(old->id) == old);
    CHECK(server.find(fresh->id) == nullptr);
  }
}
