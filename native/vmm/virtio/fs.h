// File-system device (virtio 1.2, 5.11): FUSE requests in two queues, one of them for FORGET and
// INTERRUPT. This is the side of the rings; files and names are the affair of the file-system
// server, a process of its own (fs_protocol.h), but for the contents of open files (fs_file.h).
#pragma once

#include <linux/virtio_fs.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/fs_file.h"
#include "vmm/virtio/fs_handles.h"
#include "vmm/virtio/fs_protocol.h"
#include "vmm/virtio/queue.h"
#include "vmm/virtio/workers.h"

namespace isopod::vmm::virtio {

struct FsOptions {
  UniqueFd server;             // SOCK_SEQPACKET, the other end is the server's
  std::string tag;             // what the guest mounts; 1 to 36 bytes
  size_t max_handles = 8192;   // files open at once; beyond that ENFILE
  unsigned threads = 2;        // for contents
  std::function<void()> gone;  // the server went away, or said what is no packet; may be empty
};

class Fs final : public Device {
 public:
  // The loop is borrowed. Before it is started, or on its thread.
  static Result<std::unique_ptr<Fs>> create(Loop& loop, FsOptions options);
  ~Fs() override;

  size_t open_files() const { return handles_.open_files(); }

  uint32_t id() const override { return 26; }
  uint64_t features() const override { return kFeatureIndirect | kFeatureEventIdx; }
  std::vector<uint16_t> queue_sizes() const override { return {64, 256}; }
  void read_config(uint64_t offset, uint8_t* data, size_t size) const override;
  void write_config(uint64_t, const uint8_t*, size_t) override {}
  void activate(uint64_t accepted, std::vector<Queue*> queues, Interrupt* interrupt) override;
  void notify(unsigned queue) override;
  void reset() override;
  void drain() override;
  // A session lives in the server as well: only a device without one is restored.
  std::vector<uint8_t> save() const override { return {static_cast<uint8_t>(session_ ? 1 : 0)}; }
  bool load(const std::vector<uint8_t>& state) override { return state == std::vector<uint8_t>{0}; }

 private:
  enum class At : uint8_t { kFree, kWaiting, kServer, kWorker };
  struct Request {
    uint32_t index = 0;       // in requests_
    uint32_t generation = 0;  // of the tags that the server sees
    At at = At::kFree;
    bool reserved = false;  // a handle
    unsigned queue = 0;
    Chain chain;
    fuse_in_header header{};
    FsFileRequest file;
    FsFileReply reply;
  };

  Fs(Loop& loop, FsOptions options);
  Request& spare();
  void serve(Request& request);
  void serve_file(Request& request);
  // The server.
  void forward(Request& request);
  bool send(Request& request);  // false: not now
  void adapt(const Request& request, size_t size);
  void flush_waiting();
  void on_server(uint32_t events);
  bool receive_one();
  void handle_reply(size_t size, UniqueFd file);
  bool adopt(Request& request, size_t size, UniqueFd file, int& error);
  void lose_server();
  bool busy() const;
  // Back to the guest.
  void fail(Request& request, int err);
  void reply(Request& request, int error, const void* data, size_t size);
  void finish(Request& request, size_t written);

  Loop& loop_;
  UniqueFd server_;
  const std::string tag_;
  std::function<void()> gone_;
  FsHandles handles_;
  bool session_ = false;
  bool asks_to_send_ = false;  // EPOLLOUT

  Queue* queues_[2] = {nullptr, nullptr};
  Interrupt* interrupt_ = nullptr;
  std::vector<std::unique_ptr<Request>> requests_;
  std::vector<Request*> free_;
  std::deque<Request*> waiting_;  // for room in the socket
  std::vector<uint8_t> packet_;   // being sent or received
  std::unique_ptr<Workers> workers_;
};

}  // namespace isopod::vmm::virtio
