#pragma once

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

// The statements of corpus.tsv with what the classifier has to say of them. Found below the sources
// (PGSLUICE_SOURCE_ROOT, set by meson), or wherever the environment's PGSLUICE_CORPUS says.
namespace corpus {

struct Row {
  std::size_t line;
  std::string kind, why, pins, step, sql;
};

inline std::string unescape(const std::string& s) {
  std::string out;
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '\\' || i + 1 == s.size()) {
      out += s[i];
      continue;
    }
    const char c = s[++i];
    out += c == 'n' ? '\n' : c == 't' ? '\t' : c;
  }
  return out;
}

inline std::vector<Row> load() {
  const char* named = std::getenv("PGSLUICE_CORPUS");
#ifdef PGSLUICE_SOURCE_ROOT
  const std::string path = named ? named : PGSLUICE_SOURCE_ROOT "/tests/routing/corpus.tsv";
#else
  const std::string path = named ? named : "tests/routing/corpus.tsv";
#endif
  std::vector<Row> rows;
  std::ifstream in(path);
  std::string line;
  for (std::size_t number = 1; std::getline(in, line); ++number) {
    if (line.empty() || line[0] == '#') continue;
    Row row{number, {}, {}, {}, {}, {}};
    std::size_t from = 0;
    for (std::string* field : {&row.kind, &row.why, &row.pins, &row.step}) {
      const std::size_t tab = line.find('\t', from);
      if (tab == line.npos) return {};
      *field = line.substr(from, tab - from);
      from = tab + 1;
    }
    row.sql = unescape(line.substr(from));
    rows.push_back(row);
  }
  return rows;
}

}  // namespace corpus
