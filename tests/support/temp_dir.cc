#include "tests/support/temp_dir.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include <ftw.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

namespace support {

namespace {

uid_t postgres_uid = 0;
gid_t postgres_gid = 0;

int chown_one(const char* path, const struct stat* /*status*/, int /*type*/, FTW* /*where*/) {
  return lchown(path, postgres_uid, postgres_gid);
}

}  // namespace

void give_to_postgres(const std::string& path) {
  if (geteuid() != 0) return;
  if (postgres_uid == 0) {
    const passwd* user = getpwnam("postgres");
    if (user == nullptr) {
      std::fprintf(stderr, "there is no user postgres: run tests/setup\n");
      std::abort();
    }
    postgres_uid = user->pw_uid;
    postgres_gid = user->pw_gid;
  }
  nftw(path.c_str(), chown_one, 16, FTW_PHYS);
}

TempDir::TempDir() {
  const char* base = std::getenv("TMPDIR");
  path_ = std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/pgsluice-test-XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) {
    std::perror("mkdtemp");
    std::abort();
  }
  chmod(path_.c_str(), 0755);  // our own processes look into the folder of postgres' sockets
  give_to_postgres(path_);
}

TempDir::~TempDir() {
  if (std::getenv("PGSLUICE_KEEP") != nullptr) {
    std::fprintf(stderr, "kept: %s\n", path_.c_str());
    return;
  }
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_file(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(text.data(), static_cast<std::streamsize>(text.size()));
}

void append_file(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary | std::ios::app)
      .write(text.data(), static_cast<std::streamsize>(text.size()));
}

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();  // a process's file may end in an error: it is gone
  return std::move(text).str();
}

}  // namespace support
