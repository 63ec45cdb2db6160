#pragma once

#include <string_view>

// The SQLSTATEs that pgsluice says itself, named as in Postgres's errcodes. To add one: its name in
// Postgres, its code, and who gets it. What a server says is passed on and needs no entry here.
namespace wire::sqlstate {

// Class 08: the connection.
// A server was lost in the middle of a statement.
inline constexpr std::string_view kConnectionFailure = "08006";
// A server was lost after COMMIT was sent and before it answered: nobody knows the outcome.
inline constexpr std::string_view kTransactionResolutionUnknown = "08007";
// The client sent something that is no message, or not one allowed now.
inline constexpr std::string_view kProtocolViolation = "08P01";

inline constexpr std::string_view kFeatureNotSupported = "0A000";  // an unknown protocol version
inline constexpr std::string_view kInvalidParameterValue = "22023";
inline constexpr std::string_view kActiveSqlTransaction = "25001";
// A replica's answer to a write: the statement is run again on the primary, where that is safe.
inline constexpr std::string_view kReadOnlySqlTransaction = "25006";
inline constexpr std::string_view kInFailedSqlTransaction = "25P02";
inline constexpr std::string_view kIdleInTransactionSessionTimeout = "25P03";
inline constexpr std::string_view kTransactionTimeout = "25P04";  // as in Postgres 17
inline constexpr std::string_view kSerializationFailure = "40001";  // and a replica's conflict with recovery
inline constexpr std::string_view kDeadlockDetected = "40P01";      // and one with recovery
inline constexpr std::string_view kInvalidSqlStatementName = "26000";  // unknown prepared statement

// Class 28: who is asking. A wrong password and an unknown user are the same answer: 28P01.
inline constexpr std::string_view kInvalidAuthorizationSpecification = "28000";
inline constexpr std::string_view kInvalidPassword = "28P01";

inline constexpr std::string_view kInvalidCursorName = "34000";
inline constexpr std::string_view kInvalidCatalogName = "3D000";  // no such database
inline constexpr std::string_view kSyntaxError = "42601";
inline constexpr std::string_view kUndefinedObject = "42704";  // the console knows no such option, node or client
inline constexpr std::string_view kInsufficientPrivilege = "42501";
inline constexpr std::string_view kDuplicateCursor = "42P03";
inline constexpr std::string_view kDuplicatePreparedStatement = "42P05";

// Class 53: not now.
// Queue deadline, overload, or an open breaker. The connection stays.
inline constexpr std::string_view kInsufficientResources = "53000";
// The client limit of the process, a tenant or a user; at login.
inline constexpr std::string_view kTooManyConnections = "53300";
// A tenant's rate or concurrency limit, or a digest that is limited or blocked.
inline constexpr std::string_view kConfigurationLimitExceeded = "53400";

// A message that would outgrow the protocol once we have rewritten it.
inline constexpr std::string_view kProgramLimitExceeded = "54000";
inline constexpr std::string_view kObjectNotInPrerequisiteState = "55000";

// Class 57: somebody intervened.
// A cancelled client, or a wait for a server that lasted too long.
inline constexpr std::string_view kQueryCanceled = "57014";
// pgsluice drains, or an operator closed the client.
inline constexpr std::string_view kAdminShutdown = "57P01";
inline constexpr std::string_view kCrashShutdown = "57P02";
// No primary was accepted within the hold, or the node is starting.
inline constexpr std::string_view kCannotConnectNow = "57P03";
inline constexpr std::string_view kIdleSessionTimeout = "57P05";

inline constexpr std::string_view kInternalError = "XX000";

}  // namespace wire::sqlstate
