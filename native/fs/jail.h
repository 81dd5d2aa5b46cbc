// What the server gives up before it reads the first request. The guest is hostile and this program
// parses what it says, so all that is left to it is the tree: no other files, no network, no other
// process, seven capabilities, and the system calls that its handlers make.
#pragma once

#include "base/fd.h"
#include "base/result.h"

namespace isopod::fs {

// Goes on as pid 1 of a pid namespace of its own: two processes of uid 0 may signal each other,
// whatever their capabilities. A caller that is not pid 1 already stays behind as the parent, ends
// with its child's status, and takes the child along when it is killed.
Status own_pid_namespace();

struct Places {
  UniqueFd root;     // O_PATH, of the tree
  UniqueFd proc_fd;  // O_PATH, /proc/self/fd of a procfs that is mounted nowhere
};

// `root`: a directory in the caller's mount namespace; what is mounted below it comes along, and
// what is mounted there later too, if it is shared (the copy is a slave). Afterwards it is "/" and
// nothing else is.
Result<Places> enter_tree(UniqueFd root);

// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETUID, SETGID, MKNOD; no_new_privs; not dumpable.
Status drop_capabilities();

// For all threads there are. What is not on the list fails with EPERM: a call that was forgotten
// costs one request, not the pod, and whoever took over the server has no more of it.
Status filter_calls();

}  // namespace isopod::fs
