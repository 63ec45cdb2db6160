// What nearly every file of the integration tests includes, compiled once. Not a reason to leave an #include away:
// -Db_pch=false shows what is missing.
#pragma once

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"
