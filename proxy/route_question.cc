#include "proxy/route_question.h"

#include <cstddef>

#include "proxy/console_tables.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"
#include "routing/explain.h"

namespace proxy {
namespace {

bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

void skip_blanks(std::string_view* text) {
  while (!text->empty() && is_blank(text->front())) text->remove_prefix(1);
}

// Takes the keyword, in any case, and the blanks around it, if it stands there as a word.
bool take(std::string_view* text, std::string_view keyword) {
  std::string_view rest = *text;
  skip_blanks(&rest);
  if (rest.size() <= keyword.size() || !is_blank(rest[keyword.size()])) return false;
  for (std::size_t i = 0; i < keyword.size(); ++i)
    if ((rest[i] | 0x20) != (keyword[i] | 0x20)) return false;
  rest.remove_prefix(keyword.size());
  skip_blanks(&rest);
  *text = rest;
  return true;
}

std::optional<std::string> take_name(std::string_view* text) {
  std::string name;
  const char quote = text->empty() ? '\0' : text->front();
  std::size_t i = 0;
  if (quote == '"' || quote == '\'') {
    for (i = 1;; ++i) {
      if (i >= text->size()) return std::nullopt;
      if ((*text)[i] != quote) {
        name += (*text)[i];
      } else if (i + 1 < text->size() && (*text)[i + 1] == quote) {
        name += (*text)[i++];
      } else {
        ++i;
        break;
      }
    }
  } else {
    while (i < text->size() && !is_blank((*text)[i])) name += (*text)[i++];
  }
  if (name.empty()) return std::nullopt;
  text->remove_prefix(i);
  return name;
}

// Who asks, as far as routing wants to know.
struct Asker {
  routing::SessionState session;
  routing::ClientRules* rules;
  conf::PoolMode mode;
  bool standard_strings;
  routing::Classifier::Encoding encoding;
  const routing::ClusterState* cluster;
  std::shared_ptr<const routing::Scope> scope;
  pool::OwnClass its_class;
  const pool::Tenant* tenant;  // null: not known
  conf::Transactions transactions;
};

std::string answer(Worker& worker, std::string_view sql, Asker asker, bool describe, wire::Formats formats) {
  const std::shared_ptr<const routing::Facts> facts =
      worker.classifier().classify(sql, asker.standard_strings, asker.encoding, *asker.scope);
  if (asker.cluster != nullptr) asker.session.floor.learn(*asker.cluster);
  const routing::RouteOverrides said =
      worker.overrides_for(asker.rules, asker.session, asker.its_class, asker.standard_strings, facts,
                           worker.classifier().commented() ? sql : std::string_view());
  routing::ReadNeeds needs;
  if (said.nodes_by != 0) worker.confine(said, &needs);
  const pool::ClassId its_class =
      said.service_class != 0 ? static_cast<pool::ClassId>(said.service_class - 1) : asker.its_class.session;
  const routing::RouteQuestion question{
      .facts = *facts,
      .session = asker.session,
      .mode = asker.mode,
      .overrides = said,
      .rule = worker.rule_name(said.rule),
      .rule_does = worker.rule_outcome(said.rule),
      .service_class = worker.classes().at(its_class).name,
      .transactions = said.transactions == 0 ? asker.transactions
                                             : static_cast<conf::Transactions>(said.transactions - 1),
      .groups = needs.groups,
      .cluster = asker.cluster,
      .excluded = needs.excluded | (asker.cluster == nullptr ? 0 : worker.excluded(*asker.cluster)),
      .kept_from = asker.cluster == nullptr ? 0 : worker.kept_from(its_class, asker.tenant, *asker.cluster, needs.groups),
      .dry_run = worker.settings().routing_dry_run};
  std::string out;
  if (describe) wire::append_row_description(out, columns::kExplainRoute, formats);
  for (const routing::RouteRow& row : routing::explain_route(question, worker.shared().loads)) {
    const std::optional<std::string> values[] = {row.property, row.value};
    wire::append_data_row(out, values, columns::kExplainRoute, formats);
  }
  wire::append_command_complete(out, "EXPLAIN");
  return out;
}

}  // namespace

std::optional<RouteAsked> parse_route_question(std::string_view text) {
  RouteAsked asked;
  if (!take(&text, "EXPLAIN") || !take(&text, "ROUTE")) return std::nullopt;
  for (;;) {
    std::string* const into = take(&text, "USER")          ? &asked.user
                              : take(&text, "DATABASE")    ? &asked.database
                              : take(&text, "APPLICATION") ? &asked.application
                                                           : nullptr;
    if (into == nullptr) break;
    auto name = take_name(&text);
    if (!name) return std::nullopt;
    *into = std::move(*name);
  }
  skip_blanks(&text);
  if (text.empty()) return std::nullopt;
  asked.sql = text;
  return asked;
}

std::string explain_route(Worker& worker, const Client& client, std::string_view sql) {
  Asker asker{.session = client.route_state,
              .rules = client.rules,
              .mode = client.identity->mode,
              .standard_strings = client.standard_strings,
              .encoding = client.encoding,
              .cluster = worker.cluster(*client.identity),
              .scope = client.identity->scope,
              .its_class = client.own_class(),
              .tenant = client.tenant,
              .transactions = client.identity->transactions};
  asker.session.in_transaction = client.server != nullptr && client.server->status != 'I';
  asker.session.pinned = routing::any(client.pins);
  return answer(worker, sql, asker, true, {});
}

std::string explain_route(Worker& worker, std::string_view text, const std::string& console_user, bool describe,
                          wire::Formats formats) {
  const auto refuse = [](std::string_view sqlstate, const std::string& message) {
    std::string out;
    wire::append_error(out, {.severity = "ERROR", .sqlstate = sqlstate, .message = message});
    return out;
  };
  auto asked = parse_route_question(text);
  if (!asked)
    return refuse(wire::sqlstate::kSyntaxError,
                  "expected EXPLAIN ROUTE [USER name] [DATABASE name] [APPLICATION name] statement");
  const conf::Settings& settings = worker.settings();
  if (asked->user.empty()) asked->user = console_user;
  if (asked->database.empty())
    asked->database = settings.databases.size() == 1 && !settings.databases.contains("*")
                          ? settings.databases.begin()->first
                          : asked->user;
  auto database = settings.databases.find(asked->database);
  if (database == settings.databases.end()) database = settings.databases.find("*");
  if (database == settings.databases.end())
    return refuse(wire::sqlstate::kInvalidCatalogName, "database \"" + asked->database + "\" is not configured here");
  const auto user = settings.users.find(asked->user);
  auto mode = database->second.pool_mode;
  if (user != settings.users.end() && user->second.pool_mode) mode = user->second.pool_mode;
  routing::ClientRules rules(worker.shared_rule_set(),
                             worker.rules().candidates({asked->user, asked->database, asked->application}));
  Asker asker{.session = {},
              .rules = &rules,
              .mode = mode.value_or(settings.pool_mode),
              .standard_strings = true,
              .encoding = routing::Classifier::Encoding::ascii_safe,
              .cluster = worker.topology().find(database->second.cluster),
              .scope = worker.scope_of(database->second.cluster, database->second.dbname.empty()
                                                                     ? asked->database
                                                                     : database->second.dbname),
              .its_class = {},
              .tenant = nullptr,
              .transactions = database->second.routing_transactions.value_or(settings.routing_transactions)};
  std::string class_name = database->second.service_class;
  if (user != settings.users.end()) {
    asker.transactions = user->second.routing_transactions.value_or(asker.transactions);
    if (!user->second.service_class.empty()) class_name = user->second.service_class;
  }
  asker.its_class.configured = asker.its_class.session = worker.classes().find(class_name);
  asker.session.consistency = settings.routing_consistency;
  return answer(worker, asked->sql, asker, describe, formats);
}

}  // namespace proxy
