// The agent's control stream as a hostile host would write it: bytes to frames, frames to requests,
// requests to messages. The first byte says into what pieces the stream falls. Oracles, besides the
// sanitizers: pieces make no difference, and a plan that is accepted can be read whole.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "agent/frame.h"
#include "agent/messages.h"
#include "core/plan_check.h"

namespace {

using namespace isopod::agent;

void require(bool good) {
  if (!good) abort();
}

std::vector<Frame> frames_of(const char* data, size_t size, size_t piece) {
  std::vector<Frame> frames;
  FrameParser parser;
  for (size_t at = 0; at < size; at += piece)
    parser.push(data + at, size - at < piece ? size - at : piece,
                [&](Frame& frame) { frames.push_back(frame); });
  return frames;
}

template <typename T>
void decode_as(std::string_view payload) {
  T message;
  static_cast<void>(decode(payload, message));
}

void read_plan(const std::vector<uint8_t>& bytes) {
  if (bytes.size() % 8 != 0) return;
  if (isopod::plan::check_plan(bytes.data(), bytes.size()) != nullptr) return;
  const isopod::plan::View view(bytes.data());
  size_t length = 0;
  for (uint32_t i = 0; i < view.header().open_count; i++)
    length += std::strlen(view.string(view.open(i).path));
  for (uint32_t i = 0; i < view.header().op_count; i++)
    length += std::strlen(view.string(view.op(i).subject));
  require(length < bytes.size() * (size_t{view.header().open_count} + view.header().op_count));
}

// Whatever the method is called, the payload is tried as every message: they share their decoder's
// parts, and the handler that gets it is chosen by name only.
void decode_all(std::string_view payload) {
  decode_as<Empty>(payload);
  decode_as<HelloRequest>(payload);
  decode_as<ConfigureRequest>(payload);
  decode_as<MountRequest>(payload);
  decode_as<UnmountRequest>(payload);
  decode_as<NetworkRequest>(payload);
  decode_as<SetClockRequest>(payload);
  decode_as<ReseedRequest>(payload);
  decode_as<ExecRequest>(payload);
  decode_as<ProcessRequest>(payload);
  decode_as<SignalRequest>(payload);
  decode_as<ResizeRequest>(payload);
  decode_as<WaitOomRequest>(payload);
  CreateContainerRequest create;
  if (decode(payload, create)) read_plan(create.plan);
  // A name that was accepted stays below its cgroup.
  UpdateRequest update;
  if (decode(payload, update))
    for (const auto& write : update.writes)
      require(write.file.find('/') == std::string::npos && write.file != "..");
  StatsRequest stats;
  if (decode(payload, stats))
    for (const std::string& name : stats.files)
      require(!name.empty() && name.find('/') == std::string::npos && name[0] != '.');
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const char* stream = reinterpret_cast<const char*>(data + 1);
  const std::vector<Frame> whole = frames_of(stream, size - 1, size);
  const std::vector<Frame> pieces = frames_of(stream, size - 1, size_t{1} + data[0]);
  require(whole.size() == pieces.size());
  for (size_t i = 0; i < whole.size(); i++) {
    require(whole[i].data == pieces[i].data && whole[i].stream == pieces[i].stream &&
            whole[i].oversize == pieces[i].oversize && whole[i].data.size() <= kMaxData);
    Request request;
    if (decode(whole[i].data, request)) decode_all(request.payload);
    decode_all(whole[i].data);
  }
  return 0;
}
