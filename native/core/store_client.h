// The server's end of the fd store; the protocol is native/monitor/protocol.h.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace isopod::core {

struct Inventory {
  struct Exit {
    std::string id;
    int status;
    int64_t exited_at;  // nanoseconds since 1970
  };
  std::vector<std::pair<std::string, UniqueFd>> fds;
  std::vector<Exit> exits;
};

// Not thread-safe: JavaScript's thread is its only user. A monitor that is gone makes every call a no-op:
// the server carries on without a store (R2).
class StoreClient {
 public:
  // Reads what an earlier server left, until READY; five seconds at most.
  static Result<StoreClient> open(UniqueFd socket, Inventory& inventory);

  Status put(const std::string& name, int fd);
  Status drop(const std::string& name);
  Status task(const std::string& id, int pid, const std::string& record);

 private:
  explicit StoreClient(UniqueFd socket) : socket_(std::move(socket)) {}

  UniqueFd socket_;
};

}  // namespace isopod::core
