#include "monitor/invocation.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "monitor/wire.h"

namespace isopod::monitor {

namespace {

constexpr size_t kMaxId = 76;
constexpr int32_t kLogDebug = -4;  // LogLevel; TRACE is below it
constexpr int kInputTimeoutMs = 5000;
constexpr std::string_view kOurOptions = "runtimeoptions.v1.Options";

// The flags that take a value, and where it goes.
struct Flag {
  std::string_view name;
  std::string_view Invocation::*value;
};
constexpr Flag kFlags[] = {
    {"namespace", &Invocation::namespace_name}, {"address", &Invocation::address},
    {"publish-binary", &Invocation::publish_binary}, {"id", &Invocation::id},
    {"bundle", &Invocation::bundle},
};

bool alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// containerd's identifiers: alphanumeric groups joined by single `.`, `_` or `-`, at most 76 characters.
bool valid_id(std::string_view id) {
  if (id.empty() || id.size() > kMaxId || !alphanumeric(id.back())) return false;
  bool separator = true;
  for (const char c : id) {
    const bool letter = alphanumeric(c);
    if (!letter && (separator || (c != '.' && c != '_' && c != '-'))) return false;
    separator = !letter;
  }
  return true;
}

bool parse_flag(std::string_view name, std::string_view* inline_value, Invocation* out, bool* wants_value,
                std::string_view** target) {
  const auto* equals = static_cast<const char*>(memchr(name.data(), '=', name.size()));
  if (equals != nullptr) {
    const auto at = static_cast<size_t>(equals - name.data());
    *inline_value = {equals + 1, name.size() - at - 1};
    name = {name.data(), at};
  }
  *wants_value = false;
  if (name == "debug") return out->debug = true;
  if (name == "info") return out->info = true;
  if (name == "v" || name == "version") return out->version = true;
  for (const Flag& flag : kFlags) {
    if (flag.name != name) continue;
    *target = &(out->*flag.value);
    *wants_value = equals == nullptr;
    if (equals != nullptr) **target = *inline_value;
    return true;
  }
  return false;
}

// Any {1 type_url, 2 value}.
void read_any(std::string_view message, std::string_view* type, std::string_view* value) {
  WireReader reader(message);
  for (Field field; reader.next(&field);) {
    if (field.number == 1) *type = field.bytes;
    if (field.number == 2) *value = field.bytes;
  }
}

bool is_options(std::string_view type) { return ends_with(type, ".Options"); }

// BootstrapParams, see proto/containerd/bootstrap/v1.
bool read_params(std::string_view input, const Invocation& invocation, Bootstrap* out) {
  std::string_view id;
  std::string_view name;
  Bootstrap found;
  WireReader reader(input);
  for (Field field; reader.next(&field);) {
    if (field.number == 1) id = field.bytes;
    if (field.number == 2) name = field.bytes;
    if (field.number == 3) found.debug = static_cast<int32_t>(field.value) <= kLogDebug;
    if (field.number == 5) found.ttrpc_address = field.bytes;
    if (field.number == 9) found.socket_dir = field.bytes;
    if (field.number != 8) continue;
    WireReader extension(field.bytes);
    for (Field inner; extension.next(&inner);) {
      std::string_view type;
      std::string_view value;
      if (inner.number == 1) read_any(inner.bytes, &type, &value);
      if (!is_options(type)) continue;
      found.options_type = type;
      found.options = value;
    }
  }
  if (!reader.ok() || id.empty() || id != invocation.id || name != invocation.namespace_name) return false;
  found.params = true;
  *out = found;
  return true;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && strchr(" \t\r", text.back()) != nullptr) text.remove_suffix(1);
  return text;
}

bool parse_option(std::string_view line, Bootstrap* out, Message4K* error) {
  line = trimmed(line);
  if (line.empty() || line.front() == '#') return true;
  const auto* equals = static_cast<const char*>(memchr(line.data(), '=', line.size()));
  const size_t at = equals == nullptr ? line.size() : static_cast<size_t>(equals - line.data());
  const std::string_view key = trimmed({line.data(), at});
  const std::string_view value =
      equals == nullptr ? std::string_view() : trimmed({equals + 1, line.size() - at - 1});
  if (key != "group") {
    *error << "options: \"" << key << "\": unknown key; known are: group";
    return false;
  }
  if (value != "\"pod\"" && value != "\"node\"" && value != "'pod'" && value != "'node'") {
    *error << "options: group: " << value << ": must be \"pod\" or \"node\"";
    return false;
  }
  out->node_group = value == "\"node\"" || value == "'node'";
  return true;
}

// The handler's options are flat TOML: `key = "value"` lines and comments.
bool parse_options_body(std::string_view body, Bootstrap* out, Message4K* error) {
  while (!body.empty()) {
    const auto* newline = static_cast<const char*>(memchr(body.data(), '\n', body.size()));
    const size_t size = newline == nullptr ? body.size() : static_cast<size_t>(newline - body.data());
    if (!parse_option({body.data(), size}, out, error)) return false;
    body.remove_prefix(newline == nullptr ? size : size + 1);
  }
  return true;
}

bool parse_options_file(std::string_view path, Bootstrap* out, Message4K* error) {
  static char content[64 << 10];
  const PathText name(path);
  UniqueFd file(open(name.c_str(), O_RDONLY | O_CLOEXEC));
  const ssize_t size = file ? read(file.get(), content, sizeof content) : -1;
  if (size < 0) {
    *error << "options: config_path \"" << path << "\": " << strerror(errno);
    return false;
  }
  return parse_options_body({content, static_cast<size_t>(size)}, out, error);
}

// runtimeoptions.v1.Options {1 type_url, 2 config_path, 3 config_body}.
bool parse_options(Bootstrap* out, Message4K* error) {
  if (out->options.empty()) return true;
  if (!ends_with(out->options_type, kOurOptions)) {
    *error << "options: type \"" << out->options_type << "\": not supported; this shim takes " << kOurOptions;
    return false;
  }
  std::string_view path;
  std::string_view body;
  WireReader reader(out->options);
  for (Field field; reader.next(&field);) {
    if (field.number == 2) path = field.bytes;
    if (field.number == 3) body = field.bytes;
  }
  if (!reader.ok()) {
    *error << "options: malformed " << kOurOptions;
    return false;
  }
  return body.empty() && !path.empty() ? parse_options_file(path, out, error)
                                       : parse_options_body(body, out, error);
}

}  // namespace

