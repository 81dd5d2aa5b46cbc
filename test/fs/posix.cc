// What POSIX and Linux promise about files, tried in the current directory by root: TAP on stdout.
// Run on the host's own file system first, then through the file-system server: what holds there
// must hold here.
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <set>
#include <string>
#include <vector>

namespace {

int g_tests = 0, g_failures = 0;

void ok(bool good, const std::string& name) {
  g_tests++;
  if (!good) g_failures++;
  const int error = errno;
  printf("%sok %d - %s%s\n", good ? "" : "not ", g_tests, name.c_str(),
         good ? "" : (" # errno " + std::string(strerror(error))).c_str());
}

bool fails(long result, int error) { return result < 0 && errno == error; }

struct stat stat_of(const char* path) {
  struct stat out {};
  if (lstat(path, &out) < 0) out.st_nlink = 0;
  return out;
}
mode_t mode(const char* path) { return stat_of(path).st_mode & 07777; }

void make(const char* path, const std::string& content = "", mode_t bits = 0644) {
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, bits);
  if (fd < 0 || write(fd, content.data(), content.size()) < 0 || fchmod(fd, bits) < 0)
    printf("# making %s: %s\n", path, strerror(errno));
  close(fd);
}

std::string content(const char* path) {
  const int fd = open(path, O_RDONLY);
  if (fd < 0) return "?";
  char buffer[65536];
  const ssize_t size = read(fd, buffer, sizeof buffer);
  close(fd);
  return std::string(buffer, size < 0 ? 0 : static_cast<size_t>(size));
}

// Runs in a child as another user; true if `body` is.
bool as(uid_t uid, gid_t gid, const std::function<bool()>& body) {
  fflush(stdout);
  const pid_t pid = fork();
  if (pid == 0) {
    if (syscall(SYS_setgroups, 0, nullptr) < 0 || setresgid(gid, gid, gid) < 0 ||
        setresuid(uid, uid, uid) < 0)
      _exit(2);
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int rename2(const char* from, const char* to, unsigned flags) {
  return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags));
}

