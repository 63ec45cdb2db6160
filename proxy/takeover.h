#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conf/result.h"
#include "proxy/listeners.h"
#include "proxy/messages.h"
#include "proxy/net/loop.h"
#include "proxy/orders.h"

namespace proxy {

// What a process gives to its successor.
struct Inheritance {
  std::vector<ListenSocket> sockets;
  std::uint32_t processes = 0;  // bit per process number (Shared::process) that cancel keys in use may have
  std::string mock_key;         // Shared::mock_key
  Orders orders;
  int link = -1;                // to the process that gave it
};

// `pgsluice FILE --takeover`: asks the process that listens on `path`. None: nobody does. Waits for
// seconds at most; before the threads are started.
conf::Result<std::optional<Inheritance>> claim_inheritance(const std::string& path);

// A restart without a refused connection, seen from both ends. The listening sockets are shared, so a
// connection that nobody has accepted yet waits in the kernel for either process; one of the two
// accepts at any moment.
//
//   successor                          predecessor
//   hello                      ->
//                              <-      its sockets, its orders
//   probes its nodes, starts its workers; until here a failure changes nothing
//   ready                      ->      stops accepting
//                              <-      yours
//   accepts
//   serving                    ->      drains; frees the metrics port
//                              <-      freed
//   cancel of a client of its  ->
//                              <-      delivered
//
// When the link breaks before "serving", the predecessor accepts again. Afterwards it stays open until the
// predecessor has drained.
class Takeover {
 public:
  struct Events {
    std::function<Inheritance()> give;           // what a successor gets
    std::function<void(bool)> accept;            // accept clients from now on, or stop
    std::function<void()> handed_over;           // the successor serves
    std::function<void()> freed;                 // the predecessor has freed what cannot be shared
    std::function<void(const CancelClient&)> cancel;  // for a client of ours; requester.worker is kElsewhere
  };
  Takeover(net::Loop& loop, Events events);
  ~Takeover();

  // Successors may come on this listening socket.
  void offer(int fd);
  // No successor is wanted any more.
  void withdraw() { offer_ = nullptr; }
  // We are one; `link` leads to the predecessor.
  void claim(int link);
  // Our nodes are known: the predecessor may stop. Once.
  void ready();
  bool waits_for_predecessor() const { return predecessor_ && !serving_; }
  bool has_predecessor() const { return predecessor_ != nullptr; }
  bool is_under_way() const { return waits_for_predecessor() || (successor_ && !handed_over_); }
  // To the successor: the metrics port is free.
  void say_freed();

  // A cancel key of another process: true when the predecessor was asked; its requester hears
  // (canceled) when it was delivered.
  bool forward(const CancelClient& request, std::function<void(const ClientId&)> canceled);
  // A cancel that the successor asked for (kElsewhere) has been delivered.
  void delivered(const ClientId& requester);

 private:
  struct Link {
    int fd = -1;
    std::unique_ptr<net::Watch> watch;
    ~Link();
  };
  std::unique_ptr<Link> make_link(int fd, void (Takeover::*on_packets)());
  void on_offer();
  void on_successor();
  void on_predecessor();
  void successor_lost();
  void predecessor_lost();
  void drop(std::unique_ptr<Link>& link);

  net::Loop& loop_;
  const Events events_;
  int offer_fd_ = -1;
  std::unique_ptr<net::Watch> offer_;
  std::unique_ptr<Link> predecessor_, successor_;
  std::vector<std::unique_ptr<Link>> dropped_;  // one may be the caller
  net::Timer patience_;       // with a successor that is ready, and does not say that it serves
  bool stopped_ = false;      // the successor is ready, and has not said that it serves
  bool handed_over_ = false;
  bool serving_ = false;
  bool freed_ = false;
  std::uint32_t last_ticket_ = 0;
  struct Asked {
    ClientId requester;
    std::function<void(const ClientId&)> canceled;
  };
  std::map<std::uint32_t, Asked> asked_;
};

}  // namespace proxy
