#include "core/tap.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/pkt_cls.h>
#include <linux/tc_act/tc_mirred.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <time.h>

#include <cerrno>
#include <cstring>

#include "core/rtnetlink.h"

namespace isopod::core {

namespace {

constexpr char kTapName[] = "isopod-tap";
constexpr int kVnetHeader = 12;  // struct virtio_net_hdr_v1
// Another program (CNI's bandwidth plugin among them) may hold a link's qdiscs for a moment.
constexpr int kBusyTries = 5;
constexpr long kBusyNs = 10'000'000;

Error broken(int result, const char* step, const std::string& subject) {
  return failure(-result, step, subject);
}

Status enter(const std::string& netns) {
  const UniqueFd fd(::open(netns.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd || ::setns(fd.get(), CLONE_NEWNET) < 0)
    return failure(errno, "enter network namespace", netns);
  return Done{};
}

struct Link {
  int index = 0;
  uint32_t mtu = 0;
  uint16_t type = 0;
  std::string mac;
};

Result<Link> find_link(RtNetlink& netlink, const std::string& name) {
  ifinfomsg fixed{};
  NetlinkMessage ask(RTM_GETLINK, NLM_F_ACK, fixed);
  ask.text(IFLA_IFNAME, name);
  Link link;
  const int result = netlink.dump(ask, [&](uint16_t, const uint8_t* body, size_t size) {
    if (size < sizeof(ifinfomsg)) return;
    ifinfomsg info;
    memcpy(&info, body, sizeof info);
    const Attributes attributes = attributes_of(body + sizeof info, size - sizeof info);
    link.index = info.ifi_index;
    link.type = info.ifi_type;
    link.mtu = attribute<uint32_t>(attributes, IFLA_MTU);
    if (const auto mac = attributes.find(IFLA_ADDRESS); mac != attributes.end())
      link.mac = std::string(mac->second);
  });
  if (result < 0) return broken(result, "find interface", name);
  if (link.type != ARPHRD_ETHER || link.mac.size() != 6)
    return Error{0,
                 "find interface",
                 name,
                 "",
                 "not an Ethernet interface: a guest cannot take it over",
                 "FAILED_PRECONDITION"};
  return link;
}

// --- what the guest takes over ---

std::string printed(uint8_t family, std::string_view bytes) {
  char text[INET6_ADDRSTRLEN] = "";
  const size_t size = family == AF_INET ? 4 : 16;
  if (bytes.size() == size) inet_ntop(family, bytes.data(), text, sizeof text);
  return text;
}

std::string with_prefix(uint8_t family, std::string_view bytes, unsigned prefix) {
  const std::string zero(family == AF_INET ? 4 : 16, 0);
  return printed(family, bytes.empty() ? zero : bytes) + "/" + std::to_string(prefix);
}

std::string_view find(const Attributes& attributes, uint16_t type) {
  const auto found = attributes.find(type);
  return found == attributes.end() ? std::string_view() : found->second;
}

template <typename Fixed, typename Each>
int dump_all(RtNetlink& netlink, uint16_t type, Each each) {
  Fixed fixed{};
  NetlinkMessage ask(type, NLM_F_DUMP, fixed);
  return netlink.dump(ask, [&](uint16_t, const uint8_t* body, size_t size) {
    if (size < sizeof fixed) return;
    memcpy(&fixed, body, sizeof fixed);
    each(fixed, attributes_of(body + sizeof fixed, size - sizeof fixed));
  });
}

Status read_addresses(RtNetlink& netlink, int index, PodLink& out) {
  const int result = dump_all<ifaddrmsg>(
      netlink, RTM_GETADDR, [&](const ifaddrmsg& info, const Attributes& attributes) {
        if (static_cast<int>(info.ifa_index) != index) return;
        // The guest's kernel makes link-local addresses by itself.
        if (info.ifa_family == AF_INET6 && info.ifa_scope == RT_SCOPE_LINK) return;
        std::string_view address = find(attributes, IFA_LOCAL);
        if (address.empty()) address = find(attributes, IFA_ADDRESS);
        out.addresses.push_back({with_prefix(info.ifa_family, address, info.ifa_prefixlen)});
      });
  if (result < 0) return broken(result, "read addresses", "pod interface");
  return Done{};
}

Status read_routes(RtNetlink& netlink, int index, PodLink& out) {
  const int result =
      dump_all<rtmsg>(netlink, RTM_GETROUTE, [&](const rtmsg& info, const Attributes& attributes) {
        if (attribute<int>(attributes, RTA_OIF) != index || info.rtm_type != RTN_UNICAST) return;
        // Those that the kernel makes of an address it makes there, too.
        if (info.rtm_table != RT_TABLE_MAIN || info.rtm_protocol == RTPROT_KERNEL) return;
        LinkRoute route;
        route.destination =
            with_prefix(info.rtm_family, find(attributes, RTA_DST), info.rtm_dst_len);
        route.gateway = printed(info.rtm_family, find(attributes, RTA_GATEWAY));
        route.source = printed(info.rtm_family, find(attributes, RTA_PREFSRC));
        route.metric = attribute<uint32_t>(attributes, RTA_PRIORITY);
        route.scope = info.rtm_scope;
        route.onlink = (info.rtm_flags & RTNH_F_ONLINK) != 0;
        out.routes.push_back(std::move(route));
      });
  if (result < 0) return broken(result, "read routes", "pod interface");
  return Done{};
}

Status read_neighbours(RtNetlink& netlink, int index, PodLink& out) {
  const int result =
      dump_all<ndmsg>(netlink, RTM_GETNEIGH, [&](const ndmsg& info, const Attributes& attributes) {
        const std::string_view mac = find(attributes, NDA_LLADDR);
        if (info.ndm_ifindex != index || (info.ndm_state & NUD_PERMANENT) == 0 || mac.size() != 6)
          return;
        LinkNeighbour neighbour;
        neighbour.address = printed(info.ndm_family, find(attributes, NDA_DST));
        mac.copy(reinterpret_cast<char*>(neighbour.mac.data()), 6);
        // IPv6's multicast groups have permanent entries of their own.
        if (!neighbour.address.empty() && (neighbour.mac[0] & 1) == 0)
          out.neighbours.push_back(std::move(neighbour));
      });
  if (result < 0) return broken(result, "read neighbours", "pod interface");
  return Done{};
}

// --- tap and redirect ---

Result<UniqueFd> make_tap() {
  UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!tap) return failure(errno, "open", "/dev/net/tun");
  ifreq request{};
  strcpy(request.ifr_name, kTapName);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL);
  if (::ioctl(tap.get(), TUNSETIFF, &request) < 0) return failure(errno, "make tap", kTapName);
  const int header = kVnetHeader;
  if (::ioctl(tap.get(), TUNSETVNETHDRSZ, &header) < 0)
    return failure(errno, "set header of tap", kTapName);
  return tap;
}

Status bring_up(RtNetlink& netlink, int index, uint32_t mtu) {
  ifinfomsg fixed{};
  fixed.ifi_index = index;
  fixed.ifi_flags = fixed.ifi_change = IFF_UP;
  NetlinkMessage change(RTM_NEWLINK, NLM_F_ACK, fixed);
  change.value(IFLA_MTU, mtu);
  const int result = netlink.request(change);
  if (result < 0) return broken(result, "bring up", kTapName);
  return Done{};
}

tcmsg ingress_of(int index) {
  tcmsg fixed{};
  fixed.tcm_family = AF_UNSPEC;
  fixed.tcm_ifindex = index;
  fixed.tcm_handle = TC_H_MAKE(TC_H_INGRESS, 0);
  fixed.tcm_parent = TC_H_INGRESS;
  return fixed;
}

int add_ingress(RtNetlink& netlink, int index) {
  int result = -EBUSY;
  for (int i = 0; i < kBusyTries && result == -EBUSY; i++) {
    if (i > 0) {
      const timespec pause{0, kBusyNs};
      ::nanosleep(&pause, nullptr);
    }
    NetlinkMessage add(RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, ingress_of(index));
    add.text(TCA_KIND, "ingress");
    result = netlink.request(add);
  }
  return result;
}

// Every frame that comes in at `from` goes out at `to`, and nobody else sees it.
int add_redirect(RtNetlink& netlink, int from, int to) {
  tcmsg fixed{};
  fixed.tcm_family = AF_UNSPEC;
  fixed.tcm_ifindex = from;
  fixed.tcm_parent = TC_H_MAKE(TC_H_INGRESS, 0);
  fixed.tcm_info = TC_H_MAKE(1u << 16, htons(0x0003 /* ETH_P_ALL */));
  NetlinkMessage add(RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, fixed);
  add.text(TCA_KIND, "u32");
  add.nest(TCA_OPTIONS, [&] {
    // One key (it follows the selector) that compares nothing: it matches all.
    tc_u32_sel selector{};
    selector.flags = TC_U32_TERMINAL;
    selector.nkeys = 1;
    std::string match(sizeof selector + sizeof(tc_u32_key), 0);
    memcpy(match.data(), &selector, sizeof selector);
    add.put(TCA_U32_SEL, match);
    add.nest(TCA_U32_ACT, [&] {
      add.nest(1, [&] {
        add.text(TCA_ACT_KIND, "mirred");
        add.nest(TCA_ACT_OPTIONS, [&] {
          tc_mirred redirect{};
          redirect.action = TC_ACT_STOLEN;
          redirect.eaction = TCA_EGRESS_REDIR;
          redirect.ifindex = static_cast<uint32_t>(to);
          add.value(TCA_MIRRED_PARMS, redirect);
        });
      });
    });
  });
  return netlink.request(add);
}

int remove_ingress(RtNetlink& netlink, int index) {
  NetlinkMessage remove(RTM_DELQDISC, NLM_F_ACK, ingress_of(index));
  return netlink.request(remove);
}

Status redirect(RtNetlink& netlink, int link, int tap, const std::string& name) {
  int result = add_ingress(netlink, link);
  if (result < 0) return broken(result, "add ingress qdisc", name);
  result = add_ingress(netlink, tap);
  if (result == 0) result = add_redirect(netlink, link, tap);
  if (result == 0) result = add_redirect(netlink, tap, link);
  if (result == 0) return Done{};
  remove_ingress(netlink, link);  // with its filter; the tap's goes with the tap
  return broken(result, "redirect", name);
}

}  // namespace

