#pragma once

#include <string>
#include <string_view>

namespace support {

// A new folder under $TMPDIR (or /tmp), removed with all its contents at the end of its life; kept
// when PGSLUICE_KEEP is set. When the tests run as root it belongs to the user that runs Postgres.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

void write_file(const std::string& path, std::string_view text);
void append_file(const std::string& path, std::string_view text);
std::string read_file(const std::string& path);  // "" when it cannot be read

// Gives `path` and all below it to the user that runs Postgres; does nothing when we are not root.
void give_to_postgres(const std::string& path);

}  // namespace support
