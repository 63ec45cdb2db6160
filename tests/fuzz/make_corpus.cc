#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "proxy/wire/backend.h"
#include "proxy/wire/frontend.h"
#include "proxy/wire/pipeline.h"
#include "proxy/wire/scram.h"
#include "proxy/wire/startup.h"

// Writes the seeds of all targets: make_corpus <folder>, usually tests/fuzz/corpus. One good
// input per shape of message is enough, since mutation finds the rest. To add a seed: a line here
// and a run. Inputs that once broke something are added to the same folders by hand, named after
// what they broke, and are never generated.
namespace {

namespace fs = std::filesystem;

bool all_written = true;

void seed(const fs::path& folder, const char* name, std::string_view bytes) {
  std::error_code error;
  fs::create_directories(folder, error);
  std::ofstream out(folder / name, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) all_written = false;
}

// The input of frontend_fuzz: how much has arrived, then the payload.
std::string arrived(char share, const std::string& message) {
  return share + message.substr(wire::kHeaderSize);
}

// The input of backend_fuzz: type and payload, which is a message without its length.
std::string without_length(const std::string& message) {
  return message[0] + message.substr(wire::kHeaderSize);
}

// The message that `build` appends.
template <class Build>
std::string message(Build build) {
  std::string out;
  build(out);
  return out;
}

void startup_seeds(const fs::path& folder) {
  seed(folder, "ssl_request", message([](std::string& out) { wire::append_ssl_request(out); }));
  seed(folder, "gssenc_request",
       message([](std::string& out) { wire::append_gssenc_request(out); }));
  seed(folder, "cancel", message([](std::string& out) {
         wire::append_cancel_request(out, {.pid = 4242, .key = "abcd"});
       }));
  seed(folder, "cancel_long_key", message([](std::string& out) {
         wire::append_cancel_request(out, {.pid = 4242, .key = std::string(32, 'k')});
       }));
  seed(folder, "psql", message([](std::string& out) {
         wire::append_startup(out, 0,
                              {{"user", "alice"},
                               {"database", "shop"},
                               {"application_name", "psql"},
                               {"client_encoding", "UTF8"},
                               {"options", R"(-c search_path=a,\ b --work-mem=1MB -cx=y)"}});
       }));
  seed(folder, "newer_version", message([](std::string& out) {
         wire::append_startup(out, 9, {{"user", "alice"}, {"_pq_.feature", "on"}});
       }));
  seed(folder, "replication", message([](std::string& out) {
         wire::append_startup(out, 2, {{"user", "alice"}, {"replication", "database"}});
       }));
  seed(folder, "options_only", R"(-c a=1 -cb=2 --c-d=3\ 4)");
}

void frontend_seeds(const fs::path& folder) {
  const std::string query = message([](std::string& out) { wire::append_query(out, "select 1"); });
  const std::string parse = message([](std::string& out) {
    wire::append_parse(out, "s1", "select $1", std::string_view("\0\0\0\x17", 4));
  });
  const std::string bind = message([](std::string& out) { wire::append_bind(out, "p", "s1"); });
  seed(folder, "query", arrived('\xff', query));
  seed(folder, "query_half", arrived('\x80', query));
  seed(folder, "parse", arrived('\xff', parse));
  seed(folder, "parse_half", arrived('\x80', parse));
  seed(folder, "bind", arrived('\xff', bind));
  seed(folder, "bind_half", arrived('\x40', bind));
  seed(folder, "describe", arrived('\xff', message([](std::string& out) {
                                     wire::append_describe(out, wire::Named::statement, "s1");
                                   })));
  seed(folder, "execute",
       arrived('\xff', message([](std::string& out) { wire::append_execute(out, "p", 100); })));
  seed(folder, "sasl_initial", arrived('\xff', message([](std::string& out) {
                                         wire::append_sasl_initial(out, wire::kScramSha256,
                                                                   "n,,n=,r=nonce");
                                       })));
}

void backend_seeds(const fs::path& folder) {
  const auto put = [&folder](const char* name, const std::string& whole) {
    seed(folder, name, without_length(whole));
  };
  put("error", message([](std::string& out) {
        wire::append_error(out, {.severity = "ERROR",
                                 .sqlstate = "25006",
                                 .message = "cannot execute INSERT in a read-only transaction",
                                 .detail = "detail",
                                 .hint = "hint"});
      }));
  put("parameter_status", message([](std::string& out) {
        wire::append_parameter_status(out, {.name = "TimeZone", .value = "UTC"});
      }));
  put("key_data", message([](std::string& out) {
        wire::append_backend_key_data(out, {.pid = 4242, .key = "abcd"});
      }));
  put("auth_ok", message([](std::string& out) { wire::append_authentication_ok(out); }));
  put("auth_md5", message([](std::string& out) { wire::append_authentication_md5(out, "salt"); }));
  put("auth_sasl", message([](std::string& out) {
        const std::string_view mechanisms[] = {wire::kScramSha256Plus, wire::kScramSha256};
        wire::append_authentication_sasl(out, mechanisms);
      }));
  put("auth_sasl_continue", message([](std::string& out) {
        wire::append_authentication_sasl_continue(out, "r=nonce,s=c2FsdA==,i=4096");
      }));
  put("ready", message([](std::string& out) {
        wire::append_ready_for_query(out, wire::TransactionStatus::idle);
      }));
  put("negotiate", message([](std::string& out) {
        const std::string options[] = {"_pq_.feature"};
        wire::append_negotiate_protocol_version(out, 0, options);
      }));
  put("command_complete",
      message([](std::string& out) { wire::append_command_complete(out, "INSERT 0 3"); }));
}

void scram_seeds(const fs::path& folder) {
  const std::string proof = ",p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
  seed(folder, "server", "sn,,n=user,r=clientnonce\nc=biws,r=clientnonceservernonce" + proof);
  seed(folder, "server_binding",
       "pp=tls-server-end-point,,n=,r=clientnonce\n"
       "c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsY2VydGlmaWNhdGU=,r=clientnonceservernonce" +
           proof);
  seed(folder, "client",
       "cr=clientnonceservernonce,s=c2FsdA==,i=4096\n"
       "v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
  seed(folder, "client_refused", "cr=clientnonceservernonce,s=c2FsdA==,i=1\ne=invalid-proof");
  seed(folder, "stored",
       wire::print_scram_secret(
           {.iterations = 4096, .salt = "salt", .stored_key = {1}, .server_key = {2}}));
}

// The input of pipeline_fuzz: what is sent, in words, and the letters of the answers.
class Conversation {
 public:
  Conversation& send(wire::Request request, wire::For whom = wire::For::client) {
    bytes_ += static_cast<char>(0x80 | static_cast<int>(whom) << 4 | static_cast<int>(request));
    return *this;
  }
  Conversation& hear(std::string_view types) {
    bytes_ += types;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

void pipeline_seeds(const fs::path& folder) {
  using R = wire::Request;
  using wire::For;
  seed(folder, "query", Conversation().send(R::query).hear("TDDCZ").bytes());
  seed(folder, "extended",
       Conversation()
           .send(R::parse, For::nobody)
           .send(R::parse, For::local)
           .send(R::bind)
           .send(R::describe_portal)
           .send(R::execute)
           .send(R::close, For::local)
           .send(R::sync)
           .hear("12NTDsZ")
           .bytes());
  seed(folder, "error_skips",
       Conversation()
           .send(R::parse, For::doomed)
           .send(R::query)
           .send(R::sync)
           .send(R::bind)
           .hear("EZE")
           .send(R::query)
           .send(R::sync)
           .hear("Z")
           .bytes());
  seed(folder, "copy_in",
       Conversation()
           .send(R::execute)
           .send(R::sync)
           .hear("G")
           .send(R::sync)
           .send(R::copy_end)
           .send(R::sync)
           .hear("CZ")
           .bytes());
  seed(folder, "copy_in_fails",
       Conversation().send(R::execute).send(R::sync).hear("GEZ").send(R::copy_end).bytes());
  seed(folder, "copy_twice",
       Conversation()
           .send(R::query)
           .send(R::copy_end)
           .hear("GCGEZ")
           .send(R::copy_end)
           .bytes());
}

void classifier_seeds(const fs::path& folder) {
  seed(folder, "read", "select a, count(*) from t where b in (1, 2, 3) group by 1 -- end");
  seed(folder, "hidden_write", "with w as (insert into t values (1) returning *) select * from w");
  seed(folder, "locks", "select * from (select * from t for no key update) s");
  seed(folder, "functions", "select now(), nextval('s'), pg_advisory_lock(1), f(x) from t");
  seed(folder, "strings",
       R"(select 'it''s \', E'\'', U&'\0041', $tag$ ; $$ $tag$, b'01' /* /* */ */)");
  seed(folder, "several", "begin isolation level serializable; set local work_mem = '1MB'; commit");
  seed(folder, "settings", "set search_path to a, \"B c\"; select set_config('role', 'x', false)");
  seed(folder, "broken", "select 'never closed");
  seed(folder, "tags",
       R"(/*a='%20x',pgsluice_route='primary'*/ select 'x /*b=''1''*/' /* don't */ /*c='it\'s', d='%'*/ ;)");
  seed(folder, "deep", "select " + std::string(300, '(') + "1" + std::string(300, ')'));
}

void conf_seeds(const fs::path& folder) {
  seed(folder, "smallest", R"([listen]
address = "127.0.0.1"
port = 6432
[cluster.main]
servers = ["10.0.0.1:5432", "[::1]:5433"]
monitor_user = "pgsluice"
monitor_password = "secret"
[database."*"]
cluster = "main"
)");
  seed(folder, "sections", R"([pool]
mode = "session"
size = 7
queue_timeout = "250ms"
[limits]
batch = "16MiB"
[user.alice]
password = "md500000000000000000000000000000000"
tenant = "shop"
[tenant.shop]
rate = 100
[cluster.c]
servers = ["/run/postgresql"]
monitor_user = "m"
[database.d]
cluster = "c"
pool_size = 3
[admin]
users = ["root"]
)");
  seed(folder, "problems", R"([pool]
size = 0
sice = 5
queue_timeout = 5
[database.d]
cluster = "nowhere"
)");
  seed(folder, "secret_sources", R"([auth]
query_user = "q"
query_password = { env = "PGSLUICE_FUZZ_UNSET" }
)");
  seed(folder, "no_toml", "[listen\nport = = 1\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_corpus <folder>\n");
    return 2;
  }
  const fs::path corpus = argv[1];
  startup_seeds(corpus / "startup");
  frontend_seeds(corpus / "frontend");
  backend_seeds(corpus / "backend");
  scram_seeds(corpus / "scram");
  pipeline_seeds(corpus / "pipeline");
  classifier_seeds(corpus / "classifier");
  conf_seeds(corpus / "conf");
  if (!all_written) std::fprintf(stderr, "make_corpus: cannot write below %s\n", argv[1]);
  return all_written ? 0 : 1;
}
