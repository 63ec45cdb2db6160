#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

namespace pool {

// An IPv6 address, or an IPv4 address in its mapped form; all zero, which nobody connects from, stands
// for every unix socket.
using Address = std::array<std::uint8_t, 16>;

// How many connections each address has, in the whole process. Asked once per connection, under a lock.
// An address is remembered as long as it has one: memory is bounded by the connections.
class AddressCounts {
  struct Count {
    AddressCounts* home = nullptr;
    std::int64_t connections = 0;
  };
  using Entry = std::pair<const Address, Count>;

 public:
  // One connection of an address: counts until it is destroyed, which any thread may do.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept : entry_(std::exchange(other.entry_, nullptr)) {}
    Ticket& operator=(Ticket&& other) noexcept {
      std::swap(entry_, other.entry_);
      return *this;
    }
    ~Ticket() {
      if (entry_ != nullptr) entry_->second.home->leave(*entry_);
    }

   private:
    friend class AddressCounts;
    explicit Ticket(Entry& entry) : entry_(&entry) {}
    Entry* entry_ = nullptr;
  };

  // A connection has come; `number` is which of its address's it is, from 1.
  Ticket enter(const Address& address, std::int64_t* number);

  std::int64_t connections(const Address& address) const;
  std::size_t addresses() const;  // that have any

 private:
  void leave(Entry& entry);

  mutable std::mutex mutex_;
  std::map<Address, Count> counts_;  // its entries stay where they are
};

}  // namespace pool
