// The way to the host: a stream to one of its ports.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace isopod::agent {

constexpr uint32_t kControlPort = 1024;

// Over vsock to the host (CID 2), or, for tests on the host itself, to the unix socket DIR/<port>.
class Transport {
 public:
  static Transport vsock() { return Transport(); }
  // The directory stays reachable whatever becomes of our root.
  static Result<Transport> unix_directory(const std::string& path);

  // A connected stream, blocking. May wait as long as the kernel does for an answer (2 s): for a
  // job thread.
  Result<UniqueFd> connect(uint32_t port) const;

 private:
  Transport() = default;

  UniqueFd directory_;
};

}  // namespace isopod::agent
