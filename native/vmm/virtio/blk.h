// Block device (virtio 1.2, 5.2): one file or host block device, one queue, one thread that may
// block, so that a slow disk holds up nobody else.
//
// A request is {type, reserved, sector} readable, data, and one writable status byte, in buffers of
// any shape. Sectors are 512 bytes. Guests find a disk by its serial.
#pragma once

#include <linux/virtio_blk.h>

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/limiter.h"
#include "vmm/virtio/queue.h"
#include "vmm/virtio/workers.h"

namespace isopod::vmm::virtio {

struct BlkOptions {
  UniqueFd file;           // a regular file or block device; O_RDWR unless read_only
  bool read_only = false;  // then the driver's writes fail
  std::string serial;      // at most 20 bytes
  Limits limits;
};

class Blk final : public Device {
 public:
  // The size is what the file has now, whole sectors. The loop is borrowed.
  static Result<std::unique_ptr<Blk>> create(Loop& loop, BlkOptions options);

  uint32_t id() const override { return 2; }
  uint64_t features() const override;
  std::vector<uint16_t> queue_sizes() const override { return {kQueueSize}; }
  void read_config(uint64_t offset, uint8_t* data, size_t size) const override;
  void write_config(uint64_t, const uint8_t*, size_t) override {}
  void activate(uint64_t accepted, std::vector<Queue*> queues, Interrupt* interrupt) override;
  void notify(unsigned queue) override;
  void reset() override;
  void drain() override;

 private:
  static constexpr uint16_t kQueueSize = 256;
  struct Request {
    Chain chain;
    uint32_t type = 0;
    uint64_t sector = 0;
    size_t data_bytes = 0;  // writable, without the status
    uint32_t written = 0;
    uint8_t status = 0;
  };

  Blk(Loop& loop, BlkOptions options);
  Status probe();
  bool parse(Request& request) const;
  void complete(Request& request);

  // On the worker's thread.
  void execute(Request& request);
  uint8_t transfer(Request& request, bool write);
  uint8_t identify(Request& request);
  uint8_t deallocate(Request& request);
  uint8_t zero(uint64_t offset, uint64_t bytes, bool may_unmap);
  bool within(uint64_t sector, uint64_t sectors) const;

  UniqueFd file_;
  const bool read_only_;
  const std::string serial_;
  virtio_blk_config config_{};
  bool punches_ = false;
  bool flushes_ = false;  // negotiated: the driver says when; else each write is synchronous

  Queue* queue_ = nullptr;
  Interrupt* interrupt_ = nullptr;
  std::vector<std::unique_ptr<Request>> requests_;  // all there ever were
  std::vector<Request*> free_;
  std::vector<iovec> pieces_;  // the worker's
  Gate gate_;
  std::unique_ptr<Workers> workers_;  // last: ends before what it uses
};

}  // namespace isopod::vmm::virtio
