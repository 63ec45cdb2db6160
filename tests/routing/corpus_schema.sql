-- The objects that corpus.tsv mentions in statements that are reads.
CREATE TABLE t (id int PRIMARY KEY, a int, b int, c text, d date, j jsonb, arr int[], ts timestamptz DEFAULT now());
INSERT INTO t SELECT i, i % 7, i % 5, 'x' || i, '2024-01-01', '{"k": 1}', '{1,2}' FROM generate_series(1, 50) i;
CREATE TABLE u (id int PRIMARY KEY, t_id int REFERENCES t, name text, "Weird Name" text);
INSERT INTO u SELECT i, i, 'n' || i FROM generate_series(1, 20) i;
CREATE VIEW v AS SELECT id, a FROM t;
CREATE SEQUENCE s;
