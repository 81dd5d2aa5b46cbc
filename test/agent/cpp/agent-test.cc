// The agent's codecs under AddressSanitizer and UBSan: the wire format by the examples of its
// specification, then the fuzz target over mutations of its corpus. TAP on stdout.
//
//   agent-test ROUNDS FILE...
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "agent/frame.h"
#include "agent/messages.h"
#include "agent/wire.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using namespace isopod::agent;

int tests = 0;
int failures = 0;

void ok(bool good, const char* name) {
  tests++;
  if (!good) failures++;
  std::printf("%sok %d - %s\n", good ? "" : "not ", tests, name);
}

std::string bytes(std::initializer_list<int> values) {
  std::string out;
  for (const int value : values) out.push_back(static_cast<char>(value));
  return out;
}

// A field that is read as a number; false if it cannot be.
bool number(const std::string& message, uint64_t& value) {
  Reader in(message);
  if (in.next()) value = in.number();
  return in.ok();
}

void varints() {
  uint64_t value = 0;
  // The specification's own example: 150 is 96 01.
  ok(number(bytes({0x08, 0x96, 0x01}), value) && value == 150, "a varint of two bytes");
  const std::string ones(9, '\xff');
  ok(number(bytes({0x08}) + ones + '\x01', value) && value == UINT64_MAX, "the longest varint");
  ok(!number(bytes({0x08}) + ones + '\x02', value), "a 65th bit is refused");
  ok(!number(bytes({0x08}) + ones + '\x81' + '\x01', value), "an eleventh byte is refused");
  ok(!number(bytes({0x08}) + ones, value), "a varint without end is refused");
  ok(!number(bytes({0x00, 0x01}), value), "field 0 is refused");
  ok(!number(bytes({0x0b, 0x01}), value), "a group is refused");
  ok(!number(bytes({0x0a, 0x01, 'x'}), value), "a text is not taken for a number");
}

void lengths() {
  ProcessRequest process;
  ok(decode(bytes({0x0a, 2, 'i', 'd', 0x12, 1, 'e'}), process) && process.id == "id" &&
         process.exec_id == "e",
     "texts");
  ok(decode(bytes({0x7a, 3, 1, 2, 3, 0x79, 0, 0, 0, 0, 0, 0, 0, 0, 0x7d, 0, 0, 0, 0, 0x78, 5}),
            process),
     "unknown fields of every type are skipped");
  ok(!decode(bytes({0x0a, 3, 'i', 'd'}), process), "a length beyond the end is refused");
  ok(!decode(bytes({0x0a}) + std::string(9, '\xff') + '\x01' + "x", process),
     "a length of 2^64-1 is refused");
  ok(!decode(bytes({0x0a, 2, 'a', 0}), process), "a NUL in a text is refused");
  ok(!decode(bytes({0x79, 0, 0}), process), "half of a fixed value is refused");
  ResizeRequest resize;
  ok(!decode(bytes({0x18, 0x80, 0x80, 0x80, 0x80, 0x10}), resize),
     "a number beyond 32 bits is refused where 32 are meant");
  StatsRequest stats;
  std::string many;
  for (int i = 0; i < 5000; i++) many += bytes({0x12, 1, 'a'});
  ok(!decode(many, stats), "a list beyond all measure is refused");
}

void round_trip() {
  Writer out;
  out.number(1, 300);
  out.bytes(2, "text");
  out.bytes(3, "");
  out.number(4, 0);
  out.element(5, "");
  Reader in(out.str());
  ok(in.next() && in.field() == 1 && in.number() == 300 && in.next() && in.field() == 2 &&
         in.text() == "text" && in.next() && in.field() == 5 && in.bytes().empty() && !in.next() &&
         in.ok(),
     "what is written is read again, zero values left out");
}

void frames() {
  std::vector<Frame> got;
  FrameParser parser;
  const auto push = [&](const std::string& data) {
    parser.push(data.data(), data.size(), [&](Frame& frame) { got.push_back(frame); });
  };
  const std::string large =
      bytes({0, 0x40, 0, 1, 0, 0, 0, 7, 1, 0}) + std::string(kMaxData + 1, 'x');
  push(large.substr(0, 4));
  push(large.substr(4, 100));
  push(large.substr(104) + encode_frame(9, kRequest, "after"));
  push(encode_frame(11, kData, ""));
  ok(got.size() == 3 && got[0].oversize && got[0].stream == 7 && got[0].data.empty() &&
         got[1].stream == 9 && got[1].data == "after" && got[2].stream == 11 && got[2].data.empty(),
     "a frame beyond 4 MiB is drained, what follows it is read");
}

std::vector<uint8_t> read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Flips, cuts, doubles and splices; the sanitizers and the target's own oracles judge.
void mutate(const std::vector<std::vector<uint8_t>>& corpus, long rounds) {
  std::mt19937 random(20260821);
  const auto below = [&](size_t n) { return n == 0 ? size_t{0} : random() % n; };
  for (long i = 0; i < rounds; i++) {
    std::vector<uint8_t> input = corpus[below(corpus.size())];
    for (size_t times = 1 + below(8); times > 0; times--) {
      const size_t at = below(input.size());
      const auto where = input.begin() + static_cast<std::ptrdiff_t>(at);
      switch (below(5)) {
        case 0:
          if (!input.empty()) input[at] ^= static_cast<uint8_t>(1u << below(8));
          break;
        case 1:
          if (!input.empty()) input[at] = static_cast<uint8_t>(below(2) == 0 ? 0xff : below(256));
          break;
        case 2:
          input.resize(at);
          break;
        case 3:
          input.insert(where, static_cast<uint8_t>(below(256)));
          break;
        default: {
          const std::vector<uint8_t>& other = corpus[below(corpus.size())];
          input.insert(where, other.begin() + static_cast<std::ptrdiff_t>(below(other.size())),
                       other.end());
        }
      }
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  ok(true, "the control stream's decoder bears mutations of its corpus");
}

}  // namespace

int main(int count, char** words) {
  varints();
  lengths();
  round_trip();
  frames();
  std::vector<std::vector<uint8_t>> corpus;
  for (int i = 2; i < count; i++) corpus.push_back(read_file(words[i]));
  for (const auto& input : corpus) LLVMFuzzerTestOneInput(input.data(), input.size());
  ok(!corpus.empty(), "the corpus itself");
  if (!corpus.empty()) mutate(corpus, count > 1 ? std::atol(words[1]) : 0);
  std::printf("1..%d\n", tests);
  return failures == 0 ? 0 : 1;
}
