// Stands between containerd and an OCI runtime on a host whose cgroup2 lacks the cpu controller, as the
// unified view of a hybrid host does: containerd asks for cpu shares in every sandbox, which the runtime
// must refuse there. Takes them out of config.json at `create`, then becomes the runtime (RUNTIME, set at
// compile time). Costs the peer one exec of a static program.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void DropShares(const char* bundle) {
  char path[4096];
  snprintf(path, sizeof path, "%s/config.json", bundle);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  struct stat stat;
  if (fd < 0 || fstat(fd, &stat) != 0) return;
  char* text = calloc(1, (size_t)stat.st_size + 1);
  if (!text || read(fd, text, (size_t)stat.st_size) != stat.st_size) _exit(126);
  char* shares = strstr(text, "\"cpu\":{\"shares\":");
  if (shares) {
    // Blanks keep the length: nothing moves.
    char* value = shares + strlen("\"cpu\":{");
    while (*value && *value != '}') *value++ = ' ';
    if (pwrite(fd, text, (size_t)stat.st_size, 0) != stat.st_size) _exit(126);
  }
  free(text);
  close(fd);
}

int main(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; i++) {
    if (!strcmp(argv[i], "--bundle")) DropShares(argv[i + 1]);
  }
  argv[0] = RUNTIME;
  execv(RUNTIME, argv);
  return 127;
}