Result<PodLink> tap_attach(const std::string& netns, const std::string& name) {
  if (Status status = enter(netns); !status) return status.error();
  Result<RtNetlink> netlink = RtNetlink::open();
  if (!netlink) return netlink.error();
  Result<Link> link = find_link(*netlink, name);
  if (!link) return link.error();
  PodLink pod;
  pod.mtu = link->mtu;
  link->mac.copy(reinterpret_cast<char*>(pod.mac.data()), 6);
  for (Status status :
       {read_addresses(*netlink, link->index, pod), read_routes(*netlink, link->index, pod),
        read_neighbours(*netlink, link->index, pod)})
    if (!status) return status.error();
  Result<UniqueFd> tap = make_tap();
  if (!tap) return tap.error();
  const int index = static_cast<int>(::if_nametoindex(kTapName));
  if (Status status = bring_up(*netlink, index, pod.mtu); !status) return status.error();
  if (Status status = redirect(*netlink, link->index, index, name); !status) return status.error();
  pod.tap = std::move(*tap);
  return pod;
}

Status tap_detach(const std::string& netns, const std::string& name) {
  if (Status status = enter(netns); !status) return status.error();
  Result<RtNetlink> netlink = RtNetlink::open();
  if (!netlink) return netlink.error();
  const int link = static_cast<int>(::if_nametoindex(name.c_str()));
  const int tap = static_cast<int>(::if_nametoindex(kTapName));
  // The tap may have gone before, with the guest's process. An ingress qdisc here is ours:
  // attaching to a link that has one is refused.
  const int result = link == 0 ? 0 : remove_ingress(*netlink, link);
  if (result < 0 && result != -ENOENT && result != -EINVAL)
    return broken(result, "remove ingress qdisc", name);
  if (tap == 0) return Done{};
  ifinfomsg fixed{};
  fixed.ifi_index = tap;
  NetlinkMessage remove(RTM_DELLINK, NLM_F_ACK, fixed);
  const int removed = netlink->request(remove);
  if (removed < 0 && removed != -ENODEV) return broken(removed, "remove", kTapName);
  return Done{};
}

}  // namespace isopod::core
