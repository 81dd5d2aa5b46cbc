// Extended attributes: the calls know paths only, so each goes by the number in /proc/self/fd,
// which is the thread's working directory.
//
// The guest may set user.* alone. security.* and trusted.* are the host's words about the host's
// files, and ACLs would be judged by nobody (the guest's kernel goes by mode). It may read
// security.capability, which execve(2) in the guest goes by.
#include <linux/limits.h>
#include <sys/xattr.h>

#include <cstring>

#include "fs/session.h"

namespace isopod::fs {

namespace {

bool begins(const char* name, const char* prefix) {
  return strncmp(name, prefix, strlen(prefix)) == 0;
}
bool writable(const char* name) { return begins(name, "user."); }
bool readable(const char* name) {
  return writable(name) || strcmp(name, "security.capability") == 0;
}

struct ProcName {
  char text[16];
  explicit ProcName(const Inode& inode) { snprintf(text, sizeof text, "%d", inode.fd.get()); }
};

// size 0 asks for the size; else as much as it may be, or ERANGE.
Errno answer(Session::Call& call, uint32_t size, const char* data, size_t bytes) {
  if (size == 0) {
    call.out.put(fuse_getxattr_out{static_cast<uint32_t>(bytes), 0});
    return 0;
  }
  if (bytes > size) return ERANGE;
  call.out.append(data, bytes);
  return 0;
}

}  // namespace

Errno setxattr(Session&, Session::Call& call) {
  // The short form: FUSE_SETXATTR_EXT is not negotiated.
  struct Header {
    uint32_t size, flags;
  };
  const auto in = call.in.take<Header>();
  const auto name = call.in.text();
  if (!in || !name) return EINVAL;
  if (in->size > XATTR_SIZE_MAX) return E2BIG;
  const auto value = call.in.bytes(in->size);
  if (!value) return EINVAL;
  if (!writable(*name)) return EOPNOTSUPP;
  const ProcName path(*call.node);
  const int flags = static_cast<int>(in->flags);
  return ::setxattr(path.text, *name, value->data(), value->size(), flags) < 0 ? errno : 0;
}

Errno getxattr(Session&, Session::Call& call) {
  const auto in = call.in.take<fuse_getxattr_in>();
  const auto name = call.in.text();
  if (!in || !name) return EINVAL;
  if (!readable(*name)) return ENODATA;
  std::vector<char> value(XATTR_SIZE_MAX);
  const ProcName path(*call.node);
  const ssize_t size = ::getxattr(path.text, *name, value.data(), value.size());
  if (size < 0) return errno;
  return answer(call, in->size, value.data(), static_cast<size_t>(size));
}

Errno listxattr(Session&, Session::Call& call) {
  const auto in = call.in.take<fuse_getxattr_in>();
  if (!in) return EINVAL;
  std::vector<char> all(XATTR_LIST_MAX);
  const ProcName path(*call.node);
  const ssize_t size = ::listxattr(path.text, all.data(), all.size());
  if (size < 0) return errno;
  std::string names;
  for (ssize_t at = 0; at < size;) {
    const char* name = all.data() + at;
    const size_t length = strnlen(name, static_cast<size_t>(size - at)) + 1;
    if (readable(name)) names.append(name, length);
    at += static_cast<ssize_t>(length);
  }
  return answer(call, in->size, names.data(), names.size());
}

Errno removexattr(Session&, Session::Call& call) {
  const auto name = call.in.text();
  if (!name) return EINVAL;
  if (!writable(*name)) return EOPNOTSUPP;
  const ProcName path(*call.node);
  return ::removexattr(path.text, *name) < 0 ? errno : 0;
}

}  // namespace isopod::fs
