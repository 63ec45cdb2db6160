#pragma once

#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "conf/check.h"
#include "proxy/net/loop.h"

namespace net {

// How threads speak to a loop: any thread posts, the loop's thread receives, in order. The receiver
// is woken only when the box was empty, because libuv merges wake-ups anyway. Messages carry values,
// immutable snapshots or ids.
//
// Made and destroyed on the receiving thread (or before it runs / after it has ended). Nobody may
// post after that.
template <class Message>
class Mailbox {
 public:
  Mailbox(Loop& loop, std::function<void(Message&&)> receive) : receive_(std::move(receive)) {
    int status = 0;
    uv_ = Handle<uv_async_t>::make(
        this,
        [&loop](uv_async_t* uv) {
          return uv_async_init(loop.raw(), uv, [](uv_async_t* woken) noexcept {
            if (auto* box = owner_of<Mailbox>(woken)) box->on_wake();
          });
        },
        &status);
    ENSURE(status == 0);
  }

  void post(Message message) {
    const std::lock_guard lock(mutex_);
    const bool was_empty = messages_.empty();
    messages_.push_back(std::move(message));
    if (was_empty) uv_async_send(uv_.get());
  }

 private:
  void on_wake() {
    std::vector<Message> batch;
    {
      const std::lock_guard lock(mutex_);
      batch.swap(messages_);
    }
    for (Message& message : batch) receive_(std::move(message));
  }

  Handle<uv_async_t> uv_;
  std::function<void(Message&&)> receive_;
  std::mutex mutex_;
  std::vector<Message> messages_;
};

}  // namespace net
