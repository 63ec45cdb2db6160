#include "bench/simulation/world.h"

#include <ctime>

#include <chrono>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "conf/load.h"

// The users: when they ask, how long they wait, and what they do about a bad answer.
namespace simulation {
namespace {

using namespace std::chrono_literals;

// Statements differ: their parts of the load, and how long they take beside the mean.
struct StatementKind {
  double part, factor;
};
constexpr StatementKind kKinds[] = {{0.6, 0.5}, {0.25, 1}, {0.1, 2}, {0.05, 5}};
constexpr double kWrites = 0.05;  // of a writing session's statements

std::shared_ptr<const conf::Settings> settings_for(const Scale& scale, const Policy& policy,
                                                   const Scenario& scenario) {
  std::string text = "[cluster.main]\nmonitor_user = \"monitor\"\nservers = [";
  for (std::size_t at = 0; at <= scale.replicas; ++at)
    text += "\"127.0.0.1:" + std::to_string(6000 + at) + "\", ";
  text += "]\n[database.\"*\"]\ncluster = \"main\"\n";
  // Sessions lower themselves from the user's class (SET pgsluice.class).
  if (scale.mix.front() > 0) text += "[user.app]\nclass = \"critical\"\n";
  text += "[auth]\nmethod = \"trust\"\n";
  text += "[pool]\nsize = " + std::to_string(scale.servers) + "\n";
  text += "max_waiting = " + std::to_string(scale.max_waiting) + "\n";
  // The targets that shared load needs (pool/README.md, Decisions); or none at all.
  if (policy.deadline) {
    text += "[class.high]\ntarget = \"10ms\"\ninterval = \"100ms\"\ndeadline = \"1s\"\n";
  } else {
    for (const char* name : {"low", "sheddable"})
      text += "[class." + std::string(name) + "]\ntarget = \"0\"\ndeadline = \"0\"\n";
  }
  if (policy.fair || !scenario.settings.starts_with("[tenant]")) text += scenario.settings;
  auto settings = conf::load_text(text, "simulation");
  if (!settings) throw std::runtime_error(settings.error().message);
  return *settings;
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

}  // namespace

World::World(const Scale& scale, const Policy& policy, const Scenario& scenario, std::uint64_t seed)
    : scale_(scale),
      policy_(policy),
      scenario_(scenario),
      settings_(settings_for(scale, policy, scenario)),
      classes_(pool::ClassRegistry(*settings_).table()),
      tenants_(*settings_),
      postgres_(scale),
      monitor_(*settings_, policy.breakers, postgres_, events_, *loads_, seed),
      dice_(seed),
      random_(static_cast<std::uint32_t>(seed * 2 + 1)),
      gaps_([](double q) { return -std::log1p(-q); }),
      // Log-logistic: a long tail, as statements' times have.
      times_([&scale](double q) { return scale.even ? 1.0 : std::pow(q / (1 - q), 0.3); }),
      nodes_(scale.replicas + 1),
      record_(scenario.length) {
  totals_.reads_by_node.resize(nodes_.size());
  make_users(scale);
  open_all();
  set_rate(usual_, scenario.load, 1);
  for (std::uint32_t i = 0; i < scenario.changes.size(); ++i)
    events_.push(after(scenario.changes[i].at), Event::Kind::change, i);
  events_.push(now_ + 10ms, Event::Kind::tick);
  events_.push(now_ + 100ms, Event::Kind::look);
}

World::~World() {
  for (Statement& statement : statements_)
    if (statement.flow != nullptr) statement.flow->home.queue().remove(statement);
  for (std::size_t i = 0; i < nodes_.size() * static_cast<std::size_t>(scale_.servers); ++i)
    if (servers_[i].home != nullptr) servers_[i].home->remove(servers_[i], true);
}

// Tenants have loads as differ in life: the n-th has 1 / n^0.8 of the first's. Their priorities are dealt so
// that each has its part of the load.
void World::make_users(const Scale& scale) {
  std::vector<double> loads;
  for (std::size_t i = 0; i < scale.tenants; ++i) loads.push_back(std::pow(static_cast<double>(i + 1), -0.8));
  whose_ = std::make_unique<Lottery>(loads);
  const double all = std::accumulate(loads.begin(), loads.end(), 0.0);
  std::array<double, conf::kPriorities> owed = scale.mix;
  const auto add = [&](const std::string& name, std::size_t group, conf::Priority priority, double part) {
    first_session_.push_back(static_cast<std::uint32_t>(sessions_.size()));
    const double its = part * static_cast<double>(scale.sessions * scale.tenants);
    for (std::size_t i = 0; i < static_cast<std::size_t>(std::ceil(its)); ++i) {
      Session& session = sessions_.emplace_back();
      session.tenant = &tenants_.find(policy_.fair ? name : "all");
      session.group = static_cast<std::uint8_t>(group);
      session.service_class = policy_.fair ? static_cast<pool::ClassId>(priority) : pool::kHigh;
      session.writes = group != kSurge && dice_.part() < scale.writers;
      session.state.consistency = policy_.all_sessions || session.writes ? settings_->routing_consistency
                                                                         : conf::Consistency::eventual;
    }
  };
  for (std::size_t i = 0; i < scale.tenants; ++i) {
    const auto most = std::ranges::max_element(owed);
    *most -= loads[i] / all;
    const auto group = static_cast<std::size_t>(most - owed.begin());
    add("tenant-" + std::to_string(i + 1), group, static_cast<conf::Priority>(group), loads[i] / all);
  }
  add("surge", kSurge, conf::Priority::high, 1);
  first_session_.push_back(static_cast<std::uint32_t>(sessions_.size()));
}

void World::set_rate(Stream& stream, double part, double factor) {
  stream.factor = static_cast<float>(factor);
  stream.gap = part > 0 ? 1e9 / (part * scale_.capacity() / factor) : 0;
  stream.next = stream.gap == 0 ? INT64_MAX
                                : now_.time_since_epoch().count() +
                                      static_cast<std::int64_t>(gaps_.draw(dice_) * stream.gap);
}

void World::run() {
  const auto began = std::chrono::steady_clock::now();
  const double cpu_began = cpu_seconds();
  const std::int64_t end = after(scenario_.length).time_since_epoch().count();
  for (;;) {
    const std::int64_t next = events_.next_at();
    Stream& stream = surge_.next < usual_.next ? surge_ : usual_;
    if (std::min(next, stream.next) >= end) break;
    if (stream.next <= next) {
      now_ = Instant(Nanos(stream.next));
      arrive(stream, &stream == &surge_);
    } else {
      const Event event = events_.pop();
      now_ = Instant(Nanos(event.at));
      handle(event);
    }
  }
  totals_.ejections = monitor_.ejections();
  totals_.cpu_seconds = cpu_seconds() - cpu_began;
  totals_.wall_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

void World::handle(const Event& event) {
  using Kind = Event::Kind;
  switch (event.kind()) {
    case Kind::answer:
      if (servers_[event.index].generation == event.generation()) end(servers_[event.index]);
      return;
    case Kind::connected:
      if (servers_[event.index].generation == event.generation()) connected(servers_[event.index]);
      break;
    case Kind::again:
      start_waiting(statements_[event.index]);
      place(statements_[event.index]);
      return;
    case Kind::probe: monitor_.ask(now_, event.index, event.generation()); return;
    case Kind::probed: monitor_.answer(now_, event.index, event.generation()); break;
    case Kind::tick: tick(); break;
    case Kind::look: look(); break;
    case Kind::sample: monitor_.sample(now_); return;
    case Kind::sampled: monitor_.sampled(now_); return;
    case Kind::change: apply(scenario_.changes[event.index]); break;
  }
  if (monitor_.take_news()) topology_changed();
}

void World::apply(const Change& change) {
  if (change.what == Change::What::load) return set_rate(usual_, change.value, 1);
  if (change.what == Change::What::surge) return set_rate(surge_, change.value, change.factor);
  const auto replicas = static_cast<double>(scale_.replicas);
  const auto first = static_cast<std::size_t>(change.first * replicas);
  const auto count = static_cast<std::size_t>(std::ceil(change.count * replicas));
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = 1 + first + i;
    Postgres::Node& node = postgres_.node(at);
    switch (change.what) {
      case Change::What::slow: node.slow = change.value; break;
      case Change::What::conflicts: node.conflicts = change.value; break;
      case Change::What::stall:
        node.stalled_from = after(change.at + static_cast<double>(i) * change.factor);
        node.stalled_until = node.stalled_from + Nanos(static_cast<std::int64_t>(change.value * 1e9));
        break;
      case Change::What::crash:
        node.fault = NodeFault::refuses;
        lose_all(at);
        break;
      case Change::What::silence: node.fault = NodeFault::silent; break;
      case Change::What::back:
        node.fault = NodeFault::none;
        ++node.started;
        node.running = 0;
        lose_all(at);  // it knows nothing of the connections from before
        break;
      case Change::What::load:
      case Change::What::surge: break;
    }
  }
}

void World::tick() {
  events_.push(now_ + 10ms, Event::Kind::tick);
  monitor_.tick(now_);
  lose_patience();
  sweep_queues();
  retry_waiting();
  for (std::size_t at = 0; at < nodes_.size(); ++at) {
    pool::Pool& its_pool = *nodes_[at].pool;
    if (its_pool.waiting() == 0) continue;
    while (pool::PooledServer* idle = its_pool.most_recent_idle())
      if (!give(server_of(idle))) break;
    open_servers(at);
  }
}

void World::look() {
  events_.push(now_ + 100ms, Event::Kind::look);
  monitor_.look(now_, scale_.servers);
  totals_.most_waiting = std::max(totals_.most_waiting, static_cast<std::size_t>(queued_));
  if (!policy_.deadline) return;
  const pool::Protection::Rule rule{.loop_delay = settings_->limits_loop_delay,
                                    .memory_high = settings_->limits_memory_high,
                                    .memory_full = settings_->limits_memory_full,
                                    .replicas_out = settings_->limits_replicas_out,
                                    .hold = settings_->limits_protection_hold};
  (void)protection_.look(now_, {.queues_overloaded = queues_overloaded_,
                               .replicas_out = routing::percent_out(monitor_.cluster())}, rule);
  const conf::Priority lowest = pool::lowest_served(protection_.level());
  shed_ = 0;
  for (std::size_t id = 0; id < classes_->classes.size(); ++id)
    if (classes_->classes[id].priority > lowest) shed_ |= std::uint64_t{1} << id;
}

// --- one statement, from the user's side -----------------------------------------------------------

World::Statement& World::make() {
  if (free_.empty()) {
    const auto index = static_cast<std::uint32_t>(statements_.size());
    Statement& made = statements_.emplace_back();
    made.index = index;
    return made;
  }
  Statement& statement = statements_[free_.back()];
  free_.pop_back();
  return statement;
}

void World::free(Statement& statement) { free_.push_back(statement.index); }

void World::arrive(Stream& stream, bool surge) {
  stream.next += 1 + static_cast<std::int64_t>(gaps_.draw(dice_) * stream.gap);
  const std::uint32_t tenant = surge ? static_cast<std::uint32_t>(scale_.tenants) : whose_->draw(dice_);
  double at = dice_.part();
  std::uint8_t kind = 0;
  while (kind + 1U < std::size(kKinds) && at >= kKinds[kind].part) at -= kKinds[kind++].part;

  Statement& statement = make();
  statement.session =
      first_session_[tenant] + dice_.below(first_session_[tenant + 1] - first_session_[tenant]);
  const Session& session = sessions_[statement.session];
  statement.group = session.group;
  statement.service_class = session.service_class;
  statement.kind = static_cast<std::uint8_t>(kind + (stream.factor != 1 ? std::size(kKinds) : 0));
  const double factor = scale_.even ? 1 : kKinds[kind].factor * times_.draw(dice_);
  statement.usual =
      static_cast<float>(static_cast<double>(Nanos(scale_.statement).count()) * factor) * stream.factor;
  statement.write = session.writes && dice_.part() < kWrites;
  statement.surge = surge;
  statement.born = now_;
  statement.tries = 1;
  record_.asked(now_, statement.group);
  start_waiting(statement);
  place(statement);
}

// From here on its user waits.
void World::start_waiting(Statement& statement) {
  statement.asked = statement.waiting_since = now_;
  statement.runs = 0;
  statement.not_on = 0;
  statement.admitted = statement.has_cell = statement.queued = statement.gone = false;
  Asking& asking = asking_[statement.group];
  statement.older = asking.youngest;
  statement.younger = kNobody;
  (asking.youngest == kNobody ? asking.oldest : statements_[asking.youngest].younger) = statement.index;
  asking.youngest = statement.index;
}

void World::stop_patience(Statement& statement) {
  Asking& asking = asking_[statement.group];
  (statement.older == kNobody ? asking.oldest : statements_[statement.older].younger) = statement.younger;
  (statement.younger == kNobody ? asking.youngest : statements_[statement.younger].older) = statement.older;
}

// Whoever asks for low statements is in less of a hurry.
Nanos World::patience(std::size_t group) const {
  return scale_.patience * (group == static_cast<std::size_t>(conf::Priority::low) ? 5 : 1);
}

// Users who have waited for too long go, or ask once more. Their applications' threads stay where they are:
// what was asked is still served, for nobody.
void World::lose_patience() {
  for (std::size_t group = 0; group < kGroups; ++group) {
    const Instant before = now_ - patience(group);
    while (asking_[group].oldest != kNobody && statements_[asking_[group].oldest].asked < before)
      give_up(statements_[asking_[group].oldest]);
  }
}

// This try was no good.
void World::give_up(Statement& statement) {
  stop_patience(statement);
  statement.gone = true;
  if (statement.tries < scenario_.users.tries)
    ask_again(statement);
  else
    record_.failed(now_, statement.group);
}

void World::ask_again(const Statement& before) {
  Statement& statement = make();
  statement.session = before.session;
  statement.group = before.group;
  statement.service_class = before.service_class;
  statement.kind = before.kind;
  statement.usual = before.usual;
  statement.write = before.write;
  statement.surge = before.surge;
  statement.born = before.born;
  statement.tries = static_cast<std::uint8_t>(before.tries + 1);
  statement.waits = Waits::nothing;
  statement.asked = Instant::max();  // until `again`
  const double pause = static_cast<double>(Nanos(scenario_.users.pause).count()) * (0.5 + dice_.part());
  events_.push(now_ + Nanos(static_cast<std::int64_t>(pause)), Event::Kind::again, statement.index);
}

void World::answered(Statement& statement) {
  const bool in_time = !statement.gone && now_ - statement.asked <= patience(statement.group);
  record_.answered(now_, statement.group, now_ - statement.born, in_time);
  if (!statement.gone) in_time ? stop_patience(statement) : give_up(statement);
  free(statement);
}

// Its user has been told that it went wrong.
void World::failed(Statement& statement) {
  if (!statement.gone) give_up(statement);
  free(statement);
}

}  // namespace simulation
