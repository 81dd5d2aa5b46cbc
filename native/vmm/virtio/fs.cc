#include "vmm/virtio/fs.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "vmm/virtio/config.h"
#include "vmm/virtio/iovecs.h"

namespace isopod::vmm::virtio {

namespace {

constexpr unsigned kBudget = 256;
constexpr int kDrainMilliseconds = 5000;

bool has_reply(uint32_t opcode) { return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET; }
bool opens(uint32_t opcode) { return opcode == FUSE_OPEN || opcode == FUSE_CREATE; }

}  // namespace

Fs::Fs(Loop& loop, FsOptions options)
    : loop_(loop),
      server_(std::move(options.server)),
      tag_(std::move(options.tag)),
      gone_(std::move(options.gone)),
      handles_(options.max_handles),
      packet_(kFsPacket + 1) {}

Result<std::unique_ptr<Fs>> Fs::create(Loop& loop, FsOptions options) {
  if (options.tag.empty() || options.tag.size() > sizeof(virtio_fs_config::tag))
    return Error{EINVAL, "shared directory", options.tag, "", "tag: 1 to 36 bytes", nullptr};
  const unsigned threads = options.threads;
  std::unique_ptr<Fs> fs(new Fs(loop, std::move(options)));
  const int size = kFsSocketBuffer;
  ::setsockopt(fs->server_.get(), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
  auto workers = Workers::create(loop, "fs", threads);
  if (!workers) return workers.error();
  fs->workers_ = std::move(*workers);
  Fs* self = fs.get();
  if (!loop.watch(fs->server_.get(), EPOLLIN, [self](uint32_t got) { self->on_server(got); }))
    return failure(errno, "shared directory", fs->tag_);
  return fs;
}

Fs::~Fs() {
  if (server_) loop_.unwatch(server_.get());
}

void Fs::read_config(uint64_t offset, uint8_t* data, size_t size) const {
  virtio_fs_config config{};
  tag_.copy(reinterpret_cast<char*>(config.tag), sizeof(config.tag));
  config.num_request_queues = 1;
  read_struct(config, offset, data, size);
}

// --- Requests
// -------------------------------------------------------------------------------------

void Fs::activate(uint64_t, std::vector<Queue*> queues, Interrupt* interrupt) {
  queues_[0] = queues[0];
  queues_[1] = queues[1];
  interrupt_ = interrupt;
}

Fs::Request& Fs::spare() {
  if (free_.empty()) {
    const auto index = static_cast<uint32_t>(requests_.size());
    free_.push_back(requests_.emplace_back(std::make_unique<Request>()).get());
    free_.back()->index = index;
  }
  return *free_.back();
}

void Fs::notify(unsigned number) {
  Queue* queue = interrupt_ == nullptr ? nullptr : queues_[number];
  if (queue == nullptr) return;
  for (unsigned left = kBudget; left > 0; left--) {
    Request& request = spare();
    if (!queue->pop(request.chain)) {
      if (queue->broken()) interrupt_->broken();
      return;
    }
    const Chain& chain = request.chain;
    request.queue = number;
    const size_t got = gather(chain.readable, 0, &request.header, sizeof(request.header));
    // Without these there is nothing to answer, and nowhere.
    if (got != sizeof(request.header) ||
        (has_reply(request.header.opcode) && request.header.opcode != FUSE_INTERRUPT &&
         chain.writable_bytes < sizeof(fuse_out_header)))
      return interrupt_->broken();
    free_.pop_back();
    serve(request);
  }
  interrupt_->again(number);
}

void Fs::serve(Request& request) {
  const uint32_t opcode = request.header.opcode;
  if (opcode == FUSE_INTERRUPT) return finish(request, 0);
  if (request.header.len != request.chain.readable_bytes) return fail(request, EINVAL);
  if (fs_arguments_size(opcode) > 0) return serve_file(request);
  if (opcode == FUSE_INIT) session_ = true;
  forward(request);
}

void Fs::serve_file(Request& request) {
  FsFileRequest& file = request.file;
  file.opcode = request.header.opcode;
  file.arguments = {};
  const size_t size = fs_arguments_size(file.opcode);
  if (gather(request.chain.readable, sizeof(fuse_in_header), &file.arguments, size) != size)
    return fail(request, EINVAL);
  const uint64_t handle = fs_handle(file.arguments);
  file.file = file.opcode == FUSE_RELEASE ? handles_.close(handle) : handles_.find(handle);
  if (file.opcode == FUSE_COPY_FILE_RANGE) file.target = handles_.find(file.arguments.copy.fh_out);
  if (!file.file || (file.opcode == FUSE_COPY_FILE_RANGE && !file.target)) {
    file = {};  // or it would keep the one that was found open
    return fail(request, EBADF);
  }
  request.at = At::kWorker;
  workers_->run(
      [&request] {
        request.reply = perform(request.file, request.chain);
        request.file.file.reset();  // the last one closes, which may take its time as well
        request.file.target.reset();
      },
      [this, &request] {
        const FsFileReply& done = request.reply;
        if (done.error != 0 || done.bytes == 0)
          return reply(request, done.error, &done.data, done.error != 0 ? 0 : done.body);
        const fuse_out_header out{static_cast<uint32_t>(sizeof(out)) + done.bytes, 0,
                                  request.header.unique};
        scatter(request.chain.writable, 0, &out, sizeof(out));
        finish(request, out.len);
      });
}

// --- To the server
// --------------------------------------------------------------------------------

void Fs::forward(Request& request) {
  if (!server_) return fail(request, EIO);
  if (request.chain.readable_bytes > kFsPacket) return fail(request, E2BIG);
  // The place is taken before the file is opened: an open that succeeded is not taken back.
  if (opens(request.header.opcode)) {
    if (!handles_.reserve()) return fail(request, ENFILE);
    request.reserved = true;
  }
  if (waiting_.empty() && send(request)) return;
  request.at = At::kWaiting;
  waiting_.push_back(&request);
  if (!asks_to_send_ && server_) loop_.rearm(server_.get(), EPOLLIN | EPOLLOUT);
  asks_to_send_ = true;
}

bool Fs::send(Request& request) {
  const size_t size = request.chain.readable_bytes;
  gather(request.chain.readable, 0, packet_.data(), size);
  adapt(request, size);
  ssize_t n;
  do {
    n = ::send(server_.get(), packet_.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)) return false;
  if (n < 0) {
    fail(request, EIO);
    lose_server();
  } else if (has_reply(request.header.opcode)) {
    request.at = At::kServer;
  } else {
    finish(request, 0);
  }
  return true;
}

// Puts into packet_ what the protocol says: the header as it was judged with a number of ours,
// sizes that fit a packet, no handle of a file.
void Fs::adapt(const Request& request, size_t size) {
  fuse_in_header header = request.header;
  header.len = static_cast<uint32_t>(size);
  header.unique = uint64_t{request.generation} << 32 | request.index;
  memcpy(packet_.data(), &header, sizeof(header));
  uint8_t* arguments = packet_.data() + sizeof(header);
  const size_t left = size - sizeof(header);
  const auto edit = [&](auto value, auto change) {
    if (left < sizeof(value)) return;  // the server refuses it
    memcpy(&value, arguments, sizeof(value));
    change(value);
    memcpy(arguments, &value, sizeof(value));
  };
  const size_t room = request.chain.writable_bytes > sizeof(fuse_out_header)
                          ? request.chain.writable_bytes - sizeof(fuse_out_header)
                          : 0;
  const auto limit = static_cast<uint32_t>(std::min<size_t>(room, kFsReplyData));
  switch (header.opcode) {
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
      return edit(fuse_read_in{}, [&](auto& in) { in.size = std::min(in.size, limit); });
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
      return edit(fuse_getxattr_in{}, [&](auto& in) { in.size = std::min(in.size, limit); });
    case FUSE_GETATTR:
      return edit(fuse_getattr_in{}, [](auto& in) {
        in.getattr_flags &= ~uint32_t{FUSE_GETATTR_FH};
        in.fh = 0;
      });
    case FUSE_SETATTR:
      return edit(fuse_setattr_in{}, [](auto& in) {
        in.valid &= ~uint32_t{FATTR_FH};
        in.fh = 0;
      });
    default:
      return;
  }
}

void Fs::flush_waiting() {
  while (server_ && !waiting_.empty()) {
    Request& request = *waiting_.front();
    waiting_.pop_front();
    if (send(request)) continue;
    waiting_.push_front(&request);
    return;
  }
  if (server_ && asks_to_send_) loop_.rearm(server_.get(), EPOLLIN);
  asks_to_send_ = false;
}

// --- From the server
// ------------------------------------------------------------------------------

void Fs::on_server(uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush_waiting();
  for (unsigned left = kBudget; left > 0 && server_ && receive_one();) left--;
}

// One packet. False: none is there.
bool Fs::receive_one() {
  iovec piece{packet_.data(), packet_.size()};
  alignas(cmsghdr) uint8_t control[CMSG_SPACE(4 * sizeof(int))];
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t n = ::recvmsg(server_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  UniqueFd file;
  for (cmsghdr* part = n < 0 ? nullptr : CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + CMSG_LEN(sizeof(int)) <= part->cmsg_len; at += sizeof(int)) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + at, sizeof(fd));
      file.reset(fd);  // of several the last stays, the others are closed
    }
  }
  if (n <= 0 || (message.msg_flags & MSG_TRUNC) != 0) {
    lose_server();
    return false;
  }
  handle_reply(static_cast<size_t>(n), std::move(file));
  return true;
}

