#include <csignal>

#include <openssl/ssl.h>

#include "tests/integration/fixture.h"
#include "tests/support/gate.h"
#include "tests/support/raw_client.h"
#include "tests/support/tls_middle.h"

// TLS on both sides; the modes carry libpq's words and meanings.
using namespace integration;

namespace {

ProxyConfig client_tls(const std::string& mode) {
  const Certificates& files = certificates();
  return config_for(shared_cluster())
      .set("tls.client", "mode", quoted(mode))
      .set("tls.client", "cert", quoted(files.server_cert))
      .set("tls.client", "key", quoted(files.server_key))
      .set("tls.client", "ca", quoted(files.ca));
}

ProxyConfig server_tls(const PgCluster& cluster, const std::string& mode) {
  return config_for(cluster)
      .set("tls.server", "mode", quoted(mode))
      .set("tls.server", "ca", quoted(certificates().ca))
      .set("pool", "queue_timeout", "\"1s\"")
      .set("routing", "primary_wait", "\"1s\"")
      .set("pool", "connect_timeout", "\"1s\"");
}

bool encrypted(Connection& connection) { return PQsslInUse(connection.raw()) != 0; }

constexpr const char* kOnlyTls =
    "local all all trust\nhostssl all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 "
    "trust\n"
    "host postgres pgsluice 127.0.0.1/32 trust\n";
constexpr const char* kOnlyPlain =
    "local all all trust\nhostnossl all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 "
    "trust\n"
    "host postgres pgsluice 127.0.0.1/32 trust\n";

}  // namespace

