#include "core/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "core/inode.h"

namespace isopod::core {
namespace {

constexpr char kWhiteout[] = ".wh.";
constexpr char kAufsMeta[] = ".wh..wh.";
constexpr char kOpaque[] = ".wh..wh..opq";
constexpr uint64_t kBlock = 4096;

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

Error refuse(const std::string& path, const char* why) {
  return Error{EINVAL, "unpack", path, {}, why};
}

UniqueFd open_beneath(int root, const std::string& path) {
  struct open_how how = {};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
  return UniqueFd(static_cast<int>(
      syscall(SYS_openat2, root, path.empty() ? "." : path.c_str(), &how, sizeof(how))));
}

std::string under(const std::string& dir, const std::string& name) {
  return dir.empty() ? name : dir + "/" + name;
}

uint32_t type_bits(UnpackEntry::Type type) {
  if (type == UnpackEntry::kChar) return S_IFCHR;
  return type == UnpackEntry::kBlock ? S_IFBLK : S_IFIFO;
}

}  // namespace

Result<std::unique_ptr<Unpack>> Unpack::open(const std::string& root) {
  auto layers = Layers::open({root});
  if (!layers) return std::move(layers.error());
  auto unpack = std::make_unique<Unpack>();
  unpack->layers_ = std::move(*layers);
  return unpack;
}

Status Unpack::set_parents(const std::vector<std::string>& parents) {
  if (parents_set_) return Done{};  // also after an opaque root: nothing below counts
  parents_set_ = true;
  return layers_.append(parents);
}

Result<Unpack::Outcome> Unpack::apply(const UnpackEntry& entry) {
  if (auto closed = close_file(); !closed) return std::move(closed.error());
  auto split = split_path(entry.path);
  if (!split) return std::move(split.error());
  std::vector<std::string> parts = std::move(*split);
  if (parts.empty()) {
    if (entry.type != UnpackEntry::kDirectory) return refuse(entry.path, "the root is a directory");
    root_declared_ = true;
    dir_times_[""] = entry.mtime;
    auto done = set_inode(layers_.root(0), entry);
    if (!done) return std::move(done.error());
    return Outcome::kApplied;
  }
  const std::string name = std::move(parts.back());
  parts.pop_back();
  for (const std::string& part : parts)
    if (starts_with(part, kAufsMeta)) return Outcome::kApplied;

  Parent parent;
  auto ready = parent_of(parts, &parent);
  if (!ready) return std::move(ready.error());
  if (!*ready) return Outcome::kNeedsParents;

  Status done = Done{};
  if (starts_with(name, kWhiteout)) {
    // Aufs's own bookkeeping (.wh..wh.plnk and friends) describes no content; docker skips it too.
    if (name != kOpaque && starts_with(name, kAufsMeta)) return Outcome::kApplied;
    if (entry.type != UnpackEntry::kFile) return refuse(entry.path, "a whiteout must be a file");
    done = whiteout(parent, name);
  } else if (entry.type == UnpackEntry::kHardlink) {
    auto linked = hardlink(parent, name, entry);
    if (!linked) return std::move(linked.error());
    if (!*linked) return Outcome::kNeedsParents;
  } else if (entry.type == UnpackEntry::kDirectory) {
    done = directory(parent, name, entry);
  } else if (entry.type == UnpackEntry::kFile) {
    done = file(parent, name, entry);
  } else {
    done = special(parent, name, entry);
  }
  if (!done) return std::move(done.error());
  return Outcome::kApplied;
}

// The directory `parts` of this layer. False: the layers below are needed and not set.
Result<bool> Unpack::parent_of(const std::vector<std::string>& parts, Parent* parent) {
  const std::string path = join_path(parts, parts.size());
  if (!cached_ || cached_path_ != path) {
    UniqueFd fd = open_beneath(layers_.root(0), path);
    if (!fd) {
      // ENOENT: not declared. ELOOP: a link. ENOTDIR: a file, a whiteout or a link to a directory.
      if (errno != ENOENT && errno != ELOOP && errno != ENOTDIR) {
        return failure(errno, "open directory", path);
      }
      if (!parents_set_) return false;
      return walk(parts, parent);
    }
    cached_ = std::move(fd);
    cached_path_ = path;
  }
  parent->fd = cached_.get();
  parent->path = path;
  return true;
}

Result<bool> Unpack::walk(std::vector<std::string> parts, Parent* parent) {
  const std::string asked = join_path(parts, parts.size());
  for (int links = 0; links <= kMaxLinks; links++) {
    auto top = layers_.top();
    if (!top) return std::move(top.error());
    MergedDir at = std::move(*top);
    bool again = false;
    for (size_t i = 0; i < parts.size() && !again; i++) {
      auto looked = layers_.child(at, parts[i]);
      if (!looked) return std::move(looked.error());
      Child& next = *looked;
      if (next.present && S_ISLNK(next.st.st_mode)) {
        auto target = read_link(next.parent, parts[i]);
        if (!target) return std::move(target.error());
        const auto here = parts.begin() + static_cast<long>(i);
        auto spliced = splice_link({parts.begin(), here}, *target, {here + 1, parts.end()});
        if (!spliced) return refuse(asked, "a symlink on the way leaves the root");
        parts = std::move(*spliced);
        again = true;
        continue;
      }
      if (next.present && !S_ISDIR(next.st.st_mode)) {
        return refuse(asked, "a parent is not a directory");
      }
      if (!next.present || next.layer != 0) {
        auto made = make_parent(at.parts[0].fd.get(), parts[i], join_path(parts, i + 1), next);
        if (!made) return std::move(made.error());
        next.dir.parts.insert(next.dir.parts.begin(), MergedDir::Part{0, std::move(*made)});
      }
      at = std::move(next.dir);
    }
    if (again) continue;
    cached_ = std::move(at.parts[0].fd);
    cached_path_ = join_path(parts, parts.size());
    parent->fd = cached_.get();
    parent->path = cached_path_;
    return true;
  }
  return refuse(asked, "too many symlinks on the way");
}

// An undeclared directory: as the layers below have it, else 0755 of root.
Result<UniqueFd> Unpack::make_parent(int dir, const std::string& name, const std::string& path,
                                     const Child& below) {
  bool hidden = false;
  if (mkdirat(dir, name.c_str(), 0755) != 0) {
    // The view called it absent, so this is our own whiteout: what follows it replaces what it
    // hides.
    if (errno != EEXIST || unlinkat(dir, name.c_str(), 0) != 0 ||
        mkdirat(dir, name.c_str(), 0755) != 0) {
      return failure(errno, "make directory", path);
    }
    hidden = true;
  } else {
    totals_.inodes++;
  }
  UniqueFd fd(openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return failure(errno, "open directory", path);
  if (hidden && fsetxattr(fd.get(), "trusted.overlay.opaque", "y", 1, 0) != 0) {
    return failure(errno, "make opaque", path);
  }
  if (!below.present) {
    if (fchmod(fd.get(), 0755) != 0) return failure(errno, "chmod", path);  // whatever the umask is
    return fd;
  }
  auto copied = copy_inode(below.dir.parts[0].fd.get(), below.st, fd.get());
  if (!copied) return std::move(copied.error());
  dir_times_.emplace(path, nanoseconds(below.st.st_mtim));
  return fd;
}

Status Unpack::whiteout(const Parent& parent, const std::string& name) {
  if (name == kOpaque) {
    if (parent.path.empty()) {
      // overlayfs does not look at the mark on a layer's root; whoever stacks the layers must.
      totals_.opaque = true;
      parents_set_ = true;
      layers_.cut();
      return Done{};
    }
    if (fsetxattr(parent.fd, "trusted.overlay.opaque", "y", 1, 0) != 0) {
      return failure(errno, "make opaque", parent.path);
    }
    return Done{};
  }
  const std::string hidden = name.substr(sizeof(kWhiteout) - 1);
  const std::string path = under(parent.path, hidden);
  if (hidden.empty() || hidden == "." || hidden == "..") {
    return refuse(under(parent.path, name), "a whiteout of no name");
  }
  struct stat st;
  if (fstatat(parent.fd, hidden.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
    if (!S_ISDIR(st.st_mode)) return Done{};
    UniqueFd fd(openat(parent.fd, hidden.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd || fsetxattr(fd.get(), "trusted.overlay.opaque", "y", 1, 0) != 0) {
      return failure(errno, "make opaque", path);
    }
    return Done{};
  }
  if (mknodat(parent.fd, hidden.c_str(), S_IFCHR, 0) != 0) return failure(errno, "whiteout", path);
  totals_.inodes++;
  return Done{};
}

Status Unpack::directory(const Parent& parent, const std::string& name, const UnpackEntry& entry) {
  const std::string path = under(parent.path, name);
  bool hidden = false;
  if (mkdirat(parent.fd, name.c_str(), 0700) != 0) {
    if (errno != EEXIST) return failure(errno, "make directory", path);
    struct stat st;
    if (fstatat(parent.fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      return failure(errno, "stat", path);
    }
    if (!S_ISDIR(st.st_mode)) {
      hidden = is_whiteout(st);
      if (unlinkat(parent.fd, name.c_str(), 0) != 0) return failure(errno, "remove", path);
      if (mkdirat(parent.fd, name.c_str(), 0700) != 0) {
        return failure(errno, "make directory", path);
      }
    }
  } else {
    totals_.inodes++;
  }
  UniqueFd fd(openat(parent.fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return failure(errno, "open directory", path);
  if (hidden && fsetxattr(fd.get(), "trusted.overlay.opaque", "y", 1, 0) != 0) {
    return failure(errno, "make opaque", path);
  }
  dir_times_[path] = entry.mtime;
  return set_inode(fd.get(), entry);
}

// Takes away a non-directory of the same name: the later entry of an archive wins.
Status Unpack::make_room(const Parent& parent, const std::string& name, const std::string& path) {
  if (unlinkat(parent.fd, name.c_str(), 0) == 0 || errno == ENOENT) return Done{};
  if (errno == EISDIR) {
    return refuse(path, "would replace a directory of the same layer");
  }
  return failure(errno, "remove", path);
}

Status Unpack::file(const Parent& parent, const std::string& name, const UnpackEntry& entry) {
  const std::string path = under(parent.path, name);
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  UniqueFd fd(openat(parent.fd, name.c_str(), flags, 0600));
  if (!fd && errno == EEXIST) {
    if (auto room = make_room(parent, name, path); !room) return room;
    fd.reset(openat(parent.fd, name.c_str(), flags, 0600));
  }
  if (!fd) return failure(errno, "create", path);
  totals_.inodes++;
  open_file_.fd = std::move(fd);
  open_file_.meta = entry;
  open_file_.meta.data = nullptr;
  open_file_.size = 0;
  return write(entry.data, entry.size);
}

Status Unpack::write(const uint8_t* data, size_t size) {
  if (!open_file_.fd) {
    if (size == 0) return Done{};
    return Error{EINVAL, "unpack", "data", {}, "no file is open"};
  }
  for (size_t done = 0; done < size;) {
    const ssize_t wrote = ::write(open_file_.fd.get(), data + done, size - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return failure(errno, "write", open_file_.meta.path);
    done += static_cast<size_t>(wrote);
  }
  open_file_.size += size;
  return Done{};
}

// Owner, mode and attributes come last: a write would take setuid and security.capability away
// again.
Status Unpack::close_file() {
  if (!open_file_.fd) return Done{};
  const UniqueFd fd = std::move(open_file_.fd);
  totals_.bytes += (open_file_.size + kBlock - 1) / kBlock * kBlock;
  auto done = set_inode(fd.get(), open_file_.meta);
  if (!done) return done;
  return set_times(fd.get(), open_file_.meta.mtime, open_file_.meta.path);
}

Status Unpack::special(const Parent& parent, const std::string& name, const UnpackEntry& entry) {
  const std::string path = under(parent.path, name);
  if (entry.type == UnpackEntry::kChar && entry.major == 0 && entry.minor == 0) {
    return refuse(path, "a character device 0:0 is an overlay whiteout");
  }
  auto make = [&] {
    if (entry.type == UnpackEntry::kSymlink) {
      return symlinkat(entry.link.c_str(), parent.fd, name.c_str());
    }
    return mknodat(parent.fd, name.c_str(), type_bits(entry.type) | 0600,
                   makedev(entry.major, entry.minor));
  };
  int made = make();
  if (made != 0 && errno == EEXIST) {
    if (auto room = make_room(parent, name, path); !room) return room;
    made = make();
  }
  if (made != 0) return failure(errno, "create", path);
  totals_.inodes++;
  return set_node(parent.fd, name, entry);
}

// False: the target is not in this layer, and those below are not set.
Result<bool> Unpack::hardlink(const Parent& parent, const std::string& name,
                              const UnpackEntry& entry) {
  const std::string path = under(parent.path, name);
  auto split = split_path(entry.link);
  if (!split) return refuse(path, "the hard link's target is absolute, empty or contains \"..\"");
  const UniqueFd own(fcntl(parent.fd, F_DUPFD_CLOEXEC, 0));  // copy_up moves the cache on
  if (!own) return failure(errno, "duplicate", path);
  auto target = link_target(*split);
  if (!target) return std::move(target.error());
  if (!target->present) {
    if (!parents_set_) return false;
    auto found = layers_.find(entry.link, false);
    if (!found) return std::move(found.error());
    if (!found->present) return refuse(path, "the hard link's target does not exist");
    if (found->layer != 0 && !S_ISDIR(found->st.st_mode)) {
      if (auto copied = copy_up(*found); !copied) return std::move(copied.error());
      found = layers_.find(found->path, false);
      if (!found) return std::move(found.error());
    }
    target = std::move(found);
  }
  if (S_ISDIR(target->st.st_mode)) return refuse(path, "the hard link's target is a directory");
  struct stat st;
  if (fstatat(own.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
    if (st.st_ino == target->st.st_ino && st.st_dev == target->st.st_dev) return true;
    auto room = make_room({own.get(), parent.path}, name, path);
    if (!room) return std::move(room.error());
  }
  if (linkat(target->parent.get(), target->name.c_str(), own.get(), name.c_str(), 0) != 0) {
    return failure(errno, "hard link", path);
  }
  return true;
}

// A hard link's target where nearly all are: in this layer, no link on the way.
Result<Found> Unpack::link_target(const std::vector<std::string>& parts) {
  Found found;
  if (parts.empty()) return found;
  found.parent = open_beneath(layers_.root(0), join_path(parts, parts.size() - 1));
  if (!found.parent) return found;
  found.name = parts.back();
  if (fstatat(found.parent.get(), found.name.c_str(), &found.st, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno == ENOENT ? Result<Found>(std::move(found)) : failure(errno, "stat", found.name);
  }
  found.present = !is_whiteout(found.st);
  return found;
}

// Brings a file of a lower layer into this one at the same place, as overlayfs would before linking
// it.
Status Unpack::copy_up(const Found& found) {
  auto split = split_path(found.path);
  if (!split) return std::move(split.error());
  split->pop_back();
  Parent parent;
  auto ready = parent_of(*split, &parent);
  if (!ready) return std::move(ready.error());
  auto bytes = copy_node(found.parent.get(), found.name, found.st, parent.fd);
  if (!bytes) return std::move(bytes.error());
  totals_.inodes++;
  totals_.bytes += (*bytes + kBlock - 1) / kBlock * kBlock;
  return Done{};
}

Result<UnpackTotals> Unpack::finish() {
  if (auto closed = close_file(); !closed) return std::move(closed.error());
  const int root = layers_.root(0);
  if (!root_declared_) {
    struct stat st;
    if (layers_.size() > 1) {
      if (fstat(layers_.root(1), &st) != 0) return failure(errno, "stat", "/");
      auto copied = copy_inode(layers_.root(1), st, root);
      if (!copied) return std::move(copied.error());
      dir_times_[""] = nanoseconds(st.st_mtim);
    } else if (fchmod(root, 0755) != 0) {
      return failure(errno, "chmod", "/");
    }
  }
  for (const auto& [path, time] : dir_times_) {
    UniqueFd fd = open_beneath(root, path);
    if (!fd) return failure(errno, "open directory", path);
    auto done = set_times(fd.get(), time, path);
    if (!done) return std::move(done.error());
  }
  return totals_;
}

}  // namespace isopod::core