void opening() {
  make("o", "abc");
  ok(content("o") == "abc", "what was written is read");
  ok(fails(open("o", O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST),
     "O_EXCL refuses an existing file");
  ok(fails(open("none", O_RDONLY), ENOENT), "an absent file is ENOENT");
  symlink("o", "ol");
  ok(fails(open("ol", O_RDONLY | O_NOFOLLOW), ELOOP), "O_NOFOLLOW refuses a link");
  ok(fails(open("ol", O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST), "O_EXCL refuses a link");
  ok(content("ol") == "abc", "a link is followed");
  symlink("nowhere", "dangling");
  const int made = open("dangling", O_CREAT | O_WRONLY, 0600);
  ok(made >= 0 && stat_of("nowhere").st_nlink == 1, "O_CREAT makes the target of a dangling link");
  close(made);
  const int fd = open("o", O_WRONLY | O_TRUNC);
  ok(fd >= 0 && stat_of("o").st_size == 0, "O_TRUNC empties");
  close(fd);
  const int one = open("o", O_WRONLY | O_APPEND), two = open("o", O_WRONLY | O_APPEND);
  write(one, "1", 1);
  write(two, "2", 1);
  write(one, "3", 1);
  ok(content("o") == "123", "O_APPEND appends from two descriptors");
  close(one);
  close(two);
  ok(fails(open(".", O_WRONLY), EISDIR), "a directory is not written");
  ok(fails(open("o", O_RDONLY | O_DIRECTORY), ENOTDIR), "O_DIRECTORY refuses a file");
  ok(fails(open("o/x", O_RDONLY), ENOTDIR), "a file is no directory");
  const std::string longest(255, 'n'), longer(256, 'n');
  make(longest.c_str(), "l");
  ok(content(longest.c_str()) == "l", "a name of 255 bytes");
  ok(fails(open(longer.c_str(), O_CREAT | O_WRONLY, 0600), ENAMETOOLONG), "a name of 256 bytes");
  make("bytes \xff\xfe\n", "b");
  ok(content("bytes \xff\xfe\n") == "b", "names are bytes");
}

void unlinked() {
  const int fd = open("u", O_RDWR | O_CREAT, 0600);
  unlink("u");
  ok(write(fd, "still", 5) == 5, "an unlinked file is written");
  char buffer[8] = "";
  ok(pread(fd, buffer, 5, 0) == 5 && memcmp(buffer, "still", 5) == 0, "and read");
  struct stat now {};
  ok(fstat(fd, &now) == 0 && now.st_nlink == 0 && now.st_size == 5, "and has no link");
  ok(fchmod(fd, 0640) == 0 && fstat(fd, &now) == 0 && (now.st_mode & 0777) == 0640,
     "and is changed");
  ok(ftruncate(fd, 2) == 0 && fstat(fd, &now) == 0 && now.st_size == 2, "and truncated");
  close(fd);
  make("v", "new");
  const int old = open("v", O_RDONLY);
  make("w", "other");
  rename("w", "v");
  ok(pread(old, buffer, 3, 0) == 3 && memcmp(buffer, "new", 3) == 0,
     "a replaced file lives on while open");
  close(old);
}

void permissions() {
  mkdir("p", 0755);
  chmod("p", 0777);
  ok(as(1000, 1000, [] { return close(open("p/mine", O_CREAT | O_WRONLY, 0644)) == 0; }),
     "another user makes a file");
  ok(stat_of("p/mine").st_uid == 1000 && stat_of("p/mine").st_gid == 1000, "and owns it");
  ok(as(1000, 1000,
        [] {
          return mkdir("p/dir", 0700) == 0 && symlink("x", "p/sym") == 0 &&
                 mkfifo("p/fifo", 0600) == 0;
        }),
     "and a directory, a link, a FIFO");
  ok(stat_of("p/dir").st_uid == 1000 && stat_of("p/sym").st_uid == 1000 &&
         stat_of("p/fifo").st_gid == 1000,
     "and owns these");
  make("p/secret", "s", 0600);
  ok(as(1000, 1000, [] { return fails(open("p/secret", O_RDONLY), EACCES); }),
     "0600 is closed to others");
  ok(as(1000, 1000, [] { return fails(chmod("p/secret", 0644), EPERM); }), "chmod is the owner's");
  ok(as(1000, 1000, [] { return fails(chown("p/mine", 1001, 1000), EPERM); }), "chown is root's");
  chmod("p", 01777);
  ok(as(1001, 1001, [] { return fails(unlink("p/mine"), EPERM); }), "a sticky directory protects");
  ok(as(1001, 1001, [] { return fails(rename("p/mine", "p/yours"), EPERM); }),
     "also against rename");
  ok(as(1000, 1000, [] { return unlink("p/mine") == 0; }), "but not against the owner");
  chmod("p", 0755);
  ok(as(1000, 1000, [] { return fails(open("p/no", O_CREAT | O_WRONLY, 0644), EACCES); }),
     "0755 is closed to makers");
  mkdir("p/g", 0777);
  chown("p/g", 0, 2000);
  chmod("p/g", 02777);
  ok(as(1000, 1000,
        [] {
          return close(open("p/g/f", O_CREAT | O_WRONLY, 0644)) == 0 && mkdir("p/g/d", 0755) == 0;
        }),
     "in a set-group-id directory");
  ok(stat_of("p/g/f").st_gid == 2000 && stat_of("p/g/d").st_gid == 2000, "the group is inherited");
  ok((mode("p/g/d") & S_ISGID) != 0, "and the bit, by directories");
  umask(027);
  close(open("um", O_CREAT | O_WRONLY, 0666));
  umask(0);
  ok(mode("um") == 0640, "the umask counts once");
}

void set_user_id() {
  make("s", "x", 0644);
  chmod("s", 06755);
  ok(mode("s") == 06755, "set-user-id is set");
  chown("s", 1000, 1000);
  ok(mode("s") == 0755, "chown clears it");
  chmod("s", 04755);
  ok(as(1000, 1000,
        [] {
          const int fd = open("s", O_WRONLY);
          return write(fd, "y", 1) == 1;
        }),
     "its owner writes");
  ok(mode("s") == 0755, "a write by an ordinary user clears it");
  chmod("s", 04777);
  ok(as(1001, 1001, [] { return truncate("s", 0) == 0; }) && mode("s") == 0777,
     "truncate by another user clears it");
  chmod("s", 04777);
  ok(as(1001, 1001, [] { return close(open("s", O_WRONLY | O_TRUNC)) == 0; }) && mode("s") == 0777,
     "O_TRUNC by another user clears it");
}

void renaming() {
  make("r1", "1");
  make("r2", "2");
  ok(rename("r1", "r2") == 0 && content("r2") == "1" && stat_of("r1").st_nlink == 0,
     "rename replaces");
  make("r3", "3");
  ok(fails(rename2("r3", "r2", 1), EEXIST), "RENAME_NOREPLACE");
  ok(rename2("r3", "r2", 2) == 0 && content("r2") == "3" && content("r3") == "1",
     "RENAME_EXCHANGE");
  link("r2", "r4");
  ok(rename("r2", "r4") == 0 && stat_of("r2").st_nlink == 2,
     "rename between links of one file does nothing");
  mkdir("rd", 0755);
  mkdir("rd/sub", 0755);
  mkdir("re", 0755);
  ok(fails(rename("rd", "rd/sub/x"), EINVAL), "a directory does not go into itself");
  ok(fails(rename("re", "rd"), ENOTEMPTY) || errno == EEXIST, "a full directory is not replaced");
  ok(rename("rd", "re") == 0 && stat_of("re/sub").st_nlink > 0, "an empty one is");
  ok(fails(rename("r2", "re"), EISDIR), "a file does not replace a directory");
  ok(fails(rename("re", "r2"), ENOTDIR), "nor a directory a file");
  const int fd = open("re", O_RDONLY | O_DIRECTORY);
  rename("re", "rf");
  ok(close(openat(fd, "inside", O_CREAT | O_WRONLY, 0600)) == 0 &&
         stat_of("rf/inside").st_nlink == 1,
     "an open directory is the same after its rename");
  close(fd);
}

void links() {
  make("l1", "l");
  ok(link("l1", "l2") == 0 && stat_of("l1").st_nlink == 2, "a hard link counts");
  ok(stat_of("l1").st_ino == stat_of("l2").st_ino, "and is the same inode");
  ok(fails(link("l1", "l2"), EEXIST), "over an existing name it is refused");
  mkdir("ld", 0755);
  ok(fails(link("ld", "le"), EPERM), "of a directory too");
  symlink("l1", "l3");
  ok(linkat(AT_FDCWD, "l3", AT_FDCWD, "l4", 0) == 0 && S_ISLNK(stat_of("l4").st_mode),
     "a link to a link is a link");
  const std::string target(4000, 't');
  symlink(target.c_str(), "l5");
  std::vector<char> buffer(5000);
  ok(readlink("l5", buffer.data(), buffer.size()) == 4000, "a target of 4000 bytes");
  ok(fails(symlink("x", "l1"), EEXIST), "a link over an existing name");
  ok(fails(rmdir("l1"), ENOTDIR) && fails(unlink("ld"), EISDIR),
     "unlink and rmdir know what is what");
  make("ld/full", "");
  ok(fails(rmdir("ld"), ENOTEMPTY), "a full directory is not removed");
}

void sizes_and_times() {
  make("t", "0123456789");
  ok(truncate("t", 4) == 0 && content("t") == "0123", "truncate shortens");
  ok(truncate("t", 6) == 0 && content("t") == std::string("0123\0\0", 6),
     "and lengthens with zeros");
  const timespec times[2] = {{1000000000, 123456789}, {2000000000, 987654321}};
  ok(utimensat(AT_FDCWD, "t", times, 0) == 0, "times are set");
  const struct stat now = stat_of("t");
  ok(now.st_atim.tv_sec == 1000000000 && now.st_atim.tv_nsec == 123456789 &&
         now.st_mtim.tv_nsec == 987654321,
     "to the nanosecond");
  const timespec only[2] = {{0, UTIME_OMIT}, {5, 0}};
  utimensat(AT_FDCWD, "t", only, 0);
  ok(stat_of("t").st_atim.tv_sec == 1000000000 && stat_of("t").st_mtim.tv_sec == 5,
     "one of them alone");
  symlink("t", "tl");
  ok(utimensat(AT_FDCWD, "tl", times, AT_SYMLINK_NOFOLLOW) == 0 &&
         stat_of("tl").st_mtim.tv_sec == 2000000000 && stat_of("t").st_mtim.tv_sec == 5,
     "of a link, not of its target");
  ok(fchownat(AT_FDCWD, "tl", 7, 8, AT_SYMLINK_NOFOLLOW) == 0 && stat_of("tl").st_uid == 7 &&
         stat_of("t").st_uid == 0,
     "so its owner");
  const timespec before = stat_of("t").st_ctim;
  usleep(20000);
  chmod("t", 0600);
  const timespec after = stat_of("t").st_ctim;
  ok(after.tv_sec > before.tv_sec || after.tv_nsec != before.tv_nsec,
     "a change of mode changes ctime");
  const int fd = open("hole", O_RDWR | O_CREAT, 0600);
  pwrite(fd, "x", 1, 1 << 20);
  ok(stat_of("hole").st_size == (1 << 20) + 1, "a write past the end makes a hole");
  ok(fallocate(fd, 0, 0, 1 << 21) == 0 && stat_of("hole").st_size == 1 << 21,
     "fallocate makes room");
  ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 4096) == 0, "and a hole");
  char byte = 1;
  ok(pread(fd, &byte, 1, 1 << 20) == 1 && byte == 0, "which reads as zero");
  ok(lseek(fd, 0, SEEK_END) == 1 << 21, "lseek knows the end");
  ok(fsync(fd) == 0 && fdatasync(fd) == 0, "fsync");
  close(fd);
  struct statvfs fs {};
  ok(statvfs(".", &fs) == 0 && fs.f_blocks > 0 && fs.f_namemax == 255, "statvfs");
}

