// The first process of a test's guest: loads the modules of /modules in the order of their names, then
// does what MODE says (the kernel puts arguments that it does not know into the environment).
//   off    powers off                     panic  ends, so that the kernel panics
//   serve  calls host port 6000 with what it found, echoes every connection to port 5000 until its end;
//          a connection to port 5001 powers off
#include <dirent.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

static void load_modules() {
  dirent** entries;
  const int count = scandir("/modules", &entries, nullptr, alphasort);
  for (int i = 0; i < count; i++) {
    char path[300];
    snprintf(path, sizeof(path), "/modules/%s", entries[i]->d_name);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (entries[i]->d_name[0] != '.' && syscall(SYS_finit_module, fd, "", 0) < 0) perror(path);
    close(fd);
  }
}

static void power_off() {
  sync();
  reboot(RB_POWER_OFF);
}

static int listen_at(unsigned port) {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = port;
  const int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) perror("bind");
  if (listen(fd, 8) < 0) perror("listen");
  return fd;
}

static void report() {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_HOST;
  address.svm_port = 6000;
  const int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) return perror("connect");
  utsname name;
  uname(&name);
  struct sysinfo memory;
  sysinfo(&memory);
  char sector[513] = "", random[16] = "";
  const int disk = open("/dev/vda", O_RDWR | O_CLOEXEC);
  if (disk >= 0 && pread(disk, sector, 512, 0) == 512) {
    char reply[512] = "written by the guest";
    if (pwrite(disk, reply, 512, 512) != 512 || fsync(disk) < 0) perror("writing the disk");
  }
  const int entropy = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);
  const bool filled = entropy >= 0 && read(entropy, random, sizeof(random)) > 0;
  dprintf(fd, "{\"release\":\"%s\",\"cpus\":%ld,\"megabytes\":%lu,\"disk\":\"%s\",\"entropy\":%s}\n", name.release,
          sysconf(_SC_NPROCESSORS_ONLN), memory.totalram * memory.mem_unit >> 20, sector,
          filled ? "true" : "false");
  close(fd);
}

static void echo(int fd) {
  static char buffer[65536];
  ssize_t n;
  while ((n = read(fd, buffer, sizeof(buffer))) > 0)
    for (ssize_t done = 0, more; done < n; done += more)
      if ((more = write(fd, buffer + done, static_cast<size_t>(n - done))) < 0) return perror("echo");
  shutdown(fd, SHUT_WR);
}

int main() {
  const char* mode = getenv("MODE");
  if (mode != nullptr && strcmp(mode, "off") == 0) power_off();
  if (mode == nullptr || strcmp(mode, "serve") != 0) return 1;
  mkdir("/dev", 0755);
  mount("dev", "/dev", "devtmpfs", 0, nullptr);
  load_modules();
  const int off = listen_at(5001);
  if (fork() == 0) {
    accept(off, nullptr, nullptr);
    power_off();
  }
  const int echoing = listen_at(5000);
  report();
  for (int fd; (fd = accept(echoing, nullptr, nullptr)) >= 0; close(fd)) {
    if (fork() == 0) {
      echo(fd);
      _exit(0);
    }
  }
  perror("accept");
  return 1;
}
