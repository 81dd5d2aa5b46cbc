// Loads the device program in the file argv[1], attaches it to the cgroup2 directory argv[2], enters that
// cgroup, and for each line of standard input
//   mknod TYPE MAJOR MINOR      or      open TYPE MAJOR MINOR FLAGS     (FLAGS: r, w or rw)
// tries it in a tmpfs of its own and answers with a line: 0 or the errno. A node to open is made before
// the cgroup is entered. A program that the verifier refuses is answered by its log.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char* what) {
  perror(what);
  return 1;
}

static int load(const char* path) {
  static struct bpf_insn code[4096];
  static char log[65536];
  FILE* file = fopen(path, "r");
  if (!file) return -1;
  size_t count = fread(code, sizeof code[0], 4096, file);
  fclose(file);
  union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
                         .insn_cnt = (uint32_t)count,
                         .insns = (uint64_t)(uintptr_t)code,
                         .license = (uint64_t)(uintptr_t) "Apache-2.0",
                         .log_level = 1,
                         .log_size = sizeof log,
                         .log_buf = (uint64_t)(uintptr_t)log};
  int program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
  if (program < 0) fprintf(stderr, "%s\n", log);
  return program;
}

static int attempt(const char* cgroup, const char* verb, mode_t type, dev_t device, int flags) {
  int making = strcmp(verb, "mknod") == 0;
  unlink("/mnt/node");
  if (!making && mknod("/mnt/node", type | 0666, device) != 0) return -errno;
  int result[2], answer = -1;
  if (pipe(result) != 0) return -errno;
  pid_t pid = fork();
  if (pid == 0) {
    char path[512];
    snprintf(path, sizeof path, "%s/cgroup.procs", cgroup);
    int procs = open(path, O_WRONLY | O_CLOEXEC);
    if (procs < 0 || write(procs, "0", 1) != 1) _exit(1);
    int rc = making ? mknod("/mnt/node", type | 0666, device) : open("/mnt/node", flags | O_NONBLOCK);
    answer = rc < 0 ? errno : 0;
    if (write(result[1], &answer, sizeof answer) != sizeof answer) _exit(1);
    _exit(0);
  }
  close(result[1]);
  if (read(result[0], &answer, sizeof answer) != sizeof answer) answer = -1;
  close(result[0]);
  waitpid(pid, NULL, 0);
  return answer;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  int program = load(argv[1]);
  if (program < 0) return fail("loading the program");
  int cgroup = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (cgroup < 0) return fail(argv[2]);
  union bpf_attr attr = {.target_fd = (uint32_t)cgroup,
                         .attach_bpf_fd = (uint32_t)program,
                         .attach_type = BPF_CGROUP_DEVICE,
                         .attach_flags = BPF_F_ALLOW_MULTI};
  if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr) != 0) return fail("attaching");
  if (unshare(CLONE_NEWNS) != 0) return fail("unshare");
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return fail("making / private");
  if (mount("tmpfs", "/mnt", "tmpfs", 0, NULL) != 0) return fail("mounting a tmpfs");
  char line[128], verb[16], access[4];
  while (fgets(line, sizeof line, stdin)) {
    char type;
    unsigned major, minor;
    access[0] = 0;
    if (sscanf(line, "%15s %c %u %u %3s", verb, &type, &major, &minor, access) < 4) return 2;
    int flags = strcmp(access, "rw") == 0 ? O_RDWR : access[0] == 'w' ? O_WRONLY : O_RDONLY;
    mode_t mode = type == 'b' ? S_IFBLK : S_IFCHR;
    printf("%d\n", attempt(argv[2], verb, mode, makedev(major, minor), flags));
    fflush(stdout);
  }
  return 0;
}
