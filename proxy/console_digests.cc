#include "proxy/console.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "conf/row.h"
#include "proxy/console_tables.h"
#include "proxy/control.h"
#include "proxy/wire/sqlstate.h"
#include "routing/facts.h"

// The console's commands about kinds of statements, and about tenants.
namespace proxy {
namespace {

constexpr std::size_t kDigestsShown = 100;

std::string in_microseconds(conf::Nanos time) { return std::to_string(time.count() / 1000); }

// The same digest of the same database in several workers is one.
using Digests = std::map<std::pair<std::string, std::uint64_t>, metrics::DigestStats::Use>;

Digests sum_up(std::vector<metrics::DigestStats::Use>&& told) {
  Digests all;
  for (metrics::DigestStats::Use& one : told) {
    const auto [place, is_new] = all.try_emplace({one.database, one.digest});
    metrics::DigestStats::Use& sum = place->second;
    if (is_new) {
      sum = std::move(one);
      continue;
    }
    sum.counts.calls += one.counts.calls;
    sum.counts.failed += one.counts.failed;
    sum.counts.rows += one.counts.rows;
    sum.counts.shared += one.counts.shared;
    sum.counts.time += one.counts.time;
    sum.times.merge(one.times);
    if (sum.text.empty()) sum.text = std::move(one.text);
    sum.more_tenants |= one.more_tenants;
    for (const std::uint16_t tenant : one.tenants)
      if (std::ranges::find(sum.tenants, tenant) == sum.tenants.end()) sum.tenants.push_back(tenant);
  }
  return all;
}

// What a digest without a text is.
std::string_view no_text(const metrics::DigestStats::Use& digest) {
  if (digest.digest != 0) return "(cannot be read)";
  return digest.database.empty() ? "(other digests)"
                                 : "(not read: too long, or in an encoding that is not followed)";
}

// What may follow the name of a digest or a tenant: pairs of a keyword and a value, each once.
struct Clauses {
  std::optional<std::string> database;
  std::optional<conf::Millis> time;
  std::optional<std::int64_t> rate, burst, concurrency;
  std::string problem;
};

// "15min" as in the configuration, and "15m", as people type.
std::optional<conf::Millis> read_time(const std::string& text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const bool minutes = text.size() > 1 && text.back() == 'm' && is_digit(text[text.size() - 2]);
  const auto time = conf::parse_duration(minutes ? text + "in" : text);
  constexpr conf::Millis kLongest = std::chrono::hours(24 * 30);
  if (!time || time->count() <= 0 || *time > kLongest) return std::nullopt;
  return *time;
}

std::optional<std::int64_t> read_count(const std::string& text) {
  constexpr std::int64_t kMost = 1'000'000'000;
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count < 1 || count > kMost)
    return std::nullopt;
  return count;
}

Clauses read_clauses(std::span<const std::string> words) {
  Clauses clauses;
  for (std::size_t i = 0; i < words.size() && clauses.problem.empty(); i += 2) {
    const std::string keyword = upper_case(words[i]);
    if (i + 1 == words.size()) {
      clauses.problem = keyword + " is followed by nothing";
      break;
    }
    const std::string& value = words[i + 1];
    const auto take = [&](auto& clause, auto read, std::string_view what) {
      if (clause) clauses.problem = keyword + " stands there twice";
      clause = read(value);
      if (!clause)
        clauses.problem = keyword + " is followed by " + conf::quote(value) + ", which is no " + std::string(what);
    };
    if (keyword == "DATABASE") {
      take(clauses.database, [](const std::string& name) { return std::optional(name); }, "name");
    } else if (keyword == "FOR") {
      take(clauses.time, read_time, "time from 1ms to 30d, such as 15m");
    } else if (keyword == "RATE") {
      take(clauses.rate, read_count, "number from 1 to 1000000000");
    } else if (keyword == "BURST") {
      take(clauses.burst, read_count, "number from 1 to 1000000000");
    } else if (keyword == "CONCURRENCY") {
      take(clauses.concurrency, read_count, "number from 1 to 1000000000");
    } else {
      clauses.problem = conf::quote(words[i]) + " is not expected here";
    }
  }
  return clauses;
}

OrderBook::Outcome mistake(std::string problem) { return {wire::sqlstate::kSyntaxError, std::move(problem)}; }

// A limit from what was typed; else what is wrong with it.
conf::Result<std::shared_ptr<pool::DigestLimit>> read_limit(const ConsoleCommand& asked, bool block,
                                                            conf::Instant now, conf::Millis usual_time) {
  const auto wrong = [](std::string problem) { return conf::Error{conf::Errc::config, std::move(problem)}; };
  const auto digest = routing::parse_digest(asked.arguments.front());
  if (!digest)
    return wrong(conf::quote(asked.arguments.front()) +
                 " is no digest: SHOW DIGESTS has them, of 16 hexadecimal digits");
  const Clauses clauses = read_clauses(std::span(asked.arguments).subspan(1));
  if (!clauses.problem.empty()) return wrong(clauses.problem);
  if (clauses.burst) return wrong("BURST is for tenants");
  if (block && (clauses.rate || clauses.concurrency)) return wrong("what is blocked needs no other limit");
  if (!block && clauses.rate.has_value() == clauses.concurrency.has_value())
    return wrong("LIMIT DIGEST takes either RATE or CONCURRENCY");
  auto limit = std::make_shared<pool::DigestLimit>();
  limit->key = {*digest, clauses.database.value_or("")};
  limit->kind = block           ? pool::DigestLimitKind::block
                : clauses.rate ? pool::DigestLimitKind::rate
                               : pool::DigestLimitKind::concurrency;
  limit->most = clauses.rate.value_or(clauses.concurrency.value_or(0));
  limit->expires = now + clauses.time.value_or(usual_time);
  limit->origin = "console:" + asked.user;
  return limit;
}

std::string seconds_until(conf::Instant then, conf::Instant now) {
  return std::to_string(std::chrono::ceil<std::chrono::seconds>(then - now).count());
}

}  // namespace

