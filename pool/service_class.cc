#include "pool/service_class.h"

#include <algorithm>
#include <utility>

#include "conf/sections.h"
#include "conf/words.h"

namespace pool {
namespace {

using namespace std::chrono_literals;

// What a class has that says nothing itself, by priority. Critical and high wait as long as they must, because
// a pool that is busy is an ordinary thing: README.md, Decisions.
struct Defaults {
  std::int64_t weight;
  Millis target, interval, deadline;
  std::int64_t ceiling;
};
constexpr Defaults kDefaults[conf::kPriorities] = {
    {16, 0ms, 100ms, 0ms, 100},
    {16, 0ms, 100ms, 0ms, 95},  // 100 where nobody is critical
    {4, 100ms, 1s, 5s, 80},
    {1, 20ms, 200ms, 500ms, 60},
};

ServiceClass fill(const std::string& name, const conf::ClassSettings& said, bool critical_used) {
  ServiceClass one;
  one.name = name;
  one.priority = said.priority.value_or(conf::parse_word<Priority>(name).value_or(Priority::high));
  const Defaults& defaults = kDefaults[static_cast<std::size_t>(one.priority)];
  const bool reserve_nothing = one.priority == Priority::high && !critical_used;
  one.weight = said.weight.value_or(defaults.weight);
  one.target = said.target.value_or(defaults.target);
  one.interval = said.interval.value_or(defaults.interval);
  one.deadline = said.deadline.value_or(defaults.deadline);
  one.ceiling = said.ceiling.value_or(reserve_nothing ? 100 : defaults.ceiling);
  for (const std::string& node : said.nodes)
    if (const auto address = conf::parse_node_address(node)) one.nodes.push_back(address->name());
  one.overflow = said.overflow;
  return one;
}

}  // namespace

ClassId ClassTable::find(std::string_view name, ClassId otherwise) const {
  for (std::size_t id = 0; id < classes.size(); ++id)
    if (classes[id].configured && classes[id].name == name) return static_cast<ClassId>(id);
  return otherwise;
}

ClassId ClassTable::lowered(ClassId configured, std::string_view wanted) const {
  const ClassId id = find(wanted, configured);
  return priority(id) >= priority(configured) ? id : configured;
}

void ClassRegistry::reload(const conf::Settings& settings) {
  const std::lock_guard lock(mutex_);
  if (names_.empty()) names_.assign(conf::kWords<Priority>.begin(), conf::kWords<Priority>.end());
  for (const auto& [name, said] : settings.classes)
    if (std::ranges::find(names_, name) == names_.end() && names_.size() < kMaxServiceClasses)
      names_.push_back(name);

  const auto is_critical = [&settings](const std::string& name) {
    const auto section = settings.classes.find(name);
    if (section != settings.classes.end() && section->second.priority)
      return *section->second.priority == Priority::critical;
    return name == conf::word(Priority::critical);
  };
  bool critical_used = false;
  for (const auto& [name, database] : settings.databases) critical_used |= is_critical(database.service_class);
  for (const auto& [name, user] : settings.users) critical_used |= is_critical(user.service_class);

  auto table = std::make_shared<ClassTable>();
  for (std::size_t id = 0; id < names_.size(); ++id) {
    const auto section = settings.classes.find(names_[id]);
    const bool there = section != settings.classes.end();
    table->classes.push_back(
        fill(names_[id], there ? section->second : conf::ClassSettings{}, critical_used));
    ServiceClass& one = table->classes.back();
    one.configured = there || id < conf::kPriorities;
    table->deadlines |= one.target.count() > 0 || one.deadline.count() > 0;
    table->own_nodes |= !one.nodes.empty();
  }
  for (ServiceClass& one : table->classes) {
    const auto own = static_cast<std::size_t>(one.priority);
    for (std::size_t above = 0; above < own; ++above) one.ceilings[above] = table->classes[above].ceiling;
    one.ceilings[own] = one.ceiling;
  }
  // A ceiling counts its own class and those below.
  Priority highest = Priority::sheddable;
  bool any = false;
  for (const ServiceClass& one : table->classes) {
    if (one.ceiling == 100) continue;
    any = true;
    highest = std::min(highest, one.priority);
  }
  bool tenants = settings.tenant_default.ceiling < 100;
  for (const auto& [name, limits] : settings.tenants) tenants |= limits.ceiling < 100;
  for (std::size_t id = 0; id < table->classes.size(); ++id)
    if (tenants || (any && table->classes[id].priority >= highest)) table->counted |= std::uint64_t{1} << id;
  table_ = std::move(table);
}

std::shared_ptr<const ClassTable> ClassRegistry::table() const {
  const std::lock_guard lock(mutex_);
  return table_;
}

}  // namespace pool
