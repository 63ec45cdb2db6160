#include "routing/grammar.h"

#include <algorithm>
#include <initializer_list>
#include <optional>

#include <pg_query.h>

#include "routing/json.h"

namespace routing {
namespace {

using Index = Json::Index;
constexpr Index kNone = Json::kNone;

// What a statement is to us, by the name of its node in the parse tree. To add a kind of statement:
// a row here and, if it is neither of the plain ones, a case in `Finder::statement`.
enum class Kind : std::uint8_t {
  select,
  change,
  explain,
  copy,
  create_as,
  transaction,
  set,
  show,
  declare,
  cursor,
  listen,
  unlisten,
  deallocate,
  discard,
  prepare,
  execute,
  load,
  constraints,
  utility,
  schema,
  definition,
};

struct KindRow {
  std::string_view node;
  Kind kind;
};

constexpr KindRow kKinds[] = {
    {"SelectStmt", Kind::select},
    {"InsertStmt", Kind::change},
    {"UpdateStmt", Kind::change},
    {"DeleteStmt", Kind::change},
    {"MergeStmt", Kind::change},
    {"TruncateStmt", Kind::change},
    {"RefreshMatViewStmt", Kind::change},
    {"ExplainStmt", Kind::explain},
    {"CopyStmt", Kind::copy},
    {"CreateTableAsStmt", Kind::create_as},
    {"TransactionStmt", Kind::transaction},
    {"VariableSetStmt", Kind::set},
    {"VariableShowStmt", Kind::show},
    {"DeclareCursorStmt", Kind::declare},
    {"FetchStmt", Kind::cursor},
    {"ClosePortalStmt", Kind::cursor},
    {"ListenStmt", Kind::listen},
    {"UnlistenStmt", Kind::unlisten},
    {"DeallocateStmt", Kind::deallocate},
    {"DiscardStmt", Kind::discard},
    {"PrepareStmt", Kind::prepare},
    {"ExecuteStmt", Kind::execute},
    {"LoadStmt", Kind::load},
    {"ConstraintsSetStmt", Kind::constraints},
    {"CallStmt", Kind::utility},
    {"CheckPointStmt", Kind::utility},
    {"ClusterStmt", Kind::utility},
    {"DoStmt", Kind::utility},
    {"LockStmt", Kind::utility},
    {"NotifyStmt", Kind::utility},
    {"ReindexStmt", Kind::utility},
    {"VacuumStmt", Kind::utility},
    {"CommentStmt", Kind::definition},
    {"CompositeTypeStmt", Kind::definition},
    {"CreateFunctionStmt", Kind::definition},
    {"CreatePolicyStmt", Kind::definition},
    {"CreateTrigStmt", Kind::definition},
    {"DefineStmt", Kind::schema},
    {"GrantRoleStmt", Kind::schema},
    {"GrantStmt", Kind::schema},
    {"ImportForeignSchemaStmt", Kind::schema},
    {"IndexStmt", Kind::schema},
    {"ReassignOwnedStmt", Kind::schema},
    {"RenameStmt", Kind::schema},
    {"RuleStmt", Kind::definition},
    {"SecLabelStmt", Kind::schema},
    {"ViewStmt", Kind::definition},
};

// A node that no row names is a change of the schema if it is called so, else a utility: the
// primary either way.
Kind kind_of(std::string_view node) {
  for (const KindRow& row : kKinds) {
    if (row.node == node) return row.kind;
  }
  const bool schema =
      node.starts_with("Create") || node.starts_with("Alter") || node.starts_with("Drop");
  return schema ? Kind::schema : Kind::utility;
}

char ascii_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

std::string folded(std::string s) {
  std::transform(s.begin(), s.end(), s.begin(), ascii_lower);
  return s;
}

// A constant that reads the same whatever standard_conforming_strings says at the time of the
// replay.
std::string quote_literal(std::string_view text) {
  std::string out = text.find('\\') == text.npos ? "'" : "E'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += c;
    out += c;
  }
  return out += '\'';
}

// As Postgres reads a boolean setting: any unambiguous start of the words.
std::optional<bool> parse_bool(std::string_view text) {
  const std::string word = folded(std::string(text));
  const auto starts = [&word](std::string_view full, std::size_t least) {
    return word.size() >= least && full.starts_with(word);
  };
  if (starts("true", 1) || starts("yes", 1) || word == "on" || word == "1") return true;
  if (starts("false", 1) || starts("no", 1) || starts("off", 2) || word == "0") return false;
  return std::nullopt;
}

// A name that can stand behind SET as it is. Others exist before Postgres 16 (SET "a b".c), but
// nobody needs them replayed.
bool is_plain_setting_name(std::string_view name) {
  if (name.empty()) return false;
  bool start = true;
  for (const char c : name) {
    const bool letter = (c >= 'a' && c <= 'z') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
    const bool digit = (c >= '0' && c <= '9') || c == '$';
    if (c == '.') {
      if (start) return false;
      start = true;
      continue;
    }
    if (!(letter || (digit && !start))) return false;
    start = false;
  }
  return !start;
}

// Settings whose value is a list of identifiers: SET quotes each element, set_config does not.
bool is_identifier_list(std::string_view name) {
  return name == "search_path" || name == "temp_tablespaces" || name == "local_preload_libraries" ||
         name == "session_preload_libraries";
}

// 'a, "B c"' as Postgres splits it: a, B c. Nothing for what it would refuse.
std::optional<std::vector<std::string>> split_identifiers(std::string_view text) {
  std::vector<std::string> parts;
  std::size_t i = 0;
  const auto blanks = [&] {
    while (i < text.size() && std::string_view(" \t\n\r\f\v").find(text[i]) != text.npos) ++i;
  };
  blanks();
  if (i == text.size()) return parts;
  for (;;) {
    std::string part;
    if (text[i] == '"') {
      for (++i;; ++i) {
        if (i >= text.size()) return std::nullopt;
        if (text[i] == '"') {
          if (i + 1 < text.size() && text[i + 1] == '"') {
            ++i;
          } else {
            break;
          }
        }
        part += text[i];
      }
      ++i;
    } else {
      while (i < text.size() && text[i] != ',' &&
             std::string_view(" \t\n\r\f\v").find(text[i]) == text.npos) {
        part += ascii_lower(text[i++]);
      }
      if (part.empty()) return std::nullopt;
    }
    parts.push_back(std::move(part));
    blanks();
    if (i == text.size()) return parts;
    if (text[i] != ',') return std::nullopt;
    ++i;
    blanks();
    if (i == text.size()) return std::nullopt;
  }
}

bool is_temp_schema(std::string_view name) {
  return name == "pg_temp" || name.starts_with("pg_temp_");
}

class Finder {
 public:
  Finder(const Json& json, const std::string& sql, const Catalog& catalog)
      : json_(json), sql_(sql), catalog_(catalog) {
    facts_.kind = StatementClass::empty;
    facts_.why = ClassReason::empty_statement;
  }

