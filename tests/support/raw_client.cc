#include "tests/support/raw_client.h"

#include <cerrno>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace support {

namespace {

using SteadyClock = std::chrono::steady_clock;

int left(SteadyClock::time_point give_up) {
  const auto time =
      std::chrono::duration_cast<std::chrono::milliseconds>(give_up - SteadyClock::now());
  return time.count() > 0 ? static_cast<int>(time.count()) : 0;
}

std::uint32_t load32(const std::string& bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = at; i < at + 4; ++i)
    value = (value << 8) | (i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0U);
  return value;
}

std::string c_string(std::string_view text) { return std::string(text) + '\0'; }

}  // namespace

std::string int16_bytes(std::uint16_t value) {
  return {static_cast<char>(value >> 8), static_cast<char>(value & 0xff)};
}

std::string int32_bytes(std::uint32_t value) {
  return int16_bytes(static_cast<std::uint16_t>(value >> 16)) +
         int16_bytes(static_cast<std::uint16_t>(value & 0xffff));
}

std::string untyped(std::string_view body) {
  return int32_bytes(static_cast<std::uint32_t>(body.size() + 4)) + std::string(body);
}

std::string message(char type, std::string_view body) { return type + untyped(body); }

std::string startup_message(const std::vector<std::pair<std::string, std::string>>& parameters,
                            std::uint32_t version) {
  std::string body = int32_bytes(version);
  for (const auto& [name, value] : parameters) body += c_string(name) + c_string(value);
  return untyped(body + '\0');
}

std::string cancel_request(std::uint32_t pid, std::string_view key) {
  return untyped(int32_bytes(80877102) + int32_bytes(pid) + std::string(key));
}

std::string query_message(std::string_view sql) { return message('Q', c_string(sql)); }

std::string parse_message(std::string_view name, std::string_view sql) {
  return message('P', c_string(name) + c_string(sql) + int16_bytes(0));
}

std::string bind_message(std::string_view portal, std::string_view statement,
                         const std::vector<std::string>& parameters) {
  std::string body = c_string(portal) + c_string(statement) + int16_bytes(0) +
                     int16_bytes(static_cast<std::uint16_t>(parameters.size()));
  for (const std::string& value : parameters)
    body += int32_bytes(static_cast<std::uint32_t>(value.size())) + value;
  return message('B', body + int16_bytes(0));
}

std::string describe_message(char kind, std::string_view name) {
  return message('D', kind + c_string(name));
}

std::string execute_message(std::string_view portal, std::uint32_t rows) {
  return message('E', c_string(portal) + int32_bytes(rows));
}

std::string close_message(char kind, std::string_view name) {
  return message('C', kind + c_string(name));
}

std::string Message::field(char letter) const {
  std::size_t at = 0;
  while (at < body.size() && body[at] != '\0') {
    const std::size_t end = body.find('\0', at + 1);
    if (end == std::string::npos) break;
    if (body[at] == letter) return body.substr(at + 1, end - at - 1);
    at = end + 1;
  }
  return "";
}

std::vector<std::string> Message::columns() const {
  std::vector<std::string> values;
  std::size_t at = 2;
  while (at + 4 <= body.size()) {
    const auto length = static_cast<std::int32_t>(load32(body, at));
    at += 4;
    if (length < 0) {
      values.emplace_back();
      continue;
    }
    values.push_back(body.substr(at, static_cast<std::size_t>(length)));
    at += static_cast<std::size_t>(length);
  }
  return values;
}

std::int32_t Message::int32(std::size_t offset) const {
  return static_cast<std::int32_t>(load32(body, offset));
}

std::string types(const std::vector<Message>& messages) {
  std::string text;
  for (const Message& one : messages) text += one.type;
  return text;
}

struct RawClient::TlsState {
  SSL_CTX* context = nullptr;
  SSL* session = nullptr;

  ~TlsState() {
    SSL_free(session);
    SSL_CTX_free(context);
  }
};

RawClient::RawClient(std::uint16_t port) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    close(fd_);
    fd_ = -1;
    return;
  }
  const int one = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

RawClient::~RawClient() {
  if (fd_ >= 0) close(fd_);
}

RawClient::RawClient(RawClient&& other) noexcept
    : login_error(std::move(other.login_error)),
      pid(other.pid),
      key(other.key),
      fd_(std::exchange(other.fd_, -1)),
      tls_(std::move(other.tls_)),
      closed_(other.closed_),
      buffer_(std::move(other.buffer_)),
      used_(other.used_) {}

