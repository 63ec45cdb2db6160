#include <chrono>
#include <csignal>
#include <map>
#include <set>
#include <string>

#include "tests/integration/fixture.h"
#include "tests/support/gate.h"
#include "tests/support/raw_client.h"

// Who are you: of clients to us, and of us to servers.
using namespace integration;

namespace {

std::string with_password(const std::string& password) {
  return "sslmode=disable password='" + password + "'";
}

// The secret as Postgres keeps it.
std::string stored_secret(const std::string& user) {
  return shared_cluster().ask(0,
                              "select rolpassword from pg_authid where rolname = '" + user + "'");
}

// The first server message of a SCRAM exchange with a fixed nonce: "r=...,s=SALT,i=N".
std::string scram_challenge(std::uint16_t port, const std::string& user) {
  RawClient client(port);
  client.send(startup_message({{"user", user}, {"database", "app"}}));
  const auto request = client.read();
  if (!request || request->type != 'R' || request->int32() != 10) return "no SASL request";
  const std::string first = "n,,n=,r=0123456789abcdefghij";
  client.send(message('p', std::string("SCRAM-SHA-256") + '\0' +
                               int32_bytes(static_cast<std::uint32_t>(first.size())) + first));
  const auto challenge = client.read();
  if (!challenge || challenge->type != 'R' || challenge->int32() != 11) return "no challenge";
  const std::string text = challenge->body.substr(4);
  return text.substr(text.find(",s="));  // the nonce differs by right
}

// A role that exists for one test.
class Role {
 public:
  Role(std::string name, const std::string& options) : name_(std::move(name)) {
    Connection postgres(shared_cluster().conninfo(0));
    postgres.exec("drop role if exists " + name_);
    const Result made = postgres.exec("create role " + name_ + " " + options);
    REQUIRE_MESSAGE(made.ok(), made.message());
    shared_cluster().wait_replicated();
  }
  ~Role() { shared_cluster().ask(0, "drop role if exists " + name_); }
  Role(const Role&) = delete;
  Role& operator=(const Role&) = delete;

 private:
  std::string name_;
};

// True when the new configuration was taken over, false when it was refused.
bool reload(ProxyProcess& proxy) {
  const std::size_t before = proxy.log().size();
  const auto says_now = [&](const char* words) {
    return proxy.log().find(words, before) != std::string::npos;
  };
  proxy.signal(SIGHUP);
  REQUIRE(eventually([&] { return says_now("reloaded ") || says_now("nothing has changed"); }));
  return says_now("reloaded ");
}

// Toward clients TLS where they ask; the certificates of the test's authority are known.
ProxyConfig with_certificates() {
  const Certificates& files = certificates();
  return config_for(shared_cluster())
      .set("tls.client", "mode", "\"prefer\"")
      .set("tls.client", "cert", quoted(files.server_cert))
      .set("tls.client", "key", quoted(files.server_key))
      .set("tls.client", "ca", quoted(files.ca));
}

const std::string kNoCertificate = "sslmode=require sslcert=/nonexistent sslkey=/nonexistent";
std::string showing(const std::string& cert, const std::string& key) {
  return "sslmode=require sslcert=" + cert + " sslkey=" + key;
}

bool says(const Connection& connection, const std::string& words) {
  return connection.error().find(words) != std::string::npos;
}

}  // namespace

