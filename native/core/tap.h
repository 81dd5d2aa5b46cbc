// A microVM's door to the network that CNI made for its pod.
//
//   guest's virtio-net ── tap ══ tc redirect ══ eth0 ── veth ── the node
//
// CNI's interface stays as it is, with its addresses; whatever arrives at it is redirected to the
// tap before the namespace's own network stack sees it, and what the guest sends goes out as if
// eth0 had sent it. So the guest takes over eth0's MAC, MTU, addresses, routes and static
// neighbours, and every CNI plugin that makes an Ethernet interface works unchanged.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace isopod::core {

struct LinkAddress {
  std::string address;  // "10.88.0.5/16", "fd00::5/64"
};
struct LinkRoute {
  std::string destination;  // "0.0.0.0/0", "10.0.0.0/8"
  std::string gateway;      // "" for a route on the link
  std::string source;       // preferred source, or ""
  uint32_t metric = 0;      // 0: the kernel's default
  uint8_t scope = 0;        // RT_SCOPE_*
  bool onlink = false;
};
struct LinkNeighbour {
  std::string address;
  std::array<uint8_t, 6> mac{};
};

struct PodLink {
  UniqueFd tap;  // non-blocking, 12-byte virtio-net headers; queue of one
  std::array<uint8_t, 6> mac{};
  uint32_t mtu = 0;
  std::vector<LinkAddress> addresses;
  std::vector<LinkRoute> routes;
  std::vector<LinkNeighbour> neighbours;
};

// To be run on a thread of its own: it enters the namespace at `netns`. On failure nothing is left
// there.
Result<PodLink> tap_attach(const std::string& netns, const std::string& link);
// Takes the filters off `link` before the tap goes; what is absent is fine.
Status tap_detach(const std::string& netns, const std::string& link);

}  // namespace isopod::core
