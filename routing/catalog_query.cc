#include "routing/catalog_query.h"

#include <algorithm>
#include <optional>

namespace routing {

// Rows of six: 'f', schema, name, v or s (one of them is volatile, or none), s or u (shipped or a user's);
// 'r', schema, name: a relation that leads to the primary by itself; and uses: two letters for who uses what, the
// two schemas and names in columns two and three, five and six.
//
// Dependencies on what Postgres ships are not in pg_depend, so the parts of a definition are read from its tree,
// where every function, operator, aggregate and relation stands by its number. Functions of pg_catalog that are
// immutable are left out: nothing can be said against them.
//
// User-defined casts count by the type that has them: whoever has a value of it can convert it without a word.
const char* const kCatalogQuery = R"sql(
with func as (
  select p.oid, n.nspname, p.proname, p.prorettype, p.proargtypes,
         p.provolatile = 'v' or exists (select from pg_aggregate a join pg_proc s on s.oid in
           (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn,
            a.aggminvtransfn, a.aggmfinalfn)
           where a.aggfnoid = p.oid and s.provolatile = 'v') as v,
         n.nspname = 'pg_catalog' or exists (select from pg_depend d where d.classid = 'pg_proc'::regclass
           and d.objid = p.oid and d.deptype = 'e') as shipped,
         p.provolatile <> 'i' or p.prokind = 'a' or n.nspname <> 'pg_catalog' as listed
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace),
rel as (
  select c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relrowsecurity
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relpersistence <> 't'),
tree as (  -- what is kept as trees of expressions, and who reads it
  select 'r' as kind, r.nspname, r.relname as name, w.ev_action::text as nodes
  from rel r join pg_rewrite w on w.ev_class = r.oid where r.relkind = 'v' and w.ev_type = '1' and r.oid >= 16384
    and r.nspname <> 'information_schema'
  union all
  select 'r', r.nspname, r.relname, p.polqual::text
  from rel r join pg_policy p on p.polrelid = r.oid
  where r.relrowsecurity and p.polcmd in ('r', '*') and p.polqual is not null
  union all
  select 't', n.nspname, t.typname, c.conbin::text
  from pg_constraint c join pg_type t on t.oid = c.contypid join pg_namespace n on n.oid = t.typnamespace
  where c.conbin is not null and c.oid >= 16384),
part as (
  select distinct t.kind, t.nspname, t.name, m[1] as what, m[2]::oid as id
  from tree t,
    regexp_matches(t.nodes, ':(funcid|opfuncid|aggfnoid|winfnoid|relid|resulttype) ([1-9][0-9]*)', 'g') m),
fragile as (  -- types whose values are checked or converted by functions of users
  select case when c.castsource >= 16384 then c.castsource else c.casttarget end as id, c.castfunc
  from pg_cast c where c.castfunc >= 16384
  union all
  select k.contypid, 0 from pg_constraint k where k.contypid <> 0 and k.conbin is not null and k.oid >= 16384)
select 'f', nspname, proname, case when bool_or(v) then 'v' else 's' end,
  case when bool_and(shipped or not v) then 's' else 'u' end, '' from func group by nspname, proname
union all select 'r', nspname, relname, '', '', '' from rel
  where relpersistence = 'u' or relkind in ('f', 'S')
union all select 'r', nspname, name, '', '', '' from tree
  where kind = 'r' and nodes like '%:hasForUpdate true%'
union all select 'rr', p.nspname, p.relname, '', c.nspname, c.relname
  from pg_inherits i join rel p on p.oid = i.inhparent join rel c on c.oid = i.inhrelid
  where c.relpersistence = 'u' or c.relkind in ('f', 'p') or exists (select from pg_inherits x where x.inhparent = c.oid)
     or c.relrowsecurity
union all select p.kind || 'f', p.nspname, p.name, '', f.nspname, f.proname
  from part p join func f on f.oid = p.id where p.what in ('funcid', 'opfuncid', 'aggfnoid', 'winfnoid') and f.listed
union all select p.kind || 'r', p.nspname, p.name, '', r.nspname, r.relname
  from part p join rel r on r.oid = p.id where p.what = 'relid' and (r.nspname, r.relname) <> (p.nspname, p.name)
union all select p.kind || 't', p.nspname, p.name, '', n.nspname, t.typname
  from part p join pg_type t on t.oid = p.id join pg_namespace n on n.oid = t.typnamespace
  where p.what = 'resulttype' and t.oid in (select id from fragile)
union all select 'tf', n.nspname, t.typname, '', f.nspname, f.proname
  from fragile x join func f on f.oid = x.castfunc join pg_type t on t.oid = x.id
  join pg_namespace n on n.oid = t.typnamespace
union all select 'tt', an.nspname, a.typname, '', n.nspname, t.typname
  from fragile x join pg_type t on t.oid = x.id join pg_namespace n on n.oid = t.typnamespace
  join pg_type a on a.typelem = t.oid or a.typbasetype = t.oid
    or a.typrelid in (select attrelid from pg_attribute where atttypid = t.oid)
  join pg_namespace an on an.oid = a.typnamespace
union all select 'rt', r.nspname, r.relname, '', n.nspname, t.typname
  from fragile x join pg_attribute a on a.atttypid = x.id join rel r on r.oid = a.attrelid
  join pg_type t on t.oid = x.id join pg_namespace n on n.oid = t.typnamespace
  where x.castfunc > 0 and not a.attisdropped
union all select 'rt', r.nspname, r.relname, '', n.nspname, t.typname
  from fragile x join pg_type t on t.oid = x.id join pg_namespace n on n.oid = t.typnamespace
  join rel r on r.oid = t.typrelid
union all select 'ft', f.nspname, f.proname, '', n.nspname, t.typname
  from fragile x join func f on x.id = f.prorettype or x.id = any (f.proargtypes)
  join pg_type t on t.oid = x.id join pg_namespace n on n.oid = t.typnamespace
union all select 'of', '', o.oprname, '', f.nspname, f.proname
  from pg_operator o join func f on f.oid = o.oprcode where f.listed and (f.v or f.nspname <> 'pg_catalog')
order by 1, 2, 3, 4, 5, 6 limit 100001
)sql";

namespace {

using What = CatalogContent::Kind;

std::optional<What> what_of(char letter) {
  switch (letter) {
    case 'r': return What::relation;
    case 't': return What::type;
    case 'f': return What::function;
    case 'o': return What::operators;
    default: return std::nullopt;
  }
}

}  // namespace

CatalogContent catalog_content(std::span<const CatalogRow> rows) {
  constexpr std::size_t kColumns = 6;
  CatalogContent content;
  content.cut = rows.size() > kMaxCatalogRows;
  for (const CatalogRow& row : rows.first(std::min(rows.size(), kMaxCatalogRows))) {
    if (row.size() != kColumns || !row[0] || row[0]->empty()) continue;
    const auto at = [&row](std::size_t column) { return row[column].value_or(std::string()); };
    const std::string& what = *row[0];
    if (what == "f") {
      content.functions.push_back(
          {.schema = at(1), .name = at(2), .is_volatile = at(3) != "s", .is_shipped = at(4) == "s"});
    } else if (what == "r") {
      content.primary_relations.push_back({at(1), at(2)});
    } else if (what.size() == 2) {
      const auto user = what_of(what[0]), used = what_of(what[1]);
      if (user && used) content.uses.push_back({*user, {at(1), at(2)}, *used, {at(4), at(5)}});
    }
  }
  return content;
}

}  // namespace routing
