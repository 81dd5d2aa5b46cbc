#include "core/layers.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <utility>

namespace isopod::core {
namespace {

constexpr int kOpenDir = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME;

bool is_opaque(int fd) {
  char value = 0;
  return fgetxattr(fd, "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';
}

Error refusal(const std::string& path, const char* why) {
  return Error{EINVAL, "resolve", path, {}, why};
}

}  // namespace

Result<Layers> Layers::open(const std::vector<std::string>& roots) {
  Layers layers;
  if (auto done = layers.append(roots); !done) return std::move(done.error());
  return layers;
}

Status Layers::append(const std::vector<std::string>& roots) {
  for (const std::string& root : roots) {
    UniqueFd fd(::open(root.c_str(), kOpenDir));
    if (!fd) return failure(errno, "open layer", root);
    roots_.push_back(std::move(fd));
  }
  return Done{};
}

Result<MergedDir> Layers::top() const {
  MergedDir dir;
  for (size_t i = 0; i < roots_.size(); i++) {
    UniqueFd fd(fcntl(roots_[i].get(), F_DUPFD_CLOEXEC, 0));
    if (!fd) return failure(errno, "duplicate", "/");
    dir.parts.push_back({i, std::move(fd)});
  }
  return dir;
}

Result<Child> Layers::child(const MergedDir& dir, const std::string& name) const {
  Child found;
  for (const MergedDir::Part& part : dir.parts) {
    struct stat st;
    if (fstatat(part.fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) continue;
      return failure(errno, "stat", name);
    }
    // A whiteout hides what is below; below a directory it ends the merge just so.
    if (is_whiteout(st)) break;
    if (!S_ISDIR(st.st_mode)) {
      if (!found.present) {
        found.present = true;
        found.layer = part.layer;
        found.st = st;
        found.parent = part.fd.get();
      }
      break;
    }
    UniqueFd fd(openat(part.fd.get(), name.c_str(), kOpenDir));
    if (!fd) return failure(errno, "open", name);
    if (!found.present) {
      found.present = true;
      found.layer = part.layer;
      found.st = st;
      found.parent = part.fd.get();
    }
    const bool last = is_opaque(fd.get());
    found.dir.parts.push_back({part.layer, std::move(fd)});
    if (last) break;
  }
  return found;
}

Result<Found> Layers::find(const std::string& path, bool follow) const {
  auto split = split_path(path);
  if (!split) return std::move(split.error());
  std::vector<std::string> todo = std::move(*split);
  for (int links = 0; links <= kMaxLinks; links++) {
    auto top_dir = top();
    if (!top_dir) return std::move(top_dir.error());
    MergedDir at = std::move(*top_dir);
    bool again = false;
    for (size_t i = 0; i < todo.size() && !again; i++) {
      auto looked = child(at, todo[i]);
      if (!looked) return std::move(looked.error());
      Child& next = *looked;
      const bool last = i + 1 == todo.size();
      if (!next.present) return Found{};
      if (S_ISLNK(next.st.st_mode) && (!last || follow)) {
        auto target = read_link(next.parent, todo[i]);
        if (!target) return std::move(target.error());
        const std::vector<std::string> above(todo.begin(), todo.begin() + static_cast<long>(i));
        const std::vector<std::string> rest(todo.begin() + static_cast<long>(i) + 1, todo.end());
        auto spliced = splice_link(above, *target, rest);
        if (!spliced) return std::move(spliced.error());
        todo = std::move(*spliced);
        again = true;
      } else if (last) {
        Found found;
        found.present = true;
        found.path = join_path(todo, todo.size());
        found.layer = next.layer;
        found.st = next.st;
        found.name = todo[i];
        found.parent = UniqueFd(fcntl(next.parent, F_DUPFD_CLOEXEC, 0));
        if (!found.parent) return failure(errno, "duplicate", path);
        return found;
      } else if (!S_ISDIR(next.st.st_mode)) {
        return Found{};
      } else {
        at = std::move(next.dir);
      }
    }
    if (!again) return Found{};  // the root itself
  }
  return refusal(path, "too many symlinks on the way");
}

Result<std::vector<std::string>> split_path(const std::string& path) {
  if (path.empty()) return refusal(path, "the name is empty");
  if (path[0] == '/') return refusal(path, "the path is absolute");
  if (path.size() >= PATH_MAX) return failure(ENAMETOOLONG, "resolve", path.substr(0, 256));
  if (path.find('\0') != std::string::npos) return refusal(path, "the name has a NUL byte");
  std::vector<std::string> parts;
  for (size_t start = 0; start <= path.size();) {
    size_t end = path.find('/', start);
    if (end == std::string::npos) end = path.size();
    std::string part = path.substr(start, end - start);
    start = end + 1;
    if (part.empty() || part == ".") continue;
    if (part == "..") return refusal(path, "the path contains \"..\"");
    if (part.size() > NAME_MAX) return failure(ENAMETOOLONG, "resolve", path.substr(0, 256));
    parts.push_back(std::move(part));
  }
  return parts;
}

std::string join_path(const std::vector<std::string>& parts, size_t count) {
  std::string path;
  for (size_t i = 0; i < count; i++) {
    if (i > 0) path += '/';
    path += parts[i];
  }
  return path;
}

Result<std::vector<std::string>> splice_link(const std::vector<std::string>& resolved,
                                             const std::string& target,
                                             const std::vector<std::string>& rest) {
  std::vector<std::string> parts;
  if (target.empty() || target[0] != '/') parts = resolved;
  for (size_t start = 0; start <= target.size();) {
    size_t end = target.find('/', start);
    if (end == std::string::npos) end = target.size();
    std::string part = target.substr(start, end - start);
    start = end + 1;
    if (part.empty() || part == ".") continue;
    if (part != "..") {
      parts.push_back(std::move(part));
    } else if (parts.empty()) {
      return refusal(target, "a symlink on the way leaves the root");
    } else {
      parts.pop_back();
    }
  }
  parts.insert(parts.end(), rest.begin(), rest.end());
  if (parts.size() > PATH_MAX / 2) return failure(ENAMETOOLONG, "resolve", target.substr(0, 256));
  return parts;
}

Result<std::string> read_link(int dir, const std::string& name) {
  std::string target(PATH_MAX, '\0');
  const ssize_t size = readlinkat(dir, name.c_str(), target.data(), target.size());
  if (size < 0) return failure(errno, "read link", name);
  target.resize(static_cast<size_t>(size));
  return target;
}

Result<LayerFile> read_layers(const std::vector<std::string>& roots, const std::string& path,
                              size_t limit) {
  auto layers = Layers::open(roots);
  if (!layers) return std::move(layers.error());
  auto found = layers->find(path, true);
  if (!found) return std::move(found.error());
  if (!found->present) return LayerFile{};
  if (!S_ISREG(found->st.st_mode)) return Error{EINVAL, "read", path, {}, "not a regular file"};
  if (found->st.st_size > static_cast<off_t>(limit)) {
    return Error{EINVAL, "read", path, {}, "too large"};
  }
  UniqueFd fd(openat(found->parent.get(), found->name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return failure(errno, "open", path);
  LayerFile file{true, std::string(static_cast<size_t>(found->st.st_size), '\0')};
  size_t have = 0;
  while (have < file.data.size()) {
    const ssize_t got = read(fd.get(), file.data.data() + have, file.data.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failure(errno, "read", path);
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  file.data.resize(have);
  return file;
}

}  // namespace isopod::core
