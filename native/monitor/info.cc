#include "monitor/info.h"

namespace isopod::monitor {

namespace {

// OCI runtime features (features.md of the runtime specification), the part that CRI draws conclusions from.
constexpr std::string_view kFeatures = R"({
"ociVersionMin":"1.0.0","ociVersionMax":"1.3.0",
"hooks":[],
"mountOptions":["async","bind","defaults","dev","diratime","dirsync","exec","nodev","nodiratime","noexec",
"norelatime","nostrictatime","nosuid","nosymfollow","private","ratime","rbind","rdev","rdiratime","relatime",
"rexec","rnoatime","rnodev","rnodiratime","rnoexec","rnorelatime","rnostrictatime","rnosuid","rnosymfollow",
"ro","rprivate","rrelatime","rro","rrw","rshared","rslave","rstrictatime","rsuid","rsymfollow","runbindable",
"rw","shared","silent","slave","strictatime","suid","symfollow","sync","tmpcopyup","unbindable"],
"linux":{
"namespaces":["cgroup","ipc","mount","network","pid","uts"],
"cgroup":{"v1":false,"v2":true,"systemd":false,"systemdUser":false,"rdma":true},
"seccomp":{"enabled":true},
"apparmor":{"enabled":true},
"selinux":{"enabled":false},
"intelRdt":{"enabled":false},
"mountExtensions":{"idmap":{"enabled":false}},
"netDevices":{"enabled":false}}})";

}  // namespace

void write_info(std::string_view options, WireWriter* out) {
  char inner[4096];
  out->bytes(1, "io.containerd.isopod.v2");
  WireWriter version(inner, sizeof inner);
  version.bytes(1, ISOPOD_VERSION);
  out->bytes(2, version.view());
  out->bytes(3, options);
  WireWriter features(inner, sizeof inner);
  features.bytes(1, "types.containerd.io/opencontainers/runtime-spec/1/features/Features");
  features.bytes(2, kFeatures);
  out->bytes(4, features.view());
}

}  // namespace isopod::monitor
