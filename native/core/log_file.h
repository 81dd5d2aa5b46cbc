// A container's log as CRI wants it: one line a line, `TIMESTAMP stdout|stderr P|F TEXT\n`.
//
// kubelet reads these files itself. `F` closes a line; `P` says that the line goes on in the next entry of
// the same stream. A line longer than kMaxLine is cut into P…PF; what a process wrote without a final
// newline stays P, so that reading it back yields exactly the bytes that were written.
// kubelet rotates by renaming the file and then asking for it to be opened anew (ReopenContainerLog).
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace isopod::core {

enum class Stream : uint8_t { kStdout, kStderr };

// The open file, shared by the splitters of both streams. Writes are whole lines, so that a reopen, which
// takes the same lock, always falls between two lines and nothing reaches the old file afterwards.
class LogFile {
 public:
  static Result<UniqueFd> open(const std::string& path);

  explicit LogFile(UniqueFd fd) : fd_(std::move(fd)) {}
  // Appends whole lines. A full disk loses lines, never blocks the container and never joins two lines:
  // after a short write the next one starts with a newline of its own.
  void append(const std::string& lines);
  void reopen(UniqueFd fd);

 private:
  std::mutex mutex_;
  UniqueFd fd_;
  bool torn_ = false;
};

// Cuts one stream into log lines. Pure: bytes in, formatted lines out.
class LineSplitter {
 public:
  static constexpr size_t kMaxLine = 16 * 1024;

  explicit LineSplitter(Stream stream) : stream_(stream) {}
  // Formats every line that `data` completes; `now` in nanoseconds since 1970.
  void feed(const char* data, size_t size, int64_t now, std::string& out);
  // The stream ended: what is left is written as P.
  void finish(int64_t now, std::string& out);

 private:
  void emit(const char* text, size_t size, char tag, int64_t now, std::string& out) const;
  void hold(const char* data, size_t size, int64_t now, std::string& out);

  Stream stream_;
  std::string pending_;
};

}  // namespace isopod::core
