// The ring walker against drivers that break the rules. Echo serves the chains: what it may touch
// is guest memory and nothing else, which the sanitizers and the lack of neighbours watch over.
#include "virtio/echo.h"

namespace isopod::vmm::virtio::test {
namespace {

constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4;
constexpr uint64_t kEnd = kMinMemory;

// One descriptor table, prepared by hand, offered as head 0.
struct Broken {
  Broken(uint64_t features = kFeatureVersion1 | kFeatureIndirect) : guest(device) {
    guest.start(features, 8);
  }
  bool stops() {
    guest.offer(0, 0);
    guest.kick(0);
    return guest.status() == 0x4f && device.served == 0;
  }
  bool serves() {
    guest.offer(0, 0);
    guest.kick(0);
    return guest.status() == 0xf && device.served == 1;
  }
  Echo device;
  Guest guest;
};

TEST("queue: addresses outside memory, and sums that wrap") {
  const struct {
    uint64_t address;
    uint32_t length;
  } bad[] = {{kEnd, 1},       {kEnd - 1, 2},   {UINT64_MAX, 1},     {UINT64_MAX - 3, 8},
             {0xc0000000, 1}, {0, UINT32_MAX}, {kEnd - 4096, 4097}, {0x8000000000000000, 1}};
  for (const auto& one : bad)
    for (const uint16_t flags : {uint16_t{0}, kWrite}) {
      Broken broken;
      broken.guest.descriptor(0, 0, one.address, one.length, flags, 0);
      CHECK(broken.stops());
    }
  Broken fits;
  fits.guest.descriptor(0, 0, kEnd - 4096, 4096, kWrite, 0);
  CHECK(fits.serves());
}

TEST("queue: a buffer does not cross the hole between two slots") {
  Echo device;
  GuestMemory memory = make_memory(kLowLimit + (uint64_t{64} << 20));
  QueueSetup setup{8, true, 0x1000, 0x2000, 0x3000};
  auto queue = Queue::create(memory, setup, 8, kFeatureVersion1);
  REQUIRE(queue.has_value());
  const auto offer = [&](uint64_t address, uint32_t length, uint16_t index) {
    memory.write(0x1000, address);
    memory.write(0x1008, length);
    memory.write(0x100c, uint32_t{0});
    memory.write(0x2004 + 2 * uint64_t(index - 1), uint16_t{0});
    memory.write(0x2002, index);
  };
  Chain chain;
  offer(kHighStart, 16, 1);
  CHECK(queue->pop(chain));
  offer(kLowLimit - 16, 16, 2);
  CHECK(queue->pop(chain));
  offer(kLowLimit - 8, 16, 3);
  CHECK(!queue->pop(chain) && queue->broken());
  // Nor does a ring.
  setup.descriptors = kLowLimit - 16;
  CHECK(!Queue::create(memory, setup, 8, 0).has_value());
}

TEST("queue: loops and chains that are too long end") {
  Broken self;
  self.guest.descriptor(0, 0, kBuffers, 1, kNext, 0);
  CHECK(self.stops());
  Broken ring;
  for (uint16_t i = 0; i < 8; i++)
    ring.guest.descriptor(0, i, kBuffers, 1, kNext, static_cast<uint16_t>((i + 1) % 8));
  CHECK(ring.stops());
  Broken full;
  for (uint16_t i = 0; i < 8; i++)
    full.guest.descriptor(0, i, kBuffers, 1, i < 7 ? kNext : 0, static_cast<uint16_t>(i + 1));
  CHECK(full.serves());
}

TEST("queue: indices beyond the table") {
  Broken head;
  head.guest.offer(0, 8);
  head.guest.kick(0);
  CHECK(head.guest.status() == 0x4f);
  Broken next;
  next.guest.descriptor(0, 0, kBuffers, 1, kNext, 8);
  CHECK(next.stops());
}

TEST("queue: zero-length buffers") {
  Broken broken;
  broken.guest.descriptor(0, 0, kBuffers, 0, 0, 0);
  CHECK(broken.stops());
}

TEST("queue: readable after writable") {
  Broken broken;
  broken.guest.descriptor(0, 0, kBuffers, 8, kWrite | kNext, 1);
  broken.guest.descriptor(0, 1, kBuffers, 8, 0, 0);
  CHECK(broken.stops());
}

TEST("queue: more than 4 GiB in one chain") {
  Echo device;
  GuestMemory memory = make_memory(uint64_t{2} << 30);
  const QueueSetup setup{8, true, 0x1000, 0x2000, 0x3000};
  for (const int pieces : {2, 4}) {
    auto queue = Queue::create(memory, setup, 8, kFeatureVersion1);
    REQUIRE(queue.has_value());
    for (int i = 0; i < pieces; i++) {
      const uint64_t at = 0x1000 + 16 * static_cast<uint64_t>(i);
      memory.write(at, uint64_t{0x10000000});
      memory.write(at + 8, uint32_t{0x40000000});
      memory.write(at + 12, static_cast<uint16_t>(i + 1 < pieces ? kNext : 0));
      memory.write(at + 14, static_cast<uint16_t>(i + 1));
    }
    memory.write(0x2002, uint16_t{1});
    Chain chain;
    CHECK(queue->pop(chain) == (pieces == 2));
    CHECK(queue->broken() == (pieces == 4));
  }
}

TEST("queue: indirect tables") {
  const uint64_t table = 0x8000;
  const auto indirect = [&](Broken& broken, uint32_t length, uint16_t flags = 0) {
    broken.guest.descriptor(0, 0, table, length, kIndirect | flags, 1);
    for (uint64_t i = 0; i < 10; i++)
      broken.guest.descriptor_at(table + 16 * i, kBuffers, 4, kNext, static_cast<uint16_t>(i + 1));
    broken.guest.descriptor_at(table + 16, kBuffers, 4, kWrite, 0);
  };
  Broken good;
  indirect(good, 32);
  CHECK(good.serves());
  Broken after;  // "zero or more normal descriptors followed by one indirect" (2.7.5.3.2)
  indirect(after, 32);
  after.guest.descriptor(0, 1, table, 32, kIndirect, 0);
  after.guest.descriptor(0, 0, kBuffers, 4, kNext, 1);
  CHECK(after.serves());

  Broken refused(kFeatureVersion1);  // not negotiated
  indirect(refused, 32);
  CHECK(refused.stops());
  for (const uint32_t length : {0U, 8U, 33U, UINT32_MAX}) {
    Broken odd;
    indirect(odd, length);
    CHECK(odd.stops());
  }
  Broken followed;
  indirect(followed, 32, kNext);
  CHECK(followed.stops());
  Broken nested;
  indirect(nested, 32);
  nested.guest.descriptor_at(table, table, 32, kIndirect, 0);
  CHECK(nested.stops());
  Broken beyond;  // next leads out of the table, into memory that looks like one
  indirect(beyond, 16);
  CHECK(beyond.stops());
  Broken endless;
  indirect(endless, 160);
  endless.guest.descriptor_at(table + 16, kBuffers, 4, kNext, 2);
  CHECK(endless.stops());
  Broken outside;
  outside.guest.descriptor(0, 0, kEnd - 16, 32, kIndirect, 0);
  CHECK(outside.stops());
}

TEST("queue: an available index that jumps does not serve the ring again and again") {
  Broken broken;
  broken.guest.descriptor(0, 0, kBuffers, 4, 0, 0);
  broken.guest.memory.write<uint16_t>(broken.guest.ring(0).available + 2, 9);
  broken.guest.kick(0);
  CHECK(broken.guest.status() == 0x4f && broken.device.served == 0);
  Broken backwards;
  backwards.guest.memory.write<uint16_t>(backwards.guest.ring(0).available + 2, 0xffff);
  backwards.guest.kick(0);
  CHECK(backwards.guest.status() == 0x4f && backwards.device.served == 0);
}

TEST("queue: a head offered again while it is in flight") {
  GuestMemory memory = make_memory();
  auto queue = Queue::create(memory, {4, true, 0x1000, 0x2000, 0x3000}, 4, kFeatureVersion1);
  REQUIRE(queue.has_value());
  memory.write(0x1000, uint64_t{0x5000});
  memory.write(0x1008, uint32_t{4});
  Chain chain;
  for (uint16_t i = 1; i <= 4; i++) {
    memory.write(0x2002, i);
    CHECK(queue->pop(chain));
  }
  memory.write(0x2002, uint16_t{5});
  CHECK(!queue->pop(chain) && queue->broken());
}

TEST("queue: indices wrap") {
  Echo device;
  Guest guest(device);
  guest.start(kFeatureVersion1 | kFeatureEventIdx, 4);
  const Range out = guest.buffer_of(std::string("abc"));
  const Range in = guest.buffer(4);
  for (int i = 0; i < 70000; i++) {
    guest.add(0, {out}, {in});
    device.notify(0);
    REQUIRE(guest.used(0).size() == 1);
  }
  CHECK(guest.status() == 0xf);
}

TEST("queue: interrupts only when they are wanted") {
  Echo device;
  Guest guest(device);
  const auto send = [&](int count) {
    for (int i = 0; i < count; i++) guest.add(0, {guest.buffer_of(std::string("x"))}, {});
    guest.kick(0);
    return guest.interrupts();
  };
  guest.start(kFeatureVersion1, 8);
  CHECK(send(1) == 1);
  CHECK(send(3) == 1);  // together
  guest.memory.write<uint16_t>(guest.ring(0).available, 1);
  CHECK(send(1) == 0);
  guest.reset();
  guest.interrupts();

  guest.start(kFeatureVersion1 | kFeatureEventIdx, 8);
  const uint64_t used_event = guest.ring(0).available + 4 + 2 * 8;
  CHECK(send(1) == 1);
  CHECK(send(1) == 0);  // used_event is still 0
  guest.memory.write<uint16_t>(used_event, 4);
  CHECK(send(2) == 0);
  CHECK(send(1) == 1);
  // We ask to be notified at the next one.
  CHECK(*guest.memory.read<uint16_t>(guest.ring(0).used + 4 + 8 * 8) == 5);
}

TEST("queue: chains taken back are popped again") {
  GuestMemory memory = make_memory();
  auto queue = Queue::create(memory, {4, true, 0x1000, 0x2000, 0x3000}, 4, kFeatureVersion1);
  REQUIRE(queue.has_value());
  for (uint16_t i = 0; i < 4; i++) {
    memory.write(0x1000 + 16 * uint64_t{i}, uint64_t{0x5000});
    memory.write(0x1008 + 16 * uint64_t{i}, uint32_t{i + 1U});
    memory.write(0x2004 + 2 * uint64_t{i}, i);
  }
  memory.write(0x2002, uint16_t{4});
  Chain chain;
  CHECK(queue->pop(chain) && queue->pop(chain) && queue->pop(chain));
  queue->unpop(2);
  CHECK(queue->pop(chain) && chain.head == 1 && chain.readable_bytes == 2);
  CHECK(queue->in_flight() == 2);
}

TEST("iovecs: bytes across pieces") {
  char a[3] = {'a', 'b', 'c'};
  char b[1] = {'d'};
  char c[4] = {'e', 'f', 'g', 'h'};
  const std::vector<iovec> pieces{{a, 3}, {b, 1}, {c, 4}};
  char out[8] = {};
  CHECK(gather(pieces, 2, out, 4) == 4 && memcmp(out, "cdef", 4) == 0);
  CHECK(gather(pieces, 6, out, 8) == 2 && memcmp(out, "gh", 2) == 0);
  CHECK(gather(pieces, 8, out, 1) == 0);
  CHECK(scatter(pieces, 3, "XYZ", 3) == 3 && b[0] == 'X' && c[1] == 'Z');
  std::vector<iovec> part;
  CHECK(slice(pieces, 1, 4, part) == 4 && part.size() == 3);
  CHECK(part[0].iov_base == a + 1 && part[2].iov_len == 1);
}

}  // namespace
}  // namespace isopod::vmm::virtio::test
