#include "tests/differential/generator.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <random>
#include <span>
#include <utility>

namespace differential {

namespace {

using support::int16_bytes;
using support::int32_bytes;

enum class Subject : std::uint8_t {
  reads,
  writes,
  mistakes,
  settings,
  settings_at_length,  // set_config, SET LOCAL, roles, time zones; values that depend on settings
  transactions,
  savepoints,
  notices,
  sql_cursors,
  copy,
  ddl,
  // These pin.
  temporary,
  locks,
  holdable,
  listen,
  sql_prepare,
  // These undo.
  discard,
  deallocate,
  count_
};
constexpr std::size_t kSubjects = static_cast<std::size_t>(Subject::count_);

enum class Form : std::uint8_t {
  simple,
  several,      // several statements in one Query
  unnamed,      // Parse, Bind, Describe, Execute, Sync
  named,        // the same with names that are used again
  pipeline,     // several of these, each with its Sync
  flush,        // answers asked for without Sync
  portals,      // rows in portions
  inside,       // a Query in a sequence that no Sync has ended
  closing,      // Close and Describe of statements and portals
  function,     // FunctionCall
  count_
};
constexpr std::size_t kForms = static_cast<std::size_t>(Form::count_);

constexpr std::uint32_t kInt4 = 23, kText = 25;

// A statement, and what it needs to be executed.
struct Sql {
  std::string text;
  std::string parameters;  // one letter each: i (int4), t (text)
  bool copies_in = false;

  Sql(std::string sql, std::string parameter_types = "", bool copy_in = false)
      : text(std::move(sql)), parameters(std::move(parameter_types)), copies_in(copy_in) {}
};

std::string c_string(std::string_view text) { return std::string(text) + '\0'; }

class Generator {
 public:
  Generator(std::uint64_t seed, std::size_t number, std::size_t slot, Nodes nodes)
      : random_((seed + 1) * 0x9e3779b97f4a7c15ULL + number),
        table_("t" + std::to_string(slot)),
        extra_("x" + std::to_string(slot)),
        sequence_("q" + std::to_string(slot)),
        channel_("ch" + std::to_string(slot)),
        lock_(static_cast<long>(number) * 10),
        nodes_(nodes),
        may_only_read_(number % 2 == 0) {}

  Script make() {
    draw_subjects();
    Script script;
    startup(&script);
    has_startup_values_ = !script.startup.empty();
    script.prologue = "set client_min_messages = error; drop table if exists public." + extra_ +
                      ", other." + extra_ + " cascade; truncate public." + table_ +
                      "; insert into public." + table_ +
                      " select i, 'v' || i, i * 1.5 from generate_series(1, 10) i; alter sequence public." +
                      sequence_ + " restart; reset client_min_messages";
    const std::size_t steps = 3 + below(22);
    while (script.steps.size() < steps) add(&script);
    script.says_goodbye = !one_in(4);
    return script;
  }

 private:
  std::size_t below(std::size_t n) { return n == 0 ? 0 : random_() % n; }
  bool one_in(std::size_t n) { return below(n) == 0; }
  template <class Range>
  const auto& any(const Range& range) {
    return *(std::begin(range) + static_cast<std::ptrdiff_t>(below(std::size(range))));
  }
  std::string any_of(std::initializer_list<const char*> words) { return any(words); }
  std::string number(std::size_t limit) { return std::to_string(below(limit)); }

  void draw_subjects() {
    for (std::size_t i = 0; i < kSubjects; ++i) {
      const bool pins = i >= static_cast<std::size_t>(Subject::temporary) &&
                        i <= static_cast<std::size_t>(Subject::sql_prepare);
      weights_[i] = one_in(pins ? 6 : 2) ? 1 + below(4) : 0;
    }
    weights_[0] += 1;
    for (std::size_t i = 0; i < kForms; ++i) forms_[i] = one_in(2) ? 1 + below(4) : 0;
    forms_[below(3)] += 2;
  }

