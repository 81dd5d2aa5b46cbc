// Builds seccomp filters with libseccomp, to compare ours with. Reads a profile a block, as lines:
//   filter DEFAULT              (numbers are hexadecimal, actions as the kernel's return values)
//   arch TOKEN                  (besides the native one)
//   rule ACTION NAME [ARG OP A B]...   (OP as enum scmp_compare; all conditions must hold)
//   end
// and answers each block with one line: the program in hexadecimal, or `error WHERE ERRNO`. A block with
// `resolve TOKEN NAME` instead is answered by the call's number, -1 if libseccomp does not know the name.
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE 4096

static int add_rule(scmp_filter_ctx filter, char* rest) {
  struct scmp_arg_cmp compare[6];
  unsigned count = 0;
  unsigned long action = 0, arg, op, a, b;
  char name[64];
  int used = 0;
  if (sscanf(rest, "%lx %63s%n", &action, name, &used) != 2) return -1;
  for (rest += used; sscanf(rest, "%lx %lx %lx %lx%n", &arg, &op, &a, &b, &used) == 4; rest += used) {
    compare[count++] = (struct scmp_arg_cmp){
        .arg = (unsigned)arg, .op = (enum scmp_compare)op, .datum_a = a, .datum_b = b};
  }
  int number = seccomp_syscall_resolve_name(name);
  if (number == __NR_SCMP_ERROR) return 0;
  return seccomp_rule_add_array(filter, (uint32_t)action, number, count, compare);
}

static void export(scmp_filter_ctx filter) {
  int ends[2];
  unsigned char bytes[8];
  if (pipe(ends) != 0) return;
  if (fork() == 0) {
    close(ends[0]);
    _exit(seccomp_export_bpf(filter, ends[1]) != 0);
  }
  close(ends[1]);
  FILE* in = fdopen(ends[0], "r");
  while (fread(bytes, sizeof bytes, 1, in) == 1) {
    for (unsigned i = 0; i < sizeof bytes; i++) printf("%02x", bytes[i]);
  }
  fclose(in);
  puts("");
}

static char line[LINE];

static void hung(int signal) {
  (void)signal;
  dprintf(2, "hung in %s\n", line);
  _exit(3);
}

int main(void) {
  signal(SIGALRM, hung);
  scmp_filter_ctx filter = NULL;
  char failed[LINE] = "";
  unsigned long number;
  char name[64];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    int rc = 0;
    if (sscanf(line, "filter %lx", &number) == 1) {
      if (filter) seccomp_release(filter);
      filter = seccomp_init((uint32_t)number);
      failed[0] = 0;
    } else if (sscanf(line, "arch %lx", &number) == 1) {
      rc = seccomp_arch_add(filter, (uint32_t)number);
    } else if (strncmp(line, "rule ", 5) == 0) {
      alarm(2);  // 2.5.4 can loop for ever over its tree
      rc = add_rule(filter, line + 5);
      alarm(0);
    } else if (sscanf(line, "resolve %lx %63s", &number, name) == 2) {
      printf("%d\n", seccomp_syscall_resolve_name_arch((uint32_t)number, name));
    } else if (strcmp(line, "end") == 0) {
      fflush(stdout);
      if (failed[0]) puts(failed);
      else export(filter);
    }
    if (rc != 0 && !failed[0]) snprintf(failed, sizeof failed, "error %.4000s: %d", line, rc);
    fflush(stdout);
  }
  return 0;
}
