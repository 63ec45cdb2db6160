#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

// The promises that a compiler does not check: layers, where libraries may be included, no loose
// ends.
namespace {

namespace fs = std::filesystem;

// Bottom first; a folder includes only itself and those before it. tests and bench include all.
const std::vector<std::string> kLayers = {"conf", "metrics", "routing", "pool", "proxy"};

struct Library {
  std::string include;               // how its #include begins
  std::vector<std::string> allowed;  // paths that may have it, by their beginning
};
const std::vector<Library> kLibraries = {
    {"<uv.h>", {"proxy/net/", "bench/"}},
    {"<openssl/", {"proxy/", "tests/", "bench/"}},
    {"<libpq-fe.h>", {"proxy/", "tests/", "bench/"}},
    {"<prometheus/", {"metrics/exporter.cc", "tests/", "bench/"}},
    {"<toml++/", {"conf/"}},
    {"<pg_query.h>", {"routing/", "tests/"}},
    {"<doctest/", {"tests/"}},
};

struct Source {
  std::string path;  // from the root: "pool/pool.cc"
  std::vector<std::string> lines;
};

bool starts_with(const std::string& text, const std::string& beginning) {
  return text.rfind(beginning, 0) == 0;
}

std::vector<Source> sources(const std::vector<std::string>& extensions) {
  const fs::path root = PGSLUICE_SOURCE_ROOT;
  std::vector<Source> found;
  for (const std::string folder :
       {"conf", "metrics", "routing", "pool", "proxy", "tests", "bench"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension();
      if (!entry.is_regular_file() ||
          std::find(extensions.begin(), extensions.end(), extension) == extensions.end())
        continue;
      Source source{fs::relative(entry.path(), root), {}};
      if (source.path.find("node_modules") != std::string::npos) continue;
      std::ifstream file(entry.path());
      for (std::string line; std::getline(file, line);) source.lines.push_back(line);
      found.push_back(std::move(source));
    }
  }
  return found;
}

// The names of a file's test cases, literals put together.
std::vector<std::string> cases_of(const Source& source) {
  std::vector<std::string> names;
  bool inside = false;
  for (const std::string& line : source.lines) {
    if (line.find("  TEST_CASE(") == 0) {
      names.emplace_back();
      inside = true;
    }
    if (!inside) continue;
    const std::size_t from = line.find('"'), to = line.rfind('"');
    if (from < to) names.back() += line.substr(from + 1, to - from - 1);
    inside = line.empty() || line.back() != '{';
  }
  return names;
}

std::string include_of(const std::string& line) {
  return starts_with(line, "#include ") ? line.substr(9) : "";
}

}  // namespace

