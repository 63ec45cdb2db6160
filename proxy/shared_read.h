#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "pool/result_cache.h"
#include "pool/single_flight.h"

namespace proxy {

class Client;
class Server;
class Worker;

// A batch that another's answer may be good for, and whose answer may be good for others: a proven read
// outside of transactions, of which a rule says so. It goes where its batch goes, and leaves its flight when
// it dies.
struct SharedRead : pool::FlightMember {
  SharedRead(Worker& its_worker, Client& its_client, std::string its_key, pool::SettingsRef its_settings,
             conf::Millis keep_for, conf::Instant last_told)
      : worker(its_worker), client(its_client), key(std::move(its_key)), settings(std::move(its_settings)),
        cache_for(keep_for), told_at(last_told) {}
  ~SharedRead();
  SharedRead(const SharedRead&) = delete;
  SharedRead& operator=(const SharedRead&) = delete;

  Worker& worker;
  Client& client;               // while it waits; a leader's may be gone
  Server* server = nullptr;     // that works for the flight which it leads
  const std::string key;        // what it asks, of whom, under which settings
  const pool::SettingsRef settings;
  const conf::Millis cache_for;  // 0: its answer is for those who wait for it only
  const conf::Instant told_at;   // when its client was told something last, or later
  bool alone = false;           // it goes its own way
  conf::Instant joined_at{};    // when it first waited for another's answer
};

// By whose answer a statement was answered that no server has run: metric label.
enum class SharedBy : std::uint8_t { flight, cache, count_ };
std::string_view name(SharedBy by);

}  // namespace proxy
