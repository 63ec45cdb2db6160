#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace support {

// Big-endian integers, as on the wire.
std::string int16_bytes(std::uint16_t value);
std::string int32_bytes(std::uint32_t value);
// A typed message with its length; and messages without a type (start-up and its kin).
std::string message(char type, std::string_view body);
std::string untyped(std::string_view body);

std::string startup_message(const std::vector<std::pair<std::string, std::string>>& parameters,
                            std::uint32_t version = 3 << 16);
inline std::string ssl_request() { return untyped(int32_bytes(80877103)); }
inline std::string gss_request() { return untyped(int32_bytes(80877104)); }
std::string cancel_request(std::uint32_t pid, std::string_view key);
inline std::string cancel_request(std::uint32_t pid, std::uint32_t key) {
  return cancel_request(pid, int32_bytes(key));
}
std::string query_message(std::string_view sql);
std::string parse_message(std::string_view name, std::string_view sql);
std::string bind_message(std::string_view portal, std::string_view statement,
                         const std::vector<std::string>& parameters = {});
std::string describe_message(char kind, std::string_view name);
std::string execute_message(std::string_view portal, std::uint32_t rows = 0);
std::string close_message(char kind, std::string_view name);
inline std::string sync_message() { return message('S', ""); }
inline std::string flush_message() { return message('H', ""); }
inline std::string terminate_message() { return message('X', ""); }

struct Message {
  char type = 0;
  std::string body;

  // Of an ErrorResponse or NoticeResponse: the field of that letter ('C' is the SQLSTATE).
  std::string field(char letter) const;
  // Of a DataRow: its columns ("" for NULL).
  std::vector<std::string> columns() const;
  std::int32_t int32(std::size_t offset = 0) const;
};

// The types of `messages` in their order, for example "1DCZ".
std::string types(const std::vector<Message>& messages);

// What a client says of itself in a TLS handshake; certificates are not verified.
struct TlsOffer {
  std::string alpn{};         // "postgresql"; "": says nothing
  std::string cert{}, key{};  // files
  int newest_version = 0;     // TLS1_1_VERSION and the like; 0: the library's newest
};

// A client that speaks the protocol by hand: for what libpq would never send, and for order and
// timing that it hides. Over TCP to 127.0.0.1.
class RawClient {
 public:
  explicit RawClient(std::uint16_t port);
  ~RawClient();
  RawClient(RawClient&& other) noexcept;
  RawClient& operator=(RawClient&&) = delete;

  // From here on over TLS. False: the handshake failed.
  bool start_tls(const TlsOffer& offer);
  std::string alpn() const;              // that was agreed upon
  std::string certificate_name() const;  // the common name of the peer's certificate

  bool connected() const { return fd_ >= 0; }
  // False when the peer takes no more bytes (5 s) or is gone.
  bool send(std::string_view bytes);
  // What can be sent without waiting; returns how much that was.
  std::size_t send_some(std::string_view bytes);
  void shutdown_write();
  void set_receive_buffer(int bytes);
  void reset();  // close with RST, as a client that dies

  // The next message; none at the deadline or when the connection ends (then closed() is true).
  std::optional<Message> read(std::chrono::milliseconds deadline = std::chrono::seconds(10));
  // All messages up to and including the first of `type`, or what came before the end.
  std::vector<Message> read_until(char type,
                                  std::chrono::milliseconds deadline = std::chrono::seconds(10));
  std::string read_all(std::chrono::milliseconds deadline);  // raw bytes until the peer closes
  std::optional<char> read_byte(std::chrono::milliseconds deadline = std::chrono::seconds(10));
  bool closed() const { return closed_; }
  // True when the peer closes within the deadline (whatever it sends before).
  bool wait_closed(std::chrono::milliseconds deadline = std::chrono::seconds(10));

  // Start-up without a password until ReadyForQuery. False: `login_error` has the ErrorResponse.
  bool login(const std::string& user = "app", const std::string& database = "app");
  Message login_error;
  std::uint32_t pid = 0, key = 0;  // from BackendKeyData

 private:
  bool fill(std::chrono::steady_clock::time_point give_up);

  struct TlsState;

  int fd_ = -1;
  std::unique_ptr<TlsState> tls_;
  bool closed_ = false;
  std::string buffer_;    // received; the first used_ bytes of it have been read
  std::size_t used_ = 0;
};

}  // namespace support
