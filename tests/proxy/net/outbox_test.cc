#include "proxy/net/outbox.h"

#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace net {
namespace {

using Sent = std::vector<std::pair<char, std::string>>;

struct Sender final : SocketOwner {
  Sender(char its_name, Sent& all) : name(its_name), sent(all) {}
  void on_readable() override {}
  void on_writable() override {}
  void send_now(std::string_view bytes) override { sent.emplace_back(name, bytes); }

  bool put(Outbox& outbox, std::string first, std::string second = "") {
    const iovec parts[] = {{first.data(), first.size()}, {second.data(), second.size()}};
    return outbox.take(*this, parts, first.size() + second.size());
  }

  char name;
  Sent& sent;
};

struct TwoSenders {
  Sent sent;
  Sender a{'a', sent}, b{'b', sent};
  Outbox outbox;
};

}  // namespace

TEST_SUITE("net/outbox") {
  TEST_CASE_FIXTURE(TwoSenders, "what is put in comes back when it is flushed, whole, in order, and once") {
    CHECK(a.put(outbox, "one ", "piece"));
    CHECK(b.put(outbox, "two"));
    CHECK(a.put(outbox, "three"));
    CHECK(sent.empty());
    CHECK(!outbox.empty());
    outbox.flush();
    CHECK(sent == Sent{{'a', "one piece"}, {'b', "two"}, {'a', "three"}});
    CHECK(outbox.empty());
    outbox.flush();
    CHECK(sent.size() == 3);
  }

  TEST_CASE_FIXTURE(TwoSenders, "a large message is refused, and nothing that stood before it is behind it") {
    CHECK(a.put(outbox, "small"));
    CHECK(!a.put(outbox, std::string(Outbox::kLargest, 'x'), "y"));
    CHECK(sent == Sent{{'a', "small"}});
    CHECK(outbox.empty());
  }

  TEST_CASE_FIXTURE(TwoSenders, "a full one makes room by sending") {
    const std::string largest(Outbox::kLargest, 'x');
    for (std::size_t i = 0; i < Outbox::kMessages; ++i) CHECK(a.put(outbox, largest));
    CHECK(sent.empty());
    CHECK(b.put(outbox, "last"));
    CHECK(sent == Sent(Outbox::kMessages, {'a', largest}));
    outbox.flush();
    CHECK(sent.back() == std::pair<char, std::string>('b', "last"));
  }
}

}  // namespace net
