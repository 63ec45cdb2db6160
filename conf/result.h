#pragma once

#include <string>
#include <utility>
#include <variant>

namespace conf {

enum class Errc : unsigned char { eof, io, timeout, protocol, auth, config, overloaded };

// Why something did not work. `code` decides what the caller does next; `message` is for the log
// line and the ErrorResponse, and starts with what was being attempted.
struct Error {
  Errc code;
  std::string message;
};

// A T, or the reason that there is none. The names match std::expected, so the day the compiler
// ships it this header becomes a using-declaration.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  T& operator*() { return *std::get_if<0>(&state_); }
  const T& operator*() const { return *std::get_if<0>(&state_); }
  T* operator->() { return std::get_if<0>(&state_); }
  const T* operator->() const { return std::get_if<0>(&state_); }
  const Error& error() const { return *std::get_if<1>(&state_); }

 private:
  std::variant<T, Error> state_;
};

using Status = Result<std::monostate>;
inline constexpr std::monostate ok{};

}  // namespace conf