  template <std::size_t n>
  std::size_t draw(const std::array<std::size_t, n>& weights) {
    std::size_t sum = 0;
    for (const std::size_t weight : weights) sum += weight;
    std::size_t at = below(sum);
    for (std::size_t i = 0; i < n; ++i) {
      if (at < weights[i]) return i;
      at -= weights[i];
    }
    return 0;
  }

  void startup(Script* script) {
    if (one_in(3)) script->startup.emplace_back("application_name", any_of({"web", "batch job", "x'y"}));
    if (one_in(6)) script->startup.emplace_back("TimeZone", any_of({"UTC", "Asia/Tokyo", "-03"}));
    if (one_in(6)) script->startup.emplace_back("DateStyle", any_of({"German", "SQL, DMY"}));
    if (one_in(6)) script->startup.emplace_back("client_encoding", any_of({"UTF8", "LATIN1", "utf-8"}));
    if (one_in(8))
      script->startup.emplace_back("options",
                                   any_of({"-c work_mem=5MB", "-c extra_float_digits=0 -c geqo=off",
                                           "-c search_path=other,public"}));
  }

  // --- statements ------------------------------------------------------------------------------------

  Sql statement() {
    Sql sql = any_statement();
    return is_excluded(sql.text) ? Sql("show transaction_isolation") : sql;
  }

  // See kExclusions. With replicas every other session has READ ONLY transactions.
  bool is_excluded(std::string_view sql) const {
    if (!nodes_.replicas) return false;
    if (!may_only_read_) return sql.find("read only") != sql.npos || sql.find("read_only") != sql.npos;
    static constexpr std::string_view kPrimaryOnly[] = {"prepare transaction", "set transaction read write",
                                                        "listen",              "notify",
                                                        "select pg_notify",    "lock table"};
    static constexpr std::string_view kEnds[] = {"commit", "end", "abort", "rollback"};
    const auto begins_with = [sql](std::string_view one) { return sql.starts_with(one); };
    return sql.ends_with(" from stdin") || std::ranges::any_of(kPrimaryOnly, begins_with) ||
           (followed_ && std::ranges::any_of(kEnds, begins_with) && sql.find(" to ") == sql.npos);
  }

  Sql any_statement() {
    switch (static_cast<Subject>(draw(weights_))) {
      case Subject::reads: return read();
      case Subject::writes: return write();
      case Subject::mistakes: return mistake();
      case Subject::settings: return setting();
      case Subject::settings_at_length: return setting_at_length();
      case Subject::transactions: return transaction();
      case Subject::savepoints: return savepoint();
      case Subject::notices: return notice();
      case Subject::sql_cursors: return cursor(false);
      case Subject::copy: return copy();
      case Subject::ddl: return ddl();
      case Subject::temporary: return temporary();
      case Subject::locks: return lock();
      case Subject::holdable: return cursor(true);
      case Subject::listen: return listen();
      case Subject::sql_prepare: return sql_prepare();
      case Subject::discard: return discard();
      case Subject::deallocate: return deallocate();
      case Subject::count_: break;
    }
    return {""};
  }

  Sql read() {
    switch (below(18)) {
      case 0: return {"select 1"};
      case 1: return {"select id, v from " + table_ + " order by id limit " + number(12)};
      case 2: return {"select count(*), sum(n) from " + table_};
      case 3: return {"select $1::int + 1, $2::text", "it"};
      case 4: return {"select v from " + table_ + " where id = $1", "i"};
      case 5: return {"select i from generate_series(1, " + number(50) + ") i"};
      case 6: return {"select repeat('long ', " + number(4000) + ")"};
      case 7: return {"table " + table_ + " order by id"};
      case 8: return {"values (1, 'one'), (2, 'two'), (3, null)"};
      case 9: return {"select '2001-02-03 04:05:06+00'::timestamptz, '2001-02-03'::date"};
      case 10: return {"select interval '1 day 2 hours 3.5 seconds', '\\x01ff'::bytea"};
      case 11: return {"select 0.1::float8 / 3, 1e20::float4"};
      case 12: return {"select 'back\\slash', E'esc\\aped', 'quo''te'"};
      case 13: return {"select current_user, session_user, current_schemas(false)"};
      case 14: return {"explain (costs off) select * from " + table_ + " where n > 3 order by v"};
      case 15: return {"select id from " + table_ + " where id < $1 order by id", "i"};
      case 16: return {"with w as (select max(id) m from " + table_ + ") select m from w -- comment"};
      default: return {"select '\xc3\xa9t\xc3\xa9' as \"\xc3\xa9\", length('\xc3\xa9')"};
    }
  }

