#include "vmm/virtio/limiter.h"

#include "virtio/guest.h"
#include "vmm/virtio/rng.h"

namespace isopod::vmm::virtio::test {
namespace {

constexpr uint64_t kMs = 1'000'000;

TEST("limiter: a bucket gives what it holds and is refilled in time") {
  TokenBucket bucket({100, 0, 1000}, 0);
  CHECK(bucket.wait(0) == 0);
  bucket.take(100);
  const uint64_t wait = bucket.wait(0);
  CHECK(wait >= 10 * kMs && wait <= 10 * kMs + 1);
  CHECK(bucket.wait(wait) == 0);
  bucket.take(1);
  CHECK(bucket.wait(wait) > 0);
  CHECK(bucket.wait(2000 * kMs) == 0);
  bucket.take(100);  // full, not more
  CHECK(bucket.wait(2000 * kMs) > 0);
}

TEST("limiter: a request larger than the bucket passes, and is paid off") {
  TokenBucket bucket({100, 0, 1000}, 0);
  bucket.take(300);
  CHECK(bucket.wait(1999 * kMs) > 0);
  CHECK(bucket.wait(2010 * kMs + 1) == 0);
}

TEST("limiter: the burst comes once") {
  TokenBucket bucket({100, 500, 1000}, 0);
  bucket.take(500);
  bucket.take(100);
  CHECK(bucket.wait(0) > 0);
  CHECK(bucket.wait(5000 * kMs) == 0);
  bucket.take(100);
  CHECK(bucket.wait(5000 * kMs) > 0);
}

TEST("limiter: extreme figures do not overflow, and slow buckets lose nothing") {
  TokenBucket wide({UINT64_MAX, UINT64_MAX, UINT64_MAX}, 0);
  wide.take(UINT64_MAX);
  wide.take(UINT64_MAX);
  CHECK(wide.wait(UINT64_MAX) == 0);
  TokenBucket none({0, 0, 0}, 0);
  none.take(UINT64_MAX);
  CHECK(none.wait(0) == 0);
  // One token in 1000 s, asked every second.
  TokenBucket slow({1, 0, 1'000'000}, 0);
  slow.take(1);
  for (uint64_t second = 1; second < 1000; second++) CHECK(slow.wait(second * 1000 * kMs) > 0);
  CHECK(slow.wait(1'000'001 * kMs) == 0);
}

TEST("rng: fills what it is given, and differs") {
  TestLoop loop;
  Rng device(loop);
  Guest guest(device, &loop);
  guest.start(kFeatureVersion1 | kFeatureEventIdx);
  const Range a = guest.buffer(64);
  const Range b = guest.buffer(64);
  guest.add(0, {}, {a});
  guest.add(0, {}, {{b.address, 32}, {b.address + 32, 32}});
  guest.kick(0);
  const auto used = guest.used(0);
  REQUIRE(used.size() == 2);
  CHECK(used[0].length == 64 && used[1].length == 64);
  CHECK(guest.text(a, 64) != guest.text(b, 64));
  CHECK(guest.text(b, 64) != std::string(64, '\0'));
}

TEST("rng: a large request is cut, readable and empty ones break the rules") {
  TestLoop loop;
  Rng device(loop);
  Guest guest(device, &loop);
  guest.start();
  guest.add(0, {}, {guest.buffer(1 << 20)});
  guest.kick(0);
  const auto used = guest.used(0);
  REQUIRE(used.size() == 1);
  CHECK(used[0].length == 65536);
  guest.add(0, {guest.buffer(16)}, {guest.buffer(16)});
  guest.kick(0);
  CHECK(guest.status() == 0x4f);
}

TEST("rng: a limit is waited for, not polled") {
  TestLoop loop;
  Rng device(loop, {{64, 0, 1000}, {}});
  Guest guest(device, &loop);
  guest.start();
  for (int i = 0; i < 3; i++) guest.add(0, {}, {guest.buffer(64)});
  guest.kick(0);
  CHECK(guest.used(0).size() == 1);
  CHECK(loop.timers() == 1);
  guest.kick(0);
  CHECK(guest.used(0).empty() && loop.timers() == 1);
  loop.advance(1000 * kMs);
  CHECK(guest.used(0).size() == 1);
  loop.advance(1000 * kMs);
  CHECK(guest.used(0).size() == 1);
  CHECK(loop.timers() == 0);
  guest.add(0, {}, {guest.buffer(64)});
  guest.kick(0);
  CHECK(loop.timers() == 1);
  guest.reset();
  CHECK(loop.timers() == 0);
}

}  // namespace
}  // namespace isopod::vmm::virtio::test
