// check_plan(): the one place where the bounds of a plan are checked. Free of libc, so that
// launcher, init stub, guest and fuzzer run the same code. After it has returned nullptr
//   * every string ends inside the buffer, which itself ends with NUL;
//   * every list, and every string in it, is in range and aligned; every blob has its stated size;
//   * every slot is below kMaxSlots or, where an op allows it, kNoSlot;
//   * the last op, and only the last, is EXEC or PAUSE.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/plan.h"

namespace isopod::plan {

// Operands a, b, c, d of an op, one letter each:
//   .  a number              s  string              o  string or none     l  list       L  list or
//   none S  slot                  O  slot or kNoSlot     B  blob of (b) bytes  G  blob of (b) u32
//   C  blob of one u64 or none                      P  blob of (b) bytes or none
struct Operands {
  uint32_t op;
  char kinds[5];
};

constexpr Operands kOperands[] = {
    {kOpSetns, "S..."},      {kOpUnshare, "...."},     {kOpEnterBase, "S..."},
    {kOpSuccessor, "OO.."},  {kOpLoopbackUp, "...."},  {kOpHostname, "...."},
    {kOpDomainname, "...."}, {kOpSetsid, "...."},      {kOpAttachRoot, "S..."},
    {kOpNewRoot, "...L"},    {kOpBaseTree, "S..."},    {kOpMountNew, "sosL"},
    {kOpMountTree, "S.s."},  {kOpSetAttr, "..s."},     {kOpPropagate, "..s."},
    {kOpMkdir, "..s."},      {kOpSymlink, "s.s."},     {kOpMknod, "..s."},
    {kOpWriteFile, "B.s."},  {kOpMask, "S.s."},        {kOpReadonly, "..s."},
    {kOpPivot, "...."},      {kOpCopyUp, "..s."},      {kOpChroot, "..s."},
    {kOpSysctl, "s.s."},     {kOpConsole, "...."},     {kOpStdio, "OOO."},
    {kOpRlimit, "...."},     {kOpUmask, "...."},       {kOpPdeathsig, "...."},
    {kOpNoNewPrivs, "...."}, {kOpSeccomp, "B..."},     {kOpBounding, "...."},
    {kOpGroups, "G..."},     {kOpIds, "...."},         {kOpCwd, "..s."},
    {kOpCaps, "CC.."},       {kOpOomScoreAdj, "...."}, {kOpKeyring, "...."},
    {kOpChownStdio, "...."}, {kOpDumpable, "...."},    {kOpApparmor, "...."},
    {kOpSync, "...."},       {kOpGate, "S..."},        {kOpLookup, "ll.."},
    {kOpExec, "ll.."},       {kOpPause, "P..."},
};

constexpr uint32_t kCloneFlags =
    0x04000000 | 0x08000000 | 0x20000000 | 0x40000000;  // UTS, IPC, PID, NET

// Reads a plan that has been checked.
class View {
 public:
  View() = default;
  explicit View(const uint8_t* bytes) : bytes_(bytes) {}

  const Header& header() const { return *at<Header>(0); }
  const Open& open(uint32_t i) const { return at<Open>(sizeof(Header))[i]; }
  const Op& op(uint32_t i) const {
    return at<Op>(sizeof(Header) + sizeof(Open) * header().open_count)[i];
  }
  // "" for none.
  const char* string(uint32_t offset) const { return offset == 0 ? "" : at<char>(offset); }
  template <typename T>
  const T* blob(uint32_t offset) const {
    return offset == 0 ? nullptr : at<T>(offset);
  }
  uint32_t list_size(uint32_t offset) const { return offset == 0 ? 0 : *at<uint32_t>(offset); }
  const char* list_item(uint32_t offset, uint32_t i) const {
    return string(at<uint32_t>(offset + 4)[i]);
  }

 private:
  template <typename T>
  const T* at(size_t offset) const {
    return reinterpret_cast<const T*>(bytes_ + offset);
  }
  const uint8_t* bytes_ = nullptr;
};

class Checker {
 public:
  Checker(const uint8_t* bytes, size_t size) : bytes_(bytes), size_(size), view_(bytes) {}

