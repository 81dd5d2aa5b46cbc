// The server's threads: each takes a packet, performs it, answers.
#pragma once

#include "base/result.h"
#include "fs/session.h"

namespace isopod::fs {

// Answers requests of `socket` (SOCK_SEQPACKET) on so many threads. `ready` runs once all of them
// are set up and none has read yet. Ends the process: status 0 when the other side closed, 1 when
// it broke the rules.
[[noreturn]] void serve(int socket, int proc_fd, Session& session, unsigned threads,
                        Status (*ready)());

}  // namespace isopod::fs
