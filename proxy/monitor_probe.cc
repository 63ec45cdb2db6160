#include "proxy/monitor_probe.h"

#include <algorithm>
#include <charconv>
#include <string_view>

namespace proxy {
namespace {

using Cell = std::optional<std::string>;

template <class Number>
std::optional<Number> number(std::string_view text, int base = 10) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<bool> truth(const Cell& cell) {
  if (cell == "t") return true;
  if (cell == "f") return false;
  return std::nullopt;
}

// The timeline is the first 8 hexadecimal digits of a segment file's name.
std::optional<std::uint32_t> timeline_of_file(const Cell& file) {
  if (!file || file->size() < 8) return std::nullopt;
  return number<std::uint32_t>(std::string_view(*file).substr(0, 8), 16);
}

// pg_is_in_recovery() is volatile, so the sub-select is evaluated once and every CASE sees the same
// answer. Functions that fail on the other role stand behind it. A replica's timeline: the
// receiver's needs pg_monitor and a running receiver; the control file's is written at restart
// points only.
std::string probe(bool humble) {
  return std::string("select r, ") +
         (humble ? "null" : "(select system_identifier from pg_control_system())") +
         ", case when r then (select received_tli from pg_stat_wal_receiver) end" +
         (humble ? ", null"
                 : ", case when r then greatest((select timeline_id from pg_control_checkpoint()),"
                   " (select min_recovery_end_timeline from pg_control_recovery())) end") +
         ", case when not r then pg_walfile_name(pg_current_wal_insert_lsn()) end"
         ", case when r then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end"
         ", (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint"
         ", r and exists (select from pg_stat_wal_receiver)"
         ", pg_size_bytes(current_setting('wal_segment_size'))"
         ", pg_has_role('pg_monitor', 'usage')"
         ", case when $1::boolean and pg_has_role('pg_monitor', 'usage') then"
         " (select count(*) from pg_stat_activity"
         " where state = 'active' and backend_type = 'client backend') end"
         ", case when not r then pg_last_wal_replay_lsn() end"
         " from (select pg_is_in_recovery()) as x(r)";
}

}  // namespace

const std::string& full_probe() {
  static const std::string sql = probe(false);
  return sql;
}

const std::string& humble_probe() {
  static const std::string sql = probe(true);
  return sql;
}

const std::string& quick_probe() {
  static const std::string sql =
      "select r, case when not r then pg_walfile_name(pg_current_wal_insert_lsn()) end,"
      " case when r then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end"
      " from (select pg_is_in_recovery()) as x(r)";
  return sql;
}

std::optional<ProbeAnswer> read_full_probe(const std::vector<PgRow>& rows) {
  if (rows.size() != 1 || rows[0].size() != 12) return std::nullopt;
  const PgRow& row = rows[0];
  const auto in_recovery = truth(row[0]);
  const auto started = row[6] ? number<std::int64_t>(*row[6]) : std::nullopt;
  if (!in_recovery || !started) return std::nullopt;

  ProbeAnswer answer;
  answer.in_recovery = *in_recovery;
  if (row[1]) answer.system_id = number<std::uint64_t>(*row[1]).value_or(0);
  answer.started_us = *started;
  answer.receiver_running = truth(row[7]).value_or(false);
  answer.sees_everything = truth(row[9]).value_or(false);
  if (row[10]) answer.active_backends = number<std::int64_t>(*row[10]);
  if (answer.in_recovery) {
    if (row[2]) answer.following = number<std::uint32_t>(*row[2]).value_or(0);
    if (row[3]) answer.timeline = number<std::uint32_t>(*row[3]).value_or(0);
    answer.timeline = std::max(answer.timeline, answer.following);
    // NULL: nothing has been replayed since it started; that is "before everything".
    if (row[5]) answer.position = routing::parse_lsn(*row[5]).value_or(routing::Lsn{});
    return answer;
  }
  const auto timeline = timeline_of_file(row[4]);
  const std::uint64_t segment = row[8] ? number<std::uint64_t>(*row[8]).value_or(0) : 0;
  const auto position = row[5] ? routing::parse_lsn(*row[5]) : std::nullopt;
  if (!timeline || segment == 0 || !position) return std::nullopt;
  answer.timeline = *timeline;
  answer.wal_segment_size = segment;
  if (row[11]) answer.left_at = routing::parse_lsn(*row[11]).value_or(routing::Lsn{});
  answer.position = routing::normalise_insert_lsn(*position, segment);
  return answer;
}

std::optional<QuickAnswer> read_quick_probe(const std::vector<PgRow>& rows) {
  if (rows.size() != 1 || rows[0].size() != 3) return std::nullopt;
  const PgRow& row = rows[0];
  const auto in_recovery = truth(row[0]);
  if (!in_recovery) return std::nullopt;
  QuickAnswer answer;
  answer.in_recovery = *in_recovery;
  if (row[2]) answer.position = routing::parse_lsn(*row[2]).value_or(routing::Lsn{});
  if (!answer.in_recovery) {
    const auto timeline = timeline_of_file(row[1]);
    if (!timeline || !row[2]) return std::nullopt;
    answer.timeline = *timeline;
  }
  return answer;
}

}  // namespace proxy
