// Requests of a hostile driver to a disk of 16 sectors. Oracle: the file keeps its size, a disk
// that is read-only keeps its bytes, each request that came back has a status.
#include "vmm/virtio/blk.h"

#include <sys/stat.h>

#include "chains.h"
#include "oracle.h"
#include "virtio/file.h"

using fuzz::Input;
using namespace isopod::vmm::virtio;
using namespace isopod::vmm::virtio::test;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kBytes = 16 * 512;
  Input input(data, size);
  const uint8_t how = input.byte();
  const bool read_only = (how & 1) != 0;
  isopod::UniqueFd file = memory_file(std::string(kBytes, 'd'));
  const int fd = file.get();
  TestLoop loop;
  auto made = Blk::create(loop, {std::move(file), read_only, "serial", {}});
  MUST(bool(made));
  Guest guest(**made, &loop);
  guest.start(
      (*made)->features() & ~(uint64_t{how} << 8) & ~(isopod::vmm::virtio::kFeatureEventIdx), 32);
  if (guest.status() != 0xf) return 0;
  for (int step = 0; step < 30 && !input.empty(); step++) {
    struct {
      uint32_t type, reserved;
      uint64_t sector;
    } header{input.below(16), 0, input.byte()};
    const uint8_t twist = input.byte();
    if (twist == 1) header.type = input.take<uint32_t>();
    if (twist == 2) header.sector = input.take<uint64_t>();
    std::string request(reinterpret_cast<const char*>(&header), sizeof(header));
    request += twist == 3 ? std::string(512 * input.below(20), 'w') : input.bytes(input.below(80));
    if (twist == 4) request.resize(1 + input.below(16));
    fuzz::offer(guest, 0, request, 1 + input.below(5), input.below(4), 1 + input.below(3) * 512);
    if (input.below(4) == 0) (void)guest.transport->save();
    if (guest.status() != 0xf) break;
  }
  (void)guest.transport->save();
  if (guest.status() == 0xf) {
    MUST(guest.ring(0).available_index == *guest.memory.read<uint16_t>(guest.ring(0).used + 2));
  }
  guest.reset();
  struct stat info {};
  MUST(::fstat(fd, &info) == 0 && info.st_size == kBytes);
  if (read_only) MUST(contents_of(fd, 0, kBytes) == std::string(kBytes, 'd'));
  return 0;
}
