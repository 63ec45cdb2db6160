#pragma once

#include <cstdint>
#include <string>
#include <string_view>

// Stored passwords, whatever their form: as in pg_authid.rolpassword or a users file.
namespace wire {

struct ScramKeys;  // scram.h

enum class PasswordKind : std::uint8_t { plain, md5, scram };

// Told apart as Postgres does: "md5" and 32 lower-case hex digits; a SCRAM secret that parses;
// everything else is the password itself.
PasswordKind password_kind(std::string_view stored);

// Whether `password`, sent in the clear by `user`, is the one stored. Costs a PBKDF2 (some
// milliseconds) when the stored form is a SCRAM secret: not for a worker's loop. A secret with more
// than kMaxScramIterations (scram.h) matches nothing here.
// Against a SCRAM secret that is right, the keys that follow from the password go to `proved`: they
// log in to servers that store the same secret.
bool verify_cleartext(std::string_view stored, std::string_view user, std::string_view password,
                      ScramKeys* proved = nullptr);

// Equal, in a time that depends on the sizes only.
bool same_secret(std::string_view a, std::string_view b);
// Overwrites and empties what must not stay in memory.
void cleanse(std::string& secret);

}  // namespace wire
