// vsock-bridge DIR COUNT: streams that a guest opens to vsock ports 1024 ... 1024+COUNT-1 of this
// host go on to the unix sockets DIR/<port>, both directions, half-closes included. Node has no vsock.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST 1024
#define MOST 64

struct way {
  int from, to;
};

static void *copy(void *argument) {
  struct way way = *(struct way *)argument;
  free(argument);
  char buffer[65536];
  ssize_t size;
  while ((size = read(way.from, buffer, sizeof buffer)) > 0)
    for (ssize_t at = 0, n; at < size; at += n)
      if ((n = write(way.to, buffer + at, (size_t)(size - at))) < 0) n = size - at;
  shutdown(way.to, SHUT_WR);
  return NULL;
}

static pthread_t begin(int from, int to) {
  struct way *way = malloc(sizeof *way);
  *way = (struct way){from, to};
  pthread_t thread;
  if (pthread_create(&thread, NULL, copy, way) != 0) abort();
  return thread;
}

static void *bridge(void *argument) {
  int *ends = argument;
  pthread_t ways[2] = {begin(ends[0], ends[1]), begin(ends[1], ends[0])};
  for (int i = 0; i < 2; i++) pthread_join(ways[i], NULL);
  close(ends[0]);
  close(ends[1]);
  free(ends);
  return NULL;
}

static void accepted(int guest, const char *directory, int port) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s/%d", directory, port);
  int *ends = malloc(2 * sizeof *ends);
  ends[0] = guest;
  ends[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  pthread_t thread;
  if (connect(ends[1], (struct sockaddr *)&address, sizeof address) < 0 ||
      pthread_create(&thread, NULL, bridge, ends) != 0) {
    close(ends[0]);
    close(ends[1]);
    free(ends);
    return;
  }
  pthread_detach(thread);
}

int main(int count, char **words) {
  if (count != 3) return 2;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGPIPE, SIG_IGN);
  int ports = atoi(words[2]);
  struct pollfd listeners[MOST];
  if (ports < 1 || ports > MOST) return 2;
  for (int i = 0; i < ports; i++) {
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = (unsigned)(FIRST + i)};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 16) < 0) {
      perror("vsock-bridge");
      return 1;
    }
    listeners[i] = (struct pollfd){fd, POLLIN, 0};
  }
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) return 1;
  for (;;) {
    if (poll(listeners, (nfds_t)ports, -1) < 0 && errno != EINTR) return 1;
    for (int i = 0; i < ports; i++) {
      if ((listeners[i].revents & POLLIN) == 0) continue;
      int guest = accept4(listeners[i].fd, NULL, NULL, SOCK_CLOEXEC);
      if (guest >= 0) accepted(guest, words[1], FIRST + i);
    }
  }
}
