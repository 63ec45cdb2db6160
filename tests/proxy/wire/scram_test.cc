#include "proxy/wire/scram.h"

#include <doctest/doctest.h>

#include "proxy/wire/base64.h"
#include "wire_inputs.h"

using conf::Errc;
using wire::ScramClient;
using wire::ScramKeys;
using wire::ScramSecret;
using wire::ScramServer;

namespace {

// Iterations are few where the number does not matter: the sanitizers are slow.
constexpr std::uint32_t kFew = 7;
constexpr std::string_view kClientNonce = "clientnonce";
constexpr std::string_view kServerNonce = "servernonce";
const std::string kCertificateHash(32, '\xc5');

ScramServer server_for(ScramSecret secret, std::string certificate_hash = "") {
  return ScramServer({.secret = std::move(secret),
                      .nonce = std::string(kServerNonce),
                      .certificate_hash = std::move(certificate_hash)});
}

ScramClient client_with(ScramClient::Binding binding = ScramClient::Binding::none,
                        std::string certificate_hash = "") {
  return ScramClient({.nonce = std::string(kClientNonce),
                      .binding = binding,
                      .certificate_hash = std::move(certificate_hash)});
}

ScramKeys keys_for(std::string_view password, const ScramClient::Challenge& challenge) {
  return wire::scram_keys(wire::salted_password(password, challenge.salt, challenge.iterations));
}

// A whole login; what the server and the client think of it.
struct Outcome {
  wire::Result<ScramServer::Success> server;
  conf::Status client;
};
Outcome log_in(ScramServer& server, ScramClient& client, std::string_view password) {
  const std::string client_first = client.first();
  const auto server_first = server.first(client.mechanism(), client_first);
  REQUIRE(server_first);
  const auto challenge = client.challenge(*server_first);
  REQUIRE(challenge);
  auto success = server.finish(client.final(keys_for(password, *challenge)));
  conf::Status verified =
      success ? client.verify(success->server_final) : conf::Error{Errc::auth, "refused"};
  return {std::move(success), std::move(verified)};
}

template <class T>
Errc code_of(const conf::Result<T>& result) {
  REQUIRE_FALSE(result);
  return result.error().code;
}

}  // namespace

