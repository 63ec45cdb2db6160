#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <sys/uio.h>
#include <openssl/ssl.h>

#include "conf/result.h"
#include "conf/settings.h"

namespace net {

struct Transfer;

// The application protocol of TLS sessions that begin without SSLRequest (sslnegotiation=direct).
inline constexpr std::string_view kAlpnName = "postgresql";

// Certificates and rules of one side of the proxy. Immutable; a reload makes a new one and sessions
// keep theirs.
class TlsContext {
 public:
  // Toward clients: our certificate and key; a CA when client certificates are demanded.
  static conf::Result<std::shared_ptr<const TlsContext>> for_clients(const conf::Settings& settings);
  // Toward servers: whom to trust, and perhaps a certificate of our own.
  static conf::Result<std::shared_ptr<const TlsContext>> for_servers(const conf::Settings& settings);

  SSL_CTX* raw() const { return context_.get(); }
  // The hash of our certificate for SCRAM's channel binding tls-server-end-point (RFC 5929); empty
  // when there is none.
  const std::string& certificate_hash() const { return certificate_hash_; }

 private:
  struct Free {
    void operator()(SSL_CTX* context) const noexcept { SSL_CTX_free(context); }
  };
  std::unique_ptr<SSL_CTX, Free> context_;
  std::string certificate_hash_;
};

// The TLS state of one socket, driven over its descriptor directly: no copies through memory.
class TlsSession {
 public:
  enum class Step { done, want_read, want_write, failed };

  static std::unique_ptr<TlsSession> accept(std::shared_ptr<const TlsContext> context);
  // `verify_host`: the name that the certificate must carry (verify-full), or empty.
  static std::unique_ptr<TlsSession> connect(std::shared_ptr<const TlsContext> context,
                                             const std::string& host, conf::TlsMode mode);

  void bind(int fd);
  Step handshake();
  Step read(char* into, std::size_t size, std::size_t* count);
  Step write(const char* from, std::size_t size, std::size_t* count);
  void shutdown();
  bool has_buffered() const { return SSL_has_pending(ssl_.get()) == 1; }
  bool established() const { return SSL_is_init_finished(ssl_.get()) == 1; }
  // "end of stream" without TLS's closing message counts as closed, as libpq sees it.
  bool closed() const { return closed_; }
  // What went wrong, for the log.
  std::string error() const { return error_; }
  std::string describe() const;  // "TLSv1.3 TLS_AES_256_GCM_SHA384"
  // Hash of the peer's certificate for channel binding toward a server; empty without one.
  std::string peer_certificate_hash() const;
  // What the peer's certificate says of its holder, in the form that the option names; empty when it
  // has shown none. A name that holds a zero byte is left out: it would look like another one.
  std::vector<std::string> peer_names(conf::CertName kind) const;
  // The peer has shown a certificate, and an authority that we know has signed it.
  bool peer_verified() const;
  // The protocol that both sides agreed upon, or "".
  std::string alpn() const;
  const TlsContext& context() const { return *context_; }
  const std::shared_ptr<const TlsContext>& shared_context() const { return context_; }

 private:
  struct Free {
    void operator()(SSL* ssl) const noexcept { SSL_free(ssl); }
  };
  Step step_after(int result);

  std::shared_ptr<const TlsContext> context_;
  std::unique_ptr<SSL, Free> ssl_;
  bool closed_ = false;
  std::string error_;
};

}  // namespace net
