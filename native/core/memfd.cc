#include "core/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <mutex>

#include "base/kernel.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#define MFD_EXEC 0x0010U
#endif

namespace isopod::core {

namespace {

const void* image_data = nullptr;
size_t image_size = 0;

bool write_all(int fd, const void* data, size_t size) {
  const char* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::write(fd, bytes, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

// Kernels before 6.3 do not know the flags about execution.
int create(const char* name, unsigned flags, unsigned execution) {
  const int fd = memfd_create(name, flags | execution);
  return fd < 0 && errno == EINVAL ? memfd_create(name, flags) : fd;
}

Result<UniqueFd> on_private_tmpfs(const char* name, const void* data, size_t size) {
  const auto failed = [&](long error) { return failure(static_cast<int>(-error), "stub", name); };
  const long context = sys::fsopen("tmpfs", 1);
  if (context < 0) return failed(context);
  const UniqueFd configured(static_cast<int>(context));
  if (const long error = sys::fsconfig(configured.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
      error < 0)
    return failed(error);
  const long mounted = sys::fsmount(configured.get(), 1, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  if (mounted < 0) return failed(mounted);
  const UniqueFd mount(static_cast<int>(mounted));
  {
    const UniqueFd file(::openat(mount.get(), name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0511));
    if (!file || !write_all(file.get(), data, size)) return failed(-errno);
  }
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  if (const long error = sys::mount_setattr(mount.get(), "", AT_EMPTY_PATH, attributes); error < 0)
    return failed(error);
  UniqueFd file(::openat(mount.get(), name, O_RDONLY | O_CLOEXEC));
  if (!file) return failed(-errno);
  return file;
}

}  // namespace

Result<UniqueFd> data_file(const char* name, const void* data, size_t size) {
  UniqueFd fd(create(name, MFD_CLOEXEC, MFD_NOEXEC_SEAL));
  if (!fd || !write_all(fd.get(), data, size)) return failure(errno, "plan", "");
  return fd;
}

Result<UniqueFd> executable_file(const char* name, const void* data, size_t size) {
  UniqueFd fd(create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING, MFD_EXEC));
  if (!fd && errno == EACCES) return on_private_tmpfs(name, data, size);
  constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  if (!fd || !write_all(fd.get(), data, size) || fchmod(fd.get(), 0511) < 0 ||
      fcntl(fd.get(), F_ADD_SEALS, kSeals) < 0)
    return failure(errno, "stub", name);
  return fd;
}

void set_init_image(const void* data, size_t size) {
  image_data = data;
  image_size = size;
}

Result<int> init_image() {
  static std::mutex mutex;
  static int sealed = -1;
  std::lock_guard<std::mutex> lock(mutex);
  if (sealed < 0) {
    Result<UniqueFd> made = executable_file("isopod-init", image_data, image_size);
    if (!made) return made.error();
    sealed = made->release();
  }
  return sealed;
}

}  // namespace isopod::core
