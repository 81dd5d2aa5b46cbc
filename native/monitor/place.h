// Where a server's socket is, and who may make it.
//
//   <socket dir>/<32 hex>       the socket, 0600 in a directory of 0700: only root can connect
//   <socket dir>/<32 hex>.d/    the server's records, `<id>.json`, `<id>.exit` (R2)
//
// The name is sha256(address, namespace)[8 hex] then sha256(address, namespace, group[, build])[24 hex]: all
// servers of one namespace share the prefix, so that a sandbox's record can be found whatever group or build
// its server belongs to (R1: an existing sandbox keeps its server). The build is part of the name in group
// `node` only: after an upgrade new pods go to a new server.
#pragma once

#include "base/fd.h"
#include "monitor/invocation.h"

namespace isopod::monitor {

constexpr size_t kNameDigits = 32;
constexpr size_t kPrefixDigits = 8;

struct Place {
  PathText state;        // directory of -address
  SocketText directory;  // of sockets
  char prefix[kPrefixDigits + 1] = {};
};

// Fails for a state path that would not leave room in sun_path.
bool find_place(const Invocation& invocation, std::string_view socket_dir, Place* out, Message4K* error);

// The socket of a group. `build` is empty for group `pod`.
SocketText socket_of(const Place& place, const Invocation& invocation, std::string_view group,
                     std::string_view build);

// The socket whose server holds a record of `id`, by the bundle's `address` file or by looking into every
// server's records; empty if none does.
SocketText recorded_socket(const Place& place, std::string_view id, std::string_view bundle);

// Does somebody accept connections there? Never waits.
bool alive(const SocketText& socket);

// Serialises making and removing sockets of one directory. The lock goes with the descriptor.
UniqueFd lock_sockets(const Place& place);

// Makes the socket and its records directory; a dead socket is replaced. Call under the lock.
UniqueFd bind_socket(const SocketText& socket, Message4K* error);

// `<socket>.d/` plus what follows.
PathText records_of(std::string_view socket, std::string_view id = {}, std::string_view ending = {});

// `unix://…` of a bundle's `address` file, or empty.
SocketText read_address(std::string_view bundle);
bool write_address(std::string_view bundle, std::string_view socket, Message4K* error);

// Reads a small file whole; the content is empty if that fails.
std::string_view read_small(const char* path, char* buffer, size_t capacity);

}  // namespace isopod::monitor
