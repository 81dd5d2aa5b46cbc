// The stdio of one process: streams to the host on our side, pipes or a terminal on its side.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "agent/messages.h"
#include "agent/relay.h"
#include "agent/transport.h"
#include "base/fd.h"
#include "base/result.h"

namespace isopod::agent {

// Before the launch: everything that can fail.
struct StdioEnds {
  UniqueFd streams[3];  // to the host; with a terminal only [1]
  UniqueFd pipes[3];    // our ends: stdin's writing, the others' reading end
  UniqueFd theirs[3];   // the process's ends, for the launch; /dev/null where there is none
  bool terminal = false;
};

// Opens streams to the ports, and pipes. May wait for the host: for a job thread.
Result<StdioEnds> open_stdio(const Transport& transport, const StdioPorts& ports);

// On the control poller only.
class Stdio {
 public:
  // `pty` is the master, with a terminal; the process keeps the one descriptor that resizes it.
  Stdio(StdioEnds ends, UniqueFd pty, std::function<void()> drained);
  Stdio(const Stdio&) = delete;
  Stdio& operator=(const Stdio&) = delete;
  // Ends all of it.
  ~Stdio();

  // What was sent before still arrives.
  void close_input();
  // 0 or errno.
  int resize(uint32_t rows, uint32_t columns);
  // No output will come any more. `drained` was called then.
  bool drained() const { return open_ == 0; }

 private:
  void begin(UniqueFd from, UniqueFd to);

  UniqueFd pty_;
  std::shared_ptr<Relay> input_;
  std::vector<std::shared_ptr<Relay>> outputs_;
  std::shared_ptr<std::function<void()>> drained_;
  int open_ = 0;  // outputs that have not ended
};

}  // namespace isopod::agent
