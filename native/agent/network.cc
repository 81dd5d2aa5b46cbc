#include "agent/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <net/if.h>
#include <sys/socket.h>

#include <cctype>
#include <cstring>
#include <map>

#include "agent/netlink.h"

namespace isopod::agent {

namespace {

constexpr uint16_t kReplace = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
constexpr int kLoopback = 1;  // the first interface of every network namespace

Error refuse(const char* step, const std::string& subject, const char* why) {
  return Error{0, step, subject, {}, why, "INVALID_ARGUMENT"};
}

// An address as the kernel takes it: 4 or 16 bytes.
struct Address {
  uint8_t family = AF_UNSPEC;
  std::string bytes;
  uint8_t prefix = 0;
};

bool parse(const std::string& text, Address& address) {
  unsigned char bytes[16];
  for (const int family : {AF_INET, AF_INET6}) {
    if (::inet_pton(family, text.c_str(), bytes) != 1) continue;
    address.family = static_cast<uint8_t>(family);
    address.prefix = family == AF_INET ? 32 : 128;
    address.bytes.assign(reinterpret_cast<char*>(bytes), family == AF_INET ? 4 : 16);
    return true;
  }
  return false;
}

bool parse_prefix(const std::string& text, Address& address) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos || !parse(text.substr(0, slash), address)) return false;
  const std::string digits = text.substr(slash + 1);
  if (digits.empty() || digits.size() > 3 ||
      digits.find_first_not_of("0123456789") != std::string::npos)
    return false;
  const int prefix = std::stoi(digits);
  if (prefix > address.prefix) return false;
  address.prefix = static_cast<uint8_t>(prefix);
  return true;
}

// aa:bb:cc:dd:ee:ff, nothing else.
bool parse_mac(const std::string& text, std::string& mac) {
  if (text.size() != 17) return false;
  mac.clear();
  for (size_t at = 0; at < text.size(); at += 3) {
    const std::string digits = text.substr(at, 2);
    if (std::isxdigit(static_cast<unsigned char>(digits[0])) == 0 ||
        std::isxdigit(static_cast<unsigned char>(digits[1])) == 0 ||
        (at + 2 < text.size() && text[at + 2] != ':'))
      return false;
    mac.push_back(static_cast<char>(std::stoi(digits, nullptr, 16)));
  }
  return true;
}

class Network {
 public:
  explicit Network(Netlink netlink) : netlink_(std::move(netlink)) {}

  // Link-layer address → interface. The first of several stays.
  Status discover() {
    ifinfomsg header{};
    const NetlinkRequest request(RTM_GETLINK, NLM_F_DUMP, header);
    const int err = netlink_.dump(request, [this](const nlmsghdr& message) {
      const auto* link = static_cast<const ifinfomsg*>(NLMSG_DATA(&message));
      auto left = static_cast<unsigned>(IFLA_PAYLOAD(&message));
      for (const rtattr* attribute = IFLA_RTA(link); RTA_OK(attribute, left);
           attribute = RTA_NEXT(attribute, left))
        if (attribute->rta_type == IFLA_ADDRESS && RTA_PAYLOAD(attribute) == 6)
          links_.emplace(std::string(static_cast<const char*>(RTA_DATA(attribute)), 6),
                         link->ifi_index);
    });
    return err == 0 ? Status(Done{}) : Status(failure(err, "netlink", ""));
  }

  Status up(int index, const Interface* wanted) {
    ifinfomsg header{};
    header.ifi_index = index;
    // A name can be given only while it is down, so up comes in a message of its own.
    if (wanted != nullptr && (!wanted->name.empty() || wanted->mtu != 0)) {
      NetlinkRequest request(RTM_NEWLINK, NLM_F_ACK, header);
      if (!wanted->name.empty()) request.attribute(IFLA_IFNAME, wanted->name + '\0');
      if (wanted->mtu != 0) request.attribute(IFLA_MTU, wanted->mtu);
      if (const int err = netlink_.acknowledged(request); err != 0)
        return failure(err, "interface", wanted->mac);
    }
    header.ifi_flags = IFF_UP;
    header.ifi_change = IFF_UP;
    const int err = netlink_.acknowledged(NetlinkRequest(RTM_NEWLINK, NLM_F_ACK, header));
    return err == 0 ? Status(Done{})
                    : Status(failure(err, "interface", wanted != nullptr ? wanted->mac : "lo"));
  }

  Status address(const std::string& mac, const std::string& text) {
    Address parsed;
    if (!parse_prefix(text, parsed)) return refuse("address", text, "not an address/prefix");
    Result<int> index = link(mac);
    if (!index) return index.error();
    ifaddrmsg header{};
    header.ifa_family = parsed.family;
    header.ifa_prefixlen = parsed.prefix;
    header.ifa_index = static_cast<uint32_t>(*index);
    // The host has looked for duplicates already, or CNI has no need to.
    header.ifa_flags = IFA_F_NODAD;
    NetlinkRequest request(RTM_NEWADDR, kReplace, header);
    request.attribute(IFA_LOCAL, parsed.bytes);
    request.attribute(IFA_ADDRESS, parsed.bytes);
    const int err = netlink_.acknowledged(request);
    return err == 0 ? Status(Done{}) : Status(failure(err, "address", text));
  }