bool parse_arguments(int argc, char** argv, Invocation* out, Message4K* error) {
  for (int i = 1; i < argc; ++i) {
    std::string_view argument = argv[i];
    if (argument.empty() || argument.front() != '-') {
      if (!out->verb.empty()) {
        *error << "argument \"" << argument << "\": one verb only, and \"" << out->verb << "\" came first";
        return false;
      }
      out->verb = argument;
      continue;
    }
    argument.remove_prefix(starts_with(argument, "--") ? 2 : 1);
    std::string_view inline_value;
    std::string_view* target = nullptr;
    bool wants_value = false;
    if (!parse_flag(argument, &inline_value, out, &wants_value, &target)) {
      *error << "flag \"-" << argument << "\": unknown";
      return false;
    }
    if (!wants_value) continue;
    if (++i == argc) {
      *error << "flag \"-" << argument << "\": needs a value";
      return false;
    }
    *target = argv[i];
  }
  if (out->info || out->version) return true;
  if (out->verb != "start" && out->verb != "delete") {
    *error << "verb \"" << out->verb << "\": must be start or delete";
    return false;
  }
  if (!valid_id(out->id) || !valid_id(out->namespace_name)) {
    *error << (valid_id(out->id) ? "-namespace \"" : "-id \"")
           << (valid_id(out->id) ? out->namespace_name : out->id)
           << "\": must be at most 76 letters and digits in groups joined by . _ -";
    return false;
  }
  return true;
}

bool read_input(char* buffer, size_t capacity, std::string_view* input, Message4K* error) {
  size_t size = 0;
  for (;;) {
    pollfd ready = {STDIN_FILENO, POLLIN, 0};
    const int polled = poll(&ready, 1, kInputTimeoutMs);
    if (polled < 0 && errno == EINTR) continue;
    if (polled == 0) {
      *error << "stdin: not closed after " << kInputTimeoutMs << " ms";
      return false;
    }
    if (size == capacity) {
      *error << "stdin: more than " << static_cast<int64_t>(capacity) << " bytes";
      return false;
    }
    const ssize_t got = read(STDIN_FILENO, buffer + size, capacity - size);
    if (got < 0 && errno == EINTR) continue;
    // A closed stdin (EBADF) is none; so is a terminal, which nobody will end.
    if (got <= 0 || isatty(STDIN_FILENO) != 0) break;
    size += static_cast<size_t>(got);
  }
  *input = {buffer, size};
  return true;
}

bool parse_bootstrap(std::string_view input, const Invocation& invocation, Bootstrap* out,
                     Message4K* error) {
  if (!read_params(input, invocation, out) && !input.empty()) {
    // Standard input of an older containerd; what is no Any at all is ignored, as by other shims.
    WireReader check(input);
    for (Field field; check.next(&field);) continue;
    if (check.ok()) read_any(input, &out->options_type, &out->options);
  }
  return parse_options(out, error);
}

}  // namespace isopod::monitor
