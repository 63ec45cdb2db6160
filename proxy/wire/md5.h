#pragma once

#include <string>
#include <string_view>

#include "conf/result.h"

// Postgres's md5 authentication. Old and weak, kept for servers and clients that know nothing
// else. An OpenSSL without MD5 (FIPS) is an Errc::auth error, not a crash.
namespace wire {

using conf::Result;

// "md5" + hex(md5(password + user)): what pg_authid stores.
Result<std::string> md5_stored(std::string_view password, std::string_view user);
// What a client answers to a salt of four bytes, computed from the stored form:
// "md5" + hex(md5(hex digits of stored + salt)). Requires password_kind(stored) md5.
Result<std::string> md5_response(std::string_view stored, std::string_view salt);
// Whether `response` is right. Takes the same time wherever it differs.
bool md5_verify(std::string_view stored, std::string_view salt, std::string_view response);

}  // namespace wire
