#include "agent/agent.h"

#include <fcntl.h>

#include <cstdlib>
#include <utility>

#include "agent/guest.h"
#include "agent/job.h"
#include "agent/network.h"
#include "base/file.h"
#include "core/poller.h"

namespace isopod::agent {

namespace {

constexpr char kService[] = "isopod.agent.v1.Agent";

Error unimplemented(const std::string& what) {
  return Error{0, "request", what, {}, "not implemented", "UNIMPLEMENTED"};
}

// Decodes the request and hands it on.
template <typename T, typename Handler>
void with(const Call& call, const Request& request, Handler handler) {
  T message;
  if (!decode(request.payload, message))
    return call.fail(Error{0, "request", request.method, {}, "malformed", "INVALID_ARGUMENT"});
  handler(std::move(message));
}

// Work whose result is that it is done.
template <typename T, typename Work>
void job(const Call& call, const Request& request, Work work) {
  with<T>(call, request, [&](T message) {
    in_job([work, message = std::move(message)] { return work(message); },
           [call](Status done) { call.answer(std::move(done)); });
  });
}

void mount_in_job(const Call& call, const MountRequest& message) {
  in_job([message] { return mount(message); },
         [call](Result<Mounted> done) {
           if (!done) return call.fail(done.error());
           call.reply(encode_mount(done->device, done->major, done->minor));
         });
}

int own_oom_score_adj() {
  Result<std::string> text = read_file(AT_FDCWD, "/proc/self/oom_score_adj");
  return text ? std::atoi(text->c_str()) : 0;
}

}  // namespace

Agent::Agent(const Transport& transport, UniqueFd base, std::string files,
             std::function<void()> ended)
    : containers_(transport, std::move(base)), files_(std::move(files)), ended_(std::move(ended)) {
  add_guest_methods();
  add_container_methods();
}

void Agent::serve(UniqueFd control) {
  server_ = std::make_shared<Server>(
      std::move(control),
      [this](const Call& call, const Request& request) { handle(call, request); },
      [this] { end(); });
  core::Poller::control().post([this] { server_->start(); });
}

template <typename T>
void Agent::add(const char* method, void (Containers::*handler)(const Call&, T)) {
  methods_[method] = [this, handler](const Call& call, const Request& request) {
    with<std::decay_t<T>>(call, request, [&](std::decay_t<T> message) {
      (containers_.*handler)(call, std::move(message));
    });
  };
}

void Agent::add_guest_methods() {
  methods_["Hello"] = [this](const Call& call, const Request& request) {
    with<HelloRequest>(call, request, [&](const HelloRequest& message) { hello(call, message); });
  };
  methods_["Configure"] = [this](const Call& call, const Request& request) {
    job<ConfigureRequest>(call, request, [files = files_](const ConfigureRequest& message) {
      return configure(message, files);
    });
  };
  methods_["Mount"] = [](const Call& call, const Request& request) {
    with<MountRequest>(call, request, [&](MountRequest message) { mount_in_job(call, message); });
  };
  methods_["Unmount"] = [](const Call& call, const Request& request) {
    job<UnmountRequest>(call, request, unmount);
  };
  methods_["Network"] = [](const Call& call, const Request& request) {
    job<NetworkRequest>(call, request, configure_network);
  };
  methods_["SetClock"] = [](const Call& call, const Request& request) {
    job<SetClockRequest>(call, request, set_clock);
  };
  methods_["Reseed"] = [](const Call& call, const Request& request) {
    job<ReseedRequest>(call, request, reseed);
  };
  methods_["Shutdown"] = [this](const Call& call, const Request& request) {
    with<Empty>(call, request, [&](Empty) { shutdown(call); });
  };
}

void Agent::add_container_methods() {
  add("CreateContainer", &Containers::create);
  add("Start", &Containers::start);
  add("Exec", &Containers::exec);
  add("Signal", &Containers::signal);
  add("Wait", &Containers::wait);
  add("Resize", &Containers::resize);
  add("CloseStdin", &Containers::close_stdin);
  add("Pause", &Containers::pause);
  add("Resume", &Containers::resume);
  add("Update", &Containers::update);
  add("Stats", &Containers::stats);
  add("Pids", &Containers::pids);
  add("Delete", &Containers::remove);
  add("WaitOom", &Containers::wait_oom);
}

void Agent::handle(const Call& call, const Request& request) {
  if (request.service != kService) return call.fail(unimplemented(request.service));
  const auto found = methods_.find(request.method);
  if (found == methods_.end())
    return call.fail(unimplemented(request.service + "/" + request.method));
  found->second(call, request);
}

void Agent::hello(const Call& call, const HelloRequest& request) {
  if (request.protocol != kProtocol)
    return call.fail(Error{0, "request", "protocol", std::to_string(request.protocol),
                           "only 1 is spoken here", "FAILED_PRECONDITION"});
  call.reply(encode_hello(core::features(), own_oom_score_adj(), files_));
}

void Agent::shutdown(const Call& call) {
  containers_.end([this, call] {
    call.reply();
    server_->flushed([this] {
      if (ended_) std::exchange(ended_, nullptr)();
    });
  });
}

// Fate-sharing: without its host a guest is of no use to anybody.
void Agent::end() {
  containers_.end([this] {
    if (ended_) std::exchange(ended_, nullptr)();
  });
}

}  // namespace isopod::agent