  Sql write() {
    const std::string key = number(30);
    switch (below(9)) {
      case 0: return {"insert into " + table_ + " values (" + key + ", 'new', 1)"};
      case 1: return {"insert into " + table_ + " values ($1, $2, 2) returning id, v", "it"};
      case 2: return {"update " + table_ + " set v = v || '!' where id = " + key + " returning *"};
      case 3: return {"delete from " + table_ + " where id = $1", "i"};
      case 4: return {"select nextval('" + sequence_ + "'), currval('" + sequence_ + "')"};
      case 5: return {"select id from " + table_ + " where id < 4 order by id for update"};
      case 6:
        return {"with d as (delete from " + table_ + " where id > 20 returning id) select count(*) from d"};
      case 7: return {"update " + table_ + " set n = n + 1"};
      default:
        return {"insert into " + table_ + " select i, 'bulk', 0 from generate_series(40, 45) i "
                "on conflict do nothing"};
    }
  }

  Sql mistake() {
    switch (below(10)) {
      case 0: return {"select 1/0"};
      case 1: return {"selekt 1"};
      case 2: return {"select * from no_such_table"};
      case 3: return {"select no_such_column from " + table_};
      case 4: return {"insert into " + table_ + " values (1, 'duplicate', 0)"};
      case 5: return {"select 'x'::int"};
      case 6: return {"select $1::int / ($1 - $1)", "i"};
      case 7: return {any_of({"", ";", "-- nothing", "  "})};
      case 8: return {"select 1/(id - 5) from " + table_ + " order by id"};
      default: return {"select 'not closed"};
    }
  }

  // name, values
  struct Choice {
    const char* name;
    std::array<const char*, 4> values;
  };
  const Choice& choice() {
    static const Choice kChoices[] = {
        {"application_name", {"'one'", "two", "'it''s three'", "''"}},
        {"timezone", {"'UTC'", "'America/New_York'", "-7", "'Asia/Kolkata'"}},
        {"datestyle", {"'ISO, DMY'", "german", "'SQL'", "iso, mdy"}},
        {"intervalstyle", {"postgres", "'iso_8601'", "sql_standard", "postgres_verbose"}},
        {"bytea_output", {"hex", "escape", "'hex'", "nonsense"}},
        {"extra_float_digits", {"0", "1", "-5", "99"}},
        {"search_path", {"public", "other, public", "'other'", "\"$user\", public"}},
        {"work_mem", {"'2MB'", "4096", "'1GB'", "'1kB'"}},
        {"client_min_messages", {"notice", "warning", "debug1", "error"}},
        {"standard_conforming_strings", {"on", "off", "on", "true"}},
        {"client_encoding", {"'UTF8'", "'LATIN1'", "'SQL_ASCII'", "'no_such'"}},
        {"default_transaction_isolation",
         {"'read committed'", "'repeatable read'", "serializable", "'read uncommitted'"}},
        {"default_transaction_read_only", {"on", "off", "false", "off"}},
        {"lock_timeout", {"'5s'", "6000", "0", "'1min'"}},
        {"my.variable", {"'a'", "'b c'", "1", "d"}},
        {"enable_seqscan", {"on", "off", "yes", "0"}},
        {"plan_cache_mode", {"auto", "force_generic_plan", "force_custom_plan", "auto"}},
        {"no_such_setting", {"1", "'a'", "b", "2"}},
        {"escape_string_warning", {"on", "off", "on", "off"}},
        {"row_security", {"on", "off", "on", "off"}},
        {"statement_timeout", {"'20s'", "30000", "0", "'1min'"}},
    };
    return any(std::span(kChoices));
  }