  std::optional<Facts> find() {
    if (json_.size() == 0) return std::nullopt;
    const Index list = json_.find(0, "stmts");
    if (list == kNone) return std::nullopt;
    std::size_t statements = 0;
    for (Index s = json_.first(list); s != json_.end(list); s = json_.end(s)) {
      const Index holder = json_.find(s, "stmt");
      if (holder == kNone || json_.first(holder) == json_.end(holder)) return std::nullopt;
      ++statements;
      statement(json_.first(holder));
    }
    facts_.several = statements > 1;
    tables();
    facts_.changes_settings =
        !std::all_of(facts_.settings.begin(), facts_.settings.end(),
                     [](const SettingChange& c) { return c.is_control(); });
    return std::move(facts_);
  }

 private:

  static bool is_suspicion(ClassReason why) {
    return why == ClassReason::volatile_function || why == ClassReason::unknown_function ||
           why == ClassReason::primary_only || why == ClassReason::primary_table;
  }
  void raise(StatementClass kind, ClassReason why) {
    facts_.only_suspected &= kind <= StatementClass::read || is_suspicion(why);
    if (kind <= facts_.kind) return;
    facts_.kind = kind;
    facts_.why = why;
  }
  void write(ClassReason why) { raise(StatementClass::write, why); }
  void session() { raise(StatementClass::session, ClassReason::session_change); }
  void read() { raise(StatementClass::read, ClassReason::proven_read); }
  void step(TransactionStep s) { facts_.step = s; }

