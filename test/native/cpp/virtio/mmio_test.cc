#include "virtio/echo.h"

namespace isopod::vmm::virtio::test {
namespace {

constexpr uint64_t kAll = kFeatureVersion1 | kFeatureIndirect | kFeatureEventIdx;

TEST("mmio: the identity registers and what is not there") {
  Echo device;
  Guest guest(device);
  CHECK(guest.get(0x00) == 0x74726976);
  CHECK(guest.get(0x04) == 2);
  CHECK(guest.get(0x08) == 42);
  CHECK(guest.offered() == (kAll | 1));
  guest.set(0x14, 2);
  CHECK(guest.get(0x10) == 0);
  guest.set(0x30, 1);
  CHECK(guest.get(0x34) == 64);
  guest.set(0x30, 2);
  CHECK(guest.get(0x34) == 0);
  CHECK(guest.get(0xb0) == UINT32_MAX && guest.get(0xbc) == UINT32_MAX);
  CHECK(guest.config<uint16_t>(3) == 0x0707);
}

TEST("mmio: below the configuration only aligned accesses of four bytes mean something") {
  Echo device;
  Guest guest(device);
  uint8_t bytes[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  guest.transport->read(0, bytes, 1);
  guest.transport->read(1, bytes + 1, 4);
  CHECK(bytes[0] == 0 && bytes[1] == 0 && bytes[4] == 0);
  const uint8_t one[2] = {1, 0};
  guest.transport->write(0x70, one, 2);
  CHECK(guest.status() == 0);
}

TEST("mmio: status takes one step at a time") {
  Echo device;
  Guest guest(device);
  for (uint32_t jump : {3U, 0xbU, 0xfU, 2U}) guest.set(0x70, jump);
  CHECK(guest.status() == 0);
  guest.set(0x70, 1);
  guest.set(0x70, 0xf);
  CHECK(guest.status() == 1);
  guest.set(0x70, 3);
  guest.set(0x70, 1);
  CHECK(guest.status() == 3);
  guest.set(0x70, 0x83);
  CHECK(guest.status() == 0x83);
  guest.set(0x70, 0xb);
  CHECK(guest.status() == 0x83);
  guest.reset();
  CHECK(guest.status() == 0);
  CHECK(device.activations == 0 && device.resets == 0);
}

TEST("mmio: features that were not offered are not accepted") {
  Echo device;
  Guest guest(device);
  guest.negotiate(kFeatureVersion1 | 2);
  CHECK(guest.status() == 3);
  guest.reset();
  guest.negotiate(1);  // no VERSION_1
  CHECK(guest.status() == 3);
  guest.reset();
  guest.set(0x70, 1);
  guest.set(0x70, 3);
  guest.set(0x24, 2);
  guest.set(0x20, 1);  // a feature beyond bit 63
  guest.set(0x24, 1);
  guest.set(0x20, 1);
  guest.set(0x70, 0xb);
  CHECK(guest.status() == 3);
  guest.reset();
  guest.negotiate(kFeatureVersion1 | 1);
  CHECK(guest.status() == 0xb);
  guest.set(0x24, 0);
  guest.set(0x20, 0);  // too late
  guest.set(0x70, 0xf);
  guest.loop.settle();
  CHECK(device.accepted == (kFeatureVersion1 | 1));
}

TEST("mmio: a running device is notified, interrupts, is reset and runs again") {
  Echo device;
  Guest guest(device);
  for (int round = 1; round <= 3; round++) {
    guest.start(kAll);
    CHECK(guest.status() == 0xf);
    CHECK(device.activations == round);
    // Each queue once by itself: a notification may have come before.
    CHECK((device.notified == std::vector<unsigned>{0, 1}));
    const Range out = guest.buffer_of(std::string("hello"));
    const Range in = guest.buffer(16);
    const uint16_t head = guest.add(1, {out}, {in});
    guest.kick(1);
    const auto used = guest.used(1);
    REQUIRE(used.size() == 1);
    CHECK(used[0].id == head && used[0].length == 5);
    CHECK(guest.text(in, 5) == "hello");
    CHECK(guest.interrupts() == 1);
    CHECK(guest.get(0x60) == 1);
    guest.set(0x64, 1);
    CHECK(guest.get(0x60) == 0);
    guest.reset();
    CHECK(device.resets == round);
    CHECK(guest.loop.watched() == 0);
    device.notified.clear();
  }
}

TEST("mmio: what was offered before DRIVER_OK is served without a notification") {
  Echo device;
  Guest guest(device);
  guest.negotiate(kFeatureVersion1);
  guest.setup_queue(0, 8);
  guest.add(0, {guest.buffer_of(std::string("early"))}, {guest.buffer(8)});
  guest.set(0x70, 0xf);
  guest.loop.settle();
  CHECK(guest.used(0).size() == 1);
  CHECK(device.queues[1] == nullptr);
}

TEST("mmio: rings that are too large, odd, misaligned or outside memory stop the device") {
  const uint64_t end = kMinMemory;
  struct {
    uint32_t size;
    uint64_t descriptors, available, used;
  } const bad[] = {
      {0, 0x1000, 0x2000, 0x3000},          {3, 0x1000, 0x2000, 0x3000},
      {128, 0x1000, 0x2000, 0x3000},        {0x10008, 0x1000, 0x2000, 0x3000},  // 8 in sixteen bits
      {8, 0x1008, 0x2000, 0x3000},          {8, 0x1000, 0x2001, 0x3000},
      {8, 0x1000, 0x2000, 0x3002},          {8, end - 112, 0x2000, 0x3000},
      {8, 0x1000, end - 20, 0x3000},        {8, 0x1000, 0x2000, end - 68},
      {8, UINT64_MAX - 15, 0x2000, 0x3000}, {8, 0x1000, UINT64_MAX - 1, 0x3000},
      {8, 0xc0000000, 0x2000, 0x3000},
  };
  for (const auto& one : bad) {
    Echo device;
    Guest guest(device);
    guest.negotiate(kFeatureVersion1);
    guest.place(0, one.size, one.descriptors, one.available, one.used);
    guest.set(0x70, 0xf);
    guest.loop.settle();
    CHECK(guest.status() == 0x4b);
    CHECK(device.activations == 0);
    guest.reset();
    guest.start();
    CHECK(guest.status() == 0xf);
  }
  // The last bytes of memory are memory.
  Echo device;
  Guest guest(device);
  guest.negotiate(kFeatureVersion1);
  guest.place(0, 8, end - 128, 0x2000, 0x3000);
  guest.place(1, 8, 0x1000, 0x4000, end - 72);
  guest.set(0x70, 0xf);
  guest.loop.settle();
  CHECK(guest.status() == 0xf);
}

TEST("CVE-2026-5747: a queue's registers are frozen while the device runs") {
  Echo device;
  Guest guest(device);
  guest.start(kFeatureVersion1, 8);
  // The used ring of 8 entries lies at the very end of what the driver gave; 64 would go beyond.
  guest.set(0x44, 0);
  guest.place(0, 64, 0x4000, 0x5000, kMinMemory - 72);
  guest.set(0x30, 0);
  CHECK(guest.get(0x44) == 1);
  CHECK(device.queues[0]->size() == 8);
  guest.add(0, {guest.buffer_of(std::string("x"))}, {guest.buffer(1)});
  guest.kick(0);
  CHECK(guest.used(0).size() == 1);
  // Nor do they take effect later: what a snapshot would keep is what the rings were.
  Echo other;
  Guest restored(other);
  memcpy(restored.at(0, kMinMemory), guest.at(0, kMinMemory), 0x200000);
  REQUIRE(restored.transport->load(guest.transport->save()));
  CHECK(other.queues[0]->size() == 8);
}

TEST("mmio: a driver that breaks a ring finds NEEDS_RESET, and may start anew") {
  Echo device;
  Guest guest(device);
  guest.start(kAll, 8);
  guest.interrupts();
  guest.memory.write<uint16_t>(guest.ring(0).available + 2, 9);
  guest.kick(0);
  CHECK(guest.status() == 0x4f);
  CHECK(guest.interrupts() >= 1);
  CHECK((guest.get(0x60) & 2) != 0);
  CHECK(guest.get(0xfc) == 1);
  CHECK(device.resets == 1);
  CHECK(guest.loop.watched() == 0);
  guest.kick(1);
  guest.reset();
  CHECK(device.resets == 1);
  guest.start(kAll, 8);
  CHECK(guest.status() == 0x0f);
}

TEST("mmio: writes to the configuration reach a device that has a driver") {
  Echo device;
  Guest guest(device);
  const uint8_t byte = 1;
  guest.transport->write(0x100, &byte, 1);
  CHECK(device.config_writes == 0);
  guest.start();
  guest.transport->write(0x100, &byte, 1);
  CHECK(device.config_writes == 1);
}

TEST("mmio: a saved transport goes on where it was") {
  Echo device;
  Echo successor;
  Guest guest(device);
  guest.start(kAll, 16);
  for (int i = 0; i < 5; i++) {
    guest.add(0, {guest.buffer_of(std::string("a"))}, {guest.buffer(4)});
    guest.kick(0);
  }
  guest.used(0);
  const std::vector<uint8_t> state = guest.transport->save();
  // In the same memory, a transport of another life.
  auto made = Transport::create(guest.memory, guest.loop, successor);
  REQUIRE(bool(made));
  guest.transport = std::move(*made);
  REQUIRE(guest.transport->load(state));
  CHECK(successor.accepted == kAll);
  CHECK(guest.interrupts() == 1);
  const uint16_t head = guest.add(0, {guest.buffer_of(std::string("after"))}, {guest.buffer(8)});
  guest.kick(0);
  const auto used = guest.used(0);
  REQUIRE(used.size() == 1);
  CHECK(used[0].id == head && used[0].length == 5);
}

TEST("mmio: a damaged snapshot is refused") {
  Echo device;
  Guest guest(device);
  guest.start(kAll, 16);
  const std::vector<uint8_t> state = guest.transport->save();
  const auto loads = [](const std::vector<uint8_t>& bytes) {
    Echo fresh;
    Guest other(fresh);
    return other.transport->load(bytes);
  };
  CHECK(loads(state));
  for (size_t size = 0; size < state.size(); size++)
    CHECK(!loads({state.begin(), state.begin() + static_cast<ptrdiff_t>(size)}));
  for (size_t i = 0; i < 12; i++) {
    std::vector<uint8_t> other = state;
    other[i] ^= 0x15;  // magic, device, status
    CHECK(!loads(other));
  }
  std::vector<uint8_t> other = state;
  other[48 + 24] = 0x11;  // the first queue's size: 17
  CHECK(!loads(other));
  other = state;
  other[48 + 7] = 0xff;  // its descriptors: far outside
  CHECK(!loads(other));
  other = state;
  other[36] |= 0x40;  // a feature that is not offered
  CHECK(!loads(other));
}

TEST("threads: four vCPUs and the loop over one device") {
  Echo device;
  Guest guest(device);
  guest.start(kAll, 8);
  std::atomic<bool> stop{false};
  std::atomic<int> ended{0};
  std::vector<std::thread> vcpus;
  for (unsigned i = 0; i < 4; i++)
    vcpus.emplace_back([&, i] {
      unsigned state = i;
      for (int round = 0; round < 2000 && !stop; round++) {
        state = state * 1103515245 + 12345;
        switch ((state >> 16) % 8) {
          case 0:
            if (i != 0) break;
            guest.set(0x70, 0);
            guest.negotiate(kAll);
            guest.place(0, 8, kRings, kRings + 0x8000, kRings + 0xc000);
            guest.set(0x70, 0xf);
            break;
          case 1:
            guest.get(0x60);
            guest.set(0x64, 3);
            break;
          case 2:
            guest.status();
            break;
          default:
            guest.set(0x50, state & 1);
        }
      }
      ended++;
    });
  CHECK(guest.loop.until([&] { return ended.load() == 4; }));
  for (auto& vcpu : vcpus) vcpu.join();
  guest.loop.settle();
  guest.reset();
  CHECK(guest.loop.watched() == 0);
}

TEST("threads: a reset does not wait for a loop that has ended") {
  // A loop that ends drops its tasks: this one drops all.
  class Dead final : public Loop {
    bool watch(int, uint32_t, Handler) override { return true; }
    void rearm(int, uint32_t) override {}
    void unwatch(int) override {}
    Timer after(uint64_t, std::function<void()>) override { return 0; }
    void cancel(Timer) override {}
    void post(std::function<void()>) override {}
    uint64_t now() const override { return 0; }
  } dead;
  Echo device;
  Guest guest(device);
  guest.start(kAll, 8);
  auto made = Transport::create(guest.memory, dead, device);
  REQUIRE(bool(made));
  guest.transport = std::move(*made);
  guest.negotiate(kFeatureVersion1);
  guest.set(0x70, 0xf);
  guest.set(0x70, 0);
  CHECK(guest.status() == 0);
}

}  // namespace
}  // namespace isopod::vmm::virtio::test