bool RawClient::start_tls(const TlsOffer& offer) {
  tls_ = std::make_unique<TlsState>();
  tls_->context = SSL_CTX_new(TLS_client_method());
  if (offer.newest_version != 0) {
    // Versions that the system's policy has retired must be offered to see them refused.
    SSL_CTX_set_security_level(tls_->context, 0);
    SSL_CTX_set_min_proto_version(tls_->context, 0);
    SSL_CTX_set_max_proto_version(tls_->context, offer.newest_version);
  }
  if (!offer.cert.empty()) {
    SSL_CTX_use_certificate_chain_file(tls_->context, offer.cert.c_str());
    SSL_CTX_use_PrivateKey_file(tls_->context, offer.key.c_str(), SSL_FILETYPE_PEM);
  }
  tls_->session = SSL_new(tls_->context);
  if (!offer.alpn.empty()) {
    const std::string list = static_cast<char>(offer.alpn.size()) + offer.alpn;
    SSL_set_alpn_protos(tls_->session, reinterpret_cast<const unsigned char*>(list.data()),
                        static_cast<unsigned>(list.size()));
  }
  const timeval patience{.tv_sec = 5, .tv_usec = 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  SSL_set_fd(tls_->session, fd_);
  const bool done = SSL_connect(tls_->session) == 1;
  ERR_clear_error();
  return done;
}

std::string RawClient::alpn() const {
  const unsigned char* name = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(tls_->session, &name, &size);
  return std::string(reinterpret_cast<const char*>(name), size);
}

std::string RawClient::certificate_name() const {
  char name[256] = "";
  if (X509* certificate = SSL_get0_peer_certificate(tls_->session))
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name, sizeof name);
  return name;
}

std::size_t RawClient::send_some(std::string_view bytes) {
  if (tls_) {  // nothing large is sent this way
    const int n = SSL_write(tls_->session, bytes.data(), static_cast<int>(bytes.size()));
    return n > 0 ? static_cast<std::size_t>(n) : 0;
  }
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n =
        ::send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0) break;
    sent += static_cast<std::size_t>(n);
  }
  return sent;
}

bool RawClient::send(std::string_view bytes) {
  const auto give_up = SteadyClock::now() + std::chrono::seconds(5);
  while (!bytes.empty()) {
    bytes.remove_prefix(send_some(bytes));
    if (bytes.empty()) return true;
    if (errno != EAGAIN) return false;
    pollfd waited{.fd = fd_, .events = POLLOUT, .revents = 0};
    if (poll(&waited, 1, left(give_up)) <= 0) return false;
  }
  return true;
}

void RawClient::shutdown_write() { ::shutdown(fd_, SHUT_WR); }

void RawClient::set_receive_buffer(int bytes) {
  setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

void RawClient::reset() {
  const linger abrupt{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &abrupt, sizeof abrupt);
  close(std::exchange(fd_, -1));
  closed_ = true;
}

bool RawClient::fill(SteadyClock::time_point give_up) {
  if (closed_ || fd_ < 0) return false;
  pollfd waited{.fd = fd_, .events = POLLIN, .revents = 0};
  const bool here = tls_ && SSL_pending(tls_->session) > 0;
  if (!here && poll(&waited, 1, left(give_up)) <= 0) return false;
  char piece[65536];
  const ssize_t n = tls_ ? SSL_read(tls_->session, piece, sizeof piece) : recv(fd_, piece, sizeof piece, 0);
  if (n <= 0) {
    closed_ = true;
    return false;
  }
  buffer_.erase(0, std::exchange(used_, 0));
  buffer_.append(piece, static_cast<std::size_t>(n));
  return true;
}

std::optional<Message> RawClient::read(std::chrono::milliseconds deadline) {
  const auto give_up = SteadyClock::now() + deadline;
  while (true) {
    if (buffer_.size() - used_ >= 5) {
      const std::size_t length = load32(buffer_, used_ + 1);
      if (length < 4) {
        closed_ = true;
        return std::nullopt;
      }
      if (buffer_.size() - used_ >= length + 1) {
        Message found{buffer_[used_], buffer_.substr(used_ + 5, length - 4)};
        used_ += length + 1;
        return found;
      }
    }
    if (!fill(give_up)) return std::nullopt;
  }
}

std::vector<Message> RawClient::read_until(char type, std::chrono::milliseconds deadline) {
  const auto give_up = SteadyClock::now() + deadline;
  std::vector<Message> messages;
  while (auto next = read(std::chrono::milliseconds(left(give_up)))) {
    messages.push_back(*std::move(next));
    if (messages.back().type == type) break;
  }
  return messages;
}

std::string RawClient::read_all(std::chrono::milliseconds deadline) {
  const auto give_up = SteadyClock::now() + deadline;
  while (fill(give_up)) {
  }
  buffer_.erase(0, std::exchange(used_, 0));
  return std::exchange(buffer_, {});
}

std::optional<char> RawClient::read_byte(std::chrono::milliseconds deadline) {
  if (buffer_.size() == used_ && !fill(SteadyClock::now() + deadline)) return std::nullopt;
  return buffer_[used_++];
}

bool RawClient::wait_closed(std::chrono::milliseconds deadline) {
  const auto give_up = SteadyClock::now() + deadline;
  while (fill(give_up)) {
  }
  return closed_;
}

bool RawClient::login(const std::string& user, const std::string& database) {
  if (!send(startup_message({{"user", user}, {"database", database}}))) return false;
  while (auto next = read()) {
    if (next->type == 'E') {
      login_error = *next;
      return false;
    }
    if (next->type == 'K') {
      pid = static_cast<std::uint32_t>(next->int32(0));
      key = static_cast<std::uint32_t>(next->int32(4));
    }
    if (next->type == 'Z') return true;
  }
  return false;
}

}  // namespace support