void Console::block_digest(const ConsoleCommand& asked) {
  auto limit = read_limit(asked, true, control_.loop().now(), control_.settings().digest_order_expiry);
  if (!limit) return tell(asked)(mistake(limit.error().message));
  control_.orders().limit_digest(std::move(*limit), asked.client, tell(asked));
}

void Console::limit_digest(const ConsoleCommand& asked) {
  auto limit = read_limit(asked, false, control_.loop().now(), control_.settings().digest_order_expiry);
  if (!limit) return tell(asked)(mistake(limit.error().message));
  control_.orders().limit_digest(std::move(*limit), asked.client, tell(asked));
}

void Console::unblock_digest(const ConsoleCommand& asked) {
  const auto digest = routing::parse_digest(asked.arguments.front());
  const Clauses clauses = read_clauses(std::span(asked.arguments).subspan(1));
  if (!digest || !clauses.problem.empty() || clauses.time || clauses.rate || clauses.burst || clauses.concurrency)
    return tell(asked)(
        mistake("expected UNBLOCK DIGEST, a digest of 16 hexadecimal digits, and perhaps DATABASE"));
  control_.orders().unlimit_digest({*digest, clauses.database.value_or("")}, asked.client, tell(asked));
}

void Console::limit_tenant(const ConsoleCommand& asked) {
  const Clauses clauses = read_clauses(std::span(asked.arguments).subspan(1));
  if (!clauses.problem.empty()) return tell(asked)(mistake(clauses.problem));
  if (clauses.database) return tell(asked)(mistake("a tenant's limits hold in all databases"));
  if (!clauses.rate && !clauses.burst && !clauses.concurrency)
    return tell(asked)(mistake("LIMIT TENANT takes RATE, BURST or CONCURRENCY"));
  const conf::Millis time = clauses.time.value_or(control_.settings().digest_order_expiry);
  control_.orders().limit_tenant(asked.arguments.front(),
                                 {.rate = clauses.rate,
                                  .burst = clauses.burst,
                                  .concurrency = clauses.concurrency,
                                  .expires = control_.loop().now() + time},
                                 asked.client, tell(asked));
}

void Console::unlimit_tenant(const ConsoleCommand& asked) {
  control_.orders().unlimit_tenant(asked.arguments.front(), asked.client, tell(asked));
}

void Console::set_class(const ConsoleCommand& asked) {
  const std::string &tenant = asked.arguments[0], &wanted = asked.arguments[1];
  const Clauses clauses = read_clauses(std::span(asked.arguments).subspan(2));
  if (!clauses.problem.empty()) return tell(asked)(mistake(clauses.problem));
  if (clauses.database || clauses.rate || clauses.burst || clauses.concurrency)
    return tell(asked)(mistake("SET CLASS takes a tenant, a class, and perhaps FOR"));
  const auto table = control_.shared().classes.table();
  const auto is_it = [&wanted](const pool::ServiceClass& one) { return one.configured && one.name == wanted; };
  if (std::ranges::none_of(table->classes, is_it))
    return tell(asked)({wire::sqlstate::kUndefinedObject,
                        "there is no class " + conf::quote(wanted) + "; SHOW CLASSES lists them"});
  const conf::Millis time = clauses.time.value_or(control_.settings().digest_order_expiry);
  control_.orders().set_class(tenant, {wanted, control_.loop().now() + time}, asked.client, tell(asked));
}

