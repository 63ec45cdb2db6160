#pragma once

#include <memory>

#include <uv.h>

namespace net {

// Owns one libuv handle. Destroying a Handle is safe at any moment, also from inside one of its own
// callbacks: the owner is forgotten at once, the uv_*_t memory is freed when libuv has finished
// with it.
//
// libuv allows the memory of a handle to be released only in or after its close callback, which
// happens after ~Handle(); so every trampoline asks owner_of() and does nothing when the answer is
// null.
template <class Uv>
class Handle {
 public:
  // `init` is the uv_*_init call; on failure there is nothing to close.
  template <class Init>
  static Handle make(void* owner, Init init, int* status) {
    auto raw = std::make_unique<Uv>();
    *status = init(raw.get());
    if (*status != 0) return {};
    raw->data = owner;
    return Handle(raw.release());
  }

  Handle() = default;

  Uv* get() const { return uv_.get(); }
  explicit operator bool() const { return uv_ != nullptr; }
  void reset() { uv_.reset(); }

 private:
  struct Closer {
    void operator()(Uv* uv) const noexcept {
      uv->data = nullptr;
      uv_close(reinterpret_cast<uv_handle_t*>(uv),
               [](uv_handle_t* done) noexcept { delete reinterpret_cast<Uv*>(done); });
    }
  };

  explicit Handle(Uv* uv) : uv_(uv) {}

  std::unique_ptr<Uv, Closer> uv_;
};

template <class T, class Uv>
T* owner_of(Uv* uv) {
  return static_cast<T*>(uv->data);
}

}  // namespace net
