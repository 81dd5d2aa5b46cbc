#include "vmm/virtio/blk.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "virtio/file.h"
#include "virtio/guest.h"

namespace isopod::vmm::virtio::test {
namespace {

constexpr uint64_t kFlush = 1 << 9, kRo = 1 << 5, kDiscard = 1 << 13, kZeroes = 1 << 14;
constexpr size_t kSectors = 64;

struct Disk {
  explicit Disk(bool read_only = false, uint64_t features = kFlush, Limits limits = {}) {
    std::string bytes(kSectors * 512, '\0');
    for (size_t i = 0; i < kSectors; i++) bytes[512 * i] = static_cast<char>('A' + i % 26);
    UniqueFd file = memory_file(bytes);
    fd = file.get();
    auto made = Blk::create(loop, {std::move(file), read_only, "disk-0123456789", limits});
    if (!made) abort();
    device = std::move(*made);
    guest = std::make_unique<Guest>(*device, &loop);
    guest->start(features | kFeatureVersion1);
  }
  Range header(uint32_t type, uint64_t sector) {
    const struct {
      uint32_t type, reserved;
      uint64_t sector;
    } bytes{type, 0, sector};
    return guest->buffer_of(bytes);
  }
  // The status, or -1: nothing came back. `length`: what the used ring says.
  int run(const std::vector<Range>& readable, std::vector<Range> writable) {
    const Range status = guest->buffer(1);
    *guest->at(status.address, 1) = 0xee;
    writable.push_back(status);
    guest->add(0, readable, writable);
    guest->set(0x50, 0);
    const auto used = guest->wait_used(0, 1);
    if (used.size() != 1) return -1;
    length = used[0].length;
    return *guest->at(status.address, 1);
  }
  int request(uint32_t type, uint64_t sector, std::vector<Range> out, std::vector<Range> in) {
    out.insert(out.begin(), header(type, sector));
    return run(out, std::move(in));
  }
  TestLoop loop;
  int fd = -1;
  std::unique_ptr<Blk> device;
  std::unique_ptr<Guest> guest;
  uint32_t length = 0;
};

TEST("blk: says what it is") {
  Disk disk;
  CHECK(disk.guest->config<uint64_t>(0) == kSectors);
  CHECK(disk.guest->config<uint32_t>(20) == 512);
  CHECK(disk.guest->config<uint16_t>(34) == 1);
  CHECK(disk.guest->config<uint64_t>(200) == 0);
  CHECK((disk.guest->offered() & (kRo | kFlush)) == kFlush);
  Disk fixed(true);
  CHECK((fixed.guest->offered() & (kRo | kDiscard)) == kRo);
}

TEST("blk: reads and writes sectors, from buffers of any shape") {
  Disk disk;
  const Range in = disk.guest->buffer(1024);
  CHECK(disk.request(0, 1, {}, {{in.address, 100}, {in.address + 100, 924}}) == 0);
  CHECK(disk.length == 1025);
  CHECK(disk.guest->text(in, 1) == "B");
  CHECK(*disk.guest->at(in.address + 512, 1) == 'C');

  const Range out = disk.guest->buffer_of(std::string(1024, 'w'));
  CHECK(disk.request(1, 62, {{out.address, 1}, {out.address + 1, 1023}}, {}) == 0);
  CHECK(disk.length == 1);
  CHECK(contents_of(disk.fd, 62 * 512, 1024) == std::string(1024, 'w'));

  // Header and status anywhere (2.7.4.3: no assumption about the framing).
  const Range header = disk.header(1, 0);
  const Range joined = disk.guest->buffer(16 + 512);
  memcpy(disk.guest->at(joined.address, 16), disk.guest->at(header.address, 16), 16);
  memset(disk.guest->at(joined.address + 16, 512), 'j', 512);
  CHECK(disk.run({{joined.address, 7}, {joined.address + 7, 521}}, {}) == 0);
  CHECK(contents_of(disk.fd, 0, 512) == std::string(512, 'j'));
}

TEST("blk: nothing beyond its end, and no sector wraps") {
  Disk disk;
  const Range data = disk.guest->buffer_of(std::string(1024, 'x'));
  for (const uint64_t sector : {uint64_t{63}, uint64_t{64}, uint64_t{65}, UINT64_MAX,
                                UINT64_MAX / 512, UINT64_MAX / 512 + 1, uint64_t{1} << 55}) {
    CHECK(disk.request(1, sector, {data}, {}) == 1);
    CHECK(disk.request(0, sector, {}, {data}) == 1);
  }
  struct stat info {};
  ::fstat(disk.fd, &info);
  CHECK(info.st_size == kSectors * 512);
  CHECK(disk.request(0, 0, {}, {{data.address, 511}}) == 1);
  CHECK(disk.request(0, 64, {}, {}) == 0);
}

TEST("blk: a file that became shorter is an error, not zeroes") {
  Disk disk;
  CHECK(::ftruncate(disk.fd, 512) == 0);
  const Range in = disk.guest->buffer(1024);
  CHECK(disk.request(0, 0, {}, {in}) == 1);
  CHECK(disk.length == 512);
}

TEST("blk: read-only disks are not written") {
  Disk disk(true);
  const std::string before = contents_of(disk.fd, 0, kSectors * 512);
  const Range data = disk.guest->buffer_of(std::string(512, 'x'));
  CHECK(disk.request(1, 0, {data}, {}) == 1);
  CHECK(disk.request(11, 0, {data}, {}) == 1);
  CHECK(disk.request(13, 0, {data}, {}) == 1);
  CHECK(contents_of(disk.fd, 0, kSectors * 512) == before);
  CHECK(disk.request(0, 0, {}, {data}) == 0);
}

TEST("blk: flush, serial and what it does not know") {
  Disk disk;
  CHECK(disk.request(4, 0, {}, {}) == 0);
  const Range id = disk.guest->buffer(20);
  CHECK(disk.request(8, 0, {}, {id}) == 0);
  CHECK(disk.guest->text(id, 20) == std::string("disk-0123456789") + std::string(5, '\0'));
  CHECK(disk.request(8, 0, {}, {{id.address, 4}}) == 0);
  CHECK(disk.length == 5);
  CHECK(disk.request(99, 0, {}, {}) == 2);
  TestLoop loop;
  auto long_serial = Blk::create(loop, {memory_file("x"), false, std::string(21, 's'), {}});
  CHECK(!long_serial);
  int pair[2];
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
  CHECK(!Blk::create(loop, {UniqueFd(pair[0]), false, "", {}}));
  ::close(pair[1]);
}

TEST("blk: discard and write-zeroes") {
  Disk disk(false, kFlush | kDiscard | kZeroes);
  struct Range32 {
    uint64_t sector;
    uint32_t sectors, flags;
  };
  const auto one = [&](uint32_t type, Range32 range) {
    return disk.request(type, 0, {disk.guest->buffer_of(range)}, {});
  };
  CHECK(one(11, {8, 8, 0}) == 0);
  CHECK(contents_of(disk.fd, 8 * 512, 4096) == std::string(4096, '\0'));
  CHECK(contents_of(disk.fd, 16 * 512, 1) == "Q");
  CHECK(one(13, {16, 1, 0}) == 0);
  CHECK(one(13, {17, 1, 1}) == 0);
  CHECK(contents_of(disk.fd, 16 * 512, 1024) == std::string(1024, '\0'));
  CHECK(contents_of(disk.fd, 18 * 512, 1) == "S");
  CHECK(one(11, {8, 8, 1}) == 2);
  CHECK(one(13, {8, 8, 2}) == 2);
  CHECK(one(11, {60, 5, 0}) == 1);
  CHECK(one(11, {UINT64_MAX, 2, 0}) == 1);
  CHECK(one(13, {0, UINT32_MAX, 0}) == 1);
  CHECK(disk.request(11, 0, {disk.guest->buffer(15)}, {}) == 1);
  CHECK(disk.request(11, 0, {}, {}) == 1);
  CHECK(disk.request(11, 0, {disk.guest->buffer(16 * 17)}, {}) == 1);
  struct stat info {};
  ::fstat(disk.fd, &info);
  CHECK(info.st_size == kSectors * 512);
}

TEST("blk: a request without header or status breaks the rules") {
  Disk disk;
  disk.guest->add(0, {disk.guest->buffer(15)}, {disk.guest->buffer(1)});
  disk.guest->kick(0);
  CHECK(disk.guest->status() == 0x4f);
  Disk other;
  other.guest->add(0, {other.header(0, 0)}, {});
  other.guest->kick(0);
  CHECK(other.guest->status() == 0x4f);
}

TEST("blk: many at once, through the limit") {
  Disk disk(false, kFlush, {{}, {2, 0, 1000}});
  std::vector<Range> data;
  for (uint64_t i = 0; i < 8; i++) {
    data.push_back(disk.guest->buffer(513));
    disk.guest->add(0, {disk.header(0, i)}, {data.back()});
  }
  disk.guest->set(0x50, 0);
  size_t got = disk.guest->wait_used(0, 2).size();
  CHECK(got == 2);
  for (int i = 0; i < 3; i++) {
    disk.loop.advance(1'000'000'000);
    got += disk.guest->wait_used(0, 2).size();
  }
  CHECK(got == 8);
  for (size_t i = 0; i < 8; i++)
    CHECK(*disk.guest->at(data[i].address, 1) == static_cast<uint8_t>('A' + i));
}

TEST("blk: a snapshot holds no request in the middle") {
  Disk disk;
  const Range in = disk.guest->buffer(513);
  disk.guest->add(0, {disk.header(0, 2)}, {in});
  disk.guest->set(0x50, 0);
  disk.loop.turn();
  disk.guest->transport->save();
  CHECK(disk.guest->used(0).size() == 1);
  CHECK(disk.guest->text(in, 1) == "C");
}

TEST("CVE-2021-3748: a disk that is reset while its worker reads touches no buffer afterwards") {
  Disk disk;
  for (int round = 0; round < 50; round++) {
    for (uint64_t i = 0; i < 8; i++)
      disk.guest->add(0, {disk.header(i % 2 == 0 ? 0 : 4, i)}, {disk.guest->buffer(513)});
    disk.guest->set(0x50, 0);
    disk.loop.turn();
    disk.guest->reset();
    // From now on the memory is the driver's: a late write would be seen.
    const Range late{kBuffers, 1 << 20};
    memset(disk.guest->at(late.address, late.size), 0x5a, late.size);
    disk.loop.settle();
    const std::string after = disk.guest->text(late, late.size);
    CHECK(after.find_first_not_of('\x5a') == std::string::npos);
    disk.guest->start(kFlush);
  }
}

}  // namespace
}  // namespace isopod::vmm::virtio::test
