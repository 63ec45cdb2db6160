#include "conf/render.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include <doctest/doctest.h>
#include <stdlib.h>

#include "conf/load.h"
#include "conf/options.h"
#include "conf/sections.h"

using namespace conf;

namespace {

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Equal byte for byte; PGSLUICE_RENDER=1 writes the file anew instead.
void check_shipped(const char* name, const std::string& rendered) {
  const auto path = std::filesystem::path(PGSLUICE_SOURCE_ROOT) / "conf" / name;
  if (getenv("PGSLUICE_RENDER") != nullptr) std::ofstream(path, std::ios::binary) << rendered;
  const bool same = contents(path) == rendered;
  CHECK_MESSAGE(same, "conf/", std::string(name),
                " is not what the tables say; PGSLUICE_RENDER=1 renders it");
}

const ConfigRow& row_of(const std::vector<ConfigRow>& rows, const std::string& key) {
  const auto row =
      std::find_if(rows.begin(), rows.end(), [&](const ConfigRow& one) { return one.key == key; });
  REQUIRE_MESSAGE(row != rows.end(), key);
  return *row;
}

}  // namespace

TEST_SUITE("conf/render") {
  TEST_CASE("the shipped sample file is what the tables render") {
    check_shipped("pgsluice.toml", sample_file());
  }

  TEST_CASE("the shipped reference is what the tables render") {
    check_shipped("REFERENCE.md", reference_markdown());
  }

  TEST_CASE("the sample file loads, and says nothing but the defaults and its examples") {
    const auto settings = load_text(sample_file(), "pgsluice.toml");
    REQUIRE_MESSAGE(settings, settings.error().message);
    CHECK((*settings)->clusters.at("main").servers.size() == 3);
    CHECK((*settings)->databases.contains("*"));
    CHECK((*settings)->users.empty());
    CHECK((*settings)->tenants.empty());
    const Settings defaults = default_settings();
    for (const Option& option : options()) {
      CAPTURE(option.name);
      CHECK(differs(option, **settings, defaults) == (option.presence == Presence::shown));
    }
  }

  TEST_CASE("every line that the sample file has as a comment can be used as it stands") {
    std::istringstream sample(sample_file());
    std::string text;
    for (std::string line; std::getline(sample, line);) {
      if (line.starts_with("#") && !line.starts_with("# ")) line.erase(0, 1);
      const auto secret_file = line.find("{ file =");
      if (secret_file != line.npos) line = line.substr(0, secret_file) + "\"secret\"";
      text += line + "\n";
    }
    setenv("PGSLUICE_MONITOR_PASSWORD", "secret", 1);
    const auto settings = load_text(text, "pgsluice.toml");
    unsetenv("PGSLUICE_MONITOR_PASSWORD");
    REQUIRE_MESSAGE(settings, settings.error().message);
    const Settings defaults = default_settings();
    for (const Option& option : options()) {
      CAPTURE(option.name);
      CHECK(differs(option, **settings, defaults) == (option.presence == Presence::shown));
    }
    CHECK((*settings)->clusters.at("main").monitor_password == "secret");
    CHECK((*settings)->users.at("app").tenant == "shop");
    CHECK((*settings)->tenants.at("shop").rate == 500);
  }

  TEST_CASE("the sample file, the reference and the help know every option") {
    const auto sample = sample_file();
    const auto reference = reference_markdown();
    const auto help = options_help();
    for (const Option& option : options()) {
      CAPTURE(option.name);
      const auto dot = option.name.rfind('.');
      const std::string key(dot == option.name.npos ? option.name : option.name.substr(dot + 1));
      CHECK(sample.find(key + " = ") != std::string::npos);
      CHECK(reference.find("| `" + key + "` |") != std::string::npos);
      CHECK(help.find("  " + std::string(option.name)) != std::string::npos);
    }
  }

  TEST_CASE("the help fits into 100 columns") {
    std::istringstream help(options_help());
    for (std::string line; std::getline(help, line);) {
      CAPTURE(line);
      CHECK(line.size() <= 100);
    }
  }

  TEST_CASE(
      "SHOW CONFIG has a row for each option, sorted, with value, default and changeability") {
    Settings settings = default_settings();
    settings.pool_size = 7;
    settings.routing_read_functions = {"f", "g"};
    const auto rows = config_rows(settings);
    REQUIRE(rows.size() == options().size());
    CHECK(std::is_sorted(rows.begin(), rows.end(),
                         [](const ConfigRow& a, const ConfigRow& b) { return a.key < b.key; }));
    CHECK(row_of(rows, "pool.size").value == "7");
    CHECK(row_of(rows, "pool.size").default_value == "20");
    CHECK(row_of(rows, "pool.size").changeable);
    CHECK_FALSE(row_of(rows, "listen.port").changeable);
    CHECK(row_of(rows, "pool.queue_timeout").value == "10s");
    CHECK(row_of(rows, "limits.batch").value == "1MiB");
    CHECK(row_of(rows, "auth.method").value == "scram-sha-256");
    CHECK(row_of(rows, "routing.read_functions").value == "f, g");
  }

  TEST_CASE("SHOW CONFIG has a row for each key of each section") {
    Settings settings = default_settings();
    settings.clusters["main"].servers = {{"::1", 5432}, {"db", 5433}};
    settings.databases["*"].pool_size = 5;
    const auto rows = config_rows(settings);
    CHECK(row_of(rows, "cluster.main.servers").value == "[::1]:5432, db:5433");
    CHECK(row_of(rows, "database.\"*\".pool_size").value == "5");
    CHECK(row_of(rows, "database.\"*\".pool_mode").value == "");
  }

  TEST_CASE("SHOW CONFIG shows no secret, only that there is one") {
    Settings settings = default_settings();
    CHECK(row_of(config_rows(settings), "auth.query_password").value == "");
    settings.auth_query_password = "hunter2";
    settings.clusters["main"].monitor_password = "hunter2";
    settings.users["app"].password = "hunter2";
    const auto rows = config_rows(settings);
    for (const ConfigRow& row : rows) {
      CAPTURE(row.key);
      CHECK(row.value.find("hunter2") == std::string::npos);
    }
    CHECK(row_of(rows, "auth.query_password").value == "***");
    CHECK(row_of(rows, "cluster.main.monitor_password").value == "***");
    CHECK(row_of(rows, "user.app.password").value == "***");
  }
}
