// A stack of image layer directories seen as overlayfs would merge them: what a layer being
// unpacked needs to know about the layers below it, and how one file of an image is read without
// mounting anything.
//
// The rules are overlayfs's own (Documentation/filesystems/overlayfs.rst): a name in a nearer layer
// hides the same name further down; directories merge; a character device 0/0 is a whiteout; a
// directory with trusted.overlay.opaque=y ends the merge. Every step is one openat or fstatat
// relative to a directory fd, never following a link: links are followed here, as if the stack were
// the root of the filesystem, and a `..` that would climb above it is an error.
#pragma once

#include <sys/stat.h>

#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace isopod::core {

constexpr int kMaxLinks = 40;  // MAXSYMLINKS of the kernel

inline bool is_whiteout(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == 0; }

// A directory of the merged view: the layer directories that make it up, nearest first.
struct MergedDir {
  struct Part {
    size_t layer;
    UniqueFd fd;  // O_RDONLY | O_DIRECTORY
  };
  std::vector<Part> parts;
};

// What a name in a MergedDir is.
struct Child {
  bool present = false;
  size_t layer = 0;     // where it was found
  struct stat st = {};  // of the nearest one
  int parent = -1;      // borrowed from the MergedDir it was looked up in
  MergedDir dir;        // if it is a directory
};

// A path resolved through the merged view.
struct Found {
  bool present = false;
  std::string path;  // without links and dots
  size_t layer = 0;
  struct stat st = {};
  UniqueFd parent;   // directory of that layer that holds the name
  std::string name;  // last component
};

class Layers {
 public:
  // Opens every directory of `roots`, nearest first.
  static Result<Layers> open(const std::vector<std::string>& roots);

  size_t size() const { return roots_.size(); }
  int root(size_t layer) const { return roots_[layer].get(); }
  // Puts more layers below.
  Status append(const std::vector<std::string>& roots);
  // Forgets all layers but the nearest: its root is opaque.
  void cut() { roots_.resize(1); }

  Result<MergedDir> top() const;
  Result<Child> child(const MergedDir& dir, const std::string& name) const;
  // Resolves `path` (checked by split_path); the last component is not followed unless `follow`.
  Result<Found> find(const std::string& path, bool follow) const;

 private:
  std::vector<UniqueFd> roots_;
};

// Components of a relative path. "." and empty ones are dropped; "..", an absolute path, a NUL, a
// name over 255 bytes and a path over 4095 are errors, worded for an archive entry.
Result<std::vector<std::string>> split_path(const std::string& path);
std::string join_path(const std::vector<std::string>& parts, size_t count);

// Follows a link: `resolved` is where it lies, `rest` what follows it. The new components replace
// both. EXDEV-like error if it climbs above the root.
Result<std::vector<std::string>> splice_link(const std::vector<std::string>& resolved,
                                             const std::string& target,
                                             const std::vector<std::string>& rest);

Result<std::string> read_link(int dir, const std::string& name);

// Content of the regular file `path` in the stack, links followed; nothing if it does not exist.
struct LayerFile {
  bool present = false;
  std::string data;
};
Result<LayerFile> read_layers(const std::vector<std::string>& roots, const std::string& path,
                              size_t limit);

}  // namespace isopod::core