TEST_SUITE("proxy/wire/scram") {
  TEST_CASE("the example of RFC 7677, as client") {
    ScramClient client({.nonce = "rOprNGfwEbeRWgbNEkqO", .user = "user"});
    CHECK(client.first() == "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    const auto challenge = client.challenge(
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
    REQUIRE(challenge);
    CHECK(challenge->iterations == 4096);
    CHECK(client.final(keys_for("pencil", *challenge)) ==
          "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
          "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    CHECK(client.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
  }

  TEST_CASE("the example of RFC 7677, as server") {
    const auto salt = wire::base64_decode("W22ZaJ0SNY7soEsUEjb6gQ==");
    REQUIRE(salt);
    ScramServer server({.secret = wire::build_scram_secret("pencil", *salt, 4096),
                        .nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"});
    const auto first = server.first(wire::kScramSha256, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    REQUIRE(first);
    CHECK(*first ==
          "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
    const auto success = server.finish(
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    REQUIRE(success);
    CHECK(success->server_final == "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
  }

  TEST_CASE("a secret built here is the one that Postgres 15 built from the same salt") {
    const std::pair<std::string, std::string> known[] = {
        {"correct horse",
         "SCRAM-SHA-256$4096:jQhqrt6/v5xex5y/BxNtuA==$VX/2oXMCv6R8z6tyLaEAF2ifHzpccFNKSTZltzG28+M=:"
         "yZGFd/x8bf4ar2frAmAeylZ8Wuy8pcMnkgdypBUkvoo="},
        // Precomposed letters: the same with and without SASLprep.
        {"p\xc3\xa4ssw\xc3\xb6rd",
         "SCRAM-SHA-256$4096:uXyYDZuNS/qAvLxiSnoNrw==$crfLS++jVe1YpEaww9obsK4XQ1Ls4jU0POvwH/szCow=:"
         "GH6yK2O71LNTj5jV4r5fyxuay5H5WC3ElbjSG1iLWEs="}};
    for (const auto& [password, text] : known) {
      const auto secret = wire::parse_scram_secret(text);
      REQUIRE(secret);
      CHECK(wire::print_scram_secret(*secret) == text);
      CHECK(wire::print_scram_secret(
                wire::build_scram_secret(password, secret->salt, secret->iterations)) == text);
    }
  }

  TEST_CASE("what is not quite a secret is refused") {
    const std::string good = wire::print_scram_secret(wire::build_scram_secret("x", "salt", kFew));
    REQUIRE(wire::parse_scram_secret(good));
    wire_inputs::for_each_prefix(
        good, [](std::string_view prefix) { CHECK_FALSE(wire::parse_scram_secret(prefix)); });
    CHECK_FALSE(wire::parse_scram_secret(good + "="));
    CHECK_FALSE(wire::parse_scram_secret(good + " "));
    const std::string tail = good.substr(good.find(':'));
    CHECK(wire::parse_scram_secret("SCRAM-SHA-256$2147483647" + tail));
    for (const char* count : {"0", "-1", "+1", "4096x", "", "2147483648", "99999999999"}) {
      CHECK_FALSE(wire::parse_scram_secret(std::string("SCRAM-SHA-256$") + count + tail));
    }
    CHECK_FALSE(wire::parse_scram_secret("scram-sha-256" + good.substr(13)));
    CHECK_FALSE(wire::parse_scram_secret("SCRAM-SHA-256$:$:"));
    CHECK_FALSE(wire::parse_scram_secret("SCRAM-SHA-256$1:c2FsdA==$AAAA:AAAA"));
  }

  TEST_CASE("requirement 7: a login succeeds with the password, whatever the length of the salt") {
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, std::size_t{16}, std::size_t{64}, std::size_t{1000}}) {
      CAPTURE(size);
      ScramServer server =
          server_for(wire::build_scram_secret("secret", std::string(size, 's'), kFew));
      ScramClient client = client_with();
      const Outcome outcome = log_in(server, client, "secret");
      CHECK(outcome.server);
      CHECK(outcome.client);
    }
  }

  TEST_CASE("a wrong password fails") {
    for (const char* wrong : {"", "Secret", "secret "}) {
      ScramServer server = server_for(wire::build_scram_secret("secret", "salt", kFew));
      ScramClient client = client_with();
      CHECK(code_of(log_in(server, client, wrong).server) == Errc::auth);
    }
  }

  TEST_CASE("requirement 5: an unknown user fails at the same point with the same words") {
    ScramServer known = server_for(wire::build_scram_secret("secret", "salt", kFew));
    ScramClient client = client_with();
    const auto wrong = log_in(known, client, "wrong").server;
    REQUIRE_FALSE(wrong);

    ScramServer mock({.secret = wire::mock_scram_secret("key", "nobody", kFew),
                      .user_exists = false,
                      .nonce = std::string(kServerNonce)});
    client = client_with();
    const auto unknown = log_in(mock, client, "secret").server;
    REQUIRE_FALSE(unknown);
    CHECK(unknown.error().code == wrong.error().code);
    CHECK(unknown.error().message == wrong.error().message);

    // Not even the right proof opens a user that does not exist.
    ScramServer doomed({.secret = wire::build_scram_secret("secret", "salt", kFew),
                        .user_exists = false,
                        .nonce = std::string(kServerNonce)});
    client = client_with();
    CHECK(code_of(log_in(doomed, client, "secret").server) == Errc::auth);
  }

  TEST_CASE("requirement 5: a mock secret is stable per user and key, and looks like a real one") {
    const ScramSecret mock = wire::mock_scram_secret("key", "nobody", 4096);
    CHECK(mock.salt.size() == wire::kScramSaltLength);
    CHECK(mock.iterations == 4096);
    CHECK(mock.salt == wire::mock_scram_secret("key", "nobody", 4096).salt);
    CHECK(mock.salt != wire::mock_scram_secret("key", "nobody2", 4096).salt);
    CHECK(mock.salt != wire::mock_scram_secret("other", "nobody", 4096).salt);
  }

  TEST_CASE("requirement 7: keys learned from a client log in to a server with the same secret") {
    const ScramSecret secret = wire::build_scram_secret("secret", "salt", kFew);
    ScramServer outer = server_for(secret);
    ScramClient client = client_with();
    const auto learned = log_in(outer, client, "secret").server;
    REQUIRE(learned);

    ScramServer inner = server_for(secret);
    ScramClient onward = client_with();
    const auto server_first = inner.first(onward.mechanism(), onward.first());
    REQUIRE(server_first);
    REQUIRE(onward.challenge(*server_first));
    const ScramKeys keys = wire::scram_keys(learned->keys.client_key, secret.server_key);
    const auto success = inner.finish(onward.final(keys));
    REQUIRE(success);
    CHECK(onward.verify(success->server_final));
  }

  TEST_CASE(
      "requirement 7: channel binding succeeds with the certificate that the client saw, and only with "
      "it") {
    const ScramSecret secret = wire::build_scram_secret("secret", "salt", kFew);
    ScramServer server = server_for(secret, kCertificateHash);
    ScramClient client = client_with(ScramClient::Binding::bind, kCertificateHash);
    CHECK(client.mechanism() == wire::kScramSha256Plus);
    const Outcome outcome = log_in(server, client, "secret");
    CHECK(outcome.server);
    CHECK(outcome.client);

    server = server_for(secret, kCertificateHash);
    client = client_with(ScramClient::Binding::bind, std::string(32, '\0'));
    CHECK(code_of(log_in(server, client, "secret").server) == Errc::protocol);
  }

  TEST_CASE("a client may do without channel binding, but not be talked out of it") {
    const ScramSecret secret = wire::build_scram_secret("secret", "salt", kFew);
    ScramServer with_tls = server_for(secret, kCertificateHash);
    ScramClient client = client_with(ScramClient::Binding::none);
    CHECK(log_in(with_tls, client, "secret").server);

    // The client could bind and was not offered it, though we did offer: somebody in between.
    with_tls = server_for(secret, kCertificateHash);
    client = client_with(ScramClient::Binding::not_offered);
    CHECK_FALSE(with_tls.first(client.mechanism(), client.first()));

    ScramServer without_tls = server_for(secret);
    client = client_with(ScramClient::Binding::not_offered);
    CHECK(log_in(without_tls, client, "secret").server);
  }

  TEST_CASE("flag and mechanism must go together") {
    const ScramSecret secret = wire::build_scram_secret("secret", "salt", kFew);
    const auto first = [&secret](std::string hash, std::string_view mechanism,
                                 std::string_view message) {
      ScramServer server = server_for(secret, std::move(hash));
      return server.first(mechanism, message).has_value();
    };
    const std::string p = "p=tls-server-end-point,,n=,r=x";
    CHECK(first(kCertificateHash, wire::kScramSha256Plus, p));
    CHECK_FALSE(first(kCertificateHash, wire::kScramSha256, p));
    CHECK_FALSE(first(kCertificateHash, wire::kScramSha256Plus, "n,,n=,r=x"));
    CHECK_FALSE(first(kCertificateHash, wire::kScramSha256Plus, "y,,n=,r=x"));
    CHECK_FALSE(first(kCertificateHash, wire::kScramSha256Plus, "p=tls-unique,,n=,r=x"));
    CHECK_FALSE(first("", wire::kScramSha256Plus, p));
    CHECK_FALSE(first("", wire::kScramSha256, p));
    CHECK_FALSE(first("", "SCRAM-SHA-1", "n,,n=,r=x"));
  }

  TEST_CASE("a broken first message of a client is refused") {
    const ScramSecret secret = wire::build_scram_secret("secret", "salt", kFew);
    const auto answer = [&secret](std::string_view message) {
      ScramServer server = server_for(secret);
      return server.first(wire::kScramSha256, message);
    };
    CHECK(answer("n,,n=user,r=abc"));
    CHECK(answer("n,,n=,r=abc,x=extension"));
    for (const char* message :
         {"", "n", "n,", "n,,", "n,,n=user", "n,,r=abc", "n,,n=user,r=", "n,,n=user,r=a b",
          "n,,n=user,r=abc,", "n,,n=user,r=abc,xyz", "n,a=other,n=user,r=abc",
          "n,,m=ext,n=user,r=abc", "x,,n=user,r=abc", "nn,,n=user,r=abc", "p,,n=user,r=abc",
          "n,,N=user,r=abc"}) {
      CAPTURE(message);
      const auto refused = answer(message);
      CHECK(code_of(refused) == Errc::protocol);
    }
  }

  TEST_CASE("a broken final message of a client is refused") {
    const ScramSecret secret = wire::build_scram_secret("secret", "salt", kFew);
    ScramClient client = client_with();
    ScramServer server = server_for(secret);
    const auto server_first = server.first(client.mechanism(), client.first());
    REQUIRE(server_first);
    const auto challenge = client.challenge(*server_first);
    REQUIRE(challenge);
    const std::string whole = client.final(keys_for("secret", *challenge));
    REQUIRE(server.finish(whole));

    const auto finish = [&secret](std::string_view message) {
      ScramServer fresh = server_for(secret);
      REQUIRE(fresh.first(wire::kScramSha256, "n,,n=,r=clientnonce"));
      return fresh.finish(message);
    };
    REQUIRE(finish(whole));
    wire_inputs::for_each_prefix(
        whole, [&](std::string_view prefix) { CHECK(code_of(finish(prefix)) == Errc::protocol); });
    const std::string proof = whole.substr(whole.find(",p="));
    const std::string nonce = ",r=clientnonceservernonce";
    CHECK(code_of(finish("c=biws" + nonce + "x" + proof)) == Errc::protocol);
    CHECK(code_of(finish("c=eSws" + nonce + proof)) == Errc::protocol);
    CHECK(code_of(finish(nonce.substr(1) + ",c=biws" + proof)) == Errc::protocol);
    CHECK(code_of(finish(whole + ",x=after")) == Errc::protocol);
    // Allowed, but signed: an extension that the client did not send breaks the proof.
    CHECK(code_of(finish("c=biws" + nonce + ",x=1" + proof)) == Errc::auth);
  }

  TEST_CASE("messages out of turn are refused") {
    const ScramSecret secret = wire::build_scram_secret("secret", "salt", kFew);
    ScramServer server = server_for(secret);
    CHECK_FALSE(server.finish("c=biws,r=x,p=x"));
    CHECK_FALSE(server.first(wire::kScramSha256, "n,,n=,r=abc"));

    ScramServer twice = server_for(secret);
    REQUIRE(twice.first(wire::kScramSha256, "n,,n=,r=abc"));
    CHECK_FALSE(twice.first(wire::kScramSha256, "n,,n=,r=abc"));
    CHECK_FALSE(twice.finish("c=biws,r=x,p=x"));

    ScramServer after_error = server_for(secret);
    CHECK_FALSE(after_error.first(wire::kScramSha256, "nonsense"));
    CHECK_FALSE(after_error.first(wire::kScramSha256, "n,,n=,r=abc"));

    ScramClient client = client_with();
    CHECK_FALSE(client.challenge("r=clientnoncex,s=c2FsdA==,i=1"));
    CHECK_FALSE(client.verify("v=x"));
  }

  TEST_CASE("requirement 7: a challenge must extend our nonce and ask for a bearable count") {
    const auto challenge = [](std::string_view message) {
      ScramClient client = client_with();
      static_cast<void>(client.first());
      return client.challenge(message);
    };
    const auto good = challenge("r=clientnonceX,s=c2FsdA==,i=1000000");
    REQUIRE(good);
    CHECK(good->salt == "salt");
    CHECK(good->iterations == wire::kMaxScramIterations);
    CHECK(challenge("r=clientnonceX,s=,i=1"));
    CHECK(challenge("r=clientnonceX,s=c2FsdA==,i=1,x=later"));
    for (const char* message :
         {"", "r=clientnonce,s=c2FsdA==,i=1", "r=other,s=c2FsdA==,i=1",
          "r=clientnonceX,s=c2FsdA==,i=1000001", "r=clientnonceX,s=c2FsdA==,i=0",
          "r=clientnonceX,s=c2FsdA==,i=-1", "r=clientnonceX,s=c2FsdA==,i=99999999999999",
          "r=clientnonceX,s=???,i=1", "r=clientnonceX,i=1", "s=c2FsdA==,r=clientnonceX,i=1",
          "m=x,r=clientnonceX,s=c2FsdA==,i=1", "r=clientnonceX,s=c2FsdA==,i=1,",
          "r=clientnonceX,s=c2FsdA==", "e=other-error"}) {
      CAPTURE(message);
      CHECK(code_of(challenge(message)) == Errc::protocol);
    }
  }

  TEST_CASE("a server that does not know the secret is found out") {
    const auto verify = [](std::string_view server_final) {
      ScramClient client = client_with();
      static_cast<void>(client.first());
      const auto challenge = client.challenge("r=clientnonceX,s=c2FsdA==,i=7");
      REQUIRE(challenge);
      static_cast<void>(client.final(keys_for("secret", *challenge)));
      return client.verify(server_final);
    };
    CHECK(code_of(verify("v=" + wire::base64_encode(std::string(32, 'x')))) == Errc::auth);
    CHECK(code_of(verify("e=invalid-proof")) == Errc::auth);
    CHECK(code_of(verify("v=")) == Errc::protocol);
    CHECK(code_of(verify("")) == Errc::protocol);
    CHECK(code_of(verify("v=AAAA")) == Errc::protocol);
  }

  TEST_CASE("a user name cannot break out of its attribute") {
    ScramClient client({.nonce = "abc", .user = "a,r=evil=x"});
    CHECK(client.first() == "n,,n=a=2Cr=3Devil=3Dx,r=abc");
  }

  TEST_CASE("random messages are refused by both sides") {
    const ScramSecret secret = wire::build_scram_secret("secret", "salt", kFew);
    wire_inputs::for_each_garbage("n,,n=user,r=abc", [&](std::string_view bytes) {
      ScramServer server = server_for(secret);
      static_cast<void>(server.first(wire::kScramSha256, bytes));
      static_cast<void>(server.finish(bytes));
    });
    wire_inputs::for_each_garbage("r=clientnonceX,s=c2FsdA==,i=7", [&](std::string_view bytes) {
      ScramClient client = client_with();
      static_cast<void>(client.first());
      static_cast<void>(client.challenge(bytes));
    });
  }
}
