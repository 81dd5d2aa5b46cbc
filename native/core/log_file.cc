#include "core/log_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>

namespace isopod::core {

Result<UniqueFd> LogFile::open(const std::string& path) {
  // O_NOFOLLOW: the directory is kubelet's, but a link planted there must not redirect a root write.
  int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
  if (fd < 0) return failure(errno, "open log", path);
  return UniqueFd(fd);
}

void LogFile::append(const std::string& lines) {
  std::lock_guard lock(mutex_);
  const char newline = '\n';
  if (torn_ && ::write(fd_.get(), &newline, 1) == 1) torn_ = false;
  if (torn_) return;
  size_t done = 0;
  while (done < lines.size()) {
    ssize_t n = ::write(fd_.get(), lines.data() + done, lines.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  torn_ = done > 0 && lines[done - 1] != '\n';
}

void LogFile::reopen(UniqueFd fd) {
  std::lock_guard lock(mutex_);
  fd_ = std::move(fd);
  torn_ = false;
}

void LineSplitter::feed(const char* data, size_t size, int64_t now, std::string& out) {
  const char* end = data + size;
  while (data < end) {
    auto* newline = static_cast<const char*>(memchr(data, '\n', static_cast<size_t>(end - data)));
    if (newline == nullptr) return hold(data, static_cast<size_t>(end - data), now, out);
    auto length = static_cast<size_t>(newline - data);
    if (pending_.empty() && length <= kMaxLine) {
      emit(data, length, 'F', now, out);
    } else {
      hold(data, length, now, out);
      emit(pending_.data(), pending_.size(), 'F', now, out);
      pending_.clear();
    }
    data = newline + 1;
  }
}

// Keeps the beginning of a line; whatever exceeds kMaxLine leaves as P at once.
void LineSplitter::hold(const char* data, size_t size, int64_t now, std::string& out) {
  while (pending_.size() + size > kMaxLine) {
    size_t take = kMaxLine - pending_.size();
    pending_.append(data, take);
    emit(pending_.data(), pending_.size(), 'P', now, out);
    pending_.clear();
    data += take;
    size -= take;
  }
  pending_.append(data, size);
}

void LineSplitter::finish(int64_t now, std::string& out) {
  if (pending_.empty()) return;
  emit(pending_.data(), pending_.size(), 'P', now, out);
  pending_.clear();
}

void LineSplitter::emit(const char* text, size_t size, char tag, int64_t now, std::string& out) const {
  constexpr int64_t kSecond = 1'000'000'000;
  time_t seconds = static_cast<time_t>(now / kSecond);
  tm utc{};
  gmtime_r(&seconds, &utc);
  char head[64];
  size_t n = strftime(head, sizeof(head), "%Y-%m-%dT%H:%M:%S", &utc);
  int m = snprintf(head + n, sizeof(head) - n, ".%09ldZ %s %c ", static_cast<long>(now % kSecond),
                   stream_ == Stream::kStdout ? "stdout" : "stderr", tag);
  out.append(head, n + static_cast<size_t>(m));
  out.append(text, size);
  out.push_back('\n');
}

}  // namespace isopod::core
