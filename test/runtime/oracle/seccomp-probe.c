// Installs the filter in the file argv[1] with flags argv[2], in a child for each line of standard input
//   CONVENTION NR ARG...     (hexadecimal; convention 64 = syscall, 32 = int 0x80)
// makes that call, and answers with a line: `ret VALUE` (negative: -errno) or `signal N`.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long call(int convention, const unsigned long* v) {
#ifdef __x86_64__
  if (convention == 32) {
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(v[0]), "b"(v[1]), "c"(v[2]), "d"(v[3]), "S"(v[4]), "D"(v[5])
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
  }
#endif
  long result = syscall((long)v[0], v[1], v[2], v[3], v[4], v[5], v[6]);
  return result == -1 ? -errno : result;
}

int main(int argc, char** argv) {
  static struct sock_filter code[4096];
  if (argc != 3) return 2;
  FILE* file = fopen(argv[1], "r");
  if (!file) return 2;
  struct sock_fprog program = {.filter = code};
  program.len = (unsigned short)fread(code, sizeof code[0], 4096, file);
  fclose(file);
  long* result = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  char line[512];
  while (fgets(line, sizeof line, stdin)) {
    unsigned long v[7] = {0};
    int convention = 0, used = 0;
    char* rest = line;
    if (sscanf(rest, "%d%n", &convention, &used) != 1) return 2;
    rest += used;
    for (int i = 0; i < 7 && sscanf(rest, "%lx%n", &v[i], &used) == 1; i++) rest += used;
    pid_t pid = fork();
    if (pid == 0) {
      if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) _exit(100);
      if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, strtoul(argv[2], NULL, 10), &program) != 0) {
        *result = -errno;
        _exit(101);
      }
      *result = call(convention, v);
      _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status)) printf("signal %d\n", WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0) printf("install %d %ld\n", WEXITSTATUS(status), *result);
    else printf("ret %ld\n", *result);
    fflush(stdout);
  }
  return 0;
}
