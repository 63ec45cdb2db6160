#include "tests/support/tls_middle.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/free_port.h"
#include "tests/support/raw_client.h"

namespace support {

namespace {

constexpr int kLookMs = 20;
using Context = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;
using Session = std::unique_ptr<SSL, decltype(&SSL_free)>;

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

Session session(const Context& context, int fd) {
  Session made(SSL_new(context.get()), &SSL_free);
  SSL_set_fd(made.get(), fd);
  return made;
}

// What one has said goes to the other. False: it is over.
bool pass(SSL* from, SSL* to) {
  char buffer[16384];
  do {
    const int count = SSL_read(from, buffer, sizeof buffer);
    // A ticket or the like, which is for us.
    if (count <= 0) return SSL_get_error(from, count) == SSL_ERROR_WANT_READ;
    if (SSL_write(to, buffer, count) != count) return false;
  } while (SSL_pending(from) > 0);
  return true;
}

}  // namespace

TlsMiddle::TlsMiddle(std::uint16_t target, std::string cert, std::string key)
    : target_(target), cert_(std::move(cert)), key_(std::move(key)), port_(free_port()) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  const sockaddr_in address = loopback(port_);
  if (bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener_, 128) != 0) {
    std::perror("TLS middle");
    std::abort();
  }
  acceptor_ = std::thread([this] { accept_loop(); });
}

TlsMiddle::~TlsMiddle() {
  closing_ = true;
  acceptor_.join();
  for (std::thread& thread : threads_) thread.join();
  close(listener_);
}

void TlsMiddle::accept_loop() {
  while (!closing_) {
    pollfd waited{.fd = listener_, .events = POLLIN, .revents = 0};
    if (poll(&waited, 1, kLookMs) <= 0) continue;
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) continue;
    threads_.emplace_back([this, client] {
      stand_between(client);
      close(client);
    });
  }
}

void TlsMiddle::stand_between(int client) {
  const timeval patience{.tv_sec = 2, .tv_usec = 0};
  setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  const std::string request = ssl_request();
  std::string asked(request.size(), '\0');
  if (recv(client, asked.data(), asked.size(), MSG_WAITALL) != std::ssize(asked) || asked != request ||
      send(client, "S", 1, MSG_NOSIGNAL) != 1)
    return;
  const Context ours(SSL_CTX_new(TLS_server_method()), &SSL_CTX_free),
      theirs(SSL_CTX_new(TLS_client_method()), &SSL_CTX_free);
  // SSL_read() returns after a record that is not for us.
  for (const Context* context : {&ours, &theirs}) SSL_CTX_clear_mode(context->get(), SSL_MODE_AUTO_RETRY);
  if (SSL_CTX_use_certificate_chain_file(ours.get(), cert_.c_str()) != 1 ||
      SSL_CTX_use_PrivateKey_file(ours.get(), key_.c_str(), SSL_FILETYPE_PEM) != 1)
    return;
  const Session here = session(ours, client);
  if (SSL_accept(here.get()) != 1) return;

  const int target = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = loopback(target_);
  const Session there = session(theirs, target);
  char answer = 0;
  if (connect(target, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      send(target, request.data(), request.size(), MSG_NOSIGNAL) == std::ssize(request) &&
      recv(target, &answer, 1, 0) == 1 && answer == 'S' && SSL_connect(there.get()) == 1) {
    ++connections_;
    bool open = true;
    while (open && !closing_) {
      pollfd both[2] = {{.fd = client, .events = POLLIN, .revents = 0}, {.fd = target, .events = POLLIN, .revents = 0}};
      if (poll(both, 2, kLookMs) <= 0) continue;
      if (both[0].revents != 0) open = pass(here.get(), there.get());
      if (open && both[1].revents != 0) open = pass(there.get(), here.get());
    }
  }
  close(target);
}

}  // namespace support
