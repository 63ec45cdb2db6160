#include "pool/session_settings.h"

#include <algorithm>
#include <cstdint>

#include <doctest/doctest.h>

using namespace pool;
using routing::SettingChange;
using What = SettingChange::What;

namespace {

Setting startup(std::string name, std::string value) {
  return {std::move(name), std::move(value), true};
}
Setting setting(std::string name, std::string value) {
  return {std::move(name), std::move(value), false};
}
SettingChange set(std::string name, std::string value) {
  return {What::set, std::move(name), std::move(value)};
}
SettingChange reset(std::string name) { return {What::reset, std::move(name), {}}; }
SettingChange savepoint(std::string name) { return {What::savepoint, std::move(name), {}}; }
SettingChange release(std::string name) { return {What::release, std::move(name), {}}; }
SettingChange rollback_to(std::string name) { return {What::rollback_to, std::move(name), {}}; }
const SettingChange kCommit{What::commit, {}, {}}, kRollback{What::rollback, {}, {}};

std::string replay(std::vector<Setting> from, std::vector<Setting> to) {
  SettingsInterner interner;
  return replay_sql(*interner.intern(std::move(from)), *interner.intern(std::move(to)));
}

struct Session {
  SettingsInterner interner;
  SessionSettings settings;

  explicit Session(std::vector<Setting> at_startup = {})
      : settings(interner.intern(std::move(at_startup))) {}
  void run(std::vector<SettingChange> changes, bool in_transaction = false) {
    settings.apply(changes, false, interner);
    if (!in_transaction) settings.end_transaction(true);
  }
  // A batch of a transaction that had failed before it.
  void run_aborted(std::vector<SettingChange> changes) { settings.apply(changes, true, interner); }
  // "" when it is not set.
  std::string value(std::string_view name) const {
    for (const Setting& entry : settings.current()->entries)
      if (entry.name == name) return entry.value;
    return {};
  }
};

}  // namespace

