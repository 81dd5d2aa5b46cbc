// The parts of core and stub that are pure, hosted, under AddressSanitizer and UBSan: TAP on
// stdout.
//
// check_plan() is fed with mutations of valid plans (from seam to kernel nothing else stands
// between a plan and the stub's pointers); every plan that it accepts is then read the way the stub
// reads it, so a bound that it forgot is a report of the sanitizer.
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/error_text.h"
#include "core/plan_check.h"
#include "init/stub.h"

namespace {

using isopod::plan::check_plan;
using isopod::plan::kOperands;
using isopod::plan::View;

int tests = 0;
int failures = 0;

void ok(bool good, const std::string& name) {
  tests++;
  if (!good) failures++;
  std::printf("%sok %d - %s\n", good ? "" : "not ", tests, name.c_str());
}

// A plan with every op, each operand a valid one, by hand: PlanWriter is TypeScript.
class Builder {
 public:
  uint32_t put(const std::vector<uint8_t>& bytes) {
    const auto at = static_cast<uint32_t>(data_.size());
    data_.insert(data_.end(), bytes.begin(), bytes.end());
    data_.resize((data_.size() + 7) & ~size_t{7});
    return at;
  }
  uint32_t text(const char* value) {
    return put(std::vector<uint8_t>(value, value + std::strlen(value) + 1));
  }

  // Offsets into the data are relative to it until here.
  std::vector<uint8_t> finish() {
    isopod::plan::Header header{};
    const size_t ops = std::size(kOperands) - 1;  // pause; exec is last
    const size_t start =
        (sizeof(header) + sizeof(isopod::plan::Open) + ops * sizeof(isopod::plan::Op) + 7) &
        ~size_t{7};
    const auto base = static_cast<uint32_t>(start);
    const uint32_t word = text("/word") + base, blob = put(std::vector<uint8_t>(64, 7)) + base;
    std::vector<uint8_t> entries(12);
    const uint32_t list = put(entries) + base;
    std::vector<uint8_t> out(start + data_.size() + 8);
    std::memcpy(out.data() + start, data_.data(), data_.size());
    const uint32_t pair[3] = {2, word, word};
    std::memcpy(out.data() + list, pair, sizeof(pair));
    header = {isopod::plan::kMagic,
              isopod::plan::kVersion,
              static_cast<uint32_t>(out.size()),
              1,
              static_cast<uint32_t>(ops),
              0x20000000,
              0,
              0};
    std::memcpy(out.data(), &header, sizeof(header));
    const isopod::plan::Open open{isopod::plan::kOpenOverlay, 3, word, 0, 0, 0, list, word};
    std::memcpy(out.data() + sizeof(header), &open, sizeof(open));
    size_t at = sizeof(header) + sizeof(open);
    const auto add = [&](const isopod::plan::Operands& known) {
      isopod::plan::Op op{};
      op.op = known.op;
      op.subject = word;
      uint32_t* values[4] = {&op.a, &op.b, &op.c, &op.d};
      for (int i = 0; i < 4; i++) *values[i] = operand(known.kinds[i], word, list, blob);
      if (known.kinds[0] == 'B' || known.kinds[0] == 'G') op.b = 8;
      std::memcpy(out.data() + at, &op, sizeof(op));
      at += sizeof(op);
    };
    for (const auto& known : kOperands)
      if (known.op != isopod::plan::kOpExec && known.op != isopod::plan::kOpPause) add(known);
    for (const auto& known : kOperands)
      if (known.op == isopod::plan::kOpExec) add(known);
    return out;
  }