  Sql setting() {
    const Choice& one = choice();
    const std::string name = one.name;
    if (name == "my.variable" && one_in(2))
      return {"select coalesce(current_setting('my.variable', true), '')"};
    switch (below(name == "my.variable" ? 3 : 8)) {
      case 0:
      case 1:
      case 2: return {"set " + name + any_of({" = ", " to "}) + any(one.values)};
      case 3: return {"reset " + name};
      case 4: return {"set " + name + " to default"};
      case 5: return {"show " + name};
      case 6: return {"select current_setting('" + name + "', true)"};
      default: return {one_in(3) ? "reset all" : "set session " + name + " = " + any(one.values)};
    }
  }

  Sql setting_at_length() {
    const Choice& one = choice();
    const std::string name = std::string_view(one.name).ends_with("_timeout") ? "application_name" : one.name;
    switch (below(11)) {
      case 0: return {"set local " + name + " = " + any(one.values)};
      case 1: return {"select set_config('" + name + "', '" + number(5) + "', false)"};
      case 2: return {"select set_config('" + name + "', '" + number(5) + "', true)"};
      case 3: return {"set role " + any_of({"diff_role", "none", "'diff_role'", "no_such_role"})};
      case 4: return {"reset role"};
      case 5: return {"set session authorization " + any_of({"default", "app", "postgres"})};
      case 6:
        return {"set time zone " +
                any_of({"local", "'Europe/Paris'", "interval '-08:30' hour to minute", "5"})};
      case 7: return {"set names " + any_of({"'UTF8'", "'LATIN1'"})};
      case 8: return {"select set_config($1, $2, false)", "tt"};
      case 9: return {"set session characteristics as transaction " +
                      any_of({"read only", "read write", "isolation level repeatable read"})};
      default: return {"select current_user, session_user, current_setting('timezone')"};
    }
  }

  Sql transaction() {
    switch (below(16)) {
      case 0:
      case 1:
      case 2:
      case 3: return {"begin"};
      case 4: return {"start transaction read only"};
      case 5:
        return {"begin isolation level " + any_of({"repeatable read", "serializable", "read committed"})};
      case 6: return {"begin transaction read only, isolation level repeatable read"};
      case 7:
      case 8:
      case 9: return {"commit"};
      case 10: return {"rollback"};
      case 11: return {any_of({"end", "abort", "commit work"})};
      case 12: return {any_of({"commit and chain", "rollback and chain"})};
      case 13: return {any_of({"set transaction read only", "set transaction read write",
                               "set transaction isolation level repeatable read"})};
      case 14: return {"show transaction_isolation"};
      default: return {one_in(3) ? "prepare transaction 'never'" : "lock table " + table_ + " in share mode"};
    }
  }

  Sql savepoint() {
    const std::string name = any_of({"a", "b", "c"});
    switch (below(6)) {
      case 0:
      case 1: return {"savepoint " + name};
      case 2: return {"rollback to " + name};
      case 3: return {"rollback to savepoint " + name};
      case 4: return {"release " + name};
      default: return {"begin"};
    }
  }

  Sql notice() {
    switch (below(5)) {
      case 0: return {"do $$ begin raise notice 'noticed %', " + number(9) + "; end $$"};
      case 1: return {"do $$ begin raise warning 'warned' using hint = 'a hint', detail = 'more'; end $$"};
      case 2: return {"drop table if exists no_such_table"};
      case 3: return {"select diff_notice($1)", "t"};
      default: return {"do $$ begin raise exception 'raised' using errcode = '22012', column = 'c'; end $$"};
    }
  }

  Sql cursor(bool holdable) {
    const std::string name = any_of({"c1", "c2"});
    switch (below(6)) {
      case 0:
      case 1:
        return {"declare " + name + any_of({" ", " scroll ", " no scroll "}) + "cursor " +
                (holdable ? "with hold " : "") + "for select id, v from " + table_ + " order by id"};
      case 2: return {"fetch " + any_of({"1", "3", "all", "backward 1", "next"}) + " from " + name};
      case 3: return {"move 2 in " + name};
      case 4: return {"close " + name};
      default: return {holdable ? "close all" : "begin"};
    }
  }

