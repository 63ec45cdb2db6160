#include "routing/catalog.h"

#include <algorithm>
#include <string>

namespace routing {
namespace {

// To add a name: keep the group's order. A name that nobody calls need not be here.

// Volatile by the catalogue, and still the same on a standby: they change nothing that outlives
// them.
constexpr std::string_view kHarmless[] = {"clock_timestamp",
                                          "gen_random_bytes",
                                          "gen_random_uuid",
                                          "gen_salt",
                                          "pg_collation_actual_version",
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
                                          "pg_total_relation_size",
                                          "random",
                                          "random_normal",
                                          "timeofday",
                                          "uuid_generate_v1",
                                          "uuid_generate_v1mc",
                                          "uuid_generate_v4",
                                          "uuidv4",
                                          "uuidv7"};

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
    "pg_last_committed_xact", "pg_last_xact_replay_timestamp", "pg_switch_wal", "pg_xact_status",
    "txid_current", "txid_status",
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

std::string_view without_schema(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  return dot == name.npos ? name : name.substr(dot + 1);
}

}  // namespace

Catalog::Catalog() : Catalog(0, {}, {}, {}) {}

Catalog::Catalog(std::uint64_t version, const std::vector<Function>& functions,
                 const std::vector<std::string>& read_overrides,
                 const std::vector<std::string>& write_overrides,
                 const std::vector<std::string>& pin_overrides)
    : version_(version) {
  // From the weakest to the strongest; each layer takes back what a weaker one said.
  const auto put = [this](std::string_view name, Verdict verdict) {
    std::string key(name);
    reads_.erase(key);
    volatiles_.erase(key);
    primary_only_.erase(key);
    switch (verdict) {
      case Verdict::read: reads_.insert(std::move(key)); break;
      case Verdict::volatile_function: volatiles_.insert(std::move(key)); break;
      case Verdict::primary_only: primary_only_.insert(std::move(key)); break;
      case Verdict::unknown: break;
    }
  };
  for (const std::string_view name : kCommonReads) reads_.emplace(name);
  for (const Function& f : functions) {
    if (!f.is_volatile) put(f.name, Verdict::read);
  }
  for (const Function& f : functions) {  // one volatile overload is enough
    if (f.is_volatile) put(f.name, Verdict::volatile_function);
  }
  for (const std::string_view name : kHarmless) put(name, Verdict::read);
  for (const Function& f : functions) {
    if (has_primary_only_prefix(f.name)) put(f.name, Verdict::primary_only);
  }
  for (const std::string_view name : kPrimaryOnly) put(name, Verdict::primary_only);
  for (const std::string_view name : kSessionFunctions) put(name, Verdict::primary_only);
  for (const std::string& name : read_overrides) put(without_schema(name), Verdict::read);
  for (const std::string& name : write_overrides)
    put(without_schema(name), Verdict::volatile_function);
  for (const std::string& name : pin_overrides) {
    put(without_schema(name), Verdict::primary_only);
    pinning_.emplace(without_schema(name));
  }
}

bool Catalog::pins(std::string_view function_name) const {
  return contains(kSessionFunctions, function_name) || pinning_.contains(function_name);
}

Catalog::Verdict Catalog::judge(std::string_view function_name) const {
  if (reads_.contains(function_name)) return Verdict::read;
  if (volatiles_.contains(function_name)) return Verdict::volatile_function;
  if (primary_only_.contains(function_name) || has_primary_only_prefix(function_name)) {
    return Verdict::primary_only;
  }
  return Verdict::unknown;
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
