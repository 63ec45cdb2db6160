-- What a standby runs without complaint, and must not get: nothing would ever heal it. One statement per line;
-- judge_test.cc runs each on a standby (corpus_schema.sql, judge/schema.sql) and asks the classifier.
-- Advisory locks: they succeed there and protect nothing.
SELECT pg_try_advisory_lock(1)
SELECT pg_advisory_lock(1, 2)
SELECT pg_advisory_lock_shared(3)
SELECT pg_try_advisory_lock_shared(3)
SELECT pg_advisory_unlock(1)
SELECT pg_advisory_unlock_all()
SELECT pg_try_advisory_xact_lock(5)
SELECT pg_catalog.pg_advisory_xact_lock(6)
SELECT pg_advisory_xact_lock_shared(6)
SELECT "pg_try_advisory_xact_lock"(7)
SELECT U&"pg\005ftry_advisory_xact_lock"(7)
SELECT * FROM pg_try_advisory_xact_lock(8)
SELECT * FROM t WHERE pg_try_advisory_xact_lock(id)
SELECT id FROM t ORDER BY pg_try_advisory_xact_lock(id) LIMIT 1
SELECT count(*) FILTER (WHERE pg_try_advisory_xact_lock(id)) FROM t
SELECT max(id) OVER (ORDER BY pg_try_advisory_xact_lock(id)) FROM t LIMIT 1
WITH x AS (SELECT pg_try_advisory_xact_lock(9) AS ok) SELECT ok FROM x
SELECT CASE WHEN pg_try_advisory_xact_lock(10) THEN 1 ELSE 2 END
SELECT ARRAY[pg_try_advisory_xact_lock(11)]
SELECT coalesce(NULL, pg_try_advisory_xact_lock(12))
SELECT 1 FROM t GROUP BY pg_try_advisory_xact_lock(a) LIMIT 1
SELECT 1 FROM t HAVING bool_or(pg_try_advisory_xact_lock(a))
SELECT 1 LIMIT (SELECT pg_try_advisory_xact_lock(13)::int)
VALUES (pg_try_advisory_xact_lock(14))
SELECT * FROM t JOIN u ON pg_try_advisory_xact_lock(u.id) LIMIT 1
SELECT * FROM t, LATERAL (SELECT pg_try_advisory_xact_lock(t.id)) x LIMIT 1
SELECT 1; SELECT pg_try_advisory_xact_lock(15)
EXPLAIN ANALYZE SELECT pg_try_advisory_xact_lock(16)
EXPLAIN (ANALYZE, COSTS OFF) SELECT pg_try_advisory_xact_lock(16)
COPY (SELECT pg_try_advisory_xact_lock(17)) TO STDOUT
SELECT xmlelement(name x, pg_try_advisory_xact_lock(18))
SELECT * FROM ROWS FROM (generate_series(1, 2), pg_try_advisory_xact_lock(19)) AS r
SELECT 1 UNION SELECT pg_try_advisory_xact_lock(20)::int
SELECT grouping(a) FROM t GROUP BY ROLLUP (a, pg_try_advisory_xact_lock(a)) LIMIT 1
-- Functions that users have made: called, as an operator, as a cast, as an attribute, in an aggregate.
SELECT takes_lock(1)
SELECT public.takes_lock(1)
SELECT 1 @@@ 2
SELECT 1 OPERATOR(public.@@@) 2
SELECT 1 @@@ ANY (ARRAY[1, 2])
SELECT 1 @@@ ALL (SELECT id FROM a)
SELECT 1::locking
SELECT CAST(id AS public.locking) FROM a
SELECT locking '1'
SELECT '{1,2}'::locking[]
SELECT * FROM json_to_record('{"x": 1}') AS r(x locking)
SELECT * FROM json_populate_record(NULL::pair, '{"x": 1, "y": 2}')
SELECT of_locking(1)
SELECT (ROW(1, 2)::pair)::int
SELECT abs(ROW(1, 2)::pair)
SELECT q + 1 FROM has_pair
SELECT lock_of_row(a) FROM a
SELECT (a).lock_of_row FROM a
SELECT a.lock_of_row FROM a
SELECT x.lock_of_row FROM (SELECT a.* FROM a) AS x(id, n, c), LATERAL (SELECT a.lock_of_row FROM a) AS y
SELECT locking_sum(n) FROM a
SELECT locking_sum(n) OVER () FROM a
SELECT n FROM a GROUP BY n HAVING locking_sum(id) >= 0
-- Views and policies that reach them.
SELECT * FROM v_lock
SELECT * FROM public.v_lock
TABLE v_deep
SELECT count(*) FROM v_deep AS x WHERE x.id > 1
SELECT * FROM a WHERE EXISTS (SELECT FROM v_cte)
SELECT * FROM v_op
SELECT * FROM v_agg
SELECT * FROM v_domain
SELECT * FROM guarded
SELECT * FROM v_policy
COPY (SELECT * FROM v_lock) TO STDOUT
WITH w AS (SELECT * FROM v_lock) SELECT 1 FROM w
-- A sequence of a standby is up to 32 values ahead.
SELECT last_value FROM sq
SELECT * FROM v_last
SELECT * FROM pg_sequences
SELECT pg_sequence_last_value('sq'::regclass)
-- SQL given as text.
SELECT query_to_xml('SELECT pg_try_advisory_xact_lock(21)', true, false, '')
SELECT query_to_xml_and_xmlschema('SELECT takes_lock(1)', true, false, '')
SELECT table_to_xml('v_lock', true, false, '')
SELECT schema_to_xml('pg_toast', true, false, '')
SELECT * FROM ts_stat('SELECT to_tsvector(takes_lock(1)::text)')
SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, takes_lock(1)::text::tsquery')
-- What one node or session is, which applications mean of the primary.
SELECT pg_is_in_recovery()
SELECT current_setting('transaction_read_only')
SHOW transaction_read_only
SHOW in_hot_standby
SELECT setting FROM pg_settings WHERE name = 'in_hot_standby'
SELECT count(*) FROM pg_stat_activity
SELECT * FROM v_activity
SELECT * FROM pg_locks
SELECT pg_last_wal_replay_lsn()
SELECT pg_stat_get_live_tuples('t'::regclass)
SELECT pg_cancel_backend(-1)
SELECT pg_blocking_pids(1)
SELECT setseed(0.5)
SELECT set_config('a.b', 'c', false)
