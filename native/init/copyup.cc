// tmpcopyup: what lies beneath a tmpfs is copied into it.
#include "init/stub.h"

namespace isopod::init {

long op_copy_up(const Op&) {
  stub.why = "tmpcopyup is not built yet";
  return -kEopnotsupp;
}

}  // namespace isopod::init