  Sql copy() {
    switch (below(7)) {
      case 0: return {"copy " + table_ + " to stdout"};
      case 1:
        return {"copy (select id, v from " + table_ + " order by id) to stdout with (format csv, header)"};
      case 2: return {"copy (select i, 'wide ' || i from generate_series(1, 300) i) to stdout"};
      case 3: return {"copy (select 1::int4) to stdout with (format binary)"};
      case 4: return {"copy (select 1/(3 - i) from generate_series(1, 5) i) to stdout"};
      default: return {"copy " + table_ + " from stdin", "", true};
    }
  }

  Sql ddl() {
    switch (below(9)) {
      case 0:
      case 1: return {"create table " + extra_ + "(a int primary key, b text)"};
      case 2: return {"drop table " + extra_};
      case 3: return {"alter table " + extra_ + " add column c int default 7"};
      case 4: return {"insert into " + extra_ + " values (" + number(4) + ", 'extra')"};
      case 5:
      case 6: return {"select * from " + extra_ + " order by a"};
      case 7: return {"alter table " + extra_ + " alter column b type varchar(10)"};
      default: return {"create table " + extra_ + " as select 1 as a, 'as'::text as b"};
    }
  }

  Sql temporary() {
    switch (below(9)) {
      case 0: return {"create temp table tmp(a int)"};
      case 1: return {"create temporary table tmp(a int) on commit drop"};
      case 2: return {"create temp table tmp(a int) on commit delete rows"};
      case 3: return {"insert into tmp values (" + number(9) + ")"};
      case 4: return {"select a from tmp order by a"};
      case 5: return {"drop table tmp"};
      case 6: return {"select 5 as a into temp tmp"};
      case 7: return {"create temp sequence tmpq"};
      default: return {"select nextval('tmpq')"};
    }
  }

  Sql lock() {
    const std::string key = std::to_string(lock_ + static_cast<long>(below(3)));
    switch (below(8)) {
      case 0:
      case 1: return {"select pg_advisory_lock(" + key + ")"};
      case 2: return {"select pg_try_advisory_lock(" + key + ")"};
      case 3: return {"select pg_advisory_unlock(" + key + ")"};
      case 4: return {"select pg_advisory_unlock_all()"};
      case 5: return {"select pg_advisory_xact_lock(" + key + ")"};
      case 6: return {"select pg_advisory_lock_shared($1)", "i"};
      default:
        return {"select objid, mode from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() "
                "order by 1, 2"};
    }
  }

  Sql listen() {
    switch (below(7)) {
      case 0:
      case 1: return {"listen " + channel_};
      case 2: return {"unlisten " + (one_in(2) ? channel_ : "*")};
      case 3:
      case 4: return {"notify " + channel_ + ", 'payload " + number(9) + "'"};
      case 5: return {"select pg_notify('" + channel_ + "', $1)", "t"};
      default: return {"select pg_listening_channels()"};
    }
  }

  Sql sql_prepare() {
    const std::string name = any_of({"e1", "e2"});
    switch (below(6)) {
      case 0: return {"prepare " + name + " as select id, v from " + table_ + " where id = 2"};
      case 1: return {"prepare " + name + "(int) as select $1 + 1"};
      case 2: return {"execute " + name};
      case 3: return {"execute " + name + "(" + number(9) + ")"};
      case 4: return {"deallocate " + name};
      default: return {"deallocate prepare " + name};
    }
  }

  Sql discard() {
    return {any_of({"discard all", "discard plans", "discard temp", "discard sequences", "reset all",
                    "discard all"})};
  }

  Sql deallocate() {
    return {any_of({"deallocate all", "deallocate s1", "deallocate s2", "deallocate prepare all",
                    "deallocate no_such"})};
  }

