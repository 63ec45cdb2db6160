#include "pool/service_class.h"

#include <doctest/doctest.h>

#include "pool/slots.h"

using namespace pool;
using namespace std::chrono_literals;

TEST_SUITE("pool/service_class") {
  TEST_CASE("without a word the four are there, and nothing is held back from high ones") {
    const auto table = ClassRegistry(conf::Settings{}).table();
    REQUIRE(table->classes.size() == 4);
    CHECK(table->at(kHigh).name == "high");
    CHECK(table->at(kHigh).ceiling == 100);
    CHECK(table->at(kHigh).target == 0ms);
    CHECK(table->at(kHigh).deadline == 0ms);
    CHECK(table->at(2).ceiling == 80);
    CHECK(table->at(2).deadline == 5s);
    CHECK(table->at(3).ceiling == 60);
    CHECK(table->at(3).target == 20ms);
    CHECK((table->counted >> kHigh & 1) == 0);  // what nobody asks about is not counted
    CHECK((table->counted >> 2 & 1) == 1);
    CHECK_FALSE(table->own_nodes);
  }

  TEST_CASE("where somebody is critical, a twentieth is kept from high ones") {
    conf::Settings settings{};
    settings.databases["shop"].service_class = "critical";
    const auto table = ClassRegistry(settings).table();
    CHECK(table->at(kHigh).ceiling == 95);
    CHECK((table->counted >> kHigh & 1) == 1);
  }

  TEST_CASE("a section says what it says, and the rest follows from its priority") {
    conf::Settings settings{};
    settings.classes["reports"].priority = Priority::low;
    settings.classes["reports"].ceiling = 30;
    settings.classes["reports"].nodes = {"10.0.0.3"};
    settings.classes["high"].target = 10ms;
    const auto table = ClassRegistry(settings).table();
    const ServiceClass& reports = table->at(table->find("reports"));
    CHECK(reports.ceiling == 30);
    CHECK(reports.weight == 4);
    CHECK(reports.nodes == std::vector<std::string>{"10.0.0.3:5432"});
    CHECK(table->at(kHigh).target == 10ms);
    CHECK(table->own_nodes);
  }

  TEST_CASE("a session lowers itself and never raises itself") {
    conf::Settings settings{};
    settings.classes["reports"].priority = Priority::low;
    const auto table = ClassRegistry(settings).table();
    const ClassId low = table->find("low");
    CHECK(table->lowered(kHigh, "low") == low);
    CHECK(table->lowered(kHigh, "reports") == table->find("reports"));
    CHECK(table->lowered(kHigh, "critical") == kHigh);
    CHECK(table->lowered(low, "high") == low);
    CHECK(table->lowered(low, "reports") == table->find("reports"));
    CHECK(table->lowered(kHigh, "nonsense") == kHigh);
    CHECK(table->lowered(kHigh, "") == kHigh);
  }

  TEST_CASE("a reload changes what a class is and never which one a number means") {
    conf::Settings settings{};
    settings.classes["b"];
    ClassRegistry registry(settings);
    const ClassId b = registry.table()->find("b");
    settings.classes["a"].ceiling = 10;
    registry.reload(settings);
    CHECK(registry.table()->find("b") == b);
    CHECK(registry.table()->at(registry.table()->find("a")).ceiling == 10);
    settings.classes.clear();
    registry.reload(settings);
    CHECK(registry.table()->find("b") == kHigh);
    CHECK(registry.table()->at(b).priority == Priority::high);
  }

  TEST_CASE("slots count a priority with those below it, and each tenant") {
    Slots slots;
    slots.take(Priority::high, 7);
    slots.take(Priority::low, 7);
    slots.take(Priority::sheddable, 8);
    CHECK(slots.running(Priority::critical) == 3);
    CHECK(slots.running(Priority::low) == 2);
    CHECK(slots.running(Priority::sheddable) == 1);
    CHECK(slots.running_of(7) == 2);
    slots.give_back(Priority::high, 7);
    CHECK(slots.running(Priority::critical) == 2);
    CHECK(slots.running_of(7) == 1);
    CHECK(Slots::allowed(20, 95) == 19);
    CHECK(Slots::allowed(1, 60) == 1);  // somebody is served by the smallest pool
  }
}