void Fs::handle_reply(size_t size, UniqueFd file) {
  fuse_out_header header;
  if (size < sizeof(header)) return lose_server();
  memcpy(&header, packet_.data(), sizeof(header));
  if (header.len != size || header.error > 0 || header.error < -kFsMaxErrno ||
      (header.error != 0 && size != sizeof(header)))
    return lose_server();
  const uint64_t index = header.unique & UINT32_MAX;
  // A request of before a reset.
  if (index >= requests_.size()) return;
  Request& request = *requests_[index];
  if (request.at != At::kServer || request.generation != header.unique >> 32) return;
  int error = header.error;
  if (error == 0 && size > request.chain.writable_bytes) error = -EIO;
  if (opens(request.header.opcode) && error == 0 && !adopt(request, size, std::move(file), error))
    error = -EIO;
  reply(request, error, packet_.data() + sizeof(header), error != 0 ? 0 : size - sizeof(header));
}

// The file becomes a handle, whose number goes into the reply. Only a regular one: reading another
// kind may wait for ever.
bool Fs::adopt(Request& request, size_t size, UniqueFd file, int& error) {
  const size_t at =
      sizeof(fuse_out_header) + (request.header.opcode == FUSE_CREATE ? sizeof(fuse_entry_out) : 0);
  struct stat info {};
  if (!file || size < at + sizeof(fuse_open_out) || ::fstat(file.get(), &info) != 0 ||
      !S_ISREG(info.st_mode))
    return false;
  error = 0;
  request.reserved = false;
  const uint64_t handle = handles_.open(std::move(file));
  memcpy(packet_.data() + at + offsetof(fuse_open_out, fh), &handle, sizeof(handle));
  return true;
}

