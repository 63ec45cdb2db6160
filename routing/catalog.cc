#include "routing/catalog.h"

#include <algorithm>
#include <string>

namespace routing {
namespace {

// To add a name: keep the group's order. A name that nobody calls need not be here.

// Volatile by the catalogue, and still the same on a standby: they change nothing that outlives
// them. Only what Postgres or an extension ships is meant. First those that say something else each time.
constexpr std::string_view kNewEachTime[] = {"clock_timestamp",    "gen_random_bytes", "gen_random_uuid",
                                             "gen_salt",           "random",           "random_normal",
                                             "timeofday",          "uuid_generate_v1", "uuid_generate_v1mc",
                                             "uuid_generate_v4",   "uuidv4",           "uuidv7"};
constexpr std::string_view kHarmless[] = {"pg_collation_actual_version",
                                          "pg_database_size",
                                          "pg_indexes_size",
                                          "pg_jit_available",
                                          "pg_partition_ancestors",
                                          "pg_partition_tree",
                                          "pg_relation_size",
                                          "pg_sleep",
                                          "pg_sleep_for",
                                          "pg_sleep_until",
                                          "pg_table_size",
                                          "pg_tablespace_size",
                                          "pg_total_relation_size"};

// They run on a standby with another meaning, or not at all; some are not even volatile there
// (txid_current, pg_stat_get_*). Functions that run SQL given as text are among them: what the text
// does cannot be seen.
constexpr std::string_view kPrimaryOnly[] = {
    // session or node state
    "currval", "lastval", "nextval", "pg_backend_memory_contexts", "pg_blocking_pids",
    "pg_cancel_backend", "pg_control_checkpoint", "pg_control_init", "pg_control_recovery",
    "pg_control_system", "pg_cursor", "pg_export_snapshot", "pg_is_in_recovery",
    "pg_listening_channels", "pg_lock_status", "pg_log_backend_memory_contexts",
    "pg_log_standby_snapshot", "pg_notification_queue_usage", "pg_notify", "pg_prepared_statement",
    "pg_prepared_xact", "pg_promote", "pg_reload_conf", "pg_rotate_logfile",
    "pg_safe_snapshot_blocking_pids", "pg_sequence_last_value", "pg_show_all_settings",
    "pg_terminate_backend", "setval",
    // transactions and WAL
    "pg_current_wal_flush_lsn", "pg_current_wal_insert_lsn", "pg_current_wal_lsn",
    "pg_current_xact_id", "pg_get_wal_replay_pause_state", "pg_is_wal_replay_paused",
    "pg_last_committed_xact", "pg_last_xact_replay_timestamp", "pg_switch_wal", "pg_walfile_name",
    "pg_walfile_name_offset", "pg_xact_status", "txid_current", "txid_status",
    // SQL given as text
    "connectby", "crosstab", "crosstab2", "crosstab3", "crosstab4", "cursor_to_xml",
    "cursor_to_xmlschema", "database_to_xml", "database_to_xml_and_xmlschema",
    "database_to_xmlschema", "query_to_xml", "query_to_xml_and_xmlschema", "query_to_xmlschema",
    "schema_to_xml", "schema_to_xml_and_xmlschema", "schema_to_xmlschema", "table_to_xml",
    "table_to_xml_and_xmlschema", "table_to_xmlschema", "ts_rewrite", "ts_stat", "xpath_table",
    // large objects without the prefix
    "loread", "lowrite"};

constexpr std::string_view kPrimaryOnlyPrefixes[] = {
    "binary_upgrade_",  "dblink",          "lo_",      "pg_backup_",     "pg_copy_logical",
    "pg_copy_physical", "pg_create_",      "pg_drop_", "pg_last_wal_",   "pg_logical_",
    "pg_replication_",  "pg_start_backup", "pg_stat_", "pg_stop_backup", "pg_wal_replay_"};

constexpr std::string_view kSessionFunctions[] = {
    "dblink_connect", "dblink_connect_u", "dblink_open", "pg_replication_origin_session_setup",
    "set_limit",      "setseed"};

// Stable or immutable in every supported release, and in the vocabulary of ORMs, drivers and tools.
constexpr std::string_view kCommonReads[] = {
    // aggregates and windows
    "array_agg", "avg", "bit_and", "bit_or", "bit_xor", "bool_and", "bool_or", "corr", "count",
    "covar_pop", "covar_samp", "cume_dist", "dense_rank", "every", "first_value", "json_agg",
    "json_object_agg", "jsonb_agg", "jsonb_object_agg", "lag", "last_value", "lead", "max", "min",
    "mode", "nth_value", "ntile", "percent_rank", "percentile_cont", "percentile_disc", "range_agg",
    "range_intersect_agg", "rank", "regr_avgx", "regr_avgy", "regr_count", "regr_intercept",
    "regr_r2", "regr_slope", "row_number", "stddev", "stddev_pop", "stddev_samp", "string_agg",
    "sum", "var_pop", "var_samp", "variance", "xmlagg",
    // numbers
    "abs", "acos", "acosd", "asin", "asind", "atan", "atan2", "cbrt", "ceil", "ceiling", "cos",
    "cosd", "cot", "degrees", "div", "exp", "factorial", "floor", "gcd", "int4", "int8", "lcm",
    "ln", "log", "log10", "min_scale", "mod", "numeric", "pi", "pow", "power", "radians", "round",
    "scale", "sign", "sin", "sind", "sqrt", "tan", "tand", "trim_scale", "trunc", "width_bucket",
    // text and bytes
    "ascii", "bit_count", "bit_length", "bpchar", "btrim", "char_length", "character_length", "chr",
    "concat", "concat_ws", "convert", "convert_from", "convert_to", "decode", "encode", "format",
    "get_bit", "get_byte", "initcap", "is_normalized", "left", "length", "like_escape", "lower",
    "lpad", "ltrim", "md5", "normalize", "octet_length", "overlay", "parse_ident", "position",
    "quote_ident", "quote_literal", "quote_nullable", "regexp_count", "regexp_instr", "regexp_like",
    "regexp_match", "regexp_matches", "regexp_replace", "regexp_split_to_array",
    "regexp_split_to_table", "regexp_substr", "repeat", "replace", "reverse", "right", "rpad",
    "rtrim", "set_bit", "set_byte", "sha224", "sha256", "sha384", "sha512", "similar_escape",
    "similar_to_escape", "split_part", "starts_with", "string_to_array", "string_to_table",
    "strpos", "substr", "substring", "text", "to_ascii", "to_hex", "translate", "unistr", "upper",
    "varchar",
    // dates
    "age", "date", "date_bin", "date_part", "date_trunc", "extract", "isfinite", "justify_days",
    "justify_hours", "justify_interval", "make_date", "make_interval", "make_time",
    "make_timestamp", "make_timestamptz", "now", "overlaps", "statement_timestamp", "timezone",
    "to_char", "to_date", "to_number", "to_timestamp", "transaction_timestamp",
    // arrays, ranges, sets
    "array_append", "array_cat", "array_dims", "array_fill", "array_length", "array_lower",
    "array_ndims", "array_position", "array_positions", "array_prepend", "array_remove",
    "array_replace", "array_to_json", "array_to_string", "array_upper", "cardinality", "daterange",
    "generate_series", "generate_subscripts", "int4range", "int8range", "isempty", "lower_inc",
    "lower_inf", "numrange", "range_merge", "trim_array", "tsrange", "tstzrange", "unnest",
    "upper_inc", "upper_inf",
    // json and xml
    "json_array_elements", "json_array_elements_text", "json_array_length", "json_build_array",
    "json_build_object", "json_each", "json_each_text", "json_extract_path",
    "json_extract_path_text", "json_object", "json_object_keys", "json_populate_record",
    "json_populate_recordset", "json_strip_nulls", "json_to_record", "json_to_recordset",
    "json_typeof", "jsonb_array_elements", "jsonb_array_elements_text", "jsonb_array_length",
    "jsonb_build_array", "jsonb_build_object", "jsonb_each", "jsonb_each_text",
    "jsonb_extract_path", "jsonb_extract_path_text", "jsonb_insert", "jsonb_object",
    "jsonb_object_keys", "jsonb_path_exists", "jsonb_path_match", "jsonb_path_query",
    "jsonb_path_query_array", "jsonb_path_query_first", "jsonb_populate_record",
    "jsonb_populate_recordset", "jsonb_pretty", "jsonb_set", "jsonb_strip_nulls", "jsonb_to_record",
    "jsonb_to_recordset", "jsonb_typeof", "row_to_json", "to_json", "to_jsonb", "xmlexists",
    "xpath", "xpath_exists",
    // text search
    "numnode", "phraseto_tsquery", "plainto_tsquery", "querytree", "setweight", "strip",
    "to_tsquery", "to_tsvector", "ts_headline", "ts_rank", "ts_rank_cd", "websearch_to_tsquery",
    // network
    "abbrev", "broadcast", "family", "host", "hostmask", "masklen", "netmask", "network",
    // the session and the catalogue, as drivers and psql ask
    "col_description", "current_database", "current_schema", "current_schemas", "current_setting",
    "format_type", "has_any_column_privilege", "has_column_privilege", "has_database_privilege",
    "has_function_privilege", "has_schema_privilege", "has_sequence_privilege",
    "has_table_privilege", "has_type_privilege", "inet_client_addr", "inet_client_port",
    "inet_server_addr", "inet_server_port", "obj_description", "pg_backend_pid",
    "pg_char_to_encoding", "pg_client_encoding", "pg_collation_for", "pg_collation_is_visible",
    "pg_column_compression", "pg_column_size", "pg_conf_load_time", "pg_describe_object",
    "pg_encoding_to_char", "pg_function_is_visible", "pg_get_constraintdef", "pg_get_expr",
    "pg_get_function_arguments", "pg_get_function_identity_arguments", "pg_get_function_result",
    "pg_get_functiondef", "pg_get_indexdef", "pg_get_keywords", "pg_get_partition_constraintdef",
    "pg_get_partkeydef", "pg_get_ruledef", "pg_get_serial_sequence", "pg_get_statisticsobjdef",
    "pg_get_triggerdef", "pg_get_userbyid", "pg_get_viewdef", "pg_has_role",
    "pg_is_other_temp_schema", "pg_my_temp_schema", "pg_opclass_is_visible",
    "pg_operator_is_visible", "pg_options_to_table", "pg_postmaster_start_time",
    "pg_relation_filenode", "pg_relation_filepath", "pg_relation_is_publishable", "pg_size_bytes",
    "pg_size_pretty", "pg_table_is_visible", "pg_tablespace_location", "pg_timezone_abbrevs",
    "pg_timezone_names", "pg_type_is_visible", "pg_typeof", "row_security_active",
    "shobj_description", "to_regclass", "to_regnamespace", "to_regproc", "to_regprocedure",
    "to_regrole", "to_regtype", "version"};

constexpr std::string_view kNodeViews[] = {"pg_backend_memory_contexts",
                                           "pg_cursors",
                                           "pg_file_settings",
                                           "pg_hba_file_rules",
                                           "pg_locks",
                                           "pg_prepared_statements",
                                           "pg_prepared_xacts",
                                           "pg_replication_origin_status",
                                           "pg_replication_slots",
                                           "pg_sequences",
                                           "pg_settings",
                                           "pg_shmem_allocations"};

constexpr std::string_view kNodeSettings[] = {"all", "default_transaction_read_only", "hot_standby",
                                              "in_hot_standby", "transaction_read_only"};

template <std::size_t N>
bool contains(const std::string_view (&list)[N], std::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

// pg_advisory_lock, pg_try_advisory_xact_lock_shared, pg_advisory_unlock_all ...
bool is_advisory(std::string_view name) {
  return name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_");
}

bool has_primary_only_prefix(std::string_view name) {
  if (is_advisory(name)) return true;
  for (const std::string_view prefix : kPrimaryOnlyPrefixes) {
    if (name.starts_with(prefix)) return true;
  }
  return false;
}

// "schema.name" or "name".
struct Split {
  std::string_view schema, name;
};
Split split(std::string_view word) {
  const std::size_t dot = word.rfind('.');
  return dot == word.npos ? Split{{}, word} : Split{word.substr(0, dot), word.substr(dot + 1)};
}

constexpr std::string_view kSystem = "pg_catalog";

}  // namespace

Catalog::Catalog() : Catalog(CatalogContent{}) {}

Catalog::Catalog(const CatalogContent& content, const Overrides& overrides) {
  add_functions(content);
  overrule(overrides);
  follow_uses(content);
  trusts_unknown_relations_ = !content.cut;
}

std::uint32_t Catalog::number(std::string_view schema) {
  if (schema.empty()) return kEvery;
  return schemas_.try_emplace(std::string(schema), static_cast<std::uint32_t>(schemas_.size())).first->second;
}

std::uint32_t Catalog::find_schema(std::string_view schema) const {
  const auto found = schemas_.find(schema);
  return found == schemas_.end() ? kEvery : found->second;
}

void Catalog::add_functions(const CatalogContent& content) {
  const auto fix = [this](std::string_view name, Verdict verdict) {
    functions_[std::string(name)] = {verdict, {}, true};
  };
  for (const CatalogContent::Function& f : content.functions) {
    const bool harmless = f.is_shipped && (contains(kHarmless, f.name) || contains(kNewEachTime, f.name));
    const Verdict verdict = f.is_volatile && !harmless ? Verdict::volatile_function : Verdict::read;
    Entry& entry = functions_[f.name];
    if (entry.any != Verdict::volatile_function) entry.any = verdict;
    entry.schemas.emplace_back(number(f.schema), verdict);
    if (has_primary_only_prefix(f.name)) fix(f.name, Verdict::primary_only);
  }
  // Not in this database, as far as is known.
  const auto expect = [this](std::string_view name) {
    functions_.try_emplace(std::string(name),
                           Entry{Verdict::read, {{number(kSystem), Verdict::read}}, false});
  };
  for (const std::string_view name : kCommonReads) expect(name);
  for (const std::string_view name : kHarmless) expect(name);
  for (const std::string_view name : kNewEachTime) expect(name);
  for (const std::string_view name : kPrimaryOnly) fix(name, Verdict::primary_only);
  for (const std::string_view name : kSessionFunctions) {
    fix(name, Verdict::primary_only);
    pinning_.emplace(name, true);
  }
}

// From the weakest to the strongest.
void Catalog::overrule(const Overrides& overrides) {
  const auto say = [this](const std::string& word, Verdict verdict) {
    const Split at = split(word);
    Entry& entry = functions_[std::string(at.name)];
    if (at.schema.empty()) {
      entry = {verdict, {}, true};
      return;
    }
    if (entry.fixed) entry = {entry.any, {{number(kSystem), entry.any}}, false};
    const std::uint32_t schema = number(at.schema);
    std::erase_if(entry.schemas, [schema](const auto& one) { return one.first == schema; });
    entry.schemas.emplace_back(schema, verdict);
    // Without a schema it may be this one, or another.
    const auto all_read = [](const auto& one) { return one.second == Verdict::read; };
    entry.any = std::ranges::all_of(entry.schemas, all_read) ? Verdict::read
                : verdict == Verdict::read                   ? entry.any
                                                             : verdict;
  };
  for (const std::string& word : overrides.read_functions) {
    const auto known = functions_.find(split(word).name);
    if (known == functions_.end() || known->second.any != Verdict::read) varying_.emplace(split(word).name, true);
    say(word, Verdict::read);
  }
  for (const std::string& word : overrides.write_functions) say(word, Verdict::volatile_function);
  for (const std::string& word : overrides.pin_functions) {
    say(std::string(split(word).name), Verdict::primary_only);
    pinning_.emplace(split(word).name, true);
  }
  for (const std::string& word : overrides.read_tables)
    add(trusted_relations_, split(word).schema, split(word).name);
  for (const std::string& word : overrides.primary_tables)
    add(relations_, split(word).schema, split(word).name);
}

// What leads to the primary makes whatever uses it lead there too, through any number of views.
void Catalog::follow_uses(const CatalogContent& content) {
  using Kind = CatalogContent::Kind;
  for (const CatalogContent::Name& one : content.primary_relations) add(relations_, one.schema, one.name);
  const auto leads_there = [this](const CatalogContent::Use& use) {
    const CatalogContent::Name& used = use.used;
    switch (use.used_kind) {
      case Kind::relation:
        return is_primary_relation(used.schema, used.name) ||
               (used.schema == kSystem && is_node_view(used.name));
      case Kind::type: return is_primary_type(used.schema, used.name);
      case Kind::function: return function(used.schema, used.name) != Verdict::read;
      case Kind::operators: return is_primary_operator(used.name);
    }
    return true;
  };
  std::vector<const CatalogContent::Use*> left;
  left.reserve(content.uses.size());
  for (const CatalogContent::Use& use : content.uses) left.push_back(&use);
  for (bool found = true; found;) {
    const std::size_t before = left.size();
    std::erase_if(left, [&](const CatalogContent::Use* use) {
      if (!leads_there(*use)) return false;
      const CatalogContent::Name& user = use->user;
      switch (use->user_kind) {
        case Kind::relation: add(relations_, user.schema, user.name); break;
        case Kind::type: add(types_, user.schema, user.name); break;
        case Kind::operators: operators_.emplace(user.name, true); break;
        case Kind::function:
          // Its arguments or its result do it: the operator's word on the function itself still holds.
          if (Entry& entry = functions_[user.name]; !entry.fixed) {
            entry.any = Verdict::volatile_function;
            const std::uint32_t schema = number(user.schema);
            std::erase_if(entry.schemas, [schema](const auto& one) { return one.first == schema; });
            entry.schemas.emplace_back(schema, Verdict::volatile_function);
          }
          break;
      }
      return true;
    });
    found = left.size() != before;
  }
}

void Catalog::add(Names& names, std::string_view schema, std::string_view name) {
  std::vector<std::uint32_t>& schemas = names.of[std::string(name)];
  const std::uint32_t at = number(schema);
  if (std::ranges::find(schemas, at) == schemas.end()) schemas.push_back(at);
}

bool Catalog::Names::contains(const Catalog& catalog, std::string_view schema, std::string_view name) const {
  const auto found = of.find(name);
  if (found == of.end()) return false;
  if (schema.empty()) return true;
  const std::uint32_t at = catalog.find_schema(schema);
  return std::ranges::any_of(found->second, [at](std::uint32_t one) { return one == kEvery || one == at; });
}

bool Catalog::is_primary_relation(std::string_view schema, std::string_view name) const {
  if (trusted_relations_.contains(*this, schema, name)) return false;
  if (relations_.contains(*this, schema, name)) return true;
  return !trusts_unknown_relations_ && schema != kSystem && schema != "information_schema";
}

bool Catalog::is_primary_type(std::string_view schema, std::string_view name) const {
  return types_.contains(*this, schema, name);
}

bool Catalog::is_primary_operator(std::string_view name) const { return operators_.contains(name); }

bool Catalog::varies(std::string_view function_name) const {
  return contains(kNewEachTime, function_name) || varying_.contains(function_name);
}

bool Catalog::pins(std::string_view function_name) const { return pinning_.contains(function_name); }

Catalog::Verdict Catalog::function(std::string_view schema, std::string_view name) const {
  const auto found = functions_.find(name);
  if (found == functions_.end())
    return has_primary_only_prefix(name) ? Verdict::primary_only : Verdict::unknown;
  const Entry& entry = found->second;
  if (schema.empty() || entry.fixed) return entry.any;
  const std::uint32_t at = find_schema(schema);
  for (const auto& [number, verdict] : entry.schemas)
    if (number == at) return verdict;
  return Verdict::unknown;
}

Catalog::Size Catalog::size() const {
  return {functions_.size(), relations_.of.size(), types_.of.size(), operators_.size()};
}

bool is_session_advisory_lock(std::string_view name) {
  return name == "pg_advisory_lock" || name == "pg_advisory_lock_shared" ||
         name == "pg_try_advisory_lock" || name == "pg_try_advisory_lock_shared";
}

bool is_advisory_unlock(std::string_view name) { return name.starts_with("pg_advisory_unlock"); }

bool is_node_view(std::string_view name) {
  return name.starts_with("pg_stat_") || name.starts_with("pg_statio_") ||
         contains(kNodeViews, name);
}

bool is_node_setting(std::string_view name) { return contains(kNodeSettings, name); }

}  // namespace routing
