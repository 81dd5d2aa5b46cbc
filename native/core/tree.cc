#include "core/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace isopod::core {
namespace {

// Descriptors open at a time; a container can nest directories far deeper than that.
constexpr size_t kMaxDepth = 64;

using Stream = std::unique_ptr<DIR, int (*)(DIR*)>;

Result<Stream> open_stream(int parent, const char* name) {
  open_how how{};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
  if (parent == AT_FDCWD) how.resolve = 0;
  UniqueFd fd(static_cast<int>(syscall(SYS_openat2, parent, name, &how, sizeof(how))));
  if (!fd) return failure(errno, "open directory", name);
  DIR* stream = fdopendir(fd.get());
  if (stream == nullptr) return failure(errno, "open directory", name);
  (void)fd.release();
  return Stream(stream, closedir);
}

const char* next_name(DIR* stream) {
  while (dirent* entry = readdir(stream)) {
    std::string_view name(entry->d_name);
    if (name != "." && name != "..") return entry->d_name;
  }
  return nullptr;
}

struct Level {
  Stream stream;
  std::string name;  // in the level above
};

// Deeper than kMaxDepth: hang the subtree up at the top, where the walk meets it later.
Status lift(int from, const std::string& name, int top) {
  static unsigned long counter = 0;
  for (;;) {
    std::string lifted = ".isopod-removing-" + std::to_string(counter++);
    if (renameat(from, name.c_str(), top, lifted.c_str()) == 0) return Done{};
    if (errno != ENOTEMPTY && errno != EEXIST) return failure(errno, "remove", name);
  }
}

// Empties the directory on top of `levels` as far as it goes: true when it is empty.
Result<bool> step(std::vector<Level>& levels) {
  DIR* stream = levels.back().stream.get();
  int directory = dirfd(stream);
  while (const char* name = next_name(stream)) {
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT) continue;
    if (errno != EISDIR && errno != EPERM) return failure(errno, "remove", name);
    if (unlinkat(directory, name, AT_REMOVEDIR) == 0 || errno == ENOENT) continue;
    if (errno != ENOTEMPTY && errno != EEXIST) return failure(errno, "remove", name);
    std::string child(name);
    if (levels.size() >= kMaxDepth) {
      if (Status lifted = lift(directory, child, dirfd(levels.front().stream.get())); !lifted) {
        return lifted.error();
      }
      continue;
    }
    Result<Stream> below = open_stream(directory, child.c_str());
    if (!below) return below.error();
    levels.push_back({std::move(*below), std::move(child)});
    return false;
  }
  return true;
}

}  // namespace

Status remove_tree(const std::string& path) {
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return Done{};
  if (errno != EISDIR && errno != EPERM) return failure(errno, "remove", path);
  Result<Stream> top = open_stream(AT_FDCWD, path.c_str());
  if (!top) return top.error().err == ENOENT ? Status(Done{}) : Status(top.error());
  std::vector<Level> levels;
  levels.push_back({std::move(*top), path});
  for (;;) {
    Result<bool> empty = step(levels);
    if (!empty) return Error{empty.error().err, "remove", path + ": " + empty.error().subject, {}, {}, nullptr};
    if (!*empty) continue;
    std::string name = levels.back().name;
    int parent = levels.size() > 1 ? dirfd(levels[levels.size() - 2].stream.get()) : AT_FDCWD;
    if (unlinkat(parent, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) {
      levels.pop_back();
      if (levels.empty()) return Done{};
    } else if (errno == ENOTEMPTY || errno == EEXIST) {
      rewinddir(levels.back().stream.get());  // something was lifted here, or came meanwhile
    } else {
      return failure(errno, "remove", path + ": " + name);
    }
  }
}

Result<DiskUsage> disk_usage(const std::string& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) < 0) return failure(errno, "measure", path);
  DiskUsage usage{static_cast<uint64_t>(status.st_blocks) * 512, 1};
  if (!S_ISDIR(status.st_mode)) return usage;
  Result<Stream> top = open_stream(AT_FDCWD, path.c_str());
  if (!top) return top.error();
  std::set<std::pair<dev_t, ino_t>> linked;
  std::vector<Stream> levels;
  levels.push_back(std::move(*top));
  while (!levels.empty()) {
    const char* name = next_name(levels.back().get());
    if (name == nullptr) {
      levels.pop_back();
      continue;
    }
    int directory = dirfd(levels.back().get());
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0) continue;
    bool is_directory = S_ISDIR(status.st_mode);
    if (!is_directory && status.st_nlink > 1 && !linked.insert({status.st_dev, status.st_ino}).second) continue;
    usage.bytes += static_cast<uint64_t>(status.st_blocks) * 512;
    usage.inodes++;
    // What lies deeper than any sane tree is not worth the descriptors.
    if (!is_directory || levels.size() >= 8 * kMaxDepth) continue;
    if (Result<Stream> below = open_stream(directory, name)) levels.push_back(std::move(*below));
  }
  return usage;
}

}  // namespace isopod::core