  void statement(Index node) {
    switch (kind_of(json_.key(node))) {
      case Kind::select:
        if (const auto calls = set_config_only(node)) {
          session();
          for (const Index call : *calls) set_config(call);
          return;
        }
        read();
        return walk(node);
      case Kind::change: write(ClassReason::writes_data); return walk(node);
      case Kind::explain: return explain(node);
      case Kind::copy: return copy(node);
      case Kind::create_as:
        raise(StatementClass::ddl, ClassReason::schema_change);
        temporary_names(node);
        return walk(node);
      case Kind::transaction: return transaction(node);
      case Kind::set: return set(node);
      case Kind::show:
        if (is_node_setting(folded(json_.text(node, "name"))))
          return write(ClassReason::primary_only);
        facts_.shows_lsn |= folded(json_.text(node, "name")) == "pgsluice.lsn";
        return read();
      case Kind::declare: return declare(node);
      // They move or end what DECLARE made; their own class must not let anybody run them again.
      case Kind::cursor:
        facts_.cursor = true;
        if (json_.key(node) == "ClosePortalStmt") facts_.may_unpin |= Pin::holdable_cursor;
        return session();
      case Kind::listen: facts_.pins |= Pin::listen; return session();
      case Kind::unlisten: facts_.may_unpin |= Pin::listen; return session();
      case Kind::deallocate:
        facts_.may_unpin |= Pin::sql_prepare;
        if (json_.has(node, "name")) {
          names_prepared(facts_.deallocates_names, json_.text(node, "name"));
        } else {
          facts_.deallocates_all = true;
        }
        return session();
      case Kind::discard:
        if (json_.raw(node, "target") == "DISCARD_TEMP") facts_.may_unpin |= Pin::temporary_table;
        if (json_.raw(node, "target") == "DISCARD_ALL") {
          facts_.unpins_all = true;
          facts_.deallocates_all = true;
          facts_.settings.push_back({SettingChange::What::discard_all, "", ""});
        }
        return session();
      case Kind::prepare:
        facts_.pins |= Pin::sql_prepare;
        names_prepared(facts_.prepares_names, json_.text(node, "name"));
        return session();
      case Kind::execute:
        names_prepared(facts_.executes_names, json_.text(node, "name"));
        return write(ClassReason::utility);
      case Kind::load: facts_.pins |= Pin::load; return session();
      case Kind::constraints:
        return raise(StatementClass::transaction, ClassReason::transaction_control);
      case Kind::utility: write(ClassReason::utility); return walk(node);
      case Kind::schema:
        raise(StatementClass::ddl, ClassReason::schema_change);
        temporary_names(node);
        if (json_.key(node).starts_with("Drop")) facts_.may_unpin |= Pin::temporary_table;
        frees_database(node);
        return walk(node);
      case Kind::definition:  // what is inside runs another day
        raise(StatementClass::ddl, ClassReason::schema_change);
        return temporary_names(node);
    }
  }

  void frees_database(Index node) {
    const std::string_view what = json_.key(node);
    if (what == "DropdbStmt" || what == "AlterDatabaseStmt") {
      facts_.frees_database = json_.text(node, "dbname");
    } else if (what == "RenameStmt" && json_.raw(node, "renameType") == "OBJECT_DATABASE") {
      facts_.frees_database = json_.text(node, "subname");
    } else if (what == "CreatedbStmt") {
      for (Index i = node; i < json_.end(node); ++i)
        if (json_.key(i) == "DefElem" && json_.text(i, "defname") == "template")
          facts_.frees_database = json_.text(json_.find(json_.find(i, "arg"), "String"), "sval");
    }
  }

  void names_prepared(std::vector<std::string>& names, std::string name) {
    facts_.sees_prepared |= name.starts_with(kOurStatements);
    names.push_back(std::move(name));
  }

  // Wherever a relation can stand it is an object with a relname; only DROP has lists of names.
  void tables() {
    for (Index i = 0; i < json_.size(); ++i) {
      if (json_.type(i) != Json::Type::object) continue;
      if (json_.has(i, "relname")) table(json_.text(i, "schemaname"), json_.text(i, "relname"));
      if (json_.key(i) != "DropStmt" || !drops_relations(json_.raw(i, "removeType"))) continue;
      const Index objects = json_.find(i, "objects");
      if (objects == kNone) continue;
      for (Index o = json_.first(objects); o != json_.end(objects); o = json_.end(o)) {
        const Index list = json_.find(o, "List");
        if (list != kNone) dropped(json_.find(list, "items"));
      }
    }
    std::ranges::sort(facts_.tables);
    const auto doubles = std::ranges::unique(facts_.tables);
    facts_.tables.erase(doubles.begin(), doubles.end());
  }
  void table(std::string schema, std::string name) {
    facts_.sees_prepared |= name == "pg_prepared_statements";
    facts_.tables.push_back({std::move(schema), std::move(name)});
  }
  static bool drops_relations(std::string_view type) {
    return type == "OBJECT_TABLE" || type == "OBJECT_VIEW" || type == "OBJECT_MATVIEW" ||
           type == "OBJECT_FOREIGN_TABLE";
  }
  // [database.][schema.]name
  void dropped(Index parts) {
    TableName found;
    if (parts == kNone) return;
    for (Index p = json_.first(parts); p != json_.end(parts); p = json_.end(p)) {
      found.schema = std::move(found.name);
      found.name = json_.text(json_.find(p, "String"), "sval");
    }
    table(std::move(found.schema), std::move(found.name));
  }

