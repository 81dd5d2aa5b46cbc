#include "core/error_text.h"

#include <cctype>
#include <cerrno>
#include <cstring>

#include "core/plan.h"

namespace isopod::core {

namespace {

// Op or launcher's step → the word in Error.step.
struct Step {
  uint32_t op;
  const char* step;
};
constexpr Step kSteps[] = {
    {plan::kStepPlan, "plan"},
    {plan::kStepCgroup, "cgroup"},
    {plan::kStepClone, "clone"},
    {plan::kStepStub, "stub"},
    {plan::kStepPrologue, "prologue"},
    {plan::kStepOpen, "open"},
    {plan::kOpSetns, "setns"},
    {plan::kOpUnshare, "unshare"},
    {plan::kOpEnterBase, "base"},
    {plan::kOpSuccessor, "successor"},
    {plan::kOpLoopbackUp, "loopback"},
    {plan::kOpHostname, "hostname"},
    {plan::kOpDomainname, "domainname"},
    {plan::kOpSetsid, "setsid"},
    {plan::kOpAttachRoot, "root"},
    {plan::kOpNewRoot, "root"},
    {plan::kOpBaseTree, "base tree"},
    {plan::kOpMountNew, "mount"},
    {plan::kOpMountTree, "mount"},
    {plan::kOpSetAttr, "attributes"},
    {plan::kOpPropagate, "propagation"},
    {plan::kOpMkdir, "mkdir"},
    {plan::kOpSymlink, "symlink"},
    {plan::kOpMknod, "mknod"},
    {plan::kOpWriteFile, "write"},
    {plan::kOpMask, "mask"},
    {plan::kOpReadonly, "readonly"},
    {plan::kOpPivot, "pivot"},
    {plan::kOpCopyUp, "copy-up"},
    {plan::kOpChroot, "chroot"},
    {plan::kOpSysctl, "sysctl"},
    {plan::kOpConsole, "console"},
    {plan::kOpStdio, "stdio"},
    {plan::kOpRlimit, "rlimit"},
    {plan::kOpUmask, "umask"},
    {plan::kOpPdeathsig, "pdeathsig"},
    {plan::kOpNoNewPrivs, "no_new_privs"},
    {plan::kOpSeccomp, "seccomp"},
    {plan::kOpBounding, "bounding"},
    {plan::kOpGroups, "groups"},
    {plan::kOpIds, "ids"},
    {plan::kOpCwd, "cwd"},
    {plan::kOpCaps, "capabilities"},
    {plan::kOpOomScoreAdj, "oom_score_adj"},
    {plan::kOpKeyring, "keyring"},
    {plan::kOpChownStdio, "chown stdio"},
    {plan::kOpDumpable, "dumpable"},
    {plan::kOpApparmor, "apparmor"},
    {plan::kOpSync, "sync"},
    {plan::kOpGate, "gate"},
    {plan::kOpLookup, "exec"},
    {plan::kOpExec, "exec"},
    {plan::kOpPause, "pause"},
};

// Step → how an error text begins. The only place where steps are worded.
struct Verb {
  const char* step;
  const char* verb;
};
constexpr Verb kVerbs[] = {
    // launcher and stub
    {"plan", "reading the launch plan"},
    {"cgroup", "making cgroup"},
    {"limit", "setting limit"},
    {"device program", "attaching the device program to cgroup"},
    {"clone", "cloning the init stub"},
    {"stub", "executing the init stub"},
    {"launch", "launching"},
    {"prologue", "preparing the process"},
    {"open", "opening"},
    {"setns", "entering namespace"},
    {"unshare", "making namespaces"},
    {"base", "entering the base namespace"},
    {"successor", "entering pid namespace and cgroup"},
    {"loopback", "bringing up the loopback interface"},
    {"hostname", "setting hostname"},
    {"domainname", "setting domainname"},
    {"setsid", "making a session"},
    {"root", "attaching the root filesystem"},
    {"base tree", "taking from the sandbox"},
    {"mount", "mounting"},
    {"attributes", "changing attributes of mount"},
    {"propagation", "changing propagation of mount"},
    {"mkdir", "making directory"},
    {"symlink", "making symlink"},
    {"mknod", "making device"},
    {"write", "writing"},
    {"mask", "masking"},
    {"readonly", "making read-only"},
    {"pivot", "changing into the root filesystem"},
    {"copy-up", "copying up"},
    {"chroot", "changing root to"},
    {"sysctl", "setting sysctl"},
    {"console", "making the console"},
    {"stdio", "setting up stdio"},
    {"rlimit", "setting rlimit"},
    {"umask", "setting umask"},
    {"pdeathsig", "setting the parent death signal"},
    {"no_new_privs", "setting no_new_privs"},
    {"seccomp", "installing the seccomp filter"},
    {"bounding", "dropping bounding capabilities"},
    {"groups", "setting groups"},
    {"ids", "setting user"},
    {"cwd", "changing directory to"},
    {"capabilities", "setting capabilities"},
    {"oom_score_adj", "setting oom_score_adj"},
    {"keyring", "joining session keyring"},
    {"chown stdio", "changing the owner of stdio"},
    {"dumpable", "setting dumpable"},
    {"apparmor", "applying AppArmor profile"},
    {"sync", "waiting for the launcher"},
    {"gate", "waiting for the start"},
    {"exec", "exec"},
    {"pause", "pausing"},
    // operations of the addon
    {"wait", "waiting for process"},
    {"record", "writing exit record"},
    {"signal", "signalling"},
    {"spawn", "running"},
    {"resize", "resizing the terminal"},
    {"remove cgroup", "removing cgroup"},
    {"open cgroup", "opening cgroup"},
    {"freeze cgroup", "freezing cgroup"},
    {"base namespace", "making the base namespace"},
    {"make network namespace", "making network namespace"},
    {"pin network namespace", "pinning network namespace"},
    {"unpin network namespace", "unpinning network namespace"},
    {"bring up", "bringing up"},
    {"make", "making"},
    {"lock", "locking"},
    {"share mount", "sharing mount"},
    {"make fifo", "making fifo"},
    {"open log", "opening log"},
    {"pump", "pumping"},
    {"remove", "removing"},
    {"open directory", "opening directory"},
    {"read", "reading"},
    {"measure", "measuring"},
    {"unmount", "unmounting"},
    {"notify", "notifying"},
    {"start thread", "starting a thread"},
    // operations of the guest's agent
    {"connect", "connecting to host port"},
    {"gate", "making the start gate"},
    {"module", "loading module"},
    {"clock", "setting the clock"},
    {"entropy", "reseeding"},
    {"disk", "finding the disk with serial"},
    {"interface", "configuring interface"},
    {"address", "adding address"},
    {"route", "adding route"},
    {"neighbour", "adding neighbour"},
    {"netlink", "asking rtnetlink"},
    {"watch", "watching"},
    {"systemd", "connecting to systemd"},
    {"start unit", "starting unit"},
    {"stop unit", "stopping unit"},
    {"set unit", "changing unit"},
    {"read unit", "reading unit"},
    {"place", "placing into unit"},
    // virtual machines
    {"kvm", "using KVM"},
    {"guest memory", "making guest memory"},
    {"event loop", "making an event loop"},
    {"kernel", "reading kernel"},
    {"boot image", "reading boot image"},
    {"write boot image", "writing boot image"},
    {"boot", "placing in guest memory"},
    {"machine", "virtual machine"},
    {"connect", "connecting to the guest"},
    {"listen", "listening for the guest"},
    {"accept", "waiting for the guest"},
};

std::string lower_first(const char* text) {
  std::string out = text;
  // "RPC", "NFS" and their like stay as they are.
  if (out.size() > 1 && std::isupper(out[0]) != 0 && std::islower(out[1]) != 0)
    out[0] = static_cast<char>(std::tolower(out[0]));
  return out;
}

std::string bounded(const char* text, size_t size) {
  return std::string(text, strnlen(text, size));
}

}  // namespace

const char* step_of(uint32_t op) {
  for (const Step& known : kSteps)
    if (known.op == op) return known.step;
  return "launch";
}

std::string text_of(const Error& error) {
  std::string text = error.step;
  for (const Verb& known : kVerbs)
    if (text == known.step) {
      text = known.verb;
      break;
    }
  if (!error.subject.empty())
    text += (error.step == std::string("exec") ? ": \"" : " \"") + error.subject + '"';
  if (!error.target.empty())
    text += (error.subject.empty() ? " \"" : " at \"") + error.target + '"';
  text += ": ";
  if (!error.why.empty()) return text + error.why;
  char buffer[128] = "";
  return text + lower_first(strerror_r(error.err, buffer, sizeof(buffer)));
}

std::string errno_name(int err) {
  if (err == 0) return "";
  const char* name = strerrorname_np(err);
  return name != nullptr ? name : "errno " + std::to_string(err);
}

const char* code_of(const Error& error) {
  if (error.code != nullptr) return error.code;
  switch (error.err) {
    case ENOENT:
    case ESRCH:
      return "NOT_FOUND";
    case EEXIST:
      return "ALREADY_EXISTS";
    case EINVAL:
    case ENAMETOOLONG:
      return "INVALID_ARGUMENT";
    case EACCES:
    case EPERM:
      return "PERMISSION_DENIED";
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    case EAGAIN:
      return "RESOURCE_EXHAUSTED";
    case ETIMEDOUT:
      return "DEADLINE_EXCEEDED";
    default:
      return "UNKNOWN";
  }
}

Error error_of(const plan::Report& report) {
  Error error;
  error.err = report.error;
  error.step = step_of(report.op);
  error.subject = bounded(report.subject, sizeof(report.subject));
  error.target = bounded(report.target, sizeof(report.target));
  error.why = bounded(report.why, sizeof(report.why));
  // NOT_FOUND or ALREADY_EXISTS would speak to a caller of the container, not of a path inside it.
  if (error.err == ENOENT || error.err == ENOTDIR || error.err == EEXIST)
    error.code = "FAILED_PRECONDITION";
  return error;
}

}  // namespace isopod::core