void special() {
  ok(mkfifo("fifo", 0600) == 0, "a FIFO is made");
  const int reader = open("fifo", O_RDONLY | O_NONBLOCK), writer = open("fifo", O_WRONLY);
  char byte = 0;
  ok(write(writer, "f", 1) == 1 && read(reader, &byte, 1) == 1 && byte == 'f', "and works");
  close(reader);
  close(writer);
  ok(mknod("sock", S_IFSOCK | 0600, 0) == 0 && S_ISSOCK(stat_of("sock").st_mode),
     "a socket's name");
  const int fd = open("m", O_RDWR | O_CREAT, 0600);
  ftruncate(fd, 8192);
  auto* at = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  ok(at != MAP_FAILED, "a shared mapping");
  if (at != MAP_FAILED) {
    memcpy(at + 5000, "mapped", 6);
    msync(at, 8192, MS_SYNC);
    ok(content("m").substr(5000, 6) == "mapped", "is written back");
    munmap(at, 8192);
  }
  ok(flock(fd, LOCK_EX | LOCK_NB) == 0, "flock");
  struct flock lock {};
  lock.l_type = F_WRLCK;
  ok(fcntl(fd, F_SETLK, &lock) == 0, "fcntl lock");
  close(fd);
}

void attributes() {
  make("x", "");
  char value[70000];
  ok(setxattr("x", "user.a", "1", 1, XATTR_CREATE) == 0, "setxattr");
  ok(fails(setxattr("x", "user.a", "2", 1, XATTR_CREATE), EEXIST), "XATTR_CREATE");
  ok(fails(setxattr("x", "user.b", "2", 1, XATTR_REPLACE), ENODATA), "XATTR_REPLACE");
  ok(getxattr("x", "user.a", value, sizeof value) == 1 && value[0] == '1', "getxattr");
  ok(getxattr("x", "user.a", nullptr, 0) == 1, "its size");
  ok(setxattr("x", "user.long", "12345", 5, 0) == 0 &&
         fails(getxattr("x", "user.long", value, 3), ERANGE),
     "a buffer that is too small");
  const ssize_t size = listxattr("x", value, sizeof value);
  ok(size > 0 && std::string(value, static_cast<size_t>(size)).find(std::string("user.a\0", 7)) !=
                     std::string::npos,
     "listxattr");
  ok(removexattr("x", "user.a") == 0 && fails(getxattr("x", "user.a", value, 1), ENODATA),
     "removexattr");
}

