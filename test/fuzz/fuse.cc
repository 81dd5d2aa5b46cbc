// FUSE requests of a hostile guest against a real tree, in sequence: each record of the input is
// {u32 opcode, u8 which nodeid, u8 length} and so many bytes. Oracle: what lies beside the tree
// stays as it is, besides what the sanitizers say.
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <string>

#include "fs/session.h"
#include "vmm/virtio/fs_protocol.h"

namespace {

using isopod::UniqueFd;
using isopod::fs::Arguments;
using isopod::fs::Options;
using isopod::fs::Reply;
using isopod::fs::Session;

int remove_one(const char* path, const struct stat*, int, FTW*) { return remove(path); }

struct Place {
  Place() {
    char name[] = "/tmp/isopod-fuzz-fuse-XXXXXX";
    if (mkdtemp(name) == nullptr) abort();
    base = name;
    mkdir((base + "/outside").c_str(), 0700);
    write_secret();
    proc.reset(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
    before = ids();
  }
  ~Place() { nftw(base.c_str(), remove_one, 16, FTW_DEPTH | FTW_PHYS); }

  void write_secret() const {
    const int fd = open((base + "/outside/secret").c_str(), O_CREAT | O_WRONLY, 0600);
    if (fd < 0 || write(fd, "secret", 6) != 6) abort();
    close(fd);
  }
  // A tree as at the beginning: a few names of one letter, links that lead out.
  void renew() const {
    const std::string tree = base + "/tree";
    nftw(tree.c_str(), remove_one, 16, FTW_DEPTH | FTW_PHYS);
    mkdir(tree.c_str(), 0700);
    mkdir((tree + "/d").c_str(), 0700);
    close(open((tree + "/f").c_str(), O_CREAT | O_WRONLY, 0600));
    if (symlink("../outside", (tree + "/o").c_str()) < 0 ||
        symlink("../outside/secret", (tree + "/s").c_str()) < 0 ||
        mkfifo((tree + "/p").c_str(), 0600) < 0)
      abort();
  }
  void judge() const {
    char text[8] = "";
    const int fd = open((base + "/outside/secret").c_str(), O_RDONLY);
    const bool same = read(fd, text, sizeof text) == 6 && memcmp(text, "secret", 6) == 0;
    close(fd);
    if (!same || ids() != before) abort();
  }

  struct Ids {
    nlink_t links, dirs;
    mode_t mode;
    uid_t uid;
    off_t size;
    bool operator!=(const Ids& o) const {
      return links != o.links || dirs != o.dirs || mode != o.mode || uid != o.uid || size != o.size;
    }
  };
  Ids ids() const {
    struct stat secret {
    }, outside{};
    stat((base + "/outside/secret").c_str(), &secret);
    stat((base + "/outside").c_str(), &outside);
    return {secret.st_nlink, outside.st_nlink, secret.st_mode, secret.st_uid, outside.st_size};
  }

  std::string base;
  UniqueFd proc;
  Ids before{};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Place place;
  place.renew();
  if (fchdir(place.proc.get()) < 0) abort();
  {
    Session session(
        UniqueFd(open((place.base + "/tree").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)),
        Options{place.proc.get(), 64, 8, "d"});
    while (size >= 6) {
      fuse_in_header header{};
      memcpy(&header.opcode, data, 4);
      header.opcode %= 64;
      header.nodeid = data[4] % 16;
      const size_t length = std::min<size_t>(data[5], size - 6);
      Reply reply(isopod::vmm::virtio::kFsReplyData);
      session.handle(header, Arguments(data + 6, length), reply);
      data += 6 + length;
      size -= 6 + length;
    }
  }
  place.judge();
  return 0;
}
