#include "proxy/net/loop.h"

#include <utility>

#include <arpa/inet.h>
#include <netdb.h>

#include "conf/check.h"

namespace net {

Loop::Loop() {
  ENSURE(uv_loop_init(&loop_) == 0);
  int status = 0;
  prepare_ = Handle<uv_prepare_t>::make(
      this, [this](uv_prepare_t* uv) { return uv_prepare_init(&loop_, uv); }, &status);
  ENSURE(status == 0);
  uv_prepare_start(prepare_.get(), [](uv_prepare_t* uv) noexcept {
    if (auto* loop = owner_of<Loop>(uv)) loop->on_turn_end();
  });
  uv_unref(reinterpret_cast<uv_handle_t*>(prepare_.get()));
  idle_ = Handle<uv_idle_t>::make(
      this, [this](uv_idle_t* uv) { return uv_idle_init(&loop_, uv); }, &status);
  ENSURE(status == 0);
}

void Loop::wake() {
  uv_idle_start(idle_.get(), [](uv_idle_t* uv) noexcept { uv_idle_stop(uv); });
}

Loop::~Loop() {
  prepare_.reset();
  idle_.reset();
  while (uv_run(&loop_, UV_RUN_ONCE) != 0) {
  }
  ENSURE(uv_loop_close(&loop_) == 0);
}

void Loop::run() { uv_run(&loop_, UV_RUN_DEFAULT); }

void Loop::on_turn_end() {
  if (turn_end_) turn_end_();
  now_ = {};
}

void Loop::in_background(std::function<void()> work, std::function<void()> done) {
  struct Job {
    uv_work_t request;
    std::function<void()> work, done;
  };
  auto job = std::make_unique<Job>();
  job->work = std::move(work);
  job->done = std::move(done);
  job->request.data = job.get();
  const int status = uv_queue_work(
      &loop_, &job->request,
      [](uv_work_t* request) noexcept { static_cast<Job*>(request->data)->work(); },
      [](uv_work_t* request, int) noexcept {
        const std::unique_ptr<Job> finished(static_cast<Job*>(request->data));
        finished->done();
      });
  ENSURE(status == 0);
  (void)job.release();
}

void Loop::resolve(const std::string& host,
                   std::function<void(std::vector<std::string>, std::string)> done) {
  struct Query {
    uv_getaddrinfo_t request;
    std::function<void(std::vector<std::string>, std::string)> done;
  };
  auto query = std::make_unique<Query>();
  query->done = std::move(done);
  query->request.data = query.get();
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  const int status = uv_getaddrinfo(
      &loop_, &query->request,
      [](uv_getaddrinfo_t* request, int outcome, addrinfo* found) noexcept {
        const std::unique_ptr<Query> finished(static_cast<Query*>(request->data));
        std::vector<std::string> ips;
        for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
          char text[INET6_ADDRSTRLEN];
          const void* address =
              one->ai_family == AF_INET
                  ? static_cast<const void*>(&reinterpret_cast<sockaddr_in*>(one->ai_addr)->sin_addr)
                  : &reinterpret_cast<sockaddr_in6*>(one->ai_addr)->sin6_addr;
          if (inet_ntop(one->ai_family, address, text, sizeof text) != nullptr)
            ips.emplace_back(text);
        }
        uv_freeaddrinfo(found);
        finished->done(std::move(ips), outcome == 0 ? "" : uv_strerror(outcome));
      },
      host.c_str(), nullptr, &hints);
  if (status != 0) {
    query->done({}, uv_strerror(status));
    return;
  }
  (void)query.release();
}

Timer::Timer(Loop& loop, std::function<void()> action) : action_(std::move(action)) {
  int status = 0;
  uv_ = Handle<uv_timer_t>::make(
      this, [&loop](uv_timer_t* uv) { return uv_timer_init(loop.raw(), uv); }, &status);
  ENSURE(status == 0);
}

void Timer::start(Millis delay, Millis repeat) {
  // libuv's idea of the time is that of the turn's start; a timer armed late in a long turn would
  // fire early by as much.
  uv_update_time(uv_.get()->loop);
  uv_timer_start(
      uv_.get(),
      [](uv_timer_t* uv) noexcept {
        if (auto* timer = owner_of<Timer>(uv)) timer->action_();
      },
      static_cast<std::uint64_t>(delay.count()), static_cast<std::uint64_t>(repeat.count()));
}

Watch::Watch(Loop& loop, int fd, std::function<void(int)> action) : action_(std::move(action)) {
  int status = 0;
  uv_ = Handle<uv_poll_t>::make(
      this, [&loop, fd](uv_poll_t* uv) { return uv_poll_init(loop.raw(), uv, fd); }, &status);
  ENSURE(status == 0);
}

void Watch::want(int events) {
  if (events == wanted_) return;
  wanted_ = events;
  if (events == none) {
    uv_poll_stop(uv_.get());
    return;
  }
  uv_poll_start(uv_.get(), events, [](uv_poll_t* uv, int status, int happened) noexcept {
    // An error (EBADF aside) is readable: whoever reads next meets it.
    if (auto* watch = owner_of<Watch>(uv)) watch->action_(status < 0 ? watch->wanted_ : happened);
  });
}

Signal::Signal(Loop& loop, int number, std::function<void()> action) : action_(std::move(action)) {
  int status = 0;
  uv_ = Handle<uv_signal_t>::make(
      this, [&loop](uv_signal_t* uv) { return uv_signal_init(loop.raw(), uv); }, &status);
  ENSURE(status == 0);
  uv_signal_start(
      uv_.get(),
      [](uv_signal_t* uv, int) noexcept {
        if (auto* signal = owner_of<Signal>(uv)) signal->action_();
      },
      number);
  uv_unref(reinterpret_cast<uv_handle_t*>(uv_.get()));
}

}  // namespace net