void directories() {
  constexpr int kFiles = 1200;
  mkdir("many", 0755);
  for (int i = 0; i < kFiles; i++)
    make(("many/file-with-a-somewhat-long-name-" + std::to_string(i)).c_str());
  std::multiset<std::string> seen;
  DIR* dir = opendir("many");
  while (const dirent* entry = readdir(dir)) {
    seen.insert(entry->d_name);
  }
  ok(seen.size() == kFiles + 2 &&
         std::set<std::string>(seen.begin(), seen.end()).size() == seen.size(),
     "every entry of a large directory, once");
  ok(seen.count(".") == 1 && seen.count("..") == 1, "with . and ..");
  rewinddir(dir);
  int removed = 0, again = 0;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    again++;
    if (unlinkat(dirfd(dir), entry->d_name, 0) == 0) removed++;
  }
  closedir(dir);
  ok(again == kFiles && removed == kFiles, "removing while reading misses none");
  ok(rmdir("many") == 0, "and leaves an empty directory");
  std::string path = ".";
  for (int i = 0; i < 60; i++) mkdir((path += "/deep").c_str(), 0755);
  make((path + "/end").c_str(), "deep down");
  ok(content((path + "/end").c_str()) == "deep down", "sixty levels down");
}

}  // namespace

int main() {
  umask(0);
  if (chmod(".", 0755) < 0) return 2;
  opening();
  unlinked();
  permissions();
  set_user_id();
  renaming();
  links();
  sizes_and_times();
  special();
  attributes();
  directories();
  printf("1..%d\n", g_tests);
  return g_failures == 0 ? 0 : 1;
}
