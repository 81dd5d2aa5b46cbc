// The service isopod.agent.v1.Agent: one handler for each call.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "agent/containers.h"
#include "agent/messages.h"
#include "agent/server.h"
#include "agent/transport.h"

namespace isopod::agent {

class Agent {
 public:
  // `files`: directory for what Configure brings. `ended`: the control stream has ended, or
  // Shutdown was answered; all containers are gone.
  Agent(const Transport& transport, UniqueFd base, std::string files, std::function<void()> ended);

  // Serves the control stream from now on.
  void serve(UniqueFd control);

 private:
  using Handler = std::function<void(const Call&, const Request&)>;

  void add_guest_methods();
  void add_container_methods();
  template <typename T>
  void add(const char* method, void (Containers::*handler)(const Call&, T));
  void handle(const Call& call, const Request& request);
  void hello(const Call& call, const HelloRequest& request);
  void shutdown(const Call& call);
  void end();

  std::shared_ptr<Server> server_;
  Containers containers_;
  std::string files_;
  std::function<void()> ended_;
  std::map<std::string, Handler> methods_;
};

}  // namespace isopod::agent