  const char* check() const {
    if (size_ < sizeof(Header) || size_ > kMaxSize) return "size out of range";
    if (reinterpret_cast<uintptr_t>(bytes_) % 8 != 0) return "not aligned";
    const Header& header = view_.header();
    if (header.magic != kMagic) return "not a plan";
    if (header.version != kVersion) return "another version";
    if (header.size != size_ || bytes_[size_ - 1] != 0) return "truncated";
    if ((header.clone_flags & ~kCloneFlags) != 0) return "clone flag not allowed";
    // Neither product can overflow 64 bits.
    const uint64_t tables = sizeof(Header) + uint64_t{sizeof(Open)} * header.open_count +
                            uint64_t{sizeof(Op)} * header.op_count;
    if (tables > size_) return "table out of range";
    for (uint32_t i = 0; i < header.open_count; i++)
      if (const char* why = check_open(view_.open(i))) return why;
    for (uint32_t i = 0; i < header.op_count; i++) {
      const Op& op = view_.op(i);
      if (const char* why = check_op(op)) return why;
      const bool ends = op.op == kOpExec || op.op == kOpPause;
      if (ends != (i + 1 == header.op_count)) return "the last op, and only that, is exec or pause";
    }
    return header.op_count == 0 ? "no op" : nullptr;
  }

 private:
  const char* check_open(const Open& open) const {
    if (open.kind < kOpenTree || open.kind > kOpenFilesystem) return "unknown open";
    if (open.slot >= kMaxSlots) return "slot out of range";
    if (!string_or_none(open.path) || !list_or_none(open.list) || !string_or_none(open.data))
      return "open: string out of range";
    return nullptr;
  }

  const char* check_op(const Op& op) const {
    for (const Operands& known : kOperands) {
      if (known.op != op.op) continue;
      const uint32_t values[4] = {op.a, op.b, op.c, op.d};
      for (int i = 0; i < 4; i++)
        if (!operand(known.kinds[i], values[i], op.b)) return "op: operand out of range";
      return string_or_none(op.subject) ? nullptr : "op: subject out of range";
    }
    return "unknown op";
  }

  bool operand(char kind, uint32_t value, uint32_t count) const {
    switch (kind) {
      case 's':
        return value != 0 && string_or_none(value);
      case 'o':
        return string_or_none(value);
      case 'l':
        return value != 0 && list_or_none(value) && view_.list_size(value) > 0;
      case 'L':
        return list_or_none(value);
      case 'S':
        return value < kMaxSlots;
      case 'O':
        return value < kMaxSlots || value == kNoSlot;
      case 'B':
        return value != 0 && range(value, count);
      case 'P':
        return value == 0 || range(value, count);
      // An empty list of groups needs no blob.
      case 'G':
        return (value == 0 && count == 0) || (value != 0 && range(value, uint64_t{4} * count));
      case 'C':
        return value == 0 || range(value, 8);
      default:
        return true;
    }
  }

  // The buffer ends with NUL, so whatever starts inside it ends inside it.
  bool string_or_none(uint32_t offset) const { return offset < size_; }
  bool range(uint32_t offset, uint64_t bytes) const {
    return offset % 8 == 0 && offset <= size_ && bytes <= size_ - offset;
  }
  bool list_or_none(uint32_t offset) const {
    if (offset == 0) return true;
    if (!range(offset, 4)) return false;
    const uint32_t count = view_.list_size(offset);
    if (!range(offset, 4 + uint64_t{4} * count)) return false;
    const uint32_t* refs = reinterpret_cast<const uint32_t*>(bytes_ + offset + 4);
    for (uint32_t i = 0; i < count; i++)
      if (refs[i] == 0 || !string_or_none(refs[i])) return false;
    return true;
  }

  const uint8_t* bytes_;
  size_t size_;
  View view_;
};

// nullptr, or what is wrong with the plan. `bytes` must be 8-aligned.
inline const char* check_plan(const uint8_t* bytes, size_t size) {
  return Checker(bytes, size).check();
}

}  // namespace isopod::plan
