// Pid 1's duties in the guest. Called before any thread is started.
#pragma once

#include "base/result.h"

namespace isopod::agent {

// /dev/console as stdio, the kernel's filesystems, the modules of the initramfs (`modules`).
Status prepare_guest(bool modules);
// The initramfs is rootfs, from which pivot_root(2) is impossible: a tmpfs becomes the root, what
// was mounted moves along, the initramfs itself is to be seen at /initramfs.
Status enter_root();

[[noreturn]] void power_off();

}  // namespace isopod::agent
