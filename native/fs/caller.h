// Making things in the caller's name. The guest's kernel has checked what its process may do; what
// is made here must only *belong* to it. So the thread takes its user and group for one call and
// keeps CAP_DAC_OVERRIDE: a caller that the guest lets write where its uid alone could not (its
// CAP_DAC_OVERRIDE) would be refused here otherwise.
#pragma once

#include <cstdint>

namespace isopod::fs {

class AsCaller {
 public:
  AsCaller(uint32_t uid, uint32_t gid);
  AsCaller(const AsCaller&) = delete;
  ~AsCaller();
  // 0, or why the identity could not be taken: nothing may be made then.
  int error() const { return error_; }

 private:
  bool changed_gid_ = false;
  bool changed_uid_ = false;
  int error_ = 0;
};

// Without CAP_FSETID for as long as it lives: the kernel then clears set-user-id as it does for an
// ordinary writer.
class WithoutFsetid {
 public:
  explicit WithoutFsetid(bool wanted);
  WithoutFsetid(const WithoutFsetid&) = delete;
  ~WithoutFsetid();

 private:
  bool dropped_ = false;
};

}  // namespace isopod::fs