  // --- messages --------------------------------------------------------------------------------------

  static Sent query(const std::string& sql) { return {'Q', c_string(sql)}; }

  Sent parse(const std::string& name, const Sql& sql) {
    std::string types;
    std::uint16_t count = 0;
    if (one_in(3)) {
      for (const char type : sql.parameters) {
        types += int32_bytes(type == 'i' ? kInt4 : kText);
        ++count;
      }
    }
    return {'P', c_string(name) + c_string(sql.text) + int16_bytes(count) + types};
  }

  Sent bind(const std::string& portal, const std::string& statement, const std::string& parameters) {
    std::string body = c_string(portal) + c_string(statement);
    const bool binary = one_in(4);
    if (binary) {
      body += int16_bytes(1) + int16_bytes(1);
    } else {
      body += int16_bytes(0);
    }
    std::string values;
    std::size_t count = 0;
    for (const char type : parameters) {
      ++count;
      const bool null = one_in(12);
      if (null && !(has_startup_values_ && parameters == "tt")) {
        values += int32_bytes(0xffffffffU);
        continue;
      }
      std::string value = type == 'i' ? number(20) : any_of({"work_mem", "text", "my.variable", "7", ""});
      if (binary && type == 'i') value = int32_bytes(static_cast<std::uint32_t>(below(20)));
      values += int32_bytes(static_cast<std::uint32_t>(value.size())) + value;
    }
    if (one_in(40)) {
      ++count;
      values += int32_bytes(1) + "1";
    }
    body += int16_bytes(static_cast<std::uint16_t>(count)) + values;
    body += one_in(4) ? int16_bytes(1) + int16_bytes(1) : int16_bytes(0);
    return {'B', body};
  }

  static Sent describe(char kind, const std::string& name) { return {'D', kind + c_string(name)}; }
  static Sent close(char kind, const std::string& name) { return {'C', kind + c_string(name)}; }
  static Sent execute(const std::string& portal, std::uint32_t rows = 0) {
    return {'E', c_string(portal) + int32_bytes(rows)};
  }
  static Sent sync() { return {'S', ""}; }
  static Sent flush() { return {'H', ""}; }

  // COPY data as it should be, or not, and how it ends.
  std::vector<Sent> data() {
    std::vector<Sent> messages;
    const std::size_t lines = below(4);
    const bool bad = one_in(4);
    for (std::size_t i = 0; i < lines; ++i) {
      const std::string line = bad && i + 1 == lines ? "not a number\tx\ty\n"
                                                     : std::to_string(100 + below(40)) + "\tcopied\t1\n";
      const std::size_t cut = one_in(3) ? line.size() / 2 : line.size();
      messages.push_back({'d', line.substr(0, cut)});
      if (cut < line.size()) messages.push_back({'d', line.substr(cut)});
      if (one_in(6)) messages.push_back(flush());
    }
    messages.push_back(one_in(4) ? Sent{'f', c_string("client's reasons")} : Sent{'c', ""});
    return messages;
  }

  static void append(std::vector<Sent>* to, std::vector<Sent> more) {
    for (Sent& sent : more) to->push_back(std::move(sent));
  }

  void push(Script* script, std::vector<Sent> messages) {
    Step step{std::move(messages), 1};
    if (one_in(8)) step.pieces = 2 + below(6);
    script->steps.push_back(std::move(step));
  }

  std::string statement_name() { return any_of({"s1", "s2", "s3"}); }

  // See kExclusions.
  bool stands_alone(const std::string& sql) const {
    const bool resets = sql.starts_with("reset") || sql.ends_with("to default");
    return sql == "discard all" || sql.starts_with("deallocate") || (resets && has_startup_values_);
  }

  // Statements that have been given a name, and their parameters, as far as we know.
  struct Known {
    std::string name, parameters;
  };

