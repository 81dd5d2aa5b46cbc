// Drives an OCI runtime's command line as a shim does, and as cheaply as that can be done: a small process
// that starts it by vfork, is the subreaper its containers fall to, waits for them on a pidfd, gives them
// FIFOs for output and writes an exit record before it reaps. So what is measured is the runtime.
//
//   harness RUNTIME ROOT WORK [GLOBAL-OPTION...]     then commands on stdin, one a line, one answer each:
//     launch BUNDLE   create, start, wait for the end, delete → ns: total create start wait delete
//     up BUNDLE ID    create and start a container that stays
//     exec ID         exec /bin/true in it, wait for its end  → ns: total
//     down ID         kill it, wait, delete
//     spawn PROGRAM   start a plain program, wait for its end → ns: total
//     mounts N DIR    tmpfs on DIR and N bind mounts below
//     unmount DIR
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kMaxArgs = 32, kLine = 4096 };

static const char* runtime;
static const char* root;
static const char* work;
static char** global_options;

static void Fail(const char* what) {
  fprintf(stderr, "harness: %s: %s\n", what, strerror(errno));
  exit(1);
}

static long long Now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static char* Path(const char* name) {
  static char buffers[8][kLine];
  static int next;
  char* buffer = buffers[next++ % 8];
  snprintf(buffer, kLine, "%s/%s", work, name);
  return buffer;
}

// The child of vfork shares our memory until its exec: nothing but system calls in between.
static pid_t Start(char* const argv[], int out, int err) {
  pid_t child = vfork();
  if (child < 0) Fail("vfork");
  if (child == 0) {
    if (out >= 0) dup2(out, 1);
    if (err >= 0) dup2(err, 2);
    execv(argv[0], argv);
    _exit(127);
  }
  return child;
}

static void Finish(pid_t child, const char* what) {
  int status;
  if (waitpid(child, &status, 0) != child) Fail("waitpid");
  if (status != 0) {
    fprintf(stderr, "harness: %s %s: status %d\n", runtime, what, status);
    char text[kLine];
    int log = open(Path("stderr"), O_RDONLY | O_NONBLOCK);
    ssize_t got = log < 0 ? 0 : read(log, text, sizeof text);
    if (got > 0 && write(2, text, (size_t)got) < 0) exit(2);
    exit(1);
  }
}

// Runs `RUNTIME --root ROOT [global options] args…` with output to the given fds.
static void Run(int out, int err, const char* first, ...) {
  const char* argv[kMaxArgs] = {runtime, "--root", root};
  int count = 3;
  for (char** option = global_options; *option; option++) argv[count++] = *option;
  argv[count++] = first;
  va_list rest;
  va_start(rest, first);
  const char* argument;
  while ((argument = va_arg(rest, const char*))) argv[count++] = argument;
  va_end(rest);
  argv[count] = NULL;
  Finish(Start((char* const*)argv, out, err), first);
}

struct Stdio {
  int out;
  int err;
};

// FIFOs opened for both ways, so that the container never sees a closed reader.
static struct Stdio MakeStdio(void) {
  const char* names[2] = {Path("stdout"), Path("stderr")};
  int fds[2];
  for (int i = 0; i < 2; i++) {
    if (mkfifo(names[i], 0600) != 0) Fail(names[i]);
    fds[i] = open(names[i], O_RDWR | O_CLOEXEC);
    if (fds[i] < 0) Fail(names[i]);
  }
  return (struct Stdio){fds[0], fds[1]};
}

static void CloseStdio(struct Stdio stdio) {
  close(stdio.out);
  close(stdio.err);
  unlink(Path("stdout"));
  unlink(Path("stderr"));
}

static pid_t ReadPid(void) {
  FILE* file = fopen(Path("pid"), "re");
  int pid = 0;
  if (!file || fscanf(file, "%d", &pid) != 1) Fail("pid file");
  fclose(file);
  return pid;
}

static int OpenPidfd(pid_t pid) {
  int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (pidfd < 0) Fail("pidfd_open");
  return pidfd;
}

