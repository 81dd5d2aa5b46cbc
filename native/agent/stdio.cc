#include "agent/stdio.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <utility>

namespace isopod::agent {

namespace {

UniqueFd duplicate(const UniqueFd& fd) { return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3)); }

}  // namespace

Result<StdioEnds> open_stdio(const Transport& transport, const StdioPorts& ports) {
  StdioEnds ends;
  ends.terminal = ports.terminal;
  const uint32_t wanted[3] = {ports.in, ports.out, ports.err};
  if (ports.terminal && (ports.in != 0 || ports.err != 0))
    return Error{0, "stdio", {}, {}, "a terminal has one stream, stdout", "INVALID_ARGUMENT"};
  for (int i = 0; i < 3; i++) {
    if (wanted[i] != 0) {
      Result<UniqueFd> stream = transport.connect(wanted[i]);
      if (!stream) return stream.error();
      ends.streams[i] = std::move(*stream);
    }
    if (wanted[i] == 0 || ports.terminal) {
      ends.theirs[i].reset(::open("/dev/null", O_RDWR | O_CLOEXEC));
      if (!ends.theirs[i]) return failure(errno, "open", "/dev/null");
      continue;
    }
    int pipe[2];
    if (::pipe2(pipe, O_CLOEXEC) < 0) return failure(errno, "stdio", "");
    ends.pipes[i].reset(pipe[i == 0 ? 1 : 0]);
    ends.theirs[i].reset(pipe[i == 0 ? 0 : 1]);
  }
  return ends;
}

Stdio::Stdio(StdioEnds ends, UniqueFd pty, std::function<void()> drained)
    : pty_(std::move(pty)), drained_(std::make_shared<std::function<void()>>(std::move(drained))) {
  if (ends.terminal && pty_ && ends.streams[1]) {
    // Two directions over the same two files: each relay has duplicates of its own.
    input_ = Relay::start(duplicate(ends.streams[1]), duplicate(pty_), nullptr);
    begin(duplicate(pty_), std::move(ends.streams[1]));
  } else if (!ends.terminal) {
    if (ends.streams[0])
      input_ = Relay::start(std::move(ends.streams[0]), std::move(ends.pipes[0]), nullptr);
    for (int i = 1; i < 3; i++)
      if (ends.streams[i]) begin(std::move(ends.pipes[i]), std::move(ends.streams[i]));
  }
}

void Stdio::begin(UniqueFd from, UniqueFd to) {
  open_++;
  outputs_.push_back(Relay::start(std::move(from), std::move(to), [this, drained = drained_] {
    if (!*drained) return;  // closed: nobody counts any more
    if (--open_ > 0) return;
    const std::function<void()> told = *drained;  // which may close us
    told();
  }));
}

void Stdio::close_input() {
  // A terminal's end of file is a character, ^D, not the end of its stream.
  if (input_ && !pty_) input_->finish();
}

int Stdio::resize(uint32_t rows, uint32_t columns) {
  if (!pty_) return 0;
  winsize size{};
  size.ws_row = static_cast<unsigned short>(rows);
  size.ws_col = static_cast<unsigned short>(columns);
  return ::ioctl(pty_.get(), TIOCSWINSZ, &size) < 0 ? errno : 0;
}

Stdio::~Stdio() {
  *drained_ = nullptr;
  if (input_) input_->stop();
  for (const std::shared_ptr<Relay>& output : outputs_) output->stop();
}

}  // namespace isopod::agent