  // ---- The walk: everything below a node, wherever it stands ----

  void walk(Index node) {
    for (Index i = node; i < json_.end(node); ++i) {
      const std::string_view key = json_.key(i);
      if (key == "FuncCall" || key == "funccall") {
        function(qualified(json_.find(i, "funcname")), i);
      } else if (key == "A_Expr") {
        expression(i);
      } else if (key == "useOp" || key == "operName") {  // ORDER BY x USING <, x < ANY (SELECT ...)
        operators({qualified(i).name});
      } else if (key == "usingClause" || key == "isNatural") {
        operators({"="});
      } else if (key == "CaseExpr") {
        if (json_.has(i, "arg")) operators({"="});
      } else if (key == "typeName" || key == "TypeName") {
        const Qualified type = qualified(json_.find(i, "names"));
        if (catalog_.is_primary_type(type.schema, type.name)) write(ClassReason::volatile_function);
      } else if (key == "ColumnRef") {
        attribute(json_.find(i, "fields"));
      } else if (key == "A_Indirection") {
        attribute(json_.find(i, "indirection"));
      } else if (key == "RangeVar") {
        range(i);
      } else if (key == "RangeTableSample") {
        facts_.varies = true;
        const Qualified method = qualified(json_.find(i, "method"));
        if (method.name != "bernoulli" && method.name != "system") function(method, i);
      } else if (key == "lockingClause") {
        write(ClassReason::locks_rows);
      } else if (key == "intoClause") {
        write(ClassReason::writes_data);
        temporary_names(i);
      } else if (key == "ExecuteStmt" && i != node) {  // EXPLAIN, CREATE TABLE AS
        names_prepared(facts_.executes_names, json_.text(i, "name"));
      } else if (key == "InsertStmt" || key == "UpdateStmt" || key == "DeleteStmt" ||
                 key == "MergeStmt") {
        write(ClassReason::writes_data);
      }
    }
  }

  // The last two parts of a qualified name: [{"String":{"sval":"a"}}, ...].
  struct Qualified {
    std::string schema, name;
  };
  Qualified qualified(Index list) const {
    Qualified found;
    if (list == kNone) return found;
    for (Index c = json_.first(list); c != json_.end(list); c = json_.end(c)) {
      const Index text = json_.find(c, "String");
      if (text == kNone) continue;
      found.schema = std::move(found.name);
      found.name = json_.text(text, "sval");
    }
    return found;
  }
  std::string last_name(Index list) const { return qualified(list).name; }

  void operators(std::initializer_list<std::string_view> names) {
    if (!catalog_.has_primary_operators()) return;
    for (const std::string_view name : names)
      if (catalog_.is_primary_operator(name)) write(ClassReason::volatile_function);
  }
  void expression(Index node) {
    if (!catalog_.has_primary_operators()) return;
    const std::string name = last_name(json_.find(node, "name"));
    operators({name});
    if (name.find("BETWEEN") != name.npos) operators({"<", "<=", ">", ">="});
  }

  void function(const Qualified& called, Index call) {
    const std::string& name = called.name;
    if (name == "set_config") return set_config_somewhere(call);
    if (name == "current_setting") return current_setting(call);
    if (is_session_advisory_lock(name)) facts_.pins |= Pin::advisory_lock;
    if (is_advisory_unlock(name)) facts_.may_unpin |= Pin::advisory_lock;
    if (catalog_.pins(name)) facts_.pins |= Pin::session_function;
    facts_.sees_prepared |= name == "pg_prepared_statement";
    facts_.varies |= catalog_.varies(name);
    switch (catalog_.function(called.schema, name)) {
      case Catalog::Verdict::read: return;
      case Catalog::Verdict::volatile_function: return write(ClassReason::volatile_function);
      case Catalog::Verdict::primary_only: return write(ClassReason::primary_only);
      case Catalog::Verdict::unknown: return write(ClassReason::unknown_function);
    }
  }

