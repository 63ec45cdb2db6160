#include "proxy/net/tls.h"

#include <cerrno>
#include <cstring>

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "conf/check.h"

namespace net {
namespace {

std::string library_error() {
  std::string text;
  while (const unsigned long code = ERR_get_error()) {
    char buffer[256];
    ERR_error_string_n(code, buffer, sizeof buffer);
    if (!text.empty()) text += "; ";
    text += buffer;
  }
  return text.empty() ? "unknown TLS error" : text;
}

conf::Error failure(const std::string& what) {
  return {conf::Errc::config, what + ": " + library_error()};
}

// RFC 5929: the hash of the certificate's signature, SHA-256 when that is MD5 or SHA-1.
std::string end_point_hash(X509* certificate) {
  int digest_nid = NID_undef;
  if (X509_get_signature_info(certificate, &digest_nid, nullptr, nullptr, nullptr) != 1) return {};
  const EVP_MD* digest = digest_nid == NID_md5 || digest_nid == NID_sha1 || digest_nid == NID_undef
                             ? EVP_sha256()
                             : EVP_get_digestbynid(digest_nid);
  if (digest == nullptr) return {};
  unsigned char hash[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (X509_digest(certificate, digest, hash, &size) != 1) return {};
  return std::string(reinterpret_cast<char*>(hash), size);
}

void common_options(SSL_CTX* context) {
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                   SSL_OP_IGNORE_UNEXPECTED_EOF);
  // Idle sessions give their record buffers back; one system call fetches as many records as fit.
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, std::size_t{64} << 10);
}

constexpr unsigned char kAlpn[] = "\x0apostgresql";

int select_alpn(SSL*, const unsigned char** out, unsigned char* out_length, const unsigned char* in,
                unsigned in_length, void*) {
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_length, kAlpn, sizeof kAlpn - 1, in, in_length) !=
      OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

bool load_key_pair(SSL_CTX* context, const std::string& certificate, const std::string& key) {
  return SSL_CTX_use_certificate_chain_file(context, certificate.c_str()) == 1 &&
         SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM) == 1 &&
         SSL_CTX_check_private_key(context) == 1;
}

bool is_numeric(const std::string& host) {
  unsigned char address[16];
  return inet_pton(AF_INET, host.c_str(), address) == 1 ||
         inet_pton(AF_INET6, host.c_str(), address) == 1;
}

}  // namespace

conf::Result<std::shared_ptr<const TlsContext>> TlsContext::for_clients(
    const conf::Settings& settings) {
  ERR_clear_error();
  auto made = std::make_shared<TlsContext>();
  made->context_.reset(SSL_CTX_new(TLS_server_method()));
  SSL_CTX* context = made->context_.get();
  if (context == nullptr) return failure("making the TLS context for clients");
  common_options(context);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_alpn_select_cb(context, select_alpn, nullptr);
  if (!load_key_pair(context, settings.tls_client_cert, settings.tls_client_key))
    return failure("loading tls.client.cert \"" + settings.tls_client_cert +
                   "\" and tls.client.key \"" + settings.tls_client_key + "\"");
  if (X509* certificate = SSL_CTX_get0_certificate(context); certificate != nullptr)
    made->certificate_hash_ = end_point_hash(certificate);
  const bool demands_certificate = settings.tls_client_mode >= conf::TlsMode::verify_ca;
  if (!settings.tls_client_ca.empty() || demands_certificate) {
    if (SSL_CTX_load_verify_locations(context, settings.tls_client_ca.c_str(), nullptr) != 1)
      return failure("loading tls.client.ca \"" + settings.tls_client_ca + "\"");
    SSL_CTX_set_client_CA_list(context, SSL_load_client_CA_file(settings.tls_client_ca.c_str()));
    SSL_CTX_set_verify(context,
                       SSL_VERIFY_PEER | (demands_certificate ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                       nullptr);
  }
  return std::shared_ptr<const TlsContext>(std::move(made));
}

conf::Result<std::shared_ptr<const TlsContext>> TlsContext::for_servers(
    const conf::Settings& settings) {
  ERR_clear_error();
  auto made = std::make_shared<TlsContext>();
  made->context_.reset(SSL_CTX_new(TLS_client_method()));
  SSL_CTX* context = made->context_.get();
  if (context == nullptr) return failure("making the TLS context for servers");
  common_options(context);
  SSL_CTX_set_alpn_protos(context, kAlpn, sizeof kAlpn - 1);
  if (!settings.tls_server_cert.empty() &&
      !load_key_pair(context, settings.tls_server_cert, settings.tls_server_key))
    return failure("loading tls.server.cert \"" + settings.tls_server_cert +
                   "\" and tls.server.key \"" + settings.tls_server_key + "\"");
  if (settings.tls_server_mode >= conf::TlsMode::verify_ca) {
    const int loaded = settings.tls_server_ca.empty()
                           ? SSL_CTX_set_default_verify_paths(context)
                           : SSL_CTX_load_verify_locations(context, settings.tls_server_ca.c_str(),
                                                           nullptr);
    if (loaded != 1) return failure("loading tls.server.ca \"" + settings.tls_server_ca + "\"");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  }
  return std::shared_ptr<const TlsContext>(std::move(made));
}

std::unique_ptr<TlsSession> TlsSession::accept(std::shared_ptr<const TlsContext> context) {
  auto session = std::make_unique<TlsSession>();
  session->ssl_.reset(SSL_new(context->raw()));
  session->context_ = std::move(context);
  ENSURE(session->ssl_ != nullptr);
  SSL_set_accept_state(session->ssl_.get());
  return session;
}

std::unique_ptr<TlsSession> TlsSession::connect(std::shared_ptr<const TlsContext> context,
                                                const std::string& host, conf::TlsMode mode) {
  auto session = std::make_unique<TlsSession>();
  session->ssl_.reset(SSL_new(context->raw()));
  session->context_ = std::move(context);
  SSL* ssl = session->ssl_.get();
  ENSURE(ssl != nullptr);
  SSL_set_connect_state(ssl);
  const bool numeric = is_numeric(host);
  if (!numeric) SSL_set_tlsext_host_name(ssl, host.c_str());
  if (mode == conf::TlsMode::verify_full) {
    if (numeric) {
      X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str());
    } else {
      SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
      SSL_set1_host(ssl, host.c_str());
    }
  }
  return session;
}

