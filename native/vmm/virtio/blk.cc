#include "vmm/virtio/blk.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "vmm/virtio/config.h"
#include "vmm/virtio/iovecs.h"

namespace isopod::vmm::virtio {

namespace {

constexpr uint64_t kSector = 512;
constexpr uint32_t kMaxRangeSectors = 32768;  // of one discard or write-zeroes segment: 16 MiB
constexpr uint32_t kMaxRanges = 16;

constexpr uint64_t bit(unsigned feature) { return uint64_t{1} << feature; }

struct RequestHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};

struct SectorRange {
  uint64_t sector;
  uint32_t sectors;
  uint32_t flags;
};
constexpr uint32_t kUnmap = 1;

// Bytes, or -errno.
int64_t size_of(int fd, const struct stat& info) {
  if (S_ISREG(info.st_mode)) return info.st_size;
  if (!S_ISBLK(info.st_mode)) return -EINVAL;
  uint64_t bytes = 0;
  if (::ioctl(fd, BLKGETSIZE64, &bytes) != 0) return -errno;
  return static_cast<int64_t>(bytes);
}

}  // namespace

Blk::Blk(Loop& loop, BlkOptions options)
    : file_(std::move(options.file)),
      read_only_(options.read_only),
      serial_(std::move(options.serial)),
      gate_(loop, options.limits, [this] { notify(0); }) {}

Result<std::unique_ptr<Blk>> Blk::create(Loop& loop, BlkOptions options) {
  if (options.serial.size() > VIRTIO_BLK_ID_BYTES)
    return Error{EINVAL, "disk", options.serial, "", "serial: at most 20 bytes", nullptr};
  std::unique_ptr<Blk> blk(new Blk(loop, std::move(options)));
  if (Status probed = blk->probe(); !probed) return probed.error();
  auto workers = Workers::create(loop, "disk", 1);
  if (!workers) return workers.error();
  blk->workers_ = std::move(*workers);
  return blk;
}

Status Blk::probe() {
  struct stat info {};
  if (::fstat(file_.get(), &info) != 0) return failure(errno, "disk", serial_);
  const int64_t size = size_of(file_.get(), info);
  if (size < 0) return failure(static_cast<int>(-size), "disk", serial_);
  config_.capacity = static_cast<uint64_t>(size) / kSector;
  config_.seg_max = kQueueSize - 2;
  config_.blk_size = kSector;
  config_.num_queues = 1;
  // Beyond the end nothing is punched, but the file system says whether it could.
  punches_ = !read_only_ && S_ISREG(info.st_mode) &&
             ::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         static_cast<off_t>(size), 4096) == 0;
  if (punches_) {
    config_.max_discard_sectors = config_.max_write_zeroes_sectors = kMaxRangeSectors;
    config_.max_discard_seg = config_.max_write_zeroes_seg = kMaxRanges;
    config_.discard_sector_alignment = static_cast<uint32_t>(4096 / kSector);
    config_.write_zeroes_may_unmap = 1;
  }
  return Done{};
}

uint64_t Blk::features() const {
  uint64_t offered = kFeatureIndirect | kFeatureEventIdx | bit(VIRTIO_BLK_F_SEG_MAX) |
                     bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_FLUSH);
  if (read_only_) offered |= bit(VIRTIO_BLK_F_RO);
  if (punches_) offered |= bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES);
  return offered;
}

void Blk::read_config(uint64_t offset, uint8_t* data, size_t size) const {
  read_struct(config_, offset, data, size);
}

// --- The loop's thread
// ----------------------------------------------------------------------------

void Blk::activate(uint64_t accepted, std::vector<Queue*> queues, Interrupt* interrupt) {
  queue_ = queues[0];
  interrupt_ = interrupt;
  flushes_ = (accepted & bit(VIRTIO_BLK_F_FLUSH)) != 0;
}

void Blk::notify(unsigned) {
  if (queue_ == nullptr) return;
  for (;;) {
    if (free_.empty()) {
      free_.push_back(requests_.emplace_back(std::make_unique<Request>()).get());
    }
    Request& request = *free_.back();
    if (!queue_->pop(request.chain)) break;
    // Without a header or a place for the status there is no way to fail a request.
    if (!parse(request)) return interrupt_->broken();
    if (!gate_.admit(request.chain.readable_bytes + request.data_bytes)) {
      queue_->unpop(1);
      return;
    }
    free_.pop_back();
    workers_->run([this, &request] { execute(request); }, [this, &request] { complete(request); });
  }
  if (queue_->broken()) interrupt_->broken();
}

bool Blk::parse(Request& request) const {
  RequestHeader header;
  if (gather(request.chain.readable, 0, &header, sizeof(header)) != sizeof(header)) return false;
  if (request.chain.writable_bytes == 0) return false;
  request.type = header.type;
  request.sector = header.sector;
  request.data_bytes = request.chain.writable_bytes - 1;
  request.written = 0;
  return true;
}

void Blk::complete(Request& request) {
  scatter(request.chain.writable, request.data_bytes, &request.status, 1);
  // Only what precedes the status is counted where not all of the data was written.
  const bool whole = request.written == request.data_bytes;
  queue_->push(request.chain.head, whole ? request.written + 1 : request.written);
  free_.push_back(&request);
  if (queue_->wants_interrupt()) interrupt_->ring();
}

