#include "core/device_program.h"

#include <errno.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "base/fd.h"

namespace isopod::core {

namespace {

// A node runs a handful of distinct device rules; a cache that grows beyond this is started afresh.
constexpr size_t kCached = 64;

int bpf(int command, bpf_attr& attributes) {
  return static_cast<int>(syscall(SYS_bpf, command, &attributes, sizeof(attributes)));
}

int load(const std::vector<uint8_t>& program) {
  static const char license[] = "Apache-2.0";
  bpf_attr attributes{};
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = reinterpret_cast<uint64_t>(program.data());
  attributes.insn_cnt = static_cast<uint32_t>(program.size() / sizeof(bpf_insn));
  attributes.license = reinterpret_cast<uint64_t>(license);
  return bpf(BPF_PROG_LOAD, attributes);
}

}  // namespace

int attach_device_program(int cgroup, const std::vector<uint8_t>& program) {
  static std::mutex mutex;
  static auto* cache = new std::map<std::vector<uint8_t>, UniqueFd>;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = cache->find(program);
  if (found == cache->end()) {
    UniqueFd loaded(load(program));
    if (!loaded) return errno;
    if (cache->size() >= kCached) cache->clear();
    found = cache->emplace(program, std::move(loaded)).first;
  }
  bpf_attr attributes{};
  attributes.target_fd = static_cast<uint32_t>(cgroup);
  attributes.attach_bpf_fd = static_cast<uint32_t>(found->second.get());
  attributes.attach_type = BPF_CGROUP_DEVICE;
  attributes.attach_flags = BPF_F_ALLOW_MULTI;
  return bpf(BPF_PROG_ATTACH, attributes) < 0 && errno != EEXIST ? errno : 0;
}

}  // namespace isopod::core
