// What the monitor runs: a node of the right major and our bundle (rule R1).
#pragma once

#include "monitor/invocation.h"

namespace isopod::monitor {

struct Program {
  PathText node;
  PathText server;        // shim-server.js
  Text<256> build;        // changes with every build of monitor, server or addon
};

// The bundle: beside our own executable, or at ../../dist/ of it (a checkout).
bool find_server(Program* out, Message4K* error);

// Node: the path recorded at build, then PATH, then /usr/bin/node. A node that does not run or has too old a
// major is passed over; if none is left, the error names each with its reason.
bool find_node(Program* out, Message4K* error);

// The environment for node: ours without what would change its behaviour (NODE_OPTIONS,
// NODE_EXTRA_CA_CERTS and every other NODE_ variable), and with one malloc arena.
char** scrubbed_environment();

}  // namespace isopod::monitor