  // A statement's way through the extended protocol, up to where a Sync may stand.
  std::vector<Sent> sequence(bool named, bool* copies = nullptr) {  // `copies`: it stands alone
    std::vector<Sent> messages;
    std::string name, parameters;
    bool copies_in = false;
    const bool again = named && !known_.empty() && !one_in(3);
    if (again) {
      const Known& one = any(known_);
      name = one.name;
      parameters = one.parameters;
    } else {
      Sql sql = statement();
      copies_in = sql.copies_in;
      if (copies_in && copies == nullptr) {
        sql = read();
        copies_in = false;
      }
      const bool forgets = stands_alone(sql.text);
      if (forgets && copies == nullptr) sql = Sql("discard plans");
      const auto has = [&sql](std::string_view text) { return sql.text.find(text) != std::string::npos; };
      const bool changing = has(extra_) || has("tmp");
      const bool looks_up = sql.text.starts_with("fetch") || sql.text.starts_with("execute");
      if (forgets || changing || looks_up) named = false;
      if (named) {
        name = statement_name();
        if (one_in(2)) messages.push_back(close('S', name));
        std::erase_if(known_, [&name](const Known& one) { return one.name == name; });
        if (!copies_in) known_.push_back({name, sql.parameters});
      }
      parameters = sql.parameters;
      messages.push_back(parse(name, sql));
    }
    if (copies != nullptr) *copies = copies_in;
    if (one_in(4)) messages.push_back(describe('S', name));
    if (one_in(12) && !parameters.empty()) return messages;
    const std::string portal = one_in(6) ? "p1" : "";
    if (!portal.empty() && one_in(2)) messages.push_back(close('P', portal));
    messages.push_back(bind(portal, one_in(25) ? "s_unknown" : name, parameters));
    if (one_in(2)) messages.push_back(describe('P', portal));
    messages.push_back(execute(portal));
    if (!copies_in && one_in(10)) messages.push_back(close('P', portal));
    return messages;
  }

  std::string several() {
    std::string text;
    const std::size_t count = 2 + below(3);
    for (std::size_t i = 0; i < count; ++i) {
      Sql sql = statement();
      if (!sql.parameters.empty() || sql.copies_in || stands_alone(sql.text))
        sql = Sql("select " + number(100));
      text += (text.empty() ? "" : "; ") + sql.text;
    }
    return text;
  }