  // a.f is f(a) when a has no column f. Only names that are known to be no reads count: a column
  // that is called like one of them costs a trip to the primary.
  void attribute(Index fields) {
    if (fields == kNone) return;
    const std::string name = last_name(fields);
    if (name.empty()) return;
    const Index first = json_.first(fields);
    const bool qualified = first != json_.end(fields) && json_.end(first) != json_.end(fields);
    if (!qualified && json_.key(fields) == "fields") return;  // a plain column
    for (Index c = first; c != json_.end(fields); c = json_.end(c)) {
      if (json_.has(c, "A_Star")) return;  // a.*
    }
    facts_.varies |= catalog_.varies(name);
    const Catalog::Verdict v = catalog_.function(name);
    const bool dangerous =
        v == Catalog::Verdict::primary_only || v == Catalog::Verdict::volatile_function;
    if (dangerous && name != "set_config") function({{}, name}, kNone);
  }

  void range(Index var) {
    const std::string schema = json_.text(var, "schemaname"), name = json_.text(var, "relname");
    if (is_temp_schema(schema)) write(ClassReason::primary_only);
    if ((schema.empty() || schema == "pg_catalog") && is_node_view(name)) write(ClassReason::primary_only);
    if (catalog_.is_primary_relation(schema, name)) write(ClassReason::primary_table);
  }

  // Its argument stays in the digest (lexer.cc), so that it may decide here.
  void current_setting(Index call) {
    const Index args = call == kNone ? kNone : json_.find(call, "args");
    if (args == kNone || json_.first(args) == json_.end(args))
      return write(ClassReason::primary_only);
    const auto name = constant_text(json_.first(args));
    if (!name || is_node_setting(folded(*name))) write(ClassReason::primary_only);
  }

  // CREATE TEMP ..., and the less known CREATE ... pg_temp.name.
  void temporary_names(Index node) {
    for (Index i = node; i < json_.end(node); ++i) {
      if (json_.type(i) != Json::Type::string) continue;
      const bool persistence = json_.key(i) == "relpersistence" && json_.raw(i) == "t";
      const bool schema =
          (json_.key(i) == "schemaname" || json_.key(i) == "sval") && is_temp_schema(json_.raw(i));
      if (persistence || schema) facts_.pins |= Pin::temporary_table;
      if ((json_.key(i) == "oncommit" || json_.key(i) == "onCommit") && json_.raw(i) == "ONCOMMIT_DROP")
        facts_.may_unpin |= Pin::temporary_table;
    }
  }

  // ---- Single statements ----

  void explain(Index node) {
    const Index query = json_.find(node, "query");
    if (query == kNone || json_.first(query) == json_.end(query))
      return write(ClassReason::utility);
    const Index inner = json_.first(query);
    bool analyze = false;
    const Index options = json_.find(node, "options");
    if (options != kNone) {
      for (Index o = json_.first(options); o != json_.end(options); o = json_.end(o)) {
        const Index def = json_.find(o, "DefElem");
        if (def == kNone || json_.raw(def, "defname") != "analyze") continue;
        // As the last of several wins and a constant may be any word for no, everything but a plain
        // word for no counts as yes.
        const Index arg = json_.find(def, "arg");
        const Index word = arg == kNone ? kNone : json_.find(arg, "String");
        const auto value = word == kNone ? std::nullopt : parse_bool(json_.text(word, "sval"));
        analyze = analyze || value.value_or(true);
      }
    }
    const Kind kind = kind_of(json_.key(inner));
    if (analyze) return statement(inner);
    // Planned, not executed: a standby plans a write as well, but for what it cannot open, and for functions that
    // the planner calls to guess how many rows there are (stable ones: pg_current_xact_id ...).
    const bool is_planned = (kind == Kind::select && !has_into(inner)) ||
                            (kind == Kind::change && json_.key(inner) != "RefreshMatViewStmt");
    if (is_planned) {
      read();
      return planned(inner);
    }
    if (kind == Kind::execute) names_prepared(facts_.executes_names, json_.text(inner, "name"));
    return write(ClassReason::utility);
  }

  void planned(Index node) {
    for (Index i = node; i < json_.end(node); ++i) {
      if (json_.type(i) == Json::Type::object && json_.has(i, "relname")) range(i);
      const std::string_view key = json_.key(i);
      if (key != "FuncCall" && key != "funccall") continue;
      const Qualified called = qualified(json_.find(i, "funcname"));
      if (catalog_.function(called.schema, called.name) == Catalog::Verdict::primary_only)
        write(ClassReason::primary_only);
    }
  }

  bool has_into(Index node) const {
    for (Index i = node; i < json_.end(node); ++i) {
      if (json_.key(i) == "intoClause") return true;
    }
    return false;
  }

  void copy(Index node) {
    if (json_.is_true(node, "is_from")) {
      write(ClassReason::writes_data);
    } else if (json_.is_true(node, "is_program") || json_.has(node, "filename")) {
      write(ClassReason::utility);
    } else {
      read();
    }
    const Index relation = json_.find(node, "relation");
    if (relation != kNone) range(relation);
    walk(node);
  }

