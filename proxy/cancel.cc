#include "proxy/cancel.h"

#include "proxy/server.h"
#include "proxy/wire/startup.h"
#include "proxy/worker.h"

namespace proxy {

Canceller::Canceller(Worker& worker, Server& aim, std::optional<ClientId> who)
    : server(&aim), requester(who), started(worker.now()), worker_(worker), tls_(aim.tls_context()), host_(aim.node_host()) {
  wire::append_cancel_request(request_, {aim.backend_pid(), aim.cancel_key()});
  if (!socket_.connect(worker.loop(), aim.ip(), aim.port(), *this)) worker.cancel_finished(*this);
}

void Canceller::send_request() {
  stage_ = Stage::sent;
  const iovec part{request_.data(), request_.size()};
  if (socket_.write(std::span(&part, 1)).count != request_.size()) worker_.cancel_finished(*this);
}

void Canceller::on_writable() {
  if (stage_ == Stage::tls_handshake) {
    on_readable();
    return;
  }
  if (stage_ != Stage::connecting) return;
  if (socket_.finish_connect() != 0) {
    worker_.cancel_finished(*this);
    return;
  }
  if (tls_ == nullptr) {
    send_request();
    return;
  }
  stage_ = Stage::tls_answer;
  std::string ask;
  wire::append_ssl_request(ask);
  const iovec part{ask.data(), ask.size()};
  if (socket_.write(std::span(&part, 1)).count != ask.size()) worker_.cancel_finished(*this);
}

void Canceller::on_readable() {
  if (stage_ == Stage::connecting) return;
  if (stage_ == Stage::tls_handshake) {
    switch (socket_.handshake()) {
      case net::TlsSession::Step::done: send_request(); break;
      case net::TlsSession::Step::want_read:
      case net::TlsSession::Step::want_write: break;
      case net::TlsSession::Step::failed: worker_.cancel_finished(*this); break;
    }
    return;
  }
  char answer[16];
  const net::Transfer got = socket_.read(answer);
  if (stage_ == Stage::tls_answer && got.count == 1 && answer[0] == 'S') {
    stage_ = Stage::tls_handshake;
    socket_.start_tls(net::TlsSession::connect(tls_, host_,
                                               worker_.settings().tls_server_mode));
    on_readable();
    return;
  }
  // Postgres answers a cancel by closing; whatever else comes, this is over.
  if (got.state != net::Transfer::State::would_block) worker_.cancel_finished(*this);
}

}  // namespace proxy