  void add(Script* script) {
    std::vector<Sent> messages;
    const auto form = static_cast<Form>(draw(forms_));
    followed_ = form != Form::simple && form != Form::unnamed;
    switch (form) {
      case Form::simple: {
        const Sql sql = statement();
        messages.push_back(query(sql.text));
        if (!sql.copies_in) break;
        if (one_in(3)) {
          append(&messages, data());
        } else {
          push(script, std::move(messages));
          messages = data();
        }
        break;
      }
      case Form::several: messages.push_back(query(several())); break;
      case Form::unnamed:
      case Form::named: {
        bool copies = false;
        messages = sequence(form == Form::named, &copies);
        if (copies && !messages.empty() && messages.back().type == 'E') {
          if (one_in(2)) {
            messages.push_back(one_in(2) ? flush() : sync());
            push(script, std::move(messages));
            messages.clear();
          }
          append(&messages, data());
        }
        messages.push_back(sync());
        break;
      }
      case Form::pipeline: {
        const std::size_t depth = 2 + below(6);
        for (std::size_t i = 0; i < depth; ++i) {
          append(&messages, sequence(one_in(2)));
          if (!one_in(3)) messages.push_back(sync());
        }
        messages.push_back(sync());
        break;
      }
      case Form::flush: {
        messages = sequence(one_in(2));
        messages.push_back(flush());
        push(script, std::move(messages));
        messages.clear();
        if (one_in(2)) {
          messages = sequence(one_in(2));
          if (one_in(2)) messages.push_back(flush());
          push(script, std::move(messages));
          messages.clear();
        }
        messages.push_back(sync());
        break;
      }
      case Form::portals: {
        const std::string portal = any_of({"p1", "p2", ""});
        const Sql sql = one_in(3) ? read() : Sql("select i, 'row ' || i from generate_series(1, 7) i");
        // An older portal must not be met when the Bind fails: a portal executed in a failed transaction after
        // its unnamed statement is gone crashed a backend in our runs; not understood yet.
        messages.push_back(close('P', portal));
        messages.push_back(parse("", sql));
        messages.push_back(bind(portal, "", sql.parameters));
        messages.push_back(execute(portal, static_cast<std::uint32_t>(1 + below(4))));
        const bool synced = one_in(2);
        messages.push_back(synced ? sync() : flush());
        push(script, std::move(messages));
        messages.clear();
        // Not the unnamed statement: a portal of it may outlive it (tests/README.md, "A crash of Postgres").
        if (one_in(3)) {
          const Sql between = read();
          push(script, {close('S', "s4"), parse("s4", between), bind("p3", "s4", between.parameters),
                        execute("p3")});
        }
        messages.push_back(execute(portal, static_cast<std::uint32_t>(below(4))));
        messages.push_back(sync());
        break;
      }
      case Form::inside: {
        messages = sequence(one_in(2));
        Sql sql = statement();
        if (sql.copies_in) sql = read();
        if (nodes_.postgres >= 18) messages.push_back(sync());  // see kExclusions
        messages.push_back(query(sql.text));
        if (one_in(2)) append(&messages, sequence(one_in(2)));
        messages.push_back(sync());
        break;
      }
      case Form::closing: {
        const std::size_t count = 1 + below(3);
        for (std::size_t i = 0; i < count; ++i) {
          const std::string name = one_in(3) ? "" : statement_name();
          switch (below(4)) {
            case 0: messages.push_back(describe('S', name.empty() ? "s1" : name)); break;
            case 1:
              messages.push_back(close('S', name));
              std::erase_if(known_, [&name](const Known& one) { return one.name == name; });
              break;
            case 2: messages.push_back(describe('P', any_of({"", "p1", "p2"}))); break;
            default: messages.push_back(close('P', any_of({"", "p1", "p2"}))); break;
          }
        }
        messages.push_back(sync());
        break;
      }
      case Form::function: {
        // int4pl(int4, int4), or int4div with a chance of a division by zero; both in binary.
        const std::uint32_t function = one_in(3) ? 154 : 177;
        std::string body = int32_bytes(function) + int16_bytes(1) + int16_bytes(1) + int16_bytes(2);
        for (int i = 0; i < 2; ++i)
          body += int32_bytes(4) + int32_bytes(static_cast<std::uint32_t>(below(5)));
        messages.push_back({'F', body + int16_bytes(1)});
        break;
      }
      case Form::count_: break;
    }
    push(script, std::move(messages));
  }

  std::mt19937_64 random_;
  std::string table_, extra_, sequence_, channel_;
  long lock_;
  Nodes nodes_;
  bool may_only_read_;
  std::array<std::size_t, kSubjects> weights_{};
  std::array<std::size_t, kForms> forms_{};
  std::vector<Known> known_;
  bool has_startup_values_ = false;
  bool followed_ = false;  // by others, without a Sync in between
};

}  // namespace

Script generate(std::uint64_t seed, std::size_t number, std::size_t slot, Nodes nodes) {
  return Generator(seed, number, slot, nodes).make();
}

std::string roles_sql() {
  return "do $$ begin if not exists (select from pg_roles where rolname = 'diff_role') then "
         "create role diff_role; grant diff_role to app; end if; end $$";
}

std::string schema_sql(std::size_t slots) {
  std::string sql =
      "create schema other; grant all on schema public, other to diff_role;"
      "create table other.shadowed(a int);"
      "create function diff_notice(t text) returns text language plpgsql as "
      "$$ begin raise notice 'it says %', t; return t; end $$;";
  for (std::size_t i = 0; i < slots; ++i) {
    const std::string slot = std::to_string(i);
    sql += "create table t" + slot + "(id int primary key, v text, n numeric);";
    sql += "create sequence q" + slot + ";";
    if (i % 2 == 0) sql += "grant all on t" + slot + ", q" + slot + " to diff_role;";
  }
  return sql;
}

}  // namespace differential
