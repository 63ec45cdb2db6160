#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "conf/settings.h"
#include "metrics/worker_metrics.h"
#include "metrics/name_numbers.h"
#include "pool/address_counts.h"
#include "pool/admission.h"
#include "pool/budget.h"
#include "pool/connect_pace.h"
#include "pool/names_in_use.h"
#include "pool/prepared.h"
#include "pool/rule_limits.h"
#include "pool/service_class.h"
#include "proxy/messages.h"
#include "proxy/wire/scram.h"
#include "routing/chooser.h"

namespace proxy {

// What lets us log in to servers as a user without knowing the password: keys learnt from the user's
// own SCRAM login here, or derived from a configured password. A user of the same name in another cluster
// is somebody else. Looked at once per login.
class Credentials {
 public:
  struct Whose {
    std::string cluster, user;
    friend auto operator<=>(const Whose&, const Whose&) = default;
  };
  void learn(const Whose& whose, const std::string& salt, std::uint32_t iterations,
             const wire::ScramKeys& keys);
  std::optional<wire::ScramKeys> keys(const Whose& whose, const std::string& salt,
                                      std::uint32_t iterations) const;

  // What auth.query found of a user who then proved to know it, where it is no SCRAM secret: an md5
  // hash or a plain password opens servers that ask for one.
  void keep(const Whose& whose, const std::string& secret);
  std::string kept(const Whose& whose) const;

  // A configured plain password as a SCRAM secret for clients to log in against: derived once, since
  // the derivation takes milliseconds.
  std::optional<wire::ScramSecret> derived(const std::string& user, const std::string& password) const;
  void remember(const std::string& user, const std::string& password, const wire::ScramSecret& secret);

 private:
  struct Learnt {
    std::string salt;
    std::uint32_t iterations;
    wire::ScramKeys keys;
  };
  struct Derived {
    std::string password;
    wire::ScramSecret secret;
  };
  mutable std::mutex mutex_;
  std::map<Whose, Learnt> learnt_;
  std::map<std::string, Derived, std::less<>> derived_;  // configured: the same for all clusters
  std::map<Whose, std::string> kept_;
};

class Worker;

// What all threads share. Either immutable after start-up, or its own synchronisation (atomics on the
// per-statement path, locks elsewhere).
struct Shared {
  explicit Shared(const conf::Settings& settings) : tenants(settings), classes(settings) {}

  pool::BudgetRegistry budgets;
  pool::AddressCounts addresses;
  pool::QuotaRegistry database_clients, user_clients;  // by the names that clients give
  pool::PreparedRegistry prepared;
  pool::NamesInUse wildcard_names;  // of databases that "*" serves
  pool::TenantRegistry tenants;
  pool::ClassRegistry classes;
  std::atomic<std::int64_t> waiting{0};         // statements, for a server
  std::atomic<std::int64_t> held_writes{0};     // statements, for a primary
  std::atomic<int> protection{0};               // the level; pool/protection.h
  std::atomic<int> protection_why{0};           // pool::Strain
  routing::NodeLoads loads;
  std::array<pool::ConnectPace, routing::kMaxNodes> connects;  // by node number
  Credentials credentials;
  pool::RuleLimits rule_limits;
  metrics::NameNumbers rule_numbers;  // of [[route]] rules, by their names
  std::string mock_key;       // secret: salts of users that do not exist
  std::string cancel_secret;  // secret: of which long cancel keys are made
  std::uint8_t process = 0;   // in cancel keys: which of several processes issued it
  std::uint32_t other_processes = 0;  // a bit for each number that one before us, still draining, has
  std::vector<Worker*> workers;
  std::function<void(ControlMessage)> tell_control;
  std::atomic<std::int64_t> client_count{0};
  std::atomic<std::size_t> corrections{0};  // digests that replicas have refused
};

}  // namespace proxy