TEST_SUITE("tidy") {
  TEST_CASE("a folder includes only itself and the folders before it") {
    for (const Source& source : sources({".h", ".cc"})) {
      const auto own =
          std::find(kLayers.begin(), kLayers.end(), source.path.substr(0, source.path.find('/')));
      if (own == kLayers.end()) continue;
      for (const std::string& line : source.lines) {
        const std::string include = include_of(line);
        if (include.empty() || include[0] != '"') continue;
        const std::string folder = include.substr(1, include.find('/') - 1);
        const auto used = std::find(kLayers.begin(), kLayers.end(), folder);
        CHECK_MESSAGE((used != kLayers.end() && used <= own),
                      source.path << " includes " << include);
      }
    }
  }

  TEST_CASE("libraries are included only where they belong") {
    for (const Source& source : sources({".h", ".cc"})) {
      for (const std::string& line : source.lines) {
        const std::string include = include_of(line);
        for (const Library& library : kLibraries) {
          if (!starts_with(include, library.include)) continue;
          const bool allowed = std::any_of(library.allowed.begin(), library.allowed.end(),
                                           [&source](const std::string& beginning) {
                                             return starts_with(source.path, beginning);
                                           });
          CHECK_MESSAGE(allowed, source.path << " includes " << include);
        }
      }
    }
  }

  TEST_CASE("the pure folders hold no sockets, threads or clocks") {
    for (const Source& source : sources({".h", ".cc"})) {
      if (!starts_with(source.path, "routing/") && !starts_with(source.path, "pool/") &&
          !starts_with(source.path, "proxy/wire/"))
        continue;
      for (const std::string& line : source.lines) {
        for (const std::string word :
             {"<thread>", "<sys/socket.h>", "<unistd.h>", "_clock::now()"})
          CHECK_MESSAGE(line.find(word) == std::string::npos, source.path << " has " << word);
      }
    }
  }

  TEST_CASE(
      "headers start with #pragma once, lines end without blanks, and nothing is left to do") {
    // Written in two parts so that this file does not find itself.
    const std::vector<std::string> marks = {std::string("FIX") + "ME", std::string("TO") + "DO"};
    for (const Source& source :
         sources({".h", ".cc", ".py", ".js", ".java", ".sh", ".md", ".toml", ".build"})) {
      if (fs::path(source.path).extension() == ".h" && !source.lines.empty())
        CHECK_MESSAGE(std::find(source.lines.begin(), source.lines.end(), "#pragma once") !=
                          source.lines.end(),
                      source.path);
      for (std::size_t i = 0; i < source.lines.size(); ++i) {
        const std::string& line = source.lines[i];
        for (const std::string& mark : marks)
          CHECK_MESSAGE(line.find(mark) == std::string::npos,
                        source.path << ":" << i + 1 << " has " << mark);
        if (fs::path(source.path).extension() != ".md")
          CHECK_MESSAGE(
              (line.empty() || (line.back() != ' ' && line.back() != '\t' && line.back() != '\r')),
              source.path << ":" << i + 1 << " ends with a blank");
      }
    }
  }

  TEST_CASE("rules and dashboard ask for metrics that there are, with labels that they have") {
    std::map<std::string, std::set<std::string>> labels;  // by metric
    std::ifstream golden(fs::path(PGSLUICE_SOURCE_ROOT) / "tests/metrics/metrics_golden.txt");
    for (std::string name, type, of; golden >> name >> type >> of; std::getline(golden, type)) {
      std::string word;
      for (const char c : of.substr(1)) {
        if (c != ',' && c != '}') {
          word += c;
          continue;
        }
        labels[name].insert(word);
        word.clear();
      }
      for (const char* prometheus : {"job", "instance", "le"}) labels[name].insert(prometheus);
    }
    REQUIRE(labels.size() > 50);
    int asked = 0;
    for (const Source& source : sources({".yml", ".json"})) {
      if (source.path != "conf/prometheus_rules.yml" && source.path != "conf/grafana_dashboard.json") continue;
      for (const std::string& line : source.lines) {
        constexpr std::string_view kPrefix = "pgsluice_";
        for (std::size_t at = line.find(kPrefix); at != line.npos; at = line.find(kPrefix, at + 1)) {
          const std::size_t end = line.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_", at);
          std::string name = line.substr(at, end - at);
          if (const std::size_t bucket = name.rfind("_bucket"); bucket != name.npos) name.resize(bucket);
          CHECK_MESSAGE(labels.contains(name), source.path << ": " << line);
          ++asked;
          if (end == line.npos || line[end] != '{') continue;
          const std::string matchers = line.substr(end, line.find('}', end) - end);
          for (std::size_t to = matchers.find('='); to != matchers.npos; to = matchers.find('=', to + 1)) {
            const std::size_t from = matchers.find_last_of("{, ", to) + 1;
            const std::string label = matchers.substr(from, to - from);
            CHECK_MESSAGE(labels[name].contains(label), source.path << ": " << name << " has no label " << label);
          }
        }
      }
    }
    CHECK(asked > 60);
  }

  TEST_CASE("every requirement has a case that names it, in the files that tests/README.md says") {
    constexpr int kRequirements = 38;
    const std::string word = "requirement ";
    std::map<int, std::set<std::string>> files;  // by requirement, below tests/
    for (const Source& source : sources({".cc"})) {
      if (!starts_with(source.path, "tests/")) continue;
      for (const std::string& name : cases_of(source)) {
        for (std::size_t at = name.find(word); at != std::string::npos; at = name.find(word, at + 1)) {
          const int number = std::atoi(name.c_str() + at + word.size());
          if (number != 0) files[number].insert(source.path.substr(6));
          CHECK_MESSAGE(number <= kRequirements, source.path << ": " << name);
        }
      }
    }
    std::map<int, std::string> rows;  // of the table
    for (const Source& source : sources({".md"})) {
      if (source.path != "tests/README.md") continue;
      for (const std::string& line : source.lines)
        if (starts_with(line, "| ") && std::atoi(line.c_str() + 2) > 0) rows[std::atoi(line.c_str() + 2)] = line;
    }
    for (int number = 1; number <= kRequirements; ++number) {
      CAPTURE(number);
      CHECK_FALSE(files[number].empty());
      const std::string row = rows[number];
      std::set<std::string> listed;
      for (std::size_t at = row.find('`'); at != std::string::npos;) {
        const std::size_t end = row.find('`', at + 1);
        listed.insert(row.substr(at + 1, end - at - 1) + "_test.cc");
        at = row.find('`', end + 1);
      }
      CHECK_FALSE(listed.empty());
      for (const std::string& file : listed)
        CHECK_MESSAGE(files[number].contains(file), file << " has no case of it");
    }
  }
}