  void declare(Index node) {
    constexpr long kHold = 0x0020;  // CURSOR_OPT_HOLD, parsenodes.h
    read();
    facts_.cursor = true;
    const std::string options = json_.text(node, "options");
    if (std::strtol(options.c_str(), nullptr, 10) & kHold) {
      facts_.pins |= Pin::holdable_cursor;
      session();
    }
    walk(node);
  }

  void transaction(Index node) {
    const std::string_view kind = json_.raw(node, "kind");
    const bool chained = json_.is_true(node, "chain");
    if (kind == "TRANS_STMT_COMMIT_PREPARED" || kind == "TRANS_STMT_ROLLBACK_PREPARED") {
      return write(ClassReason::transaction_control);
    }
    if (kind == "TRANS_STMT_PREPARE") {
      step(TransactionStep::end);
      control(SettingChange::What::commit);
      return write(ClassReason::transaction_control);
    }
    raise(StatementClass::transaction, ClassReason::transaction_control);
    if (kind == "TRANS_STMT_BEGIN" || kind == "TRANS_STMT_START") {
      step(TransactionStep::begin);
      modes(json_.find(node, "options"), TransactionStep::begin_read_only,
            TransactionStep::begin_read_write);
    } else if (kind == "TRANS_STMT_COMMIT" || kind == "TRANS_STMT_ROLLBACK") {
      step(chained ? TransactionStep::chained_end : TransactionStep::end);
      control(kind == "TRANS_STMT_COMMIT" ? SettingChange::What::commit
                                          : SettingChange::What::rollback);
    } else {
      step(TransactionStep::savepoint);
      control(kind == "TRANS_STMT_SAVEPOINT" ? SettingChange::What::savepoint
              : kind == "TRANS_STMT_RELEASE" ? SettingChange::What::release
                                             : SettingChange::What::rollback_to,
              json_.text(node, "savepoint_name"));
    }
  }

  void control(SettingChange::What what, std::string savepoint = {}) {
    facts_.settings.push_back({what, std::move(savepoint), {}});
  }

  // ISOLATION LEVEL ..., READ ONLY, READ WRITE, DEFERRABLE: keywords all, so in the digest.
  void modes(Index list, TransactionStep read_only, TransactionStep read_write) {
    each_mode(list, [&](std::string_view name, const std::string& value) {
      if (name == "transaction_read_only") step(value == "1" ? read_only : read_write);
      if (name != "transaction_isolation") return;
      facts_.serializable = value == "serializable";
      facts_.repeatable = value == "repeatable read";
    });
  }

  template <class Each>
  void each_mode(Index list, Each each) {
    if (list == kNone) return;
    for (Index o = json_.first(list); o != json_.end(list); o = json_.end(o)) {
      const Index def = json_.find(o, "DefElem");
      const Index arg = def == kNone ? kNone : json_.find(def, "arg");
      const Index value = arg == kNone ? kNone : json_.find(arg, "A_Const");
      if (value == kNone) continue;
      const Index text = json_.find(value, "sval");
      each(json_.raw(def, "defname"), text != kNone
                                          ? json_.text(text, "sval")
                                          : json_.text(json_.find(value, "ival"), "ival"));
    }
  }

  // ---- Settings ----

  void set(Index node) {
    const std::string_view kind = json_.raw(node, "kind");
    const std::string name = json_.text(node, "name");
    const Index args = json_.find(node, "args");
    if (kind == "VAR_SET_MULTI") return set_several(name, args);
    session();
    if (kind == "VAR_RESET_ALL") {
      facts_.settings.push_back({SettingChange::What::reset_all, "", ""});
    } else if (kind == "VAR_SET_VALUE") {
      facts_.depends_on_literals = true;
      change(folded(name), value_of(args), json_.is_true(node, "is_local"), first_element(args));
    } else if (kind == "VAR_SET_DEFAULT" || kind == "VAR_RESET") {
      change(folded(name), std::string(), json_.is_true(node, "is_local"), "", true);
    } else {
      facts_.pins |= Pin::computed_setting;  // FROM CURRENT
    }
  }

  void set_several(std::string_view what, Index args) {
    if (what == "SESSION CHARACTERISTICS") {
      session();
      each_mode(args, [this](std::string_view name, const std::string& value) {
        const bool words = name == "transaction_isolation";
        facts_.settings.push_back({SettingChange::What::set, "default_" + std::string(name),
                                   words          ? quote_literal(value)
                                   : value == "1" ? "on"
                                                  : "off"});
      });
      return;
    }
    raise(StatementClass::transaction, ClassReason::transaction_control);
    if (what == "TRANSACTION") {
      modes(args, TransactionStep::set_read_only, TransactionStep::set_read_write);
    } else {
      facts_.serializable = true;  // SNAPSHOT: made by another transaction on the primary
    }
  }

