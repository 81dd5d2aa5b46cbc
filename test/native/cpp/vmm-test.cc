// The parts of the VMM that need no KVM: guest memory, buses, the event loop. TAP on stdout.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstring>
#include <future>
#include <string>
#include <vector>

#include "tap.h"
#include "vmm/bus.h"
#include "vmm/event_loop.h"
#include "vmm/memory.h"

namespace {

using namespace isopod;
using namespace isopod::vmm;
using tap::is;
using tap::ok;

void memory_bounds() {
  ok(!GuestMemory::create(kMinMemory - kPageSize) && !GuestMemory::create(kMinMemory + 1),
     "too little memory and half pages are refused");
  Result<GuestMemory> small = GuestMemory::create(kMinMemory);
  ok(small.ok() && small->slots().size() == 1 && small->bytes() == kMinMemory, "one slot");
  ok(small->span(0, kMinMemory) && small->span(kMinMemory - 1, 1), "all of it is reached");
  ok(!small->span(0, 0) && !small->span(kMinMemory - 1, 2) && !small->span(kMinMemory, 1) &&
         !small->span(~uint64_t{0}, 1) && !small->span(1, ~uint64_t{0}),
     "nothing beyond it, and no sum wraps");

  const uint64_t bytes = kLowLimit + (uint64_t{1} << 30);
  Result<GuestMemory> large = GuestMemory::create(bytes);
  ok(large.ok() && large->slots().size() == 2 && large->bytes() == bytes,
     "beyond 3 GiB there are two slots");
  ok(!large->span(kLowLimit - 1, 2) && !large->span(kLowLimit, 1) &&
         !large->span(kHighStart - 1, 2) && !large->span(0, kHighStart + 1),
     "the hole between them is nobody's, and no span crosses it");
  ok(large->span(kHighStart, uint64_t{1} << 30) && !large->span(kHighStart, (1u << 30) + 1u),
     "the high slot is reached to its last byte");
}

struct Echo : BusDevice {
  uint64_t offset = 0;
  int calls = 0;
  void read(uint64_t at, uint8_t* data, size_t size) override {
    offset = at;
    calls++;
    memset(data, 1, size);
  }
  void write(uint64_t at, const uint8_t*, size_t) override {
    offset = at;
    calls++;
  }
};

void bus() {
  Bus bus;
  Echo a, b, last;
  ok(bus.add(0x100, 0x10, &a) && bus.add(0x110, 0x10, &b), "neighbours fit");
  ok(!bus.add(0x10f, 2, &a) && !bus.add(0x90, 0x71, &a) && !bus.add(0x105, 1, &a) &&
         !bus.add(0x80, 0x200, &a) && !bus.add(5, 0, &a) && !bus.add(~uint64_t{0}, 2, &a),
     "overlapping, empty and wrapping ranges are refused");
  ok(bus.add(~uint64_t{0} - 7, 8, &last), "the last bytes of the address space can be had");
  uint8_t data[8] = {};
  bus.read(0x11f, data, 1);
  ok(b.calls == 1 && b.offset == 15 && data[0] == 1, "the offset counts from the device's base");
  bus.read(0x10f, data, 2);
  ok(a.calls == 0 && b.calls == 1 && data[0] == 0xff && data[1] == 0xff,
     "an access across two devices belongs to neither and reads all ones");
  bus.write(0xff, data, 1);
  bus.write(0x120, data, 1);
  bus.read(~uint64_t{0}, data, 8);
  ok(a.calls == 0 && b.calls == 1 && last.calls == 0, "outside of all, nobody is called");
}

void loop() {
  Result<std::unique_ptr<EventLoop>> made = EventLoop::create();
  EventLoop& loop = **made;
  ok(loop.start().ok(), "a loop starts");
  std::vector<int> order;
  std::promise<void> timers;
  loop.post([&] {
    loop.after(20'000'000, [&] {
      order.push_back(3);
      timers.set_value();
    });
    const Loop::Timer never = loop.after(1'000'000, [&] { order.push_back(99); });
    loop.after(5'000'000, [&] { order.push_back(1); });
    loop.after(5'000'000, [&] { order.push_back(2); });
    loop.cancel(never);
    loop.cancel(never);
    loop.cancel(0);
  });
  timers.get_future().wait();
  ok(order == std::vector<int>({1, 2, 3}), "timers run when due, in order, cancelled ones never");

  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  std::promise<int> seen;
  int calls = 0;
  loop.post([&] {
    const bool watched = loop.watch(event.get(), EPOLLIN, [&](uint32_t) {
      loop.unwatch(event.get());
      loop.post([&] { seen.set_value(++calls); });
    });
    if (!watched) seen.set_value(-1);
  });
  const uint64_t one = 1;
  ok(::write(event.get(), &one, sizeof(one)) == sizeof(one), "an eventfd is written");
  is(seen.get_future().get(), 1, "its handler runs once and may unwatch itself");

  bool ran = false;
  loop.post([&] { ran = true; });
  loop.stop();
  ok(ran, "what was posted before stop() has run");
  auto late = std::make_shared<int>(0);
  loop.post([late] { *late = 1; });
  loop.stop();
  is(*late, 0, "what is posted later does not, and stopping again does nothing");
}

}  // namespace

int main() {
  memory_bounds();
  bus();
  loop();
  return tap::done();
}