TEST_SUITE("pool/session_settings") {
  TEST_CASE("sessions with the same settings share one object, in whatever order they were made") {
    SettingsInterner interner;
    const SettingsRef a = interner.intern({setting("b", "2"), setting("a", "1")});
    const SettingsRef b = interner.intern({setting("a", "1"), setting("b", "2")});
    CHECK(a == b);
    CHECK(interner.intern({setting("a", "1")}) != a);
    CHECK(interner.intern({startup("a", "1"), setting("b", "2")}) != a);
    CHECK(interner.intern({}) == interner.empty());
    CHECK(interner.size() == 1);  // the other two are gone already
  }

  TEST_CASE("names compare without case, and the last of several wins") {
    SettingsInterner interner;
    const SettingsRef set =
        interner.intern({startup("DateStyle", "ISO"), startup("datestyle", "German")});
    REQUIRE(set->entries.size() == 1);
    CHECK(set->entries[0] == startup("datestyle", "German"));
  }

  TEST_CASE("sets that nobody has any more are forgotten") {
    SettingsInterner interner;
    const SettingsRef kept = interner.intern({setting("kept", "1")});
    for (int i = 0; i < 10'000; ++i) interner.intern({setting("a", std::to_string(i))});
    CHECK(interner.size() == 1);
    CHECK(interner.intern({setting("kept", "1")}) == kept);
  }

  TEST_CASE("another worker's set becomes this worker's own") {
    SettingsInterner mine, other;
    const SettingsRef theirs = other.intern({setting("a", "1")});
    const SettingsRef ours = mine.intern({setting("a", "1")});
    CHECK(mine.adopt(theirs) == ours);
    CHECK(mine.adopt(other.empty()) == mine.empty());
    const SettingsRef adopted = mine.adopt(other.intern({setting("b", "2")}));
    CHECK(mine.intern({setting("b", "2")}) == adopted);
  }

  TEST_CASE("no difference needs no statement") {
    CHECK(replay({}, {}) == "");
    CHECK(replay({setting("a", "1")}, {setting("a", "1")}) == "");
    CHECK(replay({setting("role", "'joe'")}, {setting("role", "'joe'")}) == "");
  }

  TEST_CASE("requirement 11: only what differs is sent, RESET before SET") {
    CHECK(replay({setting("a", "1"), setting("b", "2")},
                 {setting("b", "2"), setting("c", "'x'")}) ==
          "RESET \"a\";SET \"c\" TO 'x';");
    CHECK(replay({setting("a", "1")}, {setting("a", "2")}) == "SET \"a\" TO 2;");
    CHECK(replay({setting("a", "1")}, {}) == "RESET \"a\";");
  }

  TEST_CASE("requirement 11: lists, numbers, words and custom names come out as Postgres takes them") {
    CHECK(replay({}, {setting("search_path", "'a b', 'public'")}) ==
          "SET \"search_path\" TO 'a b', 'public';");
    CHECK(replay({}, {setting("search_path", "\"Mixed\"\"Case\",public")}) ==
          "SET \"search_path\" TO 'Mixed\"Case', public;");
    CHECK(replay({}, {setting("my.name", "on")}) == "SET \"my\".\"name\" TO on;");
    CHECK(replay({}, {setting("timezone", "-8")}) == "SET \"timezone\" TO -8;");
    CHECK(replay({}, {setting("timezone", "INTERVAL '-08:00' HOUR TO MINUTE")}) ==
          "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE;");
    CHECK(replay({}, {setting("a", "''")}) == "SET \"a\" TO '';");
  }

  TEST_CASE("requirement 11: a DateStyle that says a part keeps the other part of the session's, not of the server's") {
    const auto set = [](const char* value) {
      return SettingChange{.what = SettingChange::What::set, .name = "datestyle", .value = value};
    };
    const auto after = [&set](std::vector<Setting> at_startup, std::vector<const char*> values) {
      Session session(std::move(at_startup));
      for (const char* value : values) session.run({set(value)});
      return session.value("datestyle");
    };
    CHECK(after({}, {"'SQL'"}) == "'SQL'");
    CHECK(after({}, {"'ISO, DMY'", "'SQL'"}) == "'sql, dmy'");
    CHECK(after({}, {"sql, dmy", "us"}) == "'sql, mdy'");
    CHECK(after({}, {"german", "iso"}) == "'iso, dmy'");
    CHECK(after({}, {"ymd", "'Postgres'"}) == "'postgres, ymd'");
    CHECK(after({}, {"'SQL'", "iso"}) == "iso");  // nobody has said an order
    CHECK(after({}, {"'ISO, DMY'", "sql, mdy"}) == "sql, mdy");
    CHECK(after({}, {"'ISO, DMY'", "default"}) == "default");
    CHECK(after({startup("DateStyle", "German")}, {"'SQL'"}) == "'sql, dmy'");

    // The rest is the server's own, and not what the client before has left there.
    CHECK(replay({setting("datestyle", "'ISO, DMY'")}, {setting("datestyle", "'SQL'")}) ==
          "RESET \"datestyle\";SET \"datestyle\" TO 'SQL';");
  }

  TEST_CASE("requirement 15: some settings are what a text is read by, and nothing is where none is set") {
    SettingsInterner interner;
    CHECK(read_by(*interner.empty()).entries.empty());
    CHECK(read_by(*interner.intern({setting("work_mem", "1")})).entries.empty());
    const Setting tokyo = setting("timezone", "'Asia/Tokyo'");
    CHECK(read_by(*interner.intern({tokyo, setting("work_mem", "1")})).entries == std::vector{tokyo});
    for (const char* name : {"client_encoding", "datestyle", "intervalstyle", "search_path",
                             "standard_conforming_strings", "timezone"})
      CHECK_FALSE(read_by(*interner.intern({setting(name, "x")})).entries.empty());
  }

  TEST_CASE("statement by statement start-up values are set without a snapshot, where SET can say them") {
    SettingsInterner interner;
    const auto set = [&](const char* name, const char* value) {
      return replay_statements(*interner.empty(), *interner.intern({startup(name, value)}));
    };
    const auto is = [](const char* sql) { return std::vector<std::string>{sql}; };
    CHECK(set("datestyle", "SQL, DMY") == is("SET \"datestyle\" TO 'SQL, DMY';"));
    CHECK(set("search_path", "Other, \"B c\",public") == is("SET \"search_path\" TO \"other\", \"B c\", \"public\";"));
    for (const char* odd : {"", "a,", "a b", "\"\"", "\"a\"\"b\"", "'a'", "t\xc3\xa9"})
      CHECK(set("search_path", odd).front().starts_with("SELECT pg_catalog.set_config("));
  }

  TEST_CASE("start-up values are replayed by one set_config, as they are") {
    CHECK(replay({}, {startup("search_path", "a, \"B\""), startup("datestyle", "it's")}) ==
          "SELECT pg_catalog.set_config('datestyle','it''s',false),"
          "pg_catalog.set_config('search_path','a, \"B\"',false);");
  }

  TEST_CASE("settings of our own: a server has what SET said of them, and nothing that came at start-up") {
    CHECK(replay({}, {startup("pgsluice.consistency", "eventual"), setting("a", "1")}) == "SET \"a\" TO 1;");
    CHECK(replay({startup("pgsluice.consistency", "eventual")}, {}) == "");
    CHECK(replay({setting("pgsluice.route", "'primary'")}, {}) == "RESET \"pgsluice\".\"route\";");
    CHECK(replay({setting("pgsluice.route", "'primary'")}, {startup("pgsluice.route", "any")}) ==
          "RESET \"pgsluice\".\"route\";");
    CHECK(replay({startup("pgsluice.route", "any")}, {setting("pgsluice.route", "'primary'")}) ==
          "SET \"pgsluice\".\"route\" TO 'primary';");
  }

  TEST_CASE("a backslash is written in the one form that reads the same everywhere") {
    CHECK(replay({}, {startup("a", "x\\'y")}) ==
          "SELECT pg_catalog.set_config('a',E'x\\\\''y',false);");
    CHECK(replay({}, {setting("a", "'x\\y'")}) == "SET \"a\" TO E'x\\\\y';");
    CHECK(replay({}, {setting("a", "E'x\\\\y\\''")}) == "SET \"a\" TO E'x\\\\y''';");
  }

  TEST_CASE("bytes beyond ASCII travel in hex, in the encoding that they came in") {
    CHECK(replay({}, {startup("a", "\xc3\xa4")}) ==
          "SELECT pg_catalog.set_config('a',pg_catalog.convert_from("
          "pg_catalog.decode('c3a4','hex'),pg_catalog.getdatabaseencoding()),false);");
    // A Shift-JIS character whose second byte is a backslash.
    CHECK(replay({}, {setting("search_path", "'\x95\\', b"),
                      setting("client_encoding", "'SJIS'")}) ==
          "SET \"client_encoding\" TO 'SJIS';"
          "SELECT pg_catalog.set_config('search_path',pg_catalog.convert_from(pg_catalog.decode("
          "'22955c222c2062','hex'),pg_catalog.current_setting('client_encoding')),false);");
  }

  TEST_CASE("application_name from the start-up packet is cleaned as Postgres does") {
    CHECK(replay({}, {startup("application_name", "caf\xe9")}) ==
          "SELECT pg_catalog.set_config('application_name','caf?',false);");
  }

  TEST_CASE("no value and no name can end its statement") {
    CHECK(replay({}, {setting("a", "1; DROP TABLE t")}) == "SET \"a\" TO '1; DROP TABLE t';");
    CHECK(replay({}, {setting("a", "'x'; DROP TABLE t --'")}) ==
          "SET \"a\" TO '''x''; DROP TABLE t --''';");
    CHECK(replay({}, {setting("a", "1--")}) == "SET \"a\" TO '1--';");
    CHECK(replay({}, {setting("a", "'open")}) == "SET \"a\" TO '''open';");
    CHECK(replay({}, {setting("a", "E'\\")}) == "SET \"a\" TO E'E''\\\\';");
    CHECK(replay({}, {setting("a", "")}) == "SET \"a\" TO '';");
    CHECK(replay({}, {setting("a\"; DROP TABLE t", "1")}) == "SET \"a\"\"; drop table t\" TO 1;");
    CHECK(replay({}, {startup("a'b", "c'); DROP TABLE t; --")}) ==
          "SELECT pg_catalog.set_config('a''b','c''); DROP TABLE t; --',false);");
  }

  TEST_CASE("requirement 11: who the session is comes last, authorization before role") {
    CHECK(replay({}, {setting("role", "'joe'"), setting("session_authorization", "'bob'"),
                      setting("zone", "1")}) ==
          "SET \"zone\" TO 1;SET \"session_authorization\" TO 'bob';SET \"role\" TO 'joe';");
    CHECK(replay({}, {startup("role", "joe"), startup("a", "1")}) ==
          "SELECT pg_catalog.set_config('a','1',false);"
          "SELECT pg_catalog.set_config('role','joe',false);");
  }

  TEST_CASE("a change of authorization undoes the role first and gives it again after") {
    CHECK(replay({setting("role", "'joe'"), setting("session_authorization", "'bob'")},
                 {setting("role", "'joe'"), setting("session_authorization", "'eve'")}) ==
          "RESET \"role\";RESET \"session_authorization\";"
          "SET \"session_authorization\" TO 'eve';SET \"role\" TO 'joe';");
    CHECK(replay({setting("role", "'joe'")}, {}) == "RESET \"role\";");
    CHECK(replay({setting("role", "'joe'")}, {setting("role", "'eve'")}) ==
          "SET \"role\" TO 'eve';");
  }

  TEST_CASE("other settings change as the user that logged in") {
    CHECK(replay({setting("role", "'joe'")}, {setting("role", "'joe'"), setting("a", "1")}) ==
          "RESET \"role\";SET \"a\" TO 1;SET \"role\" TO 'joe';");
  }

  TEST_CASE("SET is remembered, RESET goes back to what the client started with") {
    Session session({startup("timezone", "UTC")});
    session.run({set("timezone", "'Asia/Tokyo'"), set("a", "1")});
    CHECK(session.value("timezone") == "'Asia/Tokyo'");
    session.run({reset("timezone"), reset("a")});
    CHECK(session.value("timezone") == "UTC");
    CHECK(session.settings.current() == session.settings.startup());
  }

  TEST_CASE("SET LOCAL and settings of the transaction leave nothing") {
    Session session;
    session.run({{What::set_local, "a", "1"}, set("transaction_isolation", "'serializable'")},
                true);
    CHECK(session.settings.current() == session.interner.empty());
    CHECK_FALSE(session.settings.on_trial());
  }

  TEST_CASE("RESET ALL keeps who the session is, DISCARD ALL does not") {
    Session session({startup("timezone", "UTC")});
    const std::vector<SettingChange> all = {set("session_authorization", "'bob'"),
                                            set("role", "'joe'"), set("timezone", "'x'"),
                                            set("a", "1")};
    session.run(all);
    session.run({{What::reset_all, {}, {}}});
    CHECK(session.value("session_authorization") == "'bob'");
    CHECK(session.value("role") == "'joe'");
    CHECK(session.value("timezone") == "UTC");
    CHECK(session.value("a") == "");
    session.run(all);
    session.run({{What::discard_all, {}, {}}});
    CHECK(session.settings.current() == session.settings.startup());
  }

  TEST_CASE("setting or resetting the authorization undoes the role, as in Postgres") {
    Session session;
    session.run({set("role", "'joe'"), set("session_authorization", "'bob'")});
    CHECK(session.value("role") == "");
    session.run({set("role", "'joe'"), reset("session_authorization")});
    CHECK(session.settings.current() == session.interner.empty());
  }

  TEST_CASE("what a transaction set stays when it commits and is undone when it does not") {
    Session session;
    session.run({set("a", "1")});
    session.run({set("a", "2")}, true);
    CHECK(session.settings.on_trial());
    session.run({set("b", "3")}, true);
    CHECK(session.value("a") == "2");
    session.settings.end_transaction(false);
    CHECK(session.value("a") == "1");
    CHECK(session.value("b") == "");
    CHECK_FALSE(session.settings.on_trial());

    session.run({set("a", "2")}, true);
    session.settings.end_transaction(true);
    CHECK(session.value("a") == "2");
    session.settings.end_transaction(false);
    CHECK(session.value("a") == "2");
  }

  TEST_CASE("requirement 11: a rollback to a savepoint undoes what was set behind it, and no more") {
    Session session;
    session.run({set("a", "1")}, true);
    session.run({savepoint("s"), set("a", "2"), set("b", "2")}, true);
    session.run({savepoint("t"), set("a", "3")}, true);
    session.run({rollback_to("t")}, true);
    CHECK(session.value("a") == "2");
    session.run({rollback_to("s")}, true);
    CHECK(session.value("a") == "1");
    CHECK(session.value("b") == "");
    session.run({set("a", "4"), rollback_to("s")}, true);  // it is still there
    CHECK(session.value("a") == "1");
    session.settings.end_transaction(true);
    CHECK(session.value("a") == "1");
  }

  TEST_CASE("requirement 11: a released savepoint takes the newer ones along and keeps what was set") {
    Session session;
    session.run({set("a", "1"), savepoint("s"), set("a", "2"), savepoint("t"), set("a", "3"),
                 release("s")},
                true);
    CHECK(session.value("a") == "3");
    session.run({rollback_to("older")}, true);  // made before the first change, so never told
    CHECK(session.settings.current() == session.interner.empty());
    CHECK_FALSE(session.settings.on_trial());
  }

  TEST_CASE("requirement 11: of two savepoints with one name the newer one counts, until it goes") {
    Session session;
    session.run({set("a", "1"), savepoint("s"), set("a", "2"), savepoint("s"), set("a", "3")}, true);
    session.run({rollback_to("s")}, true);
    CHECK(session.value("a") == "2");
    session.run({release("s"), rollback_to("s")}, true);
    CHECK(session.value("a") == "1");
  }

  TEST_CASE("requirement 11: a savepoint made before the first change undoes them all") {
    Session session;
    session.run({set("a", "1")});
    session.run({savepoint("s"), set("a", "2"), savepoint("t"), set("a", "3")}, true);
    session.run({release("nothing of ours")}, true);
    session.run({rollback_to("s")}, true);
    CHECK(session.value("a") == "1");
    session.run({set("a", "5")}, true);
    session.settings.end_transaction(true);
    CHECK(session.value("a") == "5");
  }

  TEST_CASE("requirement 11: transactions that begin and end inside a batch") {
    Session session;
    session.run({set("a", "1"), kRollback, set("b", "1"), kCommit, set("c", "1")}, true);
    session.settings.end_transaction(false);
    CHECK(session.value("a") == "");
    CHECK(session.value("b") == "1");
    CHECK(session.value("c") == "");
    session.run({set("a", "1")}, true);
    session.run_aborted({kCommit, set("d", "1"), kCommit});
    CHECK(session.value("a") == "");
    CHECK(session.value("d") == "1");
    session.run({set("a", "1"), savepoint("s"), set("a", "2")}, true);
    session.run_aborted({rollback_to("s"), kCommit});
    CHECK(session.value("a") == "1");
  }

  TEST_CASE("what a server is told in a transaction is on trial like the rest") {
    Session session;
    const SettingsRef wanted = session.interner.intern({setting("a", "1")});
    session.settings.assume(wanted, true);
    CHECK(session.value("a") == "1");
    session.settings.end_transaction(false);
    CHECK(session.settings.current() == session.interner.empty());
    session.settings.assume(wanted);
    CHECK_FALSE(session.settings.on_trial());
  }

  TEST_CASE("savepoints say what Postgres would, whatever is done in which order") {
    // Against a model that remembers every state.
    std::uint32_t seed = 20261122;
    const auto draw = [&seed](std::uint32_t n) {
      seed = seed * 1664525 + 1013904223;
      return (seed >> 16) % n;
    };
    for (int round = 0; round < 300; ++round) {
      Session session;
      std::string value, before;
      std::vector<std::pair<std::string, std::string>> stack;
      for (int step = 0; step < 20; ++step) {
        const std::string name(1, static_cast<char>('p' + draw(3)));
        const auto known = std::find_if(stack.rbegin(), stack.rend(),
                                        [&](const auto& one) { return one.first == name; });
        switch (draw(5)) {
          case 0:
            value = std::to_string(step);
            session.run({set("a", value)}, true);
            break;
          case 1:
            stack.emplace_back(name, value);
            // Told only when it matters, as the caller does.
            if (session.settings.on_trial()) session.run({savepoint(name)}, true);
            break;
          case 2:
            if (known == stack.rend()) break;
            value = known->second;
            stack.erase(known.base(), stack.end());
            session.run({rollback_to(name)}, true);
            break;
          case 3:
            if (known == stack.rend()) break;
            stack.erase(std::prev(known.base()), stack.end());
            session.run({release(name)}, true);
            break;
          case 4:
            if (draw(4) != 0) break;
            const bool commits = draw(2) == 0;
            if (!commits) value = before;
            before = value;
            stack.clear();
            session.settings.end_transaction(commits);
            break;
        }
        CAPTURE(round);
        CAPTURE(step);
        REQUIRE(session.value("a") == value);
      }
    }
  }

  TEST_CASE("the server that ran the statements goes back to its own defaults instead") {
    SettingsInterner interner;
    const SettingsRef started = interner.intern({startup("timezone", "UTC"), setting("a", "1")});
    const std::vector<SettingChange> changes = {{What::discard_all, {}, {}}, set("b", "2")};
    const SettingsRef client = settings_after(started, changes, started, interner);
    const SettingsRef server = settings_after(started, changes, interner.empty(), interner);
    CHECK(server == interner.intern({setting("b", "2")}));
    CHECK(replay_sql(*server, *client) ==
          "SELECT pg_catalog.set_config('timezone','UTC',false);SET \"a\" TO 1;");
  }

  TEST_CASE("the bare value of a setting is without its quotes, whichever way they are written") {
    CHECK(bare_value(startup("a", "it's 'so'")) == "it's 'so'");
    CHECK(bare_value(setting("a", "'it''s'")) == "it's");
    CHECK(bare_value(setting("a", "E'a\\\\b''c'")) == "a\\b'c");
    CHECK(bare_value(setting("a", "on")) == "on");
    CHECK(bare_value(setting("a", "''")) == "");
    CHECK(bare_value(setting("a", "'")) == "'");
  }
}