 private:
  static uint32_t operand(char kind, uint32_t word, uint32_t list, uint32_t blob) {
    switch (kind) {
      case 's':
      case 'o':
        return word;
      case 'l':
      case 'L':
        return list;
      case 'B':
      case 'G':
      case 'C':
      case 'P':
        return blob;
      default:
        return 1;
    }
  }
  std::vector<uint8_t> data_ = std::vector<uint8_t>(8);
};

// An exact copy on the heap, so that one byte beyond is a report.
struct Copy {
  explicit Copy(const std::vector<uint8_t>& bytes)
      : data(static_cast<uint8_t*>(std::malloc(bytes.size()))), size(bytes.size()) {
    if (size > 0) std::memcpy(data, bytes.data(), size);
  }
  ~Copy() { std::free(data); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;
  uint8_t* data;
  size_t size;
};

size_t read_string(View view, uint32_t offset) { return isopod::init::length(view.string(offset)); }

size_t read_list(View view, uint32_t offset) {
  size_t sum = 0;
  for (uint32_t i = 0; i < view.list_size(offset); i++)
    sum += isopod::init::length(view.list_item(offset, i));
  return sum;
}

size_t read_blob(View view, uint32_t offset, uint64_t size) {
  size_t sum = 0;
  const auto* bytes = view.blob<uint8_t>(offset);
  for (uint64_t i = 0; bytes != nullptr && i < size; i++) sum += bytes[i];
  return sum;
}

size_t read_all(const uint8_t* bytes) {
  const View view(bytes);
  size_t sum = 0;
  for (uint32_t i = 0; i < view.header().open_count; i++) {
    const auto& open = view.open(i);
    sum += read_string(view, open.path) + read_list(view, open.list) + read_string(view, open.data);
  }
  for (uint32_t i = 0; i < view.header().op_count; i++) {
    const auto& op = view.op(i);
    sum += read_string(view, op.subject);
    for (const auto& known : kOperands) {
      if (known.op != op.op) continue;
      const uint32_t values[4] = {op.a, op.b, op.c, op.d};
      for (int k = 0; k < 4; k++) switch (known.kinds[k]) {
          case 's':
          case 'o':
            sum += read_string(view, values[k]);
            break;
          case 'l':
          case 'L':
            sum += read_list(view, values[k]);
            break;
          case 'B':
          case 'P':
            sum += read_blob(view, values[k], op.b);
            break;
          case 'G':
            sum += read_blob(view, values[k], uint64_t{4} * op.b);
            break;
          case 'C':
            sum += read_blob(view, values[k], 8);
            break;
          default:
            break;
        }
    }
  }
  return sum;
}

void test_plans(unsigned rounds) {
  const std::vector<uint8_t> valid = Builder().finish();
  {
    const Copy copy(valid);
    const char* why = check_plan(copy.data, copy.size);
    ok(why == nullptr,
       std::string("a plan with every op is accepted") + (why != nullptr ? why : ""));
  }
  for (size_t size = 0; size < valid.size(); size++) {
    const Copy copy(std::vector<uint8_t>(valid.begin(), valid.begin() + static_cast<long>(size)));
    if (check_plan(copy.data, copy.size) == nullptr)
      return ok(false, "truncated to " + std::to_string(size));
  }
  ok(true, "every truncation is refused");

  std::mt19937 random(20240131);
  unsigned accepted = 0;
  volatile size_t sink = 0;
  const uint32_t edges[] = {0,
                            1,
                            7,
                            8,
                            0x7fffffff,
                            0x80000000,
                            0xffffffff,
                            0xfffffff8,
                            static_cast<uint32_t>(valid.size()),
                            static_cast<uint32_t>(valid.size()) - 1,
                            static_cast<uint32_t>(valid.size()) - 8};
  for (unsigned round = 0; round < rounds; round++) {
    std::vector<uint8_t> bytes = valid;
    for (unsigned change = random() % 3 + 1; change > 0; change--) {
      const size_t at = random() % (bytes.size() / 4) * 4;
      const uint32_t value = random() % 2 != 0
                                 ? edges[random() % std::size(edges)]
                                 : random() % static_cast<uint32_t>(bytes.size() + 16);
      std::memcpy(bytes.data() + at, &value, sizeof(value));
    }
    const Copy copy(bytes);
    if (check_plan(copy.data, copy.size) != nullptr) continue;
    accepted++;
    sink = sink + read_all(copy.data);
  }
  ok(accepted > 0 && accepted < rounds,
     std::to_string(rounds) + " mutations, " + std::to_string(accepted) + " accepted and read");
}

void test_strings() {
  using namespace isopod::init;
  char buffer[8] = "";
  ok(append(buffer, sizeof(buffer), "1234567") && std::string(buffer) == "1234567",
     "append fills a buffer");
  ok(!append(buffer, sizeof(buffer), "8") && std::string(buffer) == "1234567",
     "and is cut short at its end");
  char number[24] = "";
  append_number(number, sizeof(number), INT64_MIN);
  ok(std::string(number) == "-9223372036854775808", "the smallest number");
  number[0] = 0;
  append_number(number, sizeof(number), 0);
  ok(std::string(number) == "0", "zero");
  ok(equal("", "") && equal("a", "a") && !equal("a", "ab") && !equal("ab", "a"), "equal");
}

void test_errors() {
  using isopod::Error;
  isopod::plan::Report report{};
  report.op = isopod::plan::kOpMountNew;
  report.error = EPERM;
  std::strcpy(report.subject, "proc");
  std::strcpy(report.target, "/proc");
  ok(isopod::core::text_of(isopod::core::error_of(report)) ==
         "mounting \"proc\" at \"/proc\": operation not permitted",
     "a mount reads as the design has it");
  std::memset(report.subject, 'x', sizeof(report.subject));
  ok(isopod::core::error_of(report).subject.size() == sizeof(report.subject),
     "a subject without an end is bounded");
  bool words = true;
  for (const auto& known : kOperands)
    words = words && std::string(isopod::core::step_of(known.op)) != "launch";
  ok(words, "every op has a word");
  ok(isopod::core::errno_name(EPERM) == "EPERM" && isopod::core::errno_name(0).empty() &&
         !isopod::core::errno_name(9999).empty(),
     "errno names");
}

}  // namespace

int main(int argc, char** argv) {
  test_plans(argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 200000);
  test_strings();
  test_errors();
  std::printf("1..%d\n", tests);
  return failures == 0 ? 0 : 1;
}
