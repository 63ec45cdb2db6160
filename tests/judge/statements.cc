#include "tests/judge/statements.h"

namespace judge {
namespace {

// Of these all have columns id, n and c. To add a trap: an object in schema.sql and its name here.
constexpr std::string_view kRelations[] = {"a", "b", "p", "p0", "m", "v_plain", "v_join", "owned", "public.a"};
constexpr std::string_view kTrapRelations[] = {
    "ul",   "half",  "parent",   "heir",       "has_pair",     "guarded",    "v_lock", "v_deep",  "v_seq",   "v_last",
    "v_op", "v_agg", "v_domain", "v_unlogged", "v_for_update", "v_activity", "v_cte",  "v_policy", "public.v_deep"};
constexpr std::string_view kNumbers[] = {"1", "2", "-3", "id", "n", "length(c)", "current_setting('port')::int"};
constexpr std::string_view kTrapNumbers[] = {"locked(1)",
                                             "public.locked(n)",
                                             "nextval('sq')::int",
                                             "pg_try_advisory_lock_shared(77)::int",
                                             "(SELECT last_value FROM sq)::int",
                                             "of_locking(3)",
                                             "4::locking",
                                             "CAST(n AS locking)",
                                             "(ROW(1, 2)::pair)::int",
                                             "abs(ROW(1, 2)::pair)",
                                             "(SELECT lock_of_row(a) FROM a LIMIT 1)",
                                             "(SELECT (a).lock_of_row FROM a LIMIT 1)",
                                             "(SELECT a.lock_of_row FROM a LIMIT 1)",
                                             "(SELECT locking_sum(n) FROM a)",
                                             "pg_is_in_recovery()::int",
                                             "pg_current_xact_id()::text::int"};
constexpr std::string_view kTrapConditions[] = {"takes_lock(3)",
                                                "n @@@ 1",
                                                "n OPERATOR(public.@@@) 2",
                                                "1 @@@ ANY (SELECT n FROM a)",
                                                "pg_try_advisory_xact_lock(n)",
                                                "query_to_xml('select locked(1)', true, false, '') IS NOT NULL",
                                                "EXISTS (SELECT FROM v_deep)"};

}  // namespace

Statement Statements::next() {
  trap_ = {};
  ctes_ = aliases_ = 0;
  std::string sql;
  switch (random_() % 20) {
    case 0: sql = "EXPLAIN " + query(2); trap_ = {}; break;  // planned, not run
    case 1: sql = "VALUES (" + number(2) + "), (" + number(1) + ")"; break;
    case 2: sql = "TABLE " + relation(); break;
    case 3: sql = query(2) + "; " + query(1); break;
    case 4: sql = change(); break;
    case 5: sql = "WITH changed AS (" + change() + " RETURNING id) SELECT id FROM changed"; break;
    case 6: sql = "SELECT 1; " + change(); break;
    case 7: sql = "/* UPDATE a */ " + query(2) + " -- FOR UPDATE"; break;
    case 8: sql = "EXPLAIN ANALYZE " + query(2); break;
    default: sql = query(3);
  }
  return {std::move(sql), trap_};
}

std::string Statements::change() {
  trapped("a change of data");
  switch (random_() % 4) {
    case 0: return "INSERT INTO a SELECT id + 1000, n, c FROM " + relation() + " x WHERE false";
    case 1: return "UPDATE a SET n = " + number(1) + " WHERE false";
    case 2: return "DELETE FROM a USING " + relation() + " x WHERE false";
    default: return "INSERT INTO b VALUES (1, 2, 'x') ON CONFLICT DO NOTHING";
  }
}

std::string Statements::query(int depth) {
  std::string sql;
  if (chance(15)) {
    const std::string name = "w" + std::to_string(++ctes_);
    sql = "WITH " + name + "(id, n, c) AS " + (chance(30) ? "MATERIALIZED " : "") + "(SELECT id, n, c FROM " +
          relation() + ") SELECT " + number(depth - 1) + " FROM " + name;
    return sql;
  }
  sql = body(depth);
  if (depth > 1 && chance(10)) sql += (chance(50) ? " UNION ALL " : " EXCEPT ") + body(depth - 1);
  if (chance(20)) sql += " ORDER BY 1";
  if (chance(20)) sql += " LIMIT 5";
  return sql;
}

std::string Statements::body(int depth) {
  const std::string from = source(depth);
  std::string sql = "SELECT ";
  const bool grouped = chance(15);
  if (grouped) {
    sql += "n, count(*), plain_sum(id)";
  } else {
    if (chance(10)) sql += "DISTINCT ";
    sql += number(depth - 1);
    if (chance(15)) sql += ", row_number() OVER (ORDER BY id)";
  }
  sql += " FROM " + from;
  if (chance(40)) sql += " WHERE " + condition(depth - 1);
  if (grouped) sql += " GROUP BY n HAVING count(*) > 0";
  // Both sides of a UNION have one column.
  return grouped ? "SELECT g.n FROM (" + sql + ") g" : "SELECT h.* FROM (SELECT q.x FROM (" + sql + ") q(x)) h";
}

std::string Statements::relation() {
  if (!chance(4)) return std::string(one_of(kRelations));
  return std::string(trapped(one_of(kTrapRelations)));
}

std::string Statements::source(int depth) {
  const std::string alias = " s" + std::to_string(++aliases_);
  if (depth <= 1) return relation() + alias;
  switch (random_() % 8) {
    case 0: return "(SELECT id, n, c FROM " + source(depth - 1) + ")" + alias;
    case 1: return "rows_of(5)" + alias;
    case 2: return "generate_series(1, 3) WITH ORDINALITY" + alias + "(id, n), LATERAL (SELECT 'x'::text AS c) lc";
    case 3: return "(VALUES (1, 2, 'x'))" + alias + "(id, n, c)";
    case 4: return relation() + " j1 JOIN " + relation() + " j2 USING (id, n, c)";
    case 5: return "(SELECT * FROM (SELECT id, n, c FROM " + relation() + ") z)" + alias;
    default: return relation() + alias;
  }
}

std::string Statements::number(int depth) {
  if (chance(3)) return std::string(trapped(one_of(kTrapNumbers)));
  if (depth <= 0) return std::string(one_of(kNumbers));
  switch (random_() % 12) {
    case 0: return "(" + number(depth - 1) + " + " + number(depth - 1) + ")";
    case 1: return "twice(" + number(depth - 1) + ")";
    case 2: return "CASE WHEN " + condition(depth - 1) + " THEN " + number(depth - 1) + " ELSE 0 END";
    case 3: return "coalesce(" + number(depth - 1) + ", 1)";
    case 4: return "(SELECT max(x.n) FROM " + relation() + " x)";
    case 5: return "(" + number(depth - 1) + ")::positive::int";
    case 6: return "(ARRAY[" + number(depth - 1) + ", 2])[1]";
    case 7: return "(SELECT of_row(x) FROM a x LIMIT 1)";
    case 8: return "(SELECT x.of_row FROM a x LIMIT 1)";
    case 9: return "nullif(" + number(depth - 1) + ", 5)";
    case 10: return "length(to_char(now(), 'YYYY') || " + number(depth - 1) + "::text || 'nextval(''sq'')')";
    default: return std::string(one_of(kNumbers));
  }
}

std::string Statements::condition(int depth) {
  if (chance(3)) return std::string(trapped(one_of(kTrapConditions)));
  if (depth <= 0) return number(0) + " > 0";
  switch (random_() % 8) {
    case 0: return "(" + condition(depth - 1) + " AND " + condition(depth - 1) + ")";
    case 1: return "EXISTS (SELECT 1 FROM " + relation() + " e WHERE e.id = " + number(0) + ")";
    case 2: return number(depth - 1) + " IN (SELECT i.n FROM " + relation() + " i)";
    case 3: return number(depth - 1) + " BETWEEN 0 AND " + number(depth - 1);
    case 4: return number(depth - 1) + " ~~~ " + number(depth - 1);
    case 5: return "NOT " + condition(depth - 1);
    case 6: return number(depth - 1) + " = ANY (ARRAY[1, 2, 3])";
    default: return number(depth - 1) + " <> " + number(depth - 1);
  }
}

}  // namespace judge
