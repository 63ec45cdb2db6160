#include "proxy/shared.h"

#include "proxy/wire/password.h"

namespace proxy {

void Credentials::learn(const Whose& whose, const std::string& salt, std::uint32_t iterations,
                        const wire::ScramKeys& keys) {
  const std::lock_guard lock(mutex_);
  learnt_[whose] = {salt, iterations, keys};
}

std::optional<wire::ScramKeys> Credentials::keys(const Whose& whose, const std::string& salt,
                                                 std::uint32_t iterations) const {
  const std::lock_guard lock(mutex_);
  const auto found = learnt_.find(whose);
  if (found == learnt_.end() || found->second.salt != salt || found->second.iterations != iterations)
    return std::nullopt;
  return found->second.keys;
}

void Credentials::keep(const Whose& whose, const std::string& secret) {
  const std::lock_guard lock(mutex_);
  std::string& kept = kept_[whose];
  wire::cleanse(kept);
  kept = secret;
}

std::string Credentials::kept(const Whose& whose) const {
  const std::lock_guard lock(mutex_);
  const auto found = kept_.find(whose);
  return found == kept_.end() ? "" : found->second;
}

std::optional<wire::ScramSecret> Credentials::derived(const std::string& user,
                                                      const std::string& password) const {
  const std::lock_guard lock(mutex_);
  const auto found = derived_.find(user);
  if (found == derived_.end() || found->second.password != password) return std::nullopt;
  return found->second.secret;
}

void Credentials::remember(const std::string& user, const std::string& password,
                           const wire::ScramSecret& secret) {
  const std::lock_guard lock(mutex_);
  derived_[user] = {password, secret};
}

}  // namespace proxy
