#include "core/cgroup_write.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "base/fd.h"
#include "base/file.h"

namespace isopod::core {
namespace {

// 0 or errno. A file of cgroupfs takes a value whole or not at all.
int put(int cgroup, const std::string& file, const std::string& value) {
  const UniqueFd fd(::openat(cgroup, file.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return errno;
  ssize_t size;
  do size = ::write(fd.get(), value.data(), value.size());
  while (size < 0 && errno == EINTR);
  return size < 0 ? errno : 0;
}

// The line of `text` that begins with `key`, without its end; "" if there is none.
std::string line_of(const std::string& text, const std::string& key) {
  for (size_t at = 0; at < text.size();) {
    size_t end = text.find('\n', at);
    if (end == std::string::npos) end = text.size();
    if (text.compare(at, key.size(), key) == 0 && at + key.size() < end &&
        text[at + key.size()] == ' ')
      return text.substr(at, end - at);
    at = end + 1;
  }
  return {};
}

// What puts the present value of write's file back; false if it cannot be known.
bool remember(int cgroup, const CgroupWrite& write, CgroupWrite& before) {
  Result<std::string> text = read_file(cgroup, write.file);
  if (!text) return false;
  before.file = write.file;
  before.key = write.key;
  if (write.key.empty()) {
    before.value = *text;
    while (!before.value.empty() && before.value.back() == '\n') before.value.pop_back();
    // An empty list (cpuset.cpus). A write of nothing at all would do nothing.
    if (before.value.empty()) before.value = "\n";
    return true;
  }
  before.value = line_of(*text, write.key);
  before.unset = write.unset;
  if (before.value.empty()) before.value = write.unset;
  return !before.value.empty();
}

const char* code_of(int err) {
  switch (err) {
    case ENOENT:  // the controller is not enabled here: nothing that the caller looked for
    case EBUSY:
    case EOPNOTSUPP:
      return "FAILED_PRECONDITION";
    case EACCES:  // the file is read-only
    case ERANGE:
    case ENODEV:  // no such device
    case ENXIO:
      return "INVALID_ARGUMENT";
    default:
      return nullptr;
  }
}

class Transaction {
 public:
  Transaction(int cgroup, const std::string& path, bool fresh)
      : cgroup_(cgroup), path_(path), fresh_(fresh) {}

  // 0 or errno; `used` is the write that was tried in the end.
  int write(const CgroupWrite& wanted, const CgroupWrite*& used) {
    used = &wanted;
    int err = write_one(wanted);
    if (err == ENOENT && wanted.instead) {
      used = wanted.instead.get();
      err = write_one(*used);
    }
    return err == ENOENT && used->optional ? 0 : err;
  }

  // Newest first: what could only be written after something else can only go before it.
  CgroupWrites undo() {
    CgroupWrites back;
    back.reserve(before_.size());
    for (auto write = before_.rbegin(); write != before_.rend(); ++write)
      back.push_back(std::move(*write));
    before_.clear();
    return back;
  }

  Error fail(int err, const CgroupWrite& write) {
    Error error{err, "limit", write.value, path_ + "/" + write.file, {}, code_of(err)};
    for (const CgroupWrite& back : undo()) {
      const int again = put(cgroup_, back.file, back.value);
      if (again == 0) continue;
      char text[128] = "", why[128] = "";
      error.why = std::string(strerror_r(err, text, sizeof(text))) + "; and " + back.file +
                  " could not be put back to \"" + back.value +
                  "\": " + strerror_r(again, why, sizeof(why));
    }
    return error;
  }

 private:
  int write_one(const CgroupWrite& wanted) {
    CgroupWrite before;
    const bool known = !fresh_ && remember(cgroup_, wanted, before);
    const int err = put(cgroup_, wanted.file, wanted.value);
    if (err == 0 && known) before_.push_back(std::move(before));
    return err;
  }

  const int cgroup_;
  const std::string& path_;
  const bool fresh_;
  CgroupWrites before_;
};

}  // namespace

Result<CgroupWrites> cgroup_write(int cgroup, const std::string& path, const CgroupWrites& writes,
                                  bool fresh) {
  Transaction transaction(cgroup, path, fresh);
  std::vector<const CgroupWrite*> again;
  const CgroupWrite* used = nullptr;
  for (const CgroupWrite& wanted : writes) {
    const int err = transaction.write(wanted, used);
    if (err == EINVAL && wanted.retry)
      again.push_back(&wanted);
    else if (err != 0)
      return transaction.fail(err, *used);
  }
  for (const CgroupWrite* wanted : again)
    if (const int err = transaction.write(*wanted, used); err != 0)
      return transaction.fail(err, *used);
  return transaction.undo();
}

Result<CgroupWrites> cgroup_write(const std::string& path, const CgroupWrites& writes) {
  const UniqueFd cgroup(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!cgroup) return failure(errno, "open cgroup", path);
  return cgroup_write(cgroup.get(), path, writes, false);
}

bool cgroup_lacked_memory(const std::string& path) {
  Result<std::string> events = read_file(AT_FDCWD, path + "/memory.events");
  if (!events) return false;
  for (const char* key : {"oom", "oom_kill"}) {
    const std::string line = line_of(*events, key);
    if (!line.empty() && std::atoll(line.c_str() + strlen(key)) > 0) return true;
  }
  return false;
}

}  // namespace isopod::core
