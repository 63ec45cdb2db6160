#include "pool/address_counts.h"

#include <doctest/doctest.h>

#include <thread>
#include <vector>

using namespace pool;

namespace {

Address v4(std::uint8_t last) {
  Address address{};
  address[10] = address[11] = 0xff;
  address[12] = 10;
  address[15] = last;
  return address;
}

std::int64_t enter(AddressCounts& counts, const Address& address,
                   std::vector<AddressCounts::Ticket>& tickets) {
  std::int64_t number = 0;
  tickets.push_back(counts.enter(address, &number));
  return number;
}

}  // namespace

TEST_SUITE("pool/address_counts") {
  TEST_CASE("each address counts for itself, and the unix sockets together are one") {
    AddressCounts counts;
    std::vector<AddressCounts::Ticket> tickets;
    CHECK(enter(counts, v4(1), tickets) == 1);
    CHECK(enter(counts, v4(1), tickets) == 2);
    CHECK(enter(counts, v4(2), tickets) == 1);
    CHECK(enter(counts, Address{}, tickets) == 1);
    CHECK(enter(counts, Address{}, tickets) == 2);
    CHECK(counts.connections(v4(1)) == 2);
    CHECK(counts.addresses() == 3);
  }

  TEST_CASE("an address is forgotten with its last connection, and starts anew") {
    AddressCounts counts;
    std::vector<AddressCounts::Ticket> tickets;
    for (int i = 0; i < 3; ++i) enter(counts, v4(1), tickets);
    tickets.pop_back();
    CHECK(counts.connections(v4(1)) == 2);
    tickets.clear();
    CHECK(counts.connections(v4(1)) == 0);
    CHECK(counts.addresses() == 0);
    CHECK(enter(counts, v4(1), tickets) == 1);
  }

  TEST_CASE("a ticket counts once, wherever it is moved") {
    AddressCounts counts;
    std::int64_t number = 0;
    AddressCounts::Ticket first = counts.enter(v4(1), &number);
    AddressCounts::Ticket second = std::move(first);
    CHECK(counts.connections(v4(1)) == 1);
    first = std::move(second);
    CHECK(counts.connections(v4(1)) == 1);
    first = AddressCounts::Ticket();
    CHECK(counts.connections(v4(1)) == 0);
  }

  TEST_CASE("threads that come and go leave nothing behind") {
    AddressCounts counts;
    std::vector<std::thread> threads;
    for (std::uint8_t t = 0; t < 4; ++t)
      threads.emplace_back([&counts, t] {
        for (int i = 0; i < 2000; ++i) {
          std::int64_t number = 0;
          const auto ticket = counts.enter(v4(static_cast<std::uint8_t>(i % 3 + t % 2)), &number);
          if (number < 1 || number > 4) std::abort();
        }
      });
    for (std::thread& thread : threads) thread.join();
    CHECK(counts.addresses() == 0);
  }
}
