#include "pool/list.h"

#include <doctest/doctest.h>

#include <deque>
#include <vector>

#include "tests/support/rng.h"

namespace {

struct Item {
  int value = 0;
  pool::ListNode<Item> hook{}, other_hook{};
};
using Items = pool::List<Item, &Item::hook>;
using OtherItems = pool::List<Item, &Item::other_hook>;

std::vector<int> values(const Items& list) {
  std::vector<int> found;
  for (Item* item = list.front(); item != nullptr; item = list.after(*item))
    found.push_back(item->value);
  return found;
}

}  // namespace

TEST_SUITE("pool/list") {
  TEST_CASE("an empty list has no ends") {
    const Items list;
    CHECK(list.empty());
    CHECK(list.size() == 0);
    CHECK(list.front() == nullptr);
    CHECK(list.back() == nullptr);
  }

  TEST_CASE("elements stand in the order of their arrival, and those put in front before them") {
    Item items[] = {{1}, {2}, {3}, {4}};
    Items list;
    list.push_back(items[0]);
    list.push_back(items[1]);
    list.push_front(items[2]);
    list.push_back(items[3]);
    CHECK(values(list) == std::vector<int>{3, 1, 2, 4});
    CHECK(list.front()->value == 3);
    CHECK(list.back()->value == 4);
    CHECK(list.size() == 4);
    for (Item& item : items) list.remove(item);
    CHECK(list.empty());
  }

  TEST_CASE("an element may leave from the middle and from both ends, and come back") {
    Item items[] = {{1}, {2}, {3}};
    Items list;
    for (Item& item : items) list.push_back(item);
    list.remove(items[1]);
    CHECK_FALSE(items[1].hook.linked());
    CHECK(values(list) == std::vector<int>{1, 3});
    list.remove(items[0]);
    CHECK(values(list) == std::vector<int>{3});
    list.remove(items[2]);
    CHECK(list.empty());
    list.push_back(items[1]);
    CHECK(items[1].hook.linked());
    CHECK(values(list) == std::vector<int>{2});
    list.remove(items[1]);
  }

  TEST_CASE("two hooks are two memberships") {
    Item item{7};
    Items list;
    OtherItems other;
    list.push_back(item);
    other.push_back(item);
    list.remove(item);
    CHECK(other.front() == &item);
    CHECK(list.empty());
    other.remove(item);
  }

  TEST_CASE("any sequence of joining and leaving keeps the order of a deque") {
    auto random = support::rng(1);
    std::vector<Item> items(20);
    for (int i = 0; i < 20; ++i) items[static_cast<std::size_t>(i)].value = i;
    Items list;
    std::deque<int> model;
    bool same = true;
    for (int step = 0; step < 5000; ++step) {
      Item& item = items[random() % items.size()];
      if (item.hook.linked()) {
        list.remove(item);
        std::erase(model, item.value);
      } else if (random() % 2 == 0) {
        list.push_back(item);
        model.push_back(item.value);
      } else {
        list.push_front(item);
        model.push_front(item.value);
      }
      same &= list.size() == model.size();
      same &= values(list) == std::vector(model.begin(), model.end());
      same &= model.empty() ? list.back() == nullptr : list.back()->value == model.back();
    }
    CHECK(same);
    while (!list.empty()) list.remove(*list.front());
  }
}