void Console::unset_class(const ConsoleCommand& asked) {
  control_.orders().unset_class(asked.arguments.front(), asked.client, tell(asked));
}

void Console::show_blocks(const ConsoleCommand& asked) {
  const Orders& orders = control_.orders().current();
  const conf::Instant now = control_.loop().now();
  Rows rows;
  for (const auto& [key, limit] : orders.digests) {
    std::string what(name(limit->kind));
    if (limit->kind != pool::DigestLimitKind::block) what += " " + std::to_string(limit->most);
    rows.push_back({"digest", routing::print_digest(key.digest), key.database, what, limit->origin,
                    seconds_until(limit->expires, now),
                    std::to_string(limit->running.load(std::memory_order_relaxed)),
                    std::to_string(limit->refused.load(std::memory_order_relaxed))});
  }
  for (const auto& [tenant, order] : orders.tenants) {
    std::string what;
    const auto add = [&what](std::string_view word, const std::optional<std::int64_t>& value) {
      if (value) what.append(what.empty() ? "" : ", ").append(word).append(" ").append(std::to_string(*value));
    };
    add("rate", order.rate);
    add("burst", order.burst);
    add("concurrency", order.concurrency);
    const auto tenants = control_.shared().tenants.all();
    const auto known = std::ranges::find(tenants, tenant, &pool::Tenant::name);
    const std::int64_t running = known == tenants.end() ? 0 : (*known)->running.load(std::memory_order_relaxed);
    rows.push_back({"tenant", tenant, "", what, "console", seconds_until(order.expires, now),
                    std::to_string(running), std::nullopt});
  }
  for (const auto& [tenant, order] : orders.classes)
    rows.push_back({"tenant", tenant, "", "class " + order.service_class, "console", seconds_until(order.expires, now),
                    std::nullopt, std::nullopt});
  show(asked, columns::kBlocks, rows);
}

void Console::show_cache(const ConsoleCommand& asked) { ask_rows(asked, columns::kCache, ConsoleQuestion::cache); }

void Console::show_digests(const ConsoleCommand& asked) {
  std::size_t count = kDigestsShown;
  if (!asked.arguments.empty()) {
    const std::string& text = asked.arguments.front();
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    if (error != std::errc() || end != text.data() + text.size()) {
      std::string out;
      wire::append_error(out, {.severity = "ERROR",
                               .sqlstate = wire::sqlstate::kSyntaxError,
                               .message = "SHOW DIGESTS may be followed by how many of them to show"});
      return answer(asked.client, std::move(out));
    }
  }
  ask_workers(asked, {}, ConsoleQuestion::digests,
              [this, count](const ConsoleCommand& command, Heard&& heard, std::string notices) {
    const Digests all = sum_up(std::move(heard.digests));
    std::vector<const metrics::DigestStats::Use*> order;
    for (const auto& [key, one] : all)
      if (one.counts.calls + one.counts.shared > 0) order.push_back(&one);
    std::ranges::stable_sort(order, std::ranges::greater{},
                             [](const metrics::DigestStats::Use* one) { return one->counts.time; });
    if (order.size() > count) order.resize(count);
    std::map<std::uint16_t, std::string> tenants;
    for (const pool::Tenant* tenant : control_.shared().tenants.all()) tenants[tenant->number] = tenant->name;
    Rows rows;
    for (const metrics::DigestStats::Use* one : order) {
      std::string names;
      for (const std::uint16_t tenant : one->tenants) names += (names.empty() ? "" : ", ") + tenants[tenant];
      if (one->more_tenants) names += ", ...";
      rows.push_back({one->digest == 0 ? "" : routing::print_digest(one->digest), one->database,
                      one->text.empty() ? std::string(no_text(*one)) : one->text, std::to_string(one->counts.calls),
                      std::to_string(one->counts.failed), std::to_string(one->counts.rows),
                      std::to_string(one->counts.shared),
                      in_microseconds(one->counts.time), in_microseconds(one->times.quantile(0.5)),
                      in_microseconds(one->times.quantile(0.99)), std::move(names)});
    }
    show(command, columns::kDigests, rows, std::move(notices));
  });
}

}  // namespace proxy