void TlsSession::bind(int fd) { SSL_set_fd(ssl_.get(), fd); }

bool TlsSession::peer_verified() const {
  return SSL_get0_peer_certificate(ssl_.get()) != nullptr &&
         SSL_get_verify_result(ssl_.get()) == X509_V_OK;
}

std::vector<std::string> TlsSession::peer_names(conf::CertName kind) const {
  std::vector<std::string> names;
  X509* certificate = SSL_get0_peer_certificate(ssl_.get());
  if (certificate == nullptr) return names;
  const auto add = [&names](const unsigned char* data, int size) {
    std::string name(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
    if (!name.empty() && name.find('\0') == name.npos) names.push_back(std::move(name));
  };
  const X509_NAME* subject = X509_get_subject_name(certificate);
  switch (kind) {
    case conf::CertName::cn: {
      const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
      if (at < 0) break;
      unsigned char* text = nullptr;
      const int size =
          ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
      if (size < 0) break;
      add(text, size);
      OPENSSL_free(text);
      break;
    }
    case conf::CertName::dn: {
      BIO* out = BIO_new(BIO_s_mem());
      if (out == nullptr) break;
      char* text = nullptr;
      if (X509_NAME_print_ex(out, subject, 0, XN_FLAG_RFC2253) > 0)
        if (const long size = BIO_get_mem_data(out, &text); size > 0)
          add(reinterpret_cast<const unsigned char*>(text), static_cast<int>(size));
      BIO_free(out);
      break;
    }
    case conf::CertName::san: {
      auto* all = static_cast<GENERAL_NAMES*>(
          X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
      for (int i = 0; i < sk_GENERAL_NAME_num(all); ++i) {
        int type = 0;
        const void* value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(all, i), &type);
        if (type != GEN_DNS && type != GEN_EMAIL && type != GEN_URI) continue;
        const auto* text = static_cast<const ASN1_STRING*>(value);
        add(ASN1_STRING_get0_data(text), ASN1_STRING_length(text));
      }
      GENERAL_NAMES_free(all);
      break;
    }
  }
  ERR_clear_error();
  return names;
}

std::string TlsSession::alpn() const {
  const unsigned char* chosen = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl_.get(), &chosen, &size);
  return std::string(reinterpret_cast<const char*>(chosen), size);
}

TlsSession::Step TlsSession::step_after(int result) {
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ: return Step::want_read;
    case SSL_ERROR_WANT_WRITE: return Step::want_write;
    case SSL_ERROR_ZERO_RETURN: closed_ = true; return Step::failed;
    case SSL_ERROR_SYSCALL:
      closed_ = errno == 0;
      error_ = errno == 0 ? "connection closed" : std::strerror(errno);
      ERR_clear_error();
      return Step::failed;
    default:
      error_ = library_error();
      if (const long verdict = SSL_get_verify_result(ssl_.get()); verdict != X509_V_OK)
        error_ += std::string(" (certificate: ") + X509_verify_cert_error_string(verdict) + ")";
      return Step::failed;
  }
}

TlsSession::Step TlsSession::handshake() {
  ERR_clear_error();
  errno = 0;
  const int result = SSL_do_handshake(ssl_.get());
  return result == 1 ? Step::done : step_after(result);
}

TlsSession::Step TlsSession::read(char* into, std::size_t size, std::size_t* count) {
  ERR_clear_error();
  errno = 0;
  // The library returns one record at a time; a turn's worth is gathered here.
  *count = 0;
  while (*count < size) {
    std::size_t got = 0;
    const int result = SSL_read_ex(ssl_.get(), into + *count, size - *count, &got);
    if (result != 1) return *count > 0 ? Step::done : step_after(result);
    *count += got;
    if (!has_buffered()) break;
  }
  return Step::done;
}

TlsSession::Step TlsSession::write(const char* from, std::size_t size, std::size_t* count) {
  ERR_clear_error();
  errno = 0;
  const int result = SSL_write_ex(ssl_.get(), from, size, count);
  return result == 1 ? Step::done : step_after(result);
}

void TlsSession::shutdown() {
  ERR_clear_error();
  if (established() && error_.empty()) SSL_shutdown(ssl_.get());
}

std::string TlsSession::describe() const {
  return std::string(SSL_get_version(ssl_.get())) + " " + SSL_get_cipher_name(ssl_.get());
}

std::string TlsSession::peer_certificate_hash() const {
  X509* certificate = SSL_get0_peer_certificate(ssl_.get());
  return certificate == nullptr ? std::string() : end_point_hash(certificate);
}

}  // namespace net