void Fs::lose_server() {
  if (!server_) return;
  loop_.unwatch(server_.get());
  server_.reset();
  asks_to_send_ = false;
  waiting_.clear();
  for (auto& request : requests_)
    if (request->at == At::kServer || request->at == At::kWaiting) fail(*request, EIO);
  if (gone_) gone_();
}

// --- Back to the guest
// ----------------------------------------------------------------------------

void Fs::fail(Request& request, int err) {
  if (!has_reply(request.header.opcode)) return finish(request, 0);
  reply(request, -err, nullptr, 0);
}

void Fs::reply(Request& request, int error, const void* data, size_t size) {
  // The guest may have asked in a buffer that is too small for what it asked.
  if (sizeof(fuse_out_header) + size > request.chain.writable_bytes) {
    error = -EIO;
    size = 0;
  }
  const fuse_out_header out{static_cast<uint32_t>(sizeof(out) + size), error,
                            request.header.unique};
  scatter(request.chain.writable, 0, &out, sizeof(out));
  scatter(request.chain.writable, sizeof(out), data, size);
  finish(request, out.len);
}

void Fs::finish(Request& request, size_t written) {
  if (std::exchange(request.reserved, false)) handles_.unreserve();
  request.at = At::kFree;
  request.generation++;
  Queue* queue = queues_[request.queue];
  queue->push(request.chain.head, static_cast<uint32_t>(written));
  free_.push_back(&request);
  if (queue->wants_interrupt()) interrupt_->ring();
}

// --- Life
// -----------------------------------------------------------------------------------------

bool Fs::busy() const {
  return std::any_of(requests_.begin(), requests_.end(),
                     [](const auto& request) { return request->at != At::kFree; });
}

void Fs::drain() {
  workers_->finish();
  while (server_ && busy()) {
    pollfd ready{server_.get(), static_cast<short>(POLLIN | (waiting_.empty() ? 0 : POLLOUT)), 0};
    if (::poll(&ready, 1, kDrainMilliseconds) <= 0) return lose_server();
    flush_waiting();
    while (server_ && receive_one()) {
    }
  }
}

// The server hears of it with the next INIT; answers that are still to come fit no request.
void Fs::reset() {
  workers_->discard();
  waiting_.clear();
  if (server_ && std::exchange(asks_to_send_, false)) loop_.rearm(server_.get(), EPOLLIN);
  free_.clear();
  for (auto& request : requests_) {
    request->at = At::kFree;
    request->generation++;
    request->reserved = false;
    request->file = {};
    free_.push_back(request.get());
  }
  handles_.clear();
  session_ = false;
  queues_[0] = queues_[1] = nullptr;
  interrupt_ = nullptr;
}

}  // namespace isopod::vmm::virtio
