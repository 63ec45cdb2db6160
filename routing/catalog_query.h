#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "routing/catalog.h"

namespace routing {

// Reads all that CatalogContent holds from the database that one is connected to; for any role that may connect,
// on Postgres 13 and later, with search_path = pg_catalog. Some tens of milliseconds, more with thousands of
// views; with jit = off.
extern const char* const kCatalogQuery;
// At most so many rows are used; what comes behind them is as if it had not been read.
inline constexpr std::size_t kMaxCatalogRows = 100'000;

using CatalogRow = std::vector<std::optional<std::string>>;
CatalogContent catalog_content(std::span<const CatalogRow> rows);

}  // namespace routing