void Blk::drain() { workers_->finish(); }

void Blk::reset() {
  gate_.close();
  workers_->discard();
  free_.clear();
  for (auto& request : requests_) free_.push_back(request.get());
  queue_ = nullptr;
  interrupt_ = nullptr;
}

// --- The worker's thread
// --------------------------------------------------------------------------

void Blk::execute(Request& request) {
  const auto run = [&]() -> uint8_t {
    switch (request.type) {
      case VIRTIO_BLK_T_IN:
        return transfer(request, false);
      case VIRTIO_BLK_T_OUT:
        return transfer(request, true);
      case VIRTIO_BLK_T_FLUSH:
        return ::fdatasync(file_.get()) == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
      case VIRTIO_BLK_T_GET_ID:
        return identify(request);
      case VIRTIO_BLK_T_DISCARD:
      case VIRTIO_BLK_T_WRITE_ZEROES:
        return deallocate(request);
      default:
        return VIRTIO_BLK_S_UNSUPP;
    }
  };
  request.status = run();
}

// Neither side can wrap: no sum is made.
bool Blk::within(uint64_t sector, uint64_t sectors) const {
  return sector <= config_.capacity && sectors <= config_.capacity - sector;
}

uint8_t Blk::transfer(Request& request, bool write) {
  if (write && read_only_) return VIRTIO_BLK_S_IOERR;
  const size_t bytes =
      write ? request.chain.readable_bytes - sizeof(RequestHeader) : request.data_bytes;
  if (bytes % kSector != 0 || !within(request.sector, bytes / kSector)) return VIRTIO_BLK_S_IOERR;
  const auto start = static_cast<off_t>(request.sector * kSector);
  const int flags = write && !flushes_ ? RWF_DSYNC : 0;
  for (size_t done = 0; done < bytes;) {
    pieces_.clear();
    if (write)
      slice(request.chain.readable, sizeof(RequestHeader) + done, bytes - done, pieces_);
    else
      slice(request.chain.writable, done, bytes - done, pieces_);
    const auto count = static_cast<int>(pieces_.size());
    const off_t at = start + static_cast<off_t>(done);
    const ssize_t n = write ? ::pwritev2(file_.get(), pieces_.data(), count, at, flags)
                            : ::preadv2(file_.get(), pieces_.data(), count, at, flags);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return VIRTIO_BLK_S_IOERR;  // 0: somebody made the file shorter
    done += static_cast<size_t>(n);
    if (!write) request.written = static_cast<uint32_t>(done);
  }
  return VIRTIO_BLK_S_OK;
}

uint8_t Blk::identify(Request& request) {
  char serial[VIRTIO_BLK_ID_BYTES] = {};
  serial_.copy(serial, sizeof(serial));
  const size_t size = std::min(sizeof(serial), request.data_bytes);
  request.written = static_cast<uint32_t>(scatter(request.chain.writable, 0, serial, size));
  return VIRTIO_BLK_S_OK;
}

uint8_t Blk::deallocate(Request& request) {
  if (read_only_) return VIRTIO_BLK_S_IOERR;
  if (!punches_) return VIRTIO_BLK_S_UNSUPP;
  const size_t bytes = request.chain.readable_bytes - sizeof(RequestHeader);
  const size_t count = bytes / sizeof(SectorRange);
  if (bytes % sizeof(SectorRange) != 0 || count == 0 || count > kMaxRanges)
    return VIRTIO_BLK_S_IOERR;
  SectorRange ranges[kMaxRanges];
  gather(request.chain.readable, sizeof(RequestHeader), ranges, bytes);
  const bool discard = request.type == VIRTIO_BLK_T_DISCARD;
  // All are judged before the first is served.
  for (size_t i = 0; i < count; i++) {
    if ((ranges[i].flags & ~(discard ? 0 : kUnmap)) != 0) return VIRTIO_BLK_S_UNSUPP;
    if (ranges[i].sectors > kMaxRangeSectors || !within(ranges[i].sector, ranges[i].sectors))
      return VIRTIO_BLK_S_IOERR;
  }
  for (size_t i = 0; i < count; i++) {
    const bool unmap = discard || (ranges[i].flags & kUnmap) != 0;
    const uint8_t status = zero(ranges[i].sector * kSector, ranges[i].sectors * kSector, unmap);
    if (status != VIRTIO_BLK_S_OK) return status;
  }
  if (!flushes_ && ::fdatasync(file_.get()) != 0) return VIRTIO_BLK_S_IOERR;
  return VIRTIO_BLK_S_OK;
}

uint8_t Blk::zero(uint64_t offset, uint64_t bytes, bool may_unmap) {
  if (bytes == 0) return VIRTIO_BLK_S_OK;
  const int how = may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
  if (::fallocate(file_.get(), how | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(bytes)) == 0)
    return VIRTIO_BLK_S_OK;
  if (errno != EOPNOTSUPP) return VIRTIO_BLK_S_IOERR;
  // tmpfs and others cannot zero without freeing.
  static const uint8_t zeroes[65536] = {};
  while (bytes > 0) {
    const ssize_t n = ::pwrite(file_.get(), zeroes, std::min<uint64_t>(bytes, sizeof(zeroes)),
                               static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return VIRTIO_BLK_S_IOERR;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return VIRTIO_BLK_S_OK;
}

}  // namespace isopod::vmm::virtio
