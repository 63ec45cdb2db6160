#include <string>
#include <vector>

#include "proxy/wire/password.h"
#include "proxy/wire/scram.h"
#include "tests/fuzz/fuzz_target.h"

// Input: 's' (we are the server), 'p' (the server, with channel binding) or 'c' (the client), then
// the peer's messages, one per line. Anything else is a stored password. Whoever does not know the
// keys below must not get in, whatever they say.

namespace {

// Keys without a password behind them: deriving keys is slow, and not what is tested.
wire::ScramSecret secret() {
  return {.iterations = 4096, .salt = "salt", .stored_key = {1, 2, 3}, .server_key = {4, 5, 6}};
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (true) {
    const std::size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return lines;
    text.remove_prefix(end + 1);
  }
}

void be_server(const std::vector<std::string_view>& messages, bool binding) {
  wire::ScramServer server({.secret = secret(),
                            .nonce = "servernonce",
                            .certificate_hash = binding ? "certificate" : ""});
  const std::string_view mechanism = binding ? wire::kScramSha256Plus : wire::kScramSha256;
  const auto answer = server.first(mechanism, messages[0]);
  if (!answer || messages.size() < 2) return;
  ENSURE(!server.finish(messages[1]).has_value());
}

void be_client(const std::vector<std::string_view>& messages) {
  wire::ScramClient client({.nonce = "clientnonce"});
  static_cast<void>(client.first());
  const auto challenge = client.challenge(messages[0]);
  if (!challenge) return;
  ENSURE(challenge->iterations >= 1 && challenge->iterations <= wire::kMaxScramIterations);
  const wire::ScramHash client_key = {7, 8, 9};
  ENSURE(!client.final(wire::scram_keys(client_key, secret().server_key)).empty());
  if (messages.size() >= 2) ENSURE(!client.verify(messages[1]).has_value());
}

void be_stored(std::string_view text) {
  const auto parsed = wire::parse_scram_secret(text);
  ENSURE((wire::password_kind(text) == wire::PasswordKind::scram) == parsed.has_value());
  if (!parsed) return;
  const auto again = wire::parse_scram_secret(wire::print_scram_secret(*parsed));
  ENSURE(again.has_value() && again->salt == parsed->salt);
  ENSURE(again->iterations == parsed->iterations && again->stored_key == parsed->stored_key);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view input = fuzz::text_of(data, size);
  switch (input[0]) {
    case 's': be_server(lines_of(input.substr(1)), false); break;
    case 'p': be_server(lines_of(input.substr(1)), true); break;
    case 'c': be_client(lines_of(input.substr(1))); break;
    default: be_stored(input);
  }
  return 0;
}