TEST_SUITE("integration/tls") {
  TEST_CASE("toward clients, disable answers N, prefer takes both, require takes TLS only") {
    struct Expected {
      const char* mode;
      bool plain, tls;
    };
    for (const Expected& expected :
         {Expected{"disable", true, false}, Expected{"allow", true, true},
          Expected{"prefer", true, true}, Expected{"require", false, true}}) {
      CAPTURE(std::string(expected.mode));
      ProxyProcess proxy(client_tls(expected.mode));
      Connection plain = proxy.connect("app", "app", "sslmode=disable");
      CHECK(plain.ok() == expected.plain);
      if (!expected.plain)
        CHECK_MESSAGE(plain.error().find("FATAL") != std::string::npos, plain.error());
      Connection tls = proxy.connect("app", "app", "sslmode=require");
      CHECK(tls.ok() == expected.tls);
      if (!tls.ok()) continue;
      CHECK(encrypted(tls));
      CHECK(tls.scalar("select 1") == "1");
      Connection preferring = proxy.connect("app", "app", "sslmode=prefer");
      CHECK(encrypted(preferring));
    }
  }

  TEST_CASE("clients can verify our certificate and name") {
    ProxyProcess proxy(client_tls("require"));
    Connection good =
        proxy.connect("app", "app", "sslmode=verify-full sslrootcert=" + certificates().ca);
    CHECK_MESSAGE(good.ok(), good.error());
    CHECK(!proxy.connect("app", "app", "sslmode=verify-ca sslrootcert=" + certificates().other_ca)
               .ok());
  }

  TEST_CASE("verify-ca and verify-full demand a client certificate of our authority") {
    const Certificates& files = certificates();
    for (const std::string mode : {"verify-ca", "verify-full"}) {
      CAPTURE(mode);
      ProxyProcess proxy(client_tls(mode));
      Connection with = proxy.connect(
          "app", "app",
          "sslmode=require sslcert=" + files.client_cert + " sslkey=" + files.client_key);
      CHECK_MESSAGE(with.ok(), with.error());
      CHECK(with.scalar("select 1") == "1");
      Connection without =
          proxy.connect("app", "app", "sslmode=require sslcert=/nonexistent sslkey=/nonexistent");
      CHECK(!(without.ok() && without.exec("select 1").ok()));
      CHECK(!proxy.connect("app", "app", "sslmode=disable").ok());
    }
  }

  TEST_CASE("requirement 1: bytes sent in the clear behind an SSLRequest end the connection") {
    ProxyProcess proxy(client_tls("prefer"));
    RawClient client(proxy.port());
    client.send(ssl_request() + startup_message({{"user", "app"}, {"database", "app"}}));
    CHECK(client.wait_closed(5s));
    CHECK(proxy.connect("app", "app", "sslmode=require").scalar("select 1") == "1");
  }

  TEST_CASE("when many log in at once a turn takes some of them, and nobody is left out") {
    ProxyProcess proxy(client_tls("require").set("", "workers", "1"));
    const auto log_in = [&proxy](std::size_t) {
      for (int i = 0; i < 5; ++i) {
        Connection client = proxy.connect("app", "app", "sslmode=require");
        if (client.scalar("select 1") != "1") return client.error() + "?";
      }
      return std::string();
    };
    CHECK(eventually([&] {
      CHECK(joined(at_once(32, log_in)) == "");
      return metric(proxy.metrics(), "pgsluice_logins_deferred_total").value_or(0) > 0;
    }));
  }

  TEST_CASE("garbage instead of a TLS hello ends that connection only") {
    ProxyProcess proxy(client_tls("prefer").set("listen", "login_timeout", "\"1s\""));
    for (const std::string& bytes :
         {std::string(2000, 'x'), std::string("\x16\x03\x01\x40\x00", 5), std::string()}) {
      RawClient client(proxy.port());
      client.send(ssl_request());
      REQUIRE(client.read_byte() == 'S');
      client.send(bytes);
      CHECK(client.wait_closed(5s));
    }
    CHECK(proxy.connect("app", "app", "sslmode=require").scalar("select 1") == "1");
  }

  TEST_CASE(
      "requirement 20: large results, large parameters and COPY pass through TLS unchanged, in small "
      "pieces too") {
    Table table(shared_cluster(), "tls_copy", "line text");
    ProxyProcess proxy(client_tls("require").set("tls.server", "mode", "\"require\""));
    Connection client = proxy.connect("app", "app", "sslmode=require");
    REQUIRE_MESSAGE(client.ok(), client.error());
    CHECK(client.scalar("select length(repeat('x', 5000000))") == "5000000");
    CHECK(client.scalar("select repeat('x', 5000000)") == std::string(5000000, 'x'));
    CHECK(client.exec("select md5($1)", {std::string(5000000, 'y')}).scalar() ==
          client.scalar("select md5(repeat('y', 5000000))"));
    std::string data;
    for (int i = 0; i < 200000; ++i) data += "line " + std::to_string(i) + "\n";
    CHECK(client.copy_in("copy tls_copy from stdin", data).tag() == "COPY 200000");
    std::string back;
    CHECK(client.copy_out("copy tls_copy to stdout", back).ok());
    CHECK((back == data));

    Gate gate(proxy.port());
    gate.one_byte_at_a_time(true);
    Connection slow("host=127.0.0.1 user=app dbname=app sslmode=require gssencmode=disable port=" +
                    std::to_string(gate.port()));
    REQUIRE_MESSAGE(slow.ok(), slow.error());
    CHECK(slow.scalar("select repeat('z', 5000)") == std::string(5000, 'z'));
  }

  TEST_CASE("requirement 2: TLS may begin without SSLRequest, when ALPN names the protocol") {
    ProxyProcess proxy(client_tls("prefer"));
    RawClient direct(proxy.port());
    REQUIRE(direct.start_tls({.alpn = "postgresql"}));
    CHECK(direct.alpn() == "postgresql");
    REQUIRE_MESSAGE(direct.login(), direct.login_error.field('M'));
    CHECK(direct.send(query_message("select 'direct'")));
    const auto answer = direct.read_until('Z');
    CHECK(types(answer) == "TDCZ");
    // A cancel comes the same way.
    RawClient canceller(proxy.port());
    REQUIRE(canceller.start_tls({.alpn = "postgresql"}));
    CHECK(canceller.send(cancel_request(direct.pid, direct.key)));
    CHECK(canceller.wait_closed());

    RawClient silent(proxy.port());
    REQUIRE(silent.start_tls({}));
    const auto refused = silent.read_until('E');
    REQUIRE(!refused.empty());
    CHECK(refused.back().field('S') == "FATAL");
    CHECK(refused.back().field('M').find("ALPN") != std::string::npos);
    CHECK(silent.wait_closed());
    RawClient web(proxy.port());
    CHECK_FALSE(web.start_tls({.alpn = "http/1.1"}));

    RawClient again(proxy.port());
    REQUIRE(again.start_tls({.alpn = "postgresql"}));
    CHECK(again.send(ssl_request()));
    CHECK(again.wait_closed());

    ProxyProcess plain(config_for(shared_cluster()));
    RawClient nobody(plain.port());
    CHECK_FALSE(nobody.start_tls({.alpn = "postgresql"}));
    CHECK(plain.connect().scalar("select 1") == "1");
  }

  TEST_CASE("requirement 2: behind SSLRequest ALPN is agreed upon where it is offered, and not needed") {
    ProxyProcess proxy(client_tls("require"));
    for (const std::string alpn : {"postgresql", ""}) {
      CAPTURE(alpn);
      RawClient client(proxy.port());
      client.send(ssl_request());
      REQUIRE(client.read_byte() == 'S');
      REQUIRE(client.start_tls({.alpn = alpn}));
      CHECK(client.alpn() == alpn);
      CHECK(client.login());
    }
    // Not the first byte: this is a packet, and none that there is.
    RawClient late(proxy.port());
    late.send(gss_request());
    REQUIRE(late.read_byte() == 'N');
    CHECK_FALSE(late.start_tls({.alpn = "postgresql"}));
  }

  TEST_CASE("requirement 2: TLS before 1.2 is refused, however it begins") {
    ProxyProcess proxy(client_tls("prefer"));
    for (const bool direct : {true, false}) {
      CAPTURE(direct);
      for (const int version : {TLS1_1_VERSION, TLS1_2_VERSION, TLS1_3_VERSION}) {
        RawClient client(proxy.port());
        if (!direct) {
          client.send(ssl_request());
          REQUIRE(client.read_byte() == 'S');
        }
        CHECK(client.start_tls({.alpn = "postgresql", .newest_version = version}) ==
              (version >= TLS1_2_VERSION));
      }
    }
  }

  TEST_CASE(
      "requirement 2: a reload brings new certificates, drops nobody, and keeps the old ones when they are "
      "bad") {
    const Certificates& files = certificates();
    const TempDir folder;
    const std::string cert = folder / "c", key = folder / "k";
    const auto install = [&](const std::string& from_cert, const std::string& from_key) {
      write_file(cert, from_cert.empty() ? "no certificate" : read_file(from_cert));
      write_file(key, read_file(from_key));
    };
    install(files.server_cert, files.server_key);
    ProxyProcess proxy(client_tls("require")
                           .set("tls.client", "cert", quoted(cert))
                           .set("tls.client", "key", quoted(key)));
    const auto shown = [&proxy] {
      RawClient client(proxy.port());
      return client.start_tls({.alpn = "postgresql"}) ? client.certificate_name() : "no handshake";
    };
    const auto reload = [&proxy](const std::string& expected) {
      const std::size_t before = proxy.log().size();
      proxy.signal(SIGHUP);
      return eventually([&] { return proxy.log().find(expected, before) != std::string::npos; });
    };
    Connection session = proxy.connect("app", "app", "sslmode=require");
    session.exec("begin");
    CHECK(shown() == "localhost");
    install(files.wrong_host_cert, files.wrong_host_key);
    CHECK(shown() == "localhost");
    CHECK(reload("reloaded "));
    CHECK(shown() == "elsewhere.example");
    install("", files.server_key);
    CHECK(reload("nothing has changed"));
    CHECK(shown() == "elsewhere.example");
    install(files.server_cert, files.client_key);  // that do not belong together
    CHECK(reload("nothing has changed"));
    CHECK(shown() == "elsewhere.example");
    CHECK(session.scalar("select 1") == "1");
    CHECK(session.exec("commit").ok());
  }

  TEST_CASE("toward servers, each mode does what libpq's does") {
    ClusterOptions options{.replicas = 1};
    PgCluster cluster(options);
    struct Expected {
      const char* mode;
      const char* any;  // what pg_stat_ssl says when the server takes both
      bool only_tls, only_plain;
    };
    for (const Expected& expected :
         {Expected{"disable", "f", false, true}, Expected{"allow", "f", true, true},
          Expected{"prefer", "t", true, true}, Expected{"require", "t", true, false},
          Expected{"verify-ca", "t", true, false}, Expected{"verify-full", "t", true, false}}) {
      CAPTURE(std::string(expected.mode));
      cluster.set_hba(kDefaultHba);
      {
        ProxyProcess proxy(server_tls(cluster, expected.mode));
        Connection client = proxy.connect();
        REQUIRE_MESSAGE(client.ok(), client.error());
        client.exec("begin");
        CHECK(client.scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()") ==
              expected.any);
      }
      cluster.set_hba(kOnlyTls);
      {
        ProxyProcess proxy(server_tls(cluster, expected.mode));
        CHECK((proxy.connect().scalar("select 1") == "1") == expected.only_tls);
      }
      cluster.set_hba(kOnlyPlain);
      {
        ProxyProcess proxy(server_tls(cluster, expected.mode));
        CHECK((proxy.connect().scalar("select 1") == "1") == expected.only_plain);
      }
    }
  }

  TEST_CASE("requirement 1: toward servers, bytes in the clear behind the answer to SSLRequest end the connection") {
    Gate gate(shared_cluster().port(0));
    ProxyProcess proxy(server_tls(shared_cluster(), "require").servers({gate.address()}));
    REQUIRE(proxy.ready(0));
    const auto lost = [&proxy] {
      return proxy.log().find("the server sent unencrypted bytes after its answer to SSLRequest") != std::string::npos;
    };
    gate.add_to_first("Z");
    Connection client = proxy.connect();
    CHECK(client.scalar("select 1") != "1");
    CHECK(eventually(lost));
    gate.add_to_first("");
    CHECK(eventually([&proxy] { return proxy.connect().scalar("select 1") == "1"; }));
  }

  TEST_CASE("requirement 7: channel binding is there for clients that want it, over TLS only") {
    ProxyProcess proxy(client_tls("prefer")
                           .set("auth", "method", "\"scram-sha-256\"")
                           .set("user.scram_user", "password", "\"scram_user-secret\""));
    const auto login = [&proxy](const std::string& more) {
      return proxy.connect("scram_user", "app", "password=scram_user-secret " + more);
    };
    Connection bound = login("sslmode=require channel_binding=require");
    CHECK_MESSAGE(bound.scalar("select 1") == "1", bound.error());
    CHECK(login("sslmode=require channel_binding=disable").scalar("select 1") == "1");
    CHECK(login("sslmode=disable channel_binding=disable").scalar("select 1") == "1");
    CHECK_FALSE(login("sslmode=disable channel_binding=require").ok());
    CHECK_FALSE(proxy.connect("scram_user", "app", "password=wrong sslmode=require channel_binding=require").ok());
  }

  TEST_CASE("requirement 7: channel binding is used toward servers: who stands between, certified or not, gets no login") {
    const Certificates& files = certificates();
    TlsMiddle middle(shared_cluster().port(0), files.wrong_host_cert, files.wrong_host_key);
    // Its certificate is of the authority that we trust, and we do not look at the name in it.
    ProxyProcess proxy(server_tls(shared_cluster(), "verify-ca")
                           .servers({middle.address()})
                           .set("user.scram_user", "password", "\"scram_user-secret\""));
    REQUIRE(proxy.ready(0));
    CHECK(proxy.connect("app").scalar("select 1") == "1");  // whose login needs no proof
    const int before = middle.connections();
    const Connection refused = proxy.connect("scram_user");
    CHECK_FALSE(refused.ok());
    CHECK_MESSAGE(refused.error().find("SCRAM channel binding check failed") != std::string::npos, refused.error());
    CHECK(middle.connections() > before);

    ProxyProcess direct(server_tls(shared_cluster(), "verify-ca")
                            .set("user.scram_user", "password", "\"scram_user-secret\""));
    CHECK(direct.connect("scram_user").scalar("select 1") == "1");
  }

  TEST_CASE("requirement 21: a cancel goes over TLS where its server is reached so, and says nothing in the clear") {
    PgCluster& cluster = shared_cluster();
    Gate gate(cluster.port(0));
    ProxyProcess proxy(server_tls(cluster, "require").servers({gate.address()}));
    Connection client = proxy.connect();
    REQUIRE(client.send("select pg_sleep(30)"));
    CHECK(eventually([&cluster] {
      return cluster.ask(0, "select count(*) from pg_stat_activity where usename = 'app' and state = 'active' "
                            "and query like '%pg_sleep(30)%'") == "1";
    }));
    const std::size_t before = gate.connections();
    CHECK(client.cancel());
    CHECK(client.finish().code() == "57014");
    CHECK(gate.connections() > before);
    for (const std::string& head : gate.heads(false)) {
      if (head.empty()) continue;
      CHECK(head.compare(0, 8, ssl_request()) == 0);
      CHECK(head.find(std::string("\x04\xd2\x16\x2e", 4)) == std::string::npos);
    }
  }

  TEST_CASE("toward servers, verify-ca refuses a certificate of another authority") {
    ProxyProcess proxy(server_tls(shared_cluster(), "verify-ca")
                           .set("tls.server", "ca", quoted(certificates().other_ca)));
    const Connection refused = proxy.connect();
    CHECK_MESSAGE(refused.error().find("FATAL:  no primary is known") != std::string::npos,
                  refused.error());
  }

  TEST_CASE("toward servers, verify-full refuses a certificate for another host, verify-ca takes it") {
    ClusterOptions options{.replicas = 0};
    PgCluster cluster(options);
    const Certificates& files = certificates();
    write_file(cluster.data_dir(0) + "/other.crt", read_file(files.wrong_host_cert));
    write_file(cluster.data_dir(0) + "/other.key", read_file(files.wrong_host_key));
    run({"chmod", "600", cluster.data_dir(0) + "/other.key"});
    give_to_postgres(cluster.data_dir(0));
    cluster.set(0, "ssl_cert_file = 'other.crt'\nssl_key_file = 'other.key'\n");
    ProxyProcess full(server_tls(cluster, "verify-full"));
    CHECK(full.connect().scalar("select 1") != "1");
    ProxyProcess authority(server_tls(cluster, "verify-ca"));
    CHECK(authority.connect().scalar("select 1") == "1");
  }
}
