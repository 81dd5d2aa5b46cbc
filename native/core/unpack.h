// Applies the entries of one image layer below a directory that becomes an overlay layer.
//
// What an entry names never leaves the root. Parents are opened by openat2(RESOLVE_BENEATH |
// RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV); only where that fails, because a directory is not
// declared by this layer or is a link, the path is walked name by name through the merged view of
// this layer and those below it (layers.h), and directories on the way that this layer lacks are
// made with the mode, owner, times and extended attributes they have below: what a copy-up would
// do. The last component is made by O_EXCL, *at(…) calls that follow nothing.
//
// Refused: absolute names, "..", links on the way that climb above the root, trusted.* attributes
// (they are overlayfs's own control data), a device 0:0 (overlayfs's whiteout), and an entry of
// another type over a directory of the same layer: no file system walk writes that, but a swap of a
// directory for a link does.
//
// Whiteouts: ".wh.NAME" hides NAME of the layers below only (image-spec, layer.md): beside a NAME
// of the same layer it makes a directory opaque and is otherwise without effect.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "core/layers.h"

namespace isopod::core {

struct UnpackEntry {
  enum Type { kFile, kDirectory, kSymlink, kHardlink, kChar, kBlock, kFifo };
  Type type = kFile;
  std::string path;
  std::string link;
  uint32_t mode = 0;  // permission bits, setuid, setgid, sticky
  uint32_t uid = 0;
  uint32_t gid = 0;
  int64_t mtime = 0;  // nanoseconds since 1970
  uint32_t major = 0;
  uint32_t minor = 0;
  std::vector<std::pair<std::string, std::string>> xattrs;
  const uint8_t* data = nullptr;  // borrowed for the call
  size_t size = 0;
};

struct UnpackTotals {
  bool opaque = false;  // the root hides all layers below
  uint64_t bytes = 0;   // of file content, rounded up to 4 KiB blocks
  uint64_t inodes = 0;
};

// Not thread-safe: one call at a time, from any thread.
class Unpack {
 public:
  static Result<std::unique_ptr<Unpack>> open(const std::string& root);

  // The layers below, nearest first, once they are complete. Needed before finish().
  Status set_parents(const std::vector<std::string>& parents);

  enum class Outcome { kApplied, kNeedsParents };
  // kNeedsParents: nothing was done; the entry asks about the layers below, and they are not set
  // yet.
  Result<Outcome> apply(const UnpackEntry& entry);
  // More content of the file that the last entry made.
  Status write(const uint8_t* data, size_t size);
  // Directory times, attributes of an undeclared root.
  Result<UnpackTotals> finish();

 private:
  struct Parent {
    int fd = -1;  // borrowed from cache_
    std::string path;
  };
  struct OpenFile {
    UniqueFd fd;
    UnpackEntry meta;
    uint64_t size = 0;
  };

  Result<bool> parent_of(const std::vector<std::string>& parts, Parent* parent);
  Result<bool> walk(std::vector<std::string> parts, Parent* parent);
  Result<UniqueFd> make_parent(int dir, const std::string& name, const std::string& path,
                               const Child& below);
  Status whiteout(const Parent& parent, const std::string& name);
  Status directory(const Parent& parent, const std::string& name, const UnpackEntry& entry);
  Status file(const Parent& parent, const std::string& name, const UnpackEntry& entry);
  Status special(const Parent& parent, const std::string& name, const UnpackEntry& entry);
  Result<bool> hardlink(const Parent& parent, const std::string& name, const UnpackEntry& entry);
  Result<Found> link_target(const std::vector<std::string>& parts);
  Status copy_up(const Found& found);
  Status make_room(const Parent& parent, const std::string& name, const std::string& path);
  Status close_file();

  Layers layers_;  // [0] is the root being filled
  std::unordered_map<std::string, int64_t> dir_times_;
  std::string cached_path_;
  UniqueFd cached_;
  OpenFile open_file_;
  bool parents_set_ = false;
  bool root_declared_ = false;
  UnpackTotals totals_;
};

}  // namespace isopod::core