  // `value`: what stands behind TO; nothing if it cannot be replayed.
  void change(std::string name, std::optional<std::string> value, bool local,
              std::string_view first, bool reset = false) {
    const auto as_bool = parse_bool(first);
    if (name == "transaction_read_only") {  // the same as SET TRANSACTION
      if (as_bool)
        step(*as_bool ? TransactionStep::set_read_only : TransactionStep::set_read_write);
      return raise(StatementClass::transaction, ClassReason::transaction_control);
    }
    if (name == "transaction_isolation" || name == "transaction_deferrable") {
      if (name == "transaction_isolation")
        facts_.serializable = folded(std::string(first)) == "serializable";
      return raise(StatementClass::transaction, ClassReason::transaction_control);
    }
    if (local) {
      // From here to the transaction's end nobody but the server knows how texts are read.
      if (name == "standard_conforming_strings" || name == "client_encoding")
        facts_.pins |= Pin::session_setting;
      facts_.settings.push_back(
          {SettingChange::What::set_local, std::move(name), value.value_or("")});
      return;
    }
    if (name == "seed") {  // a replay would start the sequence again
      facts_.pins |= Pin::session_function;
      return;
    }
    if (!value || !is_plain_setting_name(name)) {
      facts_.pins |= Pin::computed_setting;
      return;
    }
    // What is created without a schema is temporary from now on.
    if (name == "search_path" && is_temp_schema(first)) facts_.pins |= Pin::temporary_table;
    const auto what = reset ? SettingChange::What::reset : SettingChange::What::set;
    facts_.settings.push_back({what, std::move(name), std::move(*value)});
  }

  std::string first_element(Index args) const {
    if (args == kNone || json_.first(args) == json_.end(args)) return {};
    return constant_text(json_.first(args)).value_or("");
  }

  std::optional<std::string> value_of(Index args) const {
    if (args == kNone) return std::nullopt;
    std::string joined;
    for (Index a = json_.first(args); a != json_.end(args); a = json_.end(a)) {
      const Index constant = json_.find(a, "A_Const");
      if (constant == kNone) return std::nullopt;  // SET TIME ZONE INTERVAL ...
      const auto text = constant_text(a);
      if (!text) return std::nullopt;
      if (!joined.empty()) joined += ", ";
      joined += json_.has(constant, "sval") ? quote_literal(*text) : *text;
    }
    return joined;
  }

  // The value of {"A_Const":...}; nothing for NULL and for what is no constant.
  std::optional<std::string> constant_text(Index element) const {
    const Index constant = json_.find(element, "A_Const");
    if (constant == kNone) return std::nullopt;
    if (const Index s = json_.find(constant, "sval"); s != kNone) return json_.text(s, "sval");
    if (const Index f = json_.find(constant, "fval"); f != kNone) return json_.text(f, "fval");
    if (const Index b = json_.find(constant, "boolval"); b != kNone) {
      return json_.is_true(b, "boolval") ? "true" : "false";
    }
    if (const Index i = json_.find(constant, "ival"); i != kNone) {
      if (json_.has(i, "ival")) return json_.text(i, "ival");
      return number_at(
          json_.text(constant, "location"));  // libpg_query 15 leaves out what is not above 0
    }
    return std::nullopt;
  }

  // [-+]digits of the text itself.
  std::optional<std::string> number_at(const std::string& location) const {
    std::size_t i = static_cast<std::size_t>(std::strtoul(location.c_str(), nullptr, 10));
    std::string number;
    if (i < sql_.size() && (sql_[i] == '-' || sql_[i] == '+')) {
      if (sql_[i++] == '-') number = "-";
      while (i < sql_.size() && sql_[i] == ' ') ++i;
    }
    const std::size_t sign = number.size();
    while (i < sql_.size() && sql_[i] >= '0' && sql_[i] <= '9') number += sql_[i++];
    if (number.size() == sign) return std::nullopt;
    return number;
  }

  // ---- set_config ----

  struct Call {
    std::optional<std::string> name;   // constant
    std::optional<std::string> value;  // constant
    bool null_value = false;
    std::optional<bool> local;  // constant
  };

