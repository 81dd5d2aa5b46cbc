#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "core/pump.h"

namespace isopod::core {
namespace {

int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

class LogSink : public Sink {
 public:
  LogSink(std::shared_ptr<LogFile> log, Stream stream) : log_(std::move(log)), splitter_(stream) {}

  size_t offer(const char* data, size_t size) override {
    splitter_.feed(data, size, now_ns(), lines_);
    flush();
    return size;
  }
  void finish() override {
    splitter_.finish(now_ns(), lines_);
    flush();
  }

 private:
  void flush() {
    if (!lines_.empty()) log_->append(lines_);
    lines_.clear();
  }

  std::shared_ptr<LogFile> log_;
  LineSplitter splitter_;
  std::string lines_;
};

class DescriptorSink : public Sink {
 public:
  explicit DescriptorSink(UniqueFd to) : to_(std::move(to)) {
    fcntl(to_.get(), F_SETFL, fcntl(to_.get(), F_GETFL) | O_NONBLOCK);
  }

  size_t offer(const char* data, size_t size) override {
    if (!to_) return size;
    ssize_t n = ::write(to_.get(), data, size);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno == EAGAIN || errno == EINTR) return 0;
    to_.reset();
    return size;
  }
  int blocked_on() const override { return to_.get(); }
  void finish() override { to_.reset(); }

 private:
  UniqueFd to_;
};

class CollectingSink : public Sink {
 public:
  explicit CollectingSink(size_t limit) : limit_(limit) {}

  size_t offer(const char* data, size_t size) override {
    size_t room = std::min(size, limit_ - kept_.size());
    kept_.insert(kept_.end(), data, data + room);
    return size;
  }
  std::vector<uint8_t> take() override { return std::move(kept_); }

 private:
  size_t limit_;
  std::vector<uint8_t> kept_;
};

}  // namespace

std::unique_ptr<Sink> log_sink(std::shared_ptr<LogFile> log, Stream stream) {
  return std::make_unique<LogSink>(std::move(log), stream);
}
std::unique_ptr<Sink> descriptor_sink(UniqueFd to) {
  return std::make_unique<DescriptorSink>(std::move(to));
}
std::unique_ptr<Sink> collecting_sink(size_t limit) { return std::make_unique<CollectingSink>(limit); }

}  // namespace isopod::core
