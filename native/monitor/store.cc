#include "monitor/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor/json.h"
#include "monitor/place.h"

namespace isopod::monitor {

namespace {

union Control {
  cmsghdr header;
  char space[CMSG_SPACE(sizeof(int))];
};

std::string_view bounded(const char* text, size_t capacity) {
  return {text, strnlen(text, capacity)};
}

// Does `name` belong to what `drop` names: the same, or below "<id>/"?
bool matches(std::string_view name, std::string_view drop) {
  if (!ends_with(drop, "/")) return name == drop;
  return starts_with(name, drop) || name == std::string_view(drop.data(), drop.size() - 1);
}

// Every descriptor of a packet is taken off it, so that none leaks; one is expected.
UniqueFd take_fd(msghdr* packet) {
  UniqueFd taken;
  for (cmsghdr* part = CMSG_FIRSTHDR(packet); part != nullptr; part = CMSG_NXTHDR(packet, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof fd);
      taken.reset(fd);
    }
  }
  return taken;
}

}  // namespace

void Store::attach(UniqueFd socket) {
  socket_ = std::move(socket);
  cursor_ = 0;
  send();
}

bool Store::receive() {
  while (socket_) {
    Message message;
    Control control;
    iovec data = {&message, sizeof message};
    msghdr packet = {};
    packet.msg_iov = &data;
    packet.msg_iovlen = 1;
    packet.msg_control = &control;
    packet.msg_controllen = sizeof control;
    const ssize_t size = recvmsg(socket_.get(), &packet, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return errno == EAGAIN;
    if (size == 0) return false;
    UniqueFd fd = take_fd(&packet);
    if (size == sizeof message && (packet.msg_flags & MSG_TRUNC) == 0) handle(&message, std::move(fd));
  }
  return false;
}

void Store::handle(Message* message, UniqueFd fd) {
  message->name[kNameSize - 1] = '\0';
  message->record[kRecordSize - 1] = '\0';
  const std::string_view name = bounded(message->name, kNameSize);
  if (name.empty()) return;
  if (message->kind == kPut) put(*message, std::move(fd));
  if (message->kind == kDrop) drop(name);
  if (message->kind == kTask) add_task(*message);
}

void Store::put(const Message& message, UniqueFd fd) {
  if (!fd) return;
  const std::string_view name = bounded(message.name, kNameSize);
  for (size_t i = 0; i < names_.size(); ++i) {
    if (bounded(names_[i].name, kNameSize) != name) continue;
    close(names_[i].fd);
    names_[i].fd = fd.release();
    return;
  }
  Name* added = names_.size() < kMaxNames ? names_.add() : nullptr;
  if (added == nullptr) return;
  memcpy(added->name, message.name, kNameSize);
  added->fd = fd.release();
}

void Store::drop(std::string_view name) {
  for (size_t i = names_.size(); i-- > 0;) {
    if (!matches(bounded(names_[i].name, kNameSize), name)) continue;
    close(names_[i].fd);
    names_.remove(i);
  }
  for (size_t i = tasks_.size(); i-- > 0;) {
    if (matches(bounded(tasks_[i].id, kNameSize), name)) tasks_.remove(i);
  }
}

void Store::add_task(const Message& message) {
  if (message.pid <= 0 || !record_allowed(bounded(message.record, kRecordSize))) return;
  const std::string_view id = bounded(message.name, kNameSize);
  for (size_t i = tasks_.size(); i-- > 0;) {
    if (bounded(tasks_[i].id, kNameSize) == id) tasks_.remove(i);
  }
  Task* task = tasks_.size() < kMaxNames ? tasks_.add() : nullptr;
  if (task == nullptr) return;
  memcpy(task->id, message.name, kNameSize);
  memcpy(task->record, message.record, kRecordSize);
  task->pid = message.pid;
}

bool Store::record_allowed(std::string_view record) const {
  if (!starts_with(record, records_.view()) || record.size() == records_.size()) return false;
  // Directly inside: a name has no further slash, so no `..` either.
  return memchr(record.data() + records_.size(), '/', record.size() - records_.size()) == nullptr;
}

void Store::record_exit(pid_t pid, int status, int64_t now) {
  for (size_t i = 0; i < tasks_.size(); ++i) {
    Task& task = tasks_[i];
    if (task.pid != pid || task.exited) continue;
    task.exited = true;
    task.status = status;
    task.exited_at = now;
    char content[kExitRecordMax];
    const std::string_view known = read_small(task.record, content, sizeof content);
    if (!known.empty()) {
      // The server wrote it and died before it could reap: its time is the right one.
      task.exited_at = json_number(json_member(known, "exitedAt"), now);
      return;
    }
    Text<kExitRecordMax> text;
    text << "{\"status\":" << static_cast<int64_t>(status) << ",\"exitedAt\":\"" << now << "\"}\n";
    Text<kRecordSize + 8> temporary;
    temporary << task.record << ".tmp";
    UniqueFd file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (file && write(file.get(), text.c_str(), text.size()) == static_cast<ssize_t>(text.size())) {
      rename(temporary.c_str(), task.record);
    }
    return;
  }
}

void Store::send() {
  while (cursor_ != kDone) {
    Message message = {};
    int fd = -1;
    const size_t names = names_.size();
    if (cursor_ < names) {
      message.kind = kFd;
      memcpy(message.name, names_[cursor_].name, kNameSize);
      fd = names_[cursor_].fd;
    } else if (cursor_ < names + tasks_.size()) {
      const Task& task = tasks_[cursor_ - names];
      if (!task.exited) {
        ++cursor_;
        continue;
      }
      message.kind = kExit;
      memcpy(message.name, task.id, kNameSize);
      message.pid = task.pid;
      message.status = task.status;
      message.exited_at = task.exited_at;
    } else {
      message.kind = kReady;
    }
    if (!send_one(message, fd)) return;
    cursor_ = message.kind == kReady ? kDone : cursor_ + 1;
  }
}

// False if it has to wait. A server that is gone is seen by receive().
bool Store::send_one(const Message& message, int fd) {
  Control control = {};
  iovec data = {const_cast<Message*>(&message), sizeof message};
  msghdr packet = {};
  packet.msg_iov = &data;
  packet.msg_iovlen = 1;
  if (fd >= 0) {
    packet.msg_control = &control;
    packet.msg_controllen = sizeof control;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
  }
  return sendmsg(socket_.get(), &packet, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

}  // namespace isopod::monitor