  Status route(const Route& wanted) {
    Address destination, gateway, source;
    if (!parse_prefix(wanted.destination, destination))
      return refuse("route", wanted.destination, "not an address/prefix");
    if (!wanted.gateway.empty() && !parse(wanted.gateway, gateway))
      return refuse("route", wanted.gateway, "the gateway is not an address");
    if (!wanted.source.empty() && !parse(wanted.source, source))
      return refuse("route", wanted.source, "the source is not an address");
    if (wanted.scope > 255) return refuse("route", wanted.destination, "no such scope");
    Result<int> index = link(wanted.mac);
    if (!index) return index.error();
    rtmsg header{};
    header.rtm_family = destination.family;
    header.rtm_dst_len = destination.prefix;
    header.rtm_table = RT_TABLE_MAIN;
    header.rtm_protocol = RTPROT_BOOT;
    header.rtm_scope = static_cast<uint8_t>(wanted.scope);
    header.rtm_type = RTN_UNICAST;
    header.rtm_flags = wanted.onlink ? unsigned{RTNH_F_ONLINK} : 0;
    NetlinkRequest request(RTM_NEWROUTE, kReplace, header);
    if (destination.prefix > 0) request.attribute(RTA_DST, destination.bytes);
    if (!gateway.bytes.empty()) request.attribute(RTA_GATEWAY, gateway.bytes);
    if (!source.bytes.empty()) request.attribute(RTA_PREFSRC, source.bytes);
    if (wanted.metric != 0) request.attribute(RTA_PRIORITY, wanted.metric);
    request.attribute(RTA_OIF, static_cast<uint32_t>(*index));
    if (wanted.mtu != 0) request.attribute(RTA_METRICS, metric(RTAX_MTU, wanted.mtu));
    const int err = netlink_.acknowledged(request);
    return err == 0 ? Status(Done{}) : Status(failure(err, "route", wanted.destination));
  }

  Status neighbor(const Neighbor& wanted) {
    Address address;
    std::string link_address;
    if (!parse(wanted.address, address))
      return refuse("neighbour", wanted.address, "not an address");
    if (!parse_mac(wanted.link_address, link_address))
      return refuse("neighbour", wanted.link_address, "not a link-layer address");
    Result<int> index = link(wanted.mac);
    if (!index) return index.error();
    ndmsg header{};
    header.ndm_family = address.family;
    header.ndm_ifindex = *index;
    header.ndm_state = NUD_PERMANENT;
    NetlinkRequest request(RTM_NEWNEIGH, kReplace, header);
    request.attribute(NDA_DST, address.bytes);
    request.attribute(NDA_LLADDR, link_address);
    const int err = netlink_.acknowledged(request);
    return err == 0 ? Status(Done{}) : Status(failure(err, "neighbour", wanted.address));
  }

  Result<int> link(const std::string& text) const {
    std::string mac;
    if (!parse_mac(text, mac)) return refuse("interface", text, "not a link-layer address");
    const auto found = links_.find(mac);
    if (found != links_.end()) return found->second;
    return Error{ENODEV, "interface", text, {}, {}, "NOT_FOUND"};
  }

 private:
  // An attribute within RTA_METRICS.
  static std::string metric(uint16_t type, uint32_t value) {
    struct {
      rtattr header;
      uint32_t value;
    } attribute{{RTA_LENGTH(sizeof(value)), type}, value};
    return std::string(reinterpret_cast<const char*>(&attribute), sizeof(attribute));
  }

  Netlink netlink_;
  std::map<std::string, int> links_;
};

}  // namespace

Status configure_network(const NetworkRequest& request) {
  Result<Netlink> netlink = Netlink::open();
  if (!netlink) return netlink.error();
  Network network(std::move(*netlink));
  if (Status found = network.discover(); !found) return found;
  if (Status up = network.up(kLoopback, nullptr); !up) return up;
  for (const Interface& interface : request.interfaces) {
    Result<int> index = network.link(interface.mac);
    if (!index) return index.error();
    if (interface.name.size() >= IFNAMSIZ) return refuse("interface", interface.name, "too long");
    if (Status up = network.up(*index, &interface); !up) return up;
    for (const std::string& address : interface.addresses)
      if (Status added = network.address(interface.mac, address); !added) return added;
  }
  // Routes lean on addresses, and on each other in the order given.
  for (const Route& route : request.routes)
    if (Status added = network.route(route); !added) return added;
  for (const Neighbor& neighbor : request.neighbors)
    if (Status added = network.neighbor(neighbor); !added) return added;
  return Done{};
}

}  // namespace isopod::agent
