// What a shim binary is asked to do: Go-style flags, then the bootstrap message on standard input.
//
//   -namespace NS -address SOCK -publish-binary PATH -id ID [-debug] start      cwd = bundle
//   -namespace NS -address SOCK -publish-binary PATH -id ID -bundle DIR delete
//   -info | -v | -version
//
// stdin of start: containerd 2.3+ sends BootstrapParams; older ones a google.protobuf.Any with the
// handler's options, or nothing. An Any also decodes as BootstrapParams (fields 1 and 2 collide), so it is
// taken as the new form only if instance_id and namespace are those of the flags.
#pragma once

#include "monitor/text.h"

namespace isopod::monitor {

constexpr size_t kMaxInput = 1 << 20;

struct Invocation {
  std::string_view verb;
  std::string_view namespace_name;
  std::string_view address;
  std::string_view publish_binary;
  std::string_view id;
  std::string_view bundle;
  bool debug = false;
  bool info = false;
  bool version = false;
};

// What standard input says. Views point into the buffer that was read.
struct Bootstrap {
  bool params = false;  // BootstrapParams: answer with BootstrapResult
  bool debug = false;
  std::string_view ttrpc_address;
  std::string_view socket_dir;
  std::string_view options_type;
  std::string_view options;
  bool node_group = false;  // `group = "node"` in the options
};

using Message4K = Text<4096>;

// False with the reason in `error`.
bool parse_arguments(int argc, char** argv, Invocation* out, Message4K* error);

// Reads standard input to its end, at most kMaxInput bytes and a few seconds.
bool read_input(char* buffer, size_t capacity, std::string_view* input, Message4K* error);
bool parse_bootstrap(std::string_view input, const Invocation& invocation, Bootstrap* out,
                     Message4K* error);

}  // namespace isopod::monitor
