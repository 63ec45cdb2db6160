#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "conf/result.h"
#include "conf/row.h"
#include "conf/settings.h"

namespace conf {

// A kind of section that repeats, such as [cluster.NAME]. All of them apply at a reload.
template <class T>
struct Section {
  std::string_view kind;         // the word before the dot
  std::string_view doc;          // one sentence
  std::span<const Row<T>> rows;  // its keys, in the order in which people write them
  std::map<std::string, T> Settings::*where;
  std::string_view example;  // the NAME in the sample file
  bool active;               // the sample file says it; else it shows it as a comment
};

// A kind of section that stands in the file any number of times, in order and without names:
// [[auth.rule]].
template <class T>
struct ListSection {
  std::string_view kind;
  std::string_view doc;
  std::span<const Row<T>> rows;
  std::vector<T> Settings::*where;
};

// Every kind, in the order of the sample file. To add one: its struct and its map in settings.h,
// its rows and its line in sections.cc, its line at the end of row.cc; whatever must hold between sections goes into check() in
// load.cc.
using Sections = std::tuple<Section<ClusterSettings>, Section<NodeSettings>, Section<DatabaseSettings>,
                            Section<UserSettings>, Section<TenantLimits>, Section<ClassSettings>,
                            ListSection<AuthRule>, ListSection<RouteRule>>;
const Sections& sections();

// The name that clients give to reach the admin console; no [database.NAME] may have it.
inline constexpr std::string_view kAdminDatabase = "pgsluice";

// "host:port", "host", "[::1]:5432", "[::1]", "/folder:port", "/folder" (unix socket). Without a
// port it is 5432. An IPv6 address needs its brackets, since its colons are ambiguous.
Result<NodeAddress> parse_node_address(std::string_view text);

}  // namespace conf