TEST_SUITE("integration/auth") {
  TEST_CASE(
      "requirement 7: rules decide by connection, address, user and database, and a reload changes them") {
    ProxyConfig config = config_for(shared_cluster())
                             .set("user.scram_user", "password", "\"scram_user-secret\"")
                             .rule("connection = \"local\"\nmethod = \"trust\"")
                             .rule("users = [\"other\"]\nmethod = \"reject\"")
                             .rule("addresses = [\"10.0.0.0/8\", \"::1\"]\nmethod = \"trust\"")
                             .rule("addresses = [\"127.0.0.0/8\"]\nusers = [\"scram_user\"]\n"
                                   "databases = [\"app\"]\nmethod = \"scram-sha-256\"");
    ProxyProcess proxy(config);
    Connection local("host=" + proxy.unix_dir() + " port=" + std::to_string(proxy.port()) +
                     " user=app dbname=app");
    CHECK_MESSAGE(local.scalar("select current_user") == "app", local.error());
    CHECK(proxy.connect("scram_user", "app", with_password("scram_user-secret"))
              .scalar("select current_user") == "scram_user");
    CHECK(says(proxy.connect("scram_user", "app", with_password("wrong")), "password authentication failed"));
    CHECK(says(proxy.connect("scram_user", "postgres", with_password("scram_user-secret")), "no auth.rule"));

    // The words are Postgres's but for the name of the thing, and tell what the client has said itself.
    RawClient stranger(proxy.port());
    CHECK_FALSE(stranger.login("app", "app"));
    CHECK(stranger.login_error.field('C') == "28000");
    CHECK(stranger.login_error.field('S') == "FATAL");
    CHECK(stranger.login_error.field('M') ==
          "no auth.rule for host \"127.0.0.1\", user \"app\", database \"app\", TLS off");
    CHECK(stranger.login_error.field('D').empty());
    RawClient rejected(proxy.port());
    CHECK_FALSE(rejected.login("other", "app"));
    CHECK(rejected.login_error.field('M').find("rejects host \"127.0.0.1\", user \"other\"") !=
          std::string::npos);
    // The console is a database among others.
    CHECK(says(proxy.connect("postgres", "pgsluice"), "no auth.rule"));

    proxy.rewrite(config.rule("method = \"trust\""));
    CHECK(reload(proxy));
    CHECK(proxy.connect("app").scalar("select current_user") == "app");
    CHECK(proxy.console().ok());
    CHECK(says(proxy.connect("other"), "rejects host"));
    CHECK(local.scalar("select 1") == "1");
  }

  TEST_CASE("requirement 7: method cert lets in whose certificate names the user, or is listed for it") {
    const Certificates& files = certificates();
    const std::string app = showing(files.client_cert, files.client_key);
    const std::string service = showing(files.service_cert, files.service_key);
    ProxyConfig config = with_certificates()
                             .rule("connection = \"tls\"\nmethod = \"cert\"")
                             .set("user.other", "certificates", "[\"somebody\", \"service 7\"]");
    ProxyProcess proxy(config);
    Connection by_name = proxy.connect("app", "app", app);
    CHECK_MESSAGE(by_name.scalar("select current_user") == "app", by_name.error());
    CHECK(proxy.connect("other", "app", service).scalar("select current_user") == "other");
    CHECK(says(proxy.connect("app", "app", service), "certificate authentication failed for user \"app\""));
    CHECK(says(proxy.connect("other", "app", app), "certificate authentication failed for user \"other\""));
    CHECK(says(proxy.connect("postgres", "app", app), "certificate authentication failed"));
    CHECK(says(proxy.connect("app", "app", kNoCertificate),
               "connection requires a valid client certificate"));
    CHECK(says(proxy.connect("app"), "no auth.rule"));  // without TLS

    const auto named = [&](const std::string& kind, const std::string& name) {
      proxy.rewrite(config.set("auth", "cert_name", quoted(kind))
                        .set("user.other", "certificates", "[" + quoted(name) + "]"));
      CHECK(reload(proxy));
      return proxy.connect("other", "app", service).ok();
    };
    CHECK(named("dn", "O=shop,CN=service 7"));
    CHECK_FALSE(named("dn", "service 7"));
    CHECK(named("san", "spiffe://example/shop"));
    CHECK(named("san", "service.example"));
    CHECK(named("san", "ops@service.example"));
    CHECK_FALSE(named("san", "service 7"));
  }

  TEST_CASE("requirement 7: a rule may demand a certificate and a password") {
    const Certificates& files = certificates();
    const auto with = [](const std::string& certificate, const std::string& password) {
      return certificate + " password=" + password;
    };
    const std::string service = showing(files.service_cert, files.service_key);
    ProxyConfig config = with_certificates()
                             .set("user.scram_user", "password", "\"scram_user-secret\"")
                             .rule("connection = \"tls\"\nusers = [\"scram_user\"]\nclientcert = "
                                   "\"verify-full\"\nmethod = \"scram-sha-256\"")
                             .rule("connection = \"tls\"\nclientcert = \"verify-ca\"\nmethod = \"trust\"");
    ProxyProcess proxy(config);
    CHECK(proxy.connect("app", "app", service).scalar("select current_user") == "app");
    CHECK(says(proxy.connect("app", "app", kNoCertificate), "requires a valid client certificate"));
    CHECK(says(proxy.connect("scram_user", "app", with(service, "scram_user-secret")),
               "certificate authentication failed"));
    proxy.rewrite(config.set("user.scram_user", "certificates", "[\"service 7\"]"));
    CHECK(reload(proxy));
    CHECK(proxy.connect("scram_user", "app", with(service, "scram_user-secret"))
              .scalar("select current_user") == "scram_user");
    CHECK(says(proxy.connect("scram_user", "app", with(service, "wrong")), "password authentication failed"));
    CHECK(says(proxy.connect("scram_user", "app", with(kNoCertificate, "scram_user-secret")),
               "requires a valid client certificate"));
  }

  TEST_CASE("requirement 6: a file of users is read as PgBouncer's, and again at every reload") {
    const TempDir folder;
    const std::string file = folder / "userlist.txt";
    write_file(file, "; moved over\n"
                     "\"scram_user\" \"" + stored_secret("scram_user") + "\"\n"
                     "\"md5_user\" \"" + stored_secret("md5_user") + "\" extra\n"
                     "\"password_user\" \"password_user-secret\"\n");
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"md5\"")
                           .set("auth", "file", quoted(file)));
    for (const std::string user : {"scram_user", "md5_user", "password_user"}) {
      CAPTURE(user);
      Connection right = proxy.connect(user, "app", with_password(user + "-secret"));
      CHECK_MESSAGE(right.scalar("select current_user") == user, right.error());
      CHECK(says(proxy.connect(user, "app", with_password("wrong")), "password authentication failed"));
    }
    CHECK_FALSE(proxy.connect("app", "app", with_password("app-secret")).ok());
    write_file(file, "\"app\" \"app-secret\"\n");
    CHECK(reload(proxy));
    CHECK(proxy.connect("app", "app", with_password("app-secret")).scalar("select current_user") == "app");
    CHECK_FALSE(proxy.connect("md5_user", "app", with_password("md5_user-secret")).ok());
    // A broken file changes nothing, and the log does not repeat what stands in it.
    write_file(file, "\"app\" \"app-secret\"\n\"other\" hunter2\n");
    CHECK_FALSE(reload(proxy));
    CHECK(proxy.connect("app", "app", with_password("app-secret")).ok());
    CHECK(proxy.log().find("userlist.txt:2: ") != std::string::npos);
    CHECK(proxy.log().find("hunter2") == std::string::npos);
  }

  TEST_CASE("requirement 6: users found by auth.query may have md5 secrets, and prove by md5 or password") {
    for (const std::string method : {"md5", "password"}) {
      CAPTURE(method);
      ProxyProcess proxy(config_for(shared_cluster())
                             .set("auth", "method", quoted(method))
                             .set("auth", "query_user", "\"postgres\""));
      // The servers ask for a proof too: md5 for the one, SCRAM for the other.
      for (const std::string user : {"md5_user", "scram_user"}) {
        CAPTURE(user);
        Connection right = proxy.connect(user, "app", with_password(user + "-secret"));
        CHECK_MESSAGE(right.scalar("select current_user") == user, right.error());
        CHECK(says(proxy.connect(user, "app", with_password("wrong")), "password authentication failed"));
      }
      CHECK(says(proxy.connect("ghost", "app", with_password("x")), "password authentication failed"));
    }
  }

  TEST_CASE(
      "requirement 6: auth.query honours NOLOGIN and VALID UNTIL, and nobody becomes the query user") {
    const Role expired("auth_expired", "login password 'secret' valid until '2001-01-01'");
    const Role valid("auth_valid", "login password 'secret' valid until '2999-01-01'");
    const Role no_login("auth_nologin", "nologin password 'secret'");
    const Role bare("auth_bare", "login");
    const Role asker("auth_asker", "login superuser password 'asker-secret'");
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"scram-sha-256\"")
                           .set("auth", "query_user", "\"auth_asker\"")
                           .set("auth", "query_password", "\"asker-secret\"")
                           // An answer that speaks of somebody else does not change who somebody is.
                           .set("auth", "query",
                                quoted("SELECT 'auth_asker', rolpassword FROM pg_catalog.pg_authid WHERE "
                                       "rolname = $1 AND rolcanlogin AND (rolvaliduntil IS NULL OR "
                                       "rolvaliduntil > pg_catalog.now())")));
    CHECK(proxy.connect("auth_valid", "app", with_password("secret")).scalar("select current_user") ==
          "auth_valid");
    for (const std::string user : {"auth_expired", "auth_nologin", "auth_bare", "ghost"})
      for (const std::string password : {"secret", "asker-secret"}) {
        CAPTURE(user);
        const Connection refused = proxy.connect(user, "app", with_password(password));
        CHECK_MESSAGE(says(refused, "password authentication failed"), refused.error());
      }
  }

  TEST_CASE("requirement 6: a secret that is remembered is looked up again when a login fails") {
    const Role role("auth_changing", "login password 'first'");
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"scram-sha-256\"")
                           .set("auth", "query_user", "\"postgres\"")
                           .set("auth", "query_ttl", "\"1h\""));
    CHECK(proxy.connect("auth_changing", "app", with_password("first")).scalar("select 1") == "1");
    shared_cluster().ask(0, "alter role auth_changing password 'second'");
    CHECK(says(proxy.connect("auth_changing", "app", with_password("second")),
               "password authentication failed"));
    CHECK(proxy.connect("auth_changing", "app", with_password("second")).scalar("select 1") == "1");
    CHECK_FALSE(proxy.connect("auth_changing", "app", with_password("first")).ok());
  }

  TEST_CASE("requirement 6: auth.query is asked with the name as a value, and by nobody's search_path") {
    Connection owner(shared_cluster().conninfo(0, "postgres", "postgres"));
    REQUIRE(owner.exec("drop table if exists public.pg_authid; drop role if exists \"o'brien\"").ok());
    REQUIRE(owner.exec("create table public.pg_authid as select name as rolname, 'hacked'::text as rolpassword from "
                       "unnest(array['scram_user', 'o''brien']) name").ok());
    REQUIRE(owner.exec("create role \"o'brien\" login password 'true'").ok());
    REQUIRE(owner.exec("grant select on public.pg_authid to public").ok());
    const Role asker("auth_asker", "login superuser password 'asker-secret'");
    REQUIRE(owner.exec("alter role auth_asker set search_path = public, pg_catalog").ok());
    {
      ProxyProcess proxy(config_for(shared_cluster())
                             .set("auth", "method", "\"scram-sha-256\"")
                             .set("auth", "query_user", "\"auth_asker\"")
                             .set("auth", "query_password", "\"asker-secret\"")
                             .set("auth", "query",
                                  quoted("SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1")));
      const std::string evil = " options='-c search_path=public'";
      const auto logs_in = [&](const std::string& user, const std::string& password) {
        return proxy.connect(user, "app", with_password(password) + evil).ok();
      };
      CHECK(logs_in("scram_user", "scram_user-secret"));
      CHECK_FALSE(logs_in("scram_user", "hacked"));
      CHECK(logs_in("'o\\'brien'", "true"));
      CHECK_FALSE(logs_in("'o\\'brien'", "hacked"));
      CHECK_FALSE(logs_in("'x\\' or rolname = \\'scram_user'", "scram_user-secret"));
    }
    CHECK(owner.exec("drop table public.pg_authid; drop role \"o'brien\"").ok());
  }

  TEST_CASE("requirement 5: how long a refusal takes does not tell who exists") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"password\"")
                           .set("user.plain", "password", "\"secret\"")
                           .set("user.kept_md5", "password", quoted(stored_secret("md5_user")))
                           .set("user.scram_user", "password", quoted(stored_secret("scram_user"))));
    // From the password to the answer. The quickest of many counts: other work on the machine only adds.
    const std::vector<std::string> users = {"ghost", "plain", "kept_md5", "scram_user"};
    std::map<std::string, double> quickest;
    for (int round = 0; round < 25; ++round) {
      for (const std::string& user : users) {
        RawClient client(proxy.port());
        client.send(startup_message({{"user", user}, {"database", "app"}}));
        REQUIRE(client.read());
        const auto from = std::chrono::steady_clock::now();
        client.send(message('p', std::string("wrong\0", 6)));
        const auto answer = client.read();
        const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - from;
        REQUIRE(answer);
        CHECK(answer->field('C') == "28P01");
        const auto known = quickest.emplace(user, took.count()).first;
        known->second = std::min(known->second, took.count());
      }
    }
    for (const std::string& user : users) {
      CAPTURE(user);
      CAPTURE(quickest["ghost"]);
      CAPTURE(quickest[user]);
      CHECK(quickest[user] > quickest["ghost"] / 3);
      CHECK(quickest[user] < quickest["ghost"] * 3);
    }
  }

  TEST_CASE("requirement 4: long passwords and SASL messages come in pieces; a login that stops half-way is cut off") {
    const std::string secret(6000, 's');
    ProxyConfig config = config_for(shared_cluster())
                             .set("user.app", "password", quoted(secret))
                             .set("listen", "login_timeout", "\"3s\"");
    const std::string first = "n,,n=" + std::string(3000, 'x') + ",r=0123456789abcdefghij";
    const std::string sasl = message('p', std::string("SCRAM-SHA-256") + '\0' +
                                              int32_bytes(static_cast<std::uint32_t>(first.size())) + first);
    const std::string startup = startup_message({{"user", "app"}, {"database", "app"}});
    ProxyProcess clear(config.set("auth", "method", "\"password\""));
    ProxyProcess scram(config.set("auth", "method", "\"scram-sha-256\""));
    struct Login {
      ProxyProcess& proxy;
      std::string answer;
      char then;
    };
    std::vector<RawClient> stopped;
    for (const Login& one : {Login{clear, message('p', secret + '\0'), 'Z'}, Login{scram, sasl, 'R'}}) {
      CAPTURE(one.answer.size());
      RawClient client(one.proxy.port());
      client.send(startup);
      REQUIRE(client.read());
      client.send(one.answer.substr(0, 3));
      client.send(one.answer.substr(3, 2000));
      CHECK_FALSE(client.read(50ms));
      client.send(one.answer.substr(2003));
      const auto heard = client.read_until(one.then, 5s);
      REQUIRE(!heard.empty());
      CHECK(heard.back().type == one.then);
      // Half of it, and no more.
      stopped.emplace_back(one.proxy.port());
      stopped.back().send(startup);
      REQUIRE(stopped.back().read());
      stopped.back().send(one.answer.substr(0, 2000));
      // More than Postgres takes is not waited for.
      RawClient endless(one.proxy.port());
      endless.send(startup);
      REQUIRE(endless.read());
      endless.send("p" + int32_bytes(70000));
      const auto refused = endless.read_until('E', 1s);
      REQUIRE(!refused.empty());
      CHECK(refused.back().field('C') == "08P01");
    }
    for (RawClient& one : stopped) CHECK(one.wait_closed(5s));
    // Byte by byte, all the way.
    Gate gate(scram.port());
    gate.one_byte_at_a_time(true);
    Connection client("host=127.0.0.1 user=app dbname=app sslmode=disable gssencmode=disable password=" + secret +
                      " port=" + std::to_string(gate.port()));
    CHECK_MESSAGE(client.scalar("select 1") == "1", client.error());
  }

  TEST_CASE("[postgres] requirement 9: role and session_authorization at start-up are for those who may") {
    const Role mine("auth_mine", "nologin"), foreign("auth_foreign", "nologin");
    REQUIRE(shared_cluster().connect(0).exec("grant auth_mine to app").ok());
    shared_cluster().wait_replicated();
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    const auto with = [&proxy](const std::string& options) {
      return proxy.connect("app", "app", "sslmode=disable options='" + options + "'");
    };
    Connection allowed = with("-c role=auth_mine");
    REQUIRE_MESSAGE(allowed.ok(), allowed.error());
    CHECK(allowed.scalar("select current_user") == "auth_mine");
    CHECK(proxy.connect().scalar("select current_user") == "app");
    CHECK(allowed.scalar("select current_user") == "auth_mine");
    for (const std::string options : {"-c role=auth_foreign", "-c role=auth_nosuch",
                                      "-c session_authorization=auth_foreign"}) {
      CAPTURE(options);
      const Connection refused = with(options);
      CHECK_FALSE(refused.ok());
      CHECK_MESSAGE(says(refused, "FATAL"), refused.error());
    }
    CHECK(proxy.connect().scalar("select current_user") == "app");
  }

  TEST_CASE("trust asks for nothing") {
    ProxyProcess proxy(config_for(shared_cluster()));
    CHECK(proxy.connect("app").scalar("select current_user") == "app");
    CHECK(proxy.connect("other").scalar("select current_user") == "other");
  }

  TEST_CASE(
      "requirement 7: password, md5 and SCRAM, toward clients and toward servers, in every combination") {
    for (const std::string method : {"password", "md5", "scram-sha-256"}) {
      ProxyConfig config = config_for(shared_cluster()).set("auth", "method", quoted(method));
      for (const std::string user : {"scram_user", "md5_user", "password_user"})
        config.set("user." + user, "password", quoted(user + "-secret"));
      ProxyProcess proxy(config);
      for (const std::string user : {"scram_user", "md5_user", "password_user"}) {
        CAPTURE(method);
        CAPTURE(user);
        Connection right = proxy.connect(user, "app", with_password(user + "-secret"));
        CHECK_MESSAGE(right.ok(), right.error());
        CHECK(right.scalar("select current_user") == user);
        Connection wrong = proxy.connect(user, "app", with_password("not it"));
        CHECK(!wrong.ok());
        CHECK(wrong.error().find("password authentication failed for user \"" + user + "\"") !=
              std::string::npos);
        CHECK(!proxy.connect(user, "app", "sslmode=disable").ok());
      }
    }
  }

  TEST_CASE("requirement 9: a wrong password is FATAL 28P01, and the connection ends") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"password\"")
                           .set("user.app", "password", "\"app-secret\""));
    for (const std::string& password :
         {std::string("wrong"), std::string(5000, 'x'), std::string()}) {
      CAPTURE(password.size());
      RawClient client(proxy.port());
      client.send(startup_message({{"user", "app"}, {"database", "app"}}));
      const auto request = client.read();
      REQUIRE(request);
      CHECK(request->int32() == 3);
      client.send(message('p', password + '\0'));
      const auto answer = client.read_until('E');
      REQUIRE(!answer.empty());
      CHECK(answer.back().field('C') == "28P01");
      CHECK(answer.back().field('S') == "FATAL");
      CHECK(client.wait_closed());
    }
  }

  TEST_CASE("requirement 6: secrets may be configured as Postgres stores them") {
    ProxyProcess proxy(
        config_for(shared_cluster())
            .set("auth", "method", "\"scram-sha-256\"")
            .set("user.scram_user", "password", quoted(stored_secret("scram_user"))));
    Connection right = proxy.connect("scram_user", "app", with_password("scram_user-secret"));
    CHECK_MESSAGE(right.ok(), right.error());
    // The server asks for SCRAM too, and no plain password is anywhere: the client's keys pass
    // through.
    CHECK(right.scalar("select current_user") == "scram_user");
    CHECK(!proxy.connect("scram_user", "app", with_password("wrong")).ok());

    ProxyProcess md5(config_for(shared_cluster())
                         .set("auth", "method", "\"md5\"")
                         .set("user.md5_user", "password", quoted(stored_secret("md5_user"))));
    CHECK(md5.connect("md5_user", "app", with_password("md5_user-secret"))
              .scalar("select current_user") == "md5_user");
    CHECK(!md5.connect("md5_user", "app", with_password("wrong")).ok());
  }

  TEST_CASE("requirement 7: auth.query looks users up in Postgres; SCRAM keys pass through") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"scram-sha-256\"")
                           .set("auth", "query_user", "\"postgres\""));
    Connection right = proxy.connect("scram_user", "app", with_password("scram_user-secret"));
    CHECK_MESSAGE(right.ok(), right.error());
    CHECK(right.scalar("select current_user") == "scram_user");
    CHECK(!proxy.connect("scram_user", "app", with_password("wrong")).ok());
    CHECK(!proxy.connect("nobody_such", "app", with_password("x")).ok());
  }

  TEST_CASE(
      "requirement 5: an unknown user sees the same exchange and the same words as one with a wrong "
      "password") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"scram-sha-256\"")
                           .set("user.scram_user", "password", "\"scram_user-secret\""));
    const auto words = [&proxy](const std::string& user) {
      std::string text = proxy.connect(user, "app", with_password("wrong")).error();
      for (std::size_t at = text.find(user); at != std::string::npos; at = text.find(user))
        text.replace(at, user.size(), "USER");
      return text;
    };
    CHECK(words("scram_user") == words("ghost"));
    CHECK(words("scram_user").find("password authentication failed") != std::string::npos);
    const std::string ghost = scram_challenge(proxy.port(), "ghost");
    CHECK(ghost.rfind(",s=", 0) == 0);
    CHECK(ghost == scram_challenge(proxy.port(), "ghost"));  // a salt that changes would tell
    CHECK(ghost != scram_challenge(proxy.port(), "ghost2"));
    const std::string known = scram_challenge(proxy.port(), "scram_user");
    CHECK(known == scram_challenge(proxy.port(), "scram_user"));
    CHECK(known.size() == ghost.size());
    CHECK(known.substr(known.find(",i=")) == ghost.substr(ghost.find(",i=")));
  }

  TEST_CASE("a malformed SASL answer ends that connection only") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"scram-sha-256\"")
                           .set("user.app", "password", "\"app-secret\""));
    for (const std::string& answer :
         {message('p', ""), message('p', "SCRAM-SHA-256"),
          message('p', std::string("NOPE\0\0\0\0\0", 9)),
          message('p', std::string("SCRAM-SHA-256\0\x7f\xff\xff\xffn,,", 21)),
          message('p', std::string("SCRAM-SHA-256\0\0\0\0\x03n,,", 21)), query_message("select 1"),
          std::string("p\x7f\xff\xff\xff")}) {
      RawClient client(proxy.port());
      client.send(startup_message({{"user", "app"}, {"database", "app"}}));
      REQUIRE(client.read());
      client.send(answer);
      const auto rest = client.read_until('E', 3s);
      REQUIRE(!rest.empty());
      CHECK(rest.back().field('S') == "FATAL");
      CHECK(client.wait_closed(3s));
    }
    CHECK(proxy.connect("app", "app", with_password("app-secret")).scalar("select 1") == "1");
  }

  TEST_CASE("requirement 8: a server that refuses our login is reported to the client in its own words") {
    ProxyProcess proxy(
        config_for(shared_cluster()).set("user.scram_user", "password", "\"not it\""));
    RawClient client(proxy.port());
    if (client.login("scram_user",
                     "app")) {  // refused at login or at the first statement: both are clear
      client.send(query_message("select 1"));
      const auto messages = client.read_until('E');
      REQUIRE(!messages.empty());
      CHECK(messages.back().field('C') == "28P01");
    } else {
      CHECK(client.login_error.field('C') == "28P01");
    }
    CHECK(proxy.connect("app").scalar("select 1") == "1");
  }

  TEST_CASE("requirement 9: requirement 8: a database that does not exist is 3D000") {
    ProxyProcess proxy(config_for(shared_cluster()));
    RawClient client(proxy.port());
    if (client.login("app", "nowhere")) {
      client.send(query_message("select 1"));
      const auto messages = client.read_until('E');
      REQUIRE(!messages.empty());
      CHECK(messages.back().field('C') == "3D000");
    } else {
      CHECK(client.login_error.field('C') == "3D000");
    }
    // The same when only named databases are served.
    ProxyProcess named(config_for(shared_cluster())
                           .unset("database.\"*\"", "cluster")
                           .set("database.app", "cluster", "\"main\""));
    RawClient stranger(named.port());
    CHECK(!stranger.login("app", "postgres"));
    CHECK(stranger.login_error.field('C') == "3D000");
    CHECK(named.connect().scalar("select 1") == "1");
  }

  TEST_CASE("a database's name for clients may differ from its name on the servers") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("database.shop", "cluster", "\"main\"")
                           .set("database.shop", "dbname", "\"app\""));
    CHECK(proxy.connect("app", "shop").scalar("select current_database()") == "app");
  }

  TEST_CASE("promise 8: the names that \"*\" lets users try are bounded, and what nobody uses is forgotten") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("limits", "wildcard_databases", "2")
                           .set("database.named", "cluster", "\"main\"")
                           .set("database.named", "dbname", "\"app\""));
    const auto names_shown = [&proxy] {
      std::set<std::string> names;
      const std::string exposition = proxy.metrics();
      const std::string mark = "pgsluice_pool_size{";
      for (std::size_t at = exposition.find(mark); at != std::string::npos;
           at = exposition.find(mark, at + 1)) {
        const std::size_t from = exposition.find("database=\"", at) + 10;
        names.insert(exposition.substr(from, exposition.find('"', from) - from));
      }
      return names;
    };
    for (int i = 0; i < 20; ++i) CHECK_FALSE(proxy.connect("app", "nowhere" + std::to_string(i)).ok());
    CHECK(eventually([&] { return names_shown().empty(); }));

    Connection first = proxy.connect("app", "app"), second = proxy.connect("app", "postgres");
    CHECK(first.scalar("select 1") == "1");
    CHECK(second.scalar("select 1") == "1");
    RawClient third(proxy.port());
    CHECK_FALSE(third.login("app", "template1"));
    CHECK(third.login_error.field('C') == "53300");
    CHECK(third.login_error.field('D') == "reason=too_many_databases");
    // Databases with sections of their own are not counted, nor are further users of a name.
    CHECK(proxy.connect("app", "named").scalar("select current_database()") == "app");
    CHECK(proxy.connect("other", "app").scalar("select 1") == "1");
    // Servers that nobody uses are no use of a name.
    second.close();
    CHECK(eventually([&] { return proxy.connect("app", "template1").scalar("select 1") == "1"; }));
    CHECK_FALSE(names_shown().contains("postgres"));
    CHECK(first.scalar("select 1") == "1");
  }

  TEST_CASE("requirement 7: trust is refused for addresses that strangers can reach, unless forced") {
    ProxyConfig config = config_for(shared_cluster()).set("listen", "address", "\"0.0.0.0\"");
    TempDir folder;
    write_file(folder / "c.toml", [&config] {
      std::string text = config.text();
      text.replace(text.find("@port@"), 6, "1");
      text.replace(text.find("@metrics@"), 9, "0");
      text.replace(text.find("@dir@"), 5, "/tmp");
      return text;
    }());
    const Finished refused = run({proxy_binary(), folder / "c.toml"}, {}, 5s);
    CHECK(refused.status > 0);
    CHECK(refused.output.find("trust") != std::string::npos);
  }
}
