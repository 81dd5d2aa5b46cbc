// The fd store itself, see protocol.h: descriptors by name, tasks, exits.
#pragma once

#include <stdlib.h>
#include <sys/types.h>

#include "base/fd.h"
#include "monitor/protocol.h"
#include "monitor/text.h"

namespace isopod::monitor {

// A growing array of plain structs. An allocation that fails drops what was to be added.
template <typename T>
class List {
 public:
  List() = default;
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  ~List() { free(items_); }

  T* add() {
    if (size_ == capacity_) {
      const size_t capacity = capacity_ == 0 ? 16 : capacity_ * 2;
      void* grown = realloc(items_, capacity * sizeof(T));
      if (grown == nullptr) return nullptr;
      items_ = static_cast<T*>(grown);
      capacity_ = capacity;
    }
    T* item = &items_[size_++];
    *item = T{};
    return item;
  }
  // Order is not kept.
  void remove(size_t index) { items_[index] = items_[--size_]; }
  size_t size() const { return size_; }
  T& operator[](size_t index) { return items_[index]; }

 private:
  T* items_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

class Store {
 public:
  // `records`: the only directory in which exit records are written.
  explicit Store(std::string_view records) : records_(records) {}

  // Serves a new server from now on: the inventory first.
  void attach(UniqueFd socket);
  int socket() const { return socket_.get(); }
  bool sending() const { return cursor_ != kDone; }

  // Takes in all that waits; false once the server's end is closed.
  bool receive();
  // Sends as much of the inventory as fits without waiting.
  void send();
  void detach() { socket_.reset(); }

  // If `pid`, a zombie of ours, is a task: writes its exit record. An existing record, the server's, stays.
  void record_exit(pid_t pid, int status, int64_t now);

 private:
  struct Name {
    char name[kNameSize];
    int fd;
  };
  struct Task {
    char id[kNameSize];
    char record[kRecordSize];
    pid_t pid;
    bool exited;
    int status;
    int64_t exited_at;
  };
  static constexpr size_t kDone = SIZE_MAX;

  void handle(Message* message, UniqueFd fd);
  void put(const Message& message, UniqueFd fd);
  void drop(std::string_view name);
  void add_task(const Message& message);
  bool send_one(const Message& message, int fd);
  bool record_allowed(std::string_view record) const;

  PathText records_;
  UniqueFd socket_;
  List<Name> names_;
  List<Task> tasks_;
  // The inventory under way: names, then tasks, then READY.
  size_t cursor_ = kDone;
};

}  // namespace isopod::monitor