  Call call_of(Index call) const {
    Call c;
    const Index args = call == kNone ? kNone : json_.find(call, "args");
    if (args == kNone) return c;
    Index arg[3] = {kNone, kNone, kNone};
    std::size_t n = 0;
    for (Index a = json_.first(args); a != json_.end(args); a = json_.end(a)) {
      if (n == 3) return c;
      arg[n++] = without_cast(a);
    }
    if (n != 3) return c;
    c.name = constant_text(arg[0]);
    c.value = constant_text(arg[1]);
    const Index constant = json_.find(arg[1], "A_Const");
    c.null_value = constant != kNone && json_.is_true(constant, "isnull");
    if (const auto local = constant_text(arg[2])) c.local = parse_bool(*local);
    return c;
  }

  // 'x'::text is as constant as 'x'. Casts to anything but text and boolean could change the value.
  Index without_cast(Index element) const {
    const Index cast = json_.find(element, "TypeCast");
    if (cast == kNone) return element;
    const std::string type = last_name(json_.find(json_.find(cast, "typeName"), "names"));
    const Index arg = json_.find(cast, "arg");
    return arg != kNone && (type == "text" || type == "varchar" || type == "bool") ? arg : element;
  }

  // SELECT set_config(...), set_config(...): nothing else, so that each call happens exactly once.
  std::optional<std::vector<Index>> set_config_only(Index select) const {
    std::vector<Index> calls;
    for (Index c = json_.first(select); c != json_.end(select); c = json_.end(c)) {
      const std::string_view key = json_.key(c);
      if (key != "targetList" && key != "limitOption" && key != "op") return std::nullopt;
    }
    const Index targets = json_.find(select, "targetList");
    if (targets == kNone) return std::nullopt;
    for (Index t = json_.first(targets); t != json_.end(targets); t = json_.end(t)) {
      const Index target = json_.find(t, "ResTarget");
      const Index value = target == kNone ? kNone : json_.find(target, "val");
      const Index call = value == kNone ? kNone : json_.find(value, "FuncCall");
      if (call == kNone || last_name(json_.find(call, "funcname")) != "set_config")
        return std::nullopt;
      const Call c = call_of(call);
      const bool constants = c.name && (c.value || c.null_value) && c.local;
      const bool local = c.local && *c.local;
      if (!constants && !local) return std::nullopt;
      if (!constants && has_call_inside(call)) return std::nullopt;
      calls.push_back(call);
    }
    return calls;
  }

  bool has_call_inside(Index call) const {
    for (Index i = call + 1; i < json_.end(call); ++i) {
      if (json_.key(i) == "FuncCall" || json_.key(i) == "SubLink") return true;
    }
    return false;
  }

  void set_config(Index call) {
    facts_.depends_on_literals = true;
    const Call c = call_of(call);
    const bool local = c.local.value_or(false);
    if (!c.name) return;  // computed and local: nothing to remember
    const std::string name = folded(*c.name);
    if (c.null_value) return change(name, std::string(), local, "", true);
    if (!c.value) return change(name, std::nullopt, local, "");
    if (!is_identifier_list(name)) return change(name, quote_literal(*c.value), local, *c.value);
    const auto parts = split_identifiers(*c.value);
    if (!parts || parts->empty()) return change(name, quote_literal(*c.value), local, "");
    std::string joined;
    for (const std::string& part : *parts) {
      if (!joined.empty()) joined += ", ";
      // A number that is no quoted name stays one: SET would print it as a name.
      const bool number = c.value->find('"') == std::string::npos && part.size() < 10 && part.front() != '0' &&
                          part.find_first_not_of("0123456789") == std::string::npos;
      joined += number ? part : quote_literal(part);
    }
    change(name, std::move(joined), local, parts->front());
  }

  // Anywhere else: how often it runs, and in what order, only the server knows.
  void set_config_somewhere(Index call) {
    session();
    facts_.depends_on_literals = true;
    const Call c = call_of(call);
    if (!c.local.value_or(false)) facts_.pins |= Pin::computed_setting;
  }

  const Json& json_;
  const std::string& sql_;
  const Catalog& catalog_;
  Facts facts_;
};

}  // namespace

bool find_facts(const std::string& sql, const Catalog& catalog, Facts& facts) {
  const PgQueryParseResult result = pg_query_parse(sql.c_str());
  std::optional<Facts> found;
  if (result.error == nullptr && result.parse_tree != nullptr) {
    Json json;
    if (json.parse(result.parse_tree)) found = Finder(json, sql, catalog).find();
  }
  pg_query_free_parse_result(result);
  if (!found) return false;
  found->digest = facts.digest;
  facts = std::move(*found);
  return true;
}

}  // namespace routing