// Waits for the end, records it, then reaps: in this order a crash in between loses nothing.
static void AwaitExit(int pidfd) {
  struct pollfd ended = {.fd = pidfd, .events = POLLIN};
  while (poll(&ended, 1, -1) < 0 && errno == EINTR) {
  }
  siginfo_t info = {0};
  if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOWAIT) != 0) Fail("waitid");
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  int record = open(Path("exit.new"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (record < 0) Fail("exit record");
  dprintf(record, "{\"status\":%d,\"exitedAt\":\"%lld%09ld\"}", info.si_status, (long long)at.tv_sec,
          at.tv_nsec);
  close(record);
  if (rename(Path("exit.new"), Path("exit")) != 0) Fail("exit record");
  waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED);
}

static void Launch(const char* bundle) {
  static int number;
  char id[32];
  snprintf(id, sizeof id, "bench-%d-%d", getpid(), number++);
  long long begin = Now();
  struct Stdio stdio = MakeStdio();
  Run(stdio.out, stdio.err, "create", "--bundle", bundle, "--pid-file", Path("pid"), id, NULL);
  int pidfd = OpenPidfd(ReadPid());
  long long created = Now();
  Run(-1, -1, "start", id, NULL);
  long long started = Now();
  AwaitExit(pidfd);
  long long ended = Now();
  Run(-1, -1, "delete", id, NULL);
  close(pidfd);
  CloseStdio(stdio);
  unlink(Path("exit"));
  unlink(Path("pid"));
  long long deleted = Now();
  printf("%lld %lld %lld %lld %lld\n", deleted - begin, created - begin, started - created,
         ended - started, deleted - ended);
}

static int resident = -1;
static struct Stdio resident_stdio;

static void Up(const char* bundle, const char* id) {
  resident_stdio = MakeStdio();
  Run(resident_stdio.out, resident_stdio.err, "create", "--bundle", bundle, "--pid-file", Path("pid"), id,
      NULL);
  resident = OpenPidfd(ReadPid());
  Run(-1, -1, "start", id, NULL);
  printf("0\n");
}

static void Exec(const char* id) {
  long long begin = Now();
  Run(-1, -1, "exec", id, "/bin/true", NULL);
  printf("%lld\n", Now() - begin);
}

static void Down(const char* id) {
  Run(-1, -1, "kill", id, "KILL", NULL);
  AwaitExit(resident);
  Run(-1, -1, "delete", id, NULL);
  close(resident);
  CloseStdio(resident_stdio);
  printf("0\n");
}

static void Spawn(char* program) {
  char* argv[] = {program, NULL};
  long long begin = Now();
  Finish(Start(argv, -1, -1), program);
  printf("%lld\n", Now() - begin);
}

static void Mounts(int count, const char* dir) {
  if (mount("tmpfs", dir, "tmpfs", 0, NULL) != 0) Fail("mount");
  char target[kLine];
  for (int i = 0; i < count; i++) {
    snprintf(target, sizeof target, "%s/%d", dir, i);
    if (mkdir(target, 0700) != 0 || mount(target, target, NULL, MS_BIND, NULL) != 0) Fail(target);
  }
  printf("0\n");
}

static void Command(char* line) {
  char* name = strtok(line, " \n");
  char* first = strtok(NULL, " \n");
  char* second = strtok(NULL, " \n");
  if (!name || !first) return;
  if (!strcmp(name, "launch")) Launch(first);
  if (!strcmp(name, "up") && second) Up(first, second);
  if (!strcmp(name, "exec")) Exec(first);
  if (!strcmp(name, "down")) Down(first);
  if (!strcmp(name, "spawn")) Spawn(first);
  if (!strcmp(name, "mounts") && second) Mounts(atoi(first), second);
  if (!strcmp(name, "unmount")) printf("%d\n", umount2(first, MNT_DETACH));
}

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  runtime = argv[1];
  root = argv[2];
  work = argv[3];
  global_options = argv + 4;
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) Fail("subreaper");
  setvbuf(stdout, NULL, _IOLBF, 0);
  // /dev/null and not our own stdin, whence commands come.
  int null = open("/dev/null", O_RDONLY);
  int commands = fcntl(0, F_DUPFD_CLOEXEC, 10);
  if (null < 0 || commands < 0 || dup2(null, 0) != 0) Fail("stdin");
  close(null);
  FILE* input = fdopen(commands, "r");
  char line[kLine];
  while (fgets(line, sizeof line, input)) Command(line);
  return 0;
}
