#include "core/tap.h"

#include <cstdio>
#include <memory>

#include "addon/exports.h"
#include "addon/options.h"
#include "addon/promise.h"
#include "core/jobs.h"

namespace isopod::addon {
namespace {

std::string printed(const std::array<uint8_t, 6>& mac) {
  char text[18];
  snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
           mac[4], mac[5]);
  return text;
}

Napi::Object route_value(Napi::Env env, const core::LinkRoute& route) {
  Napi::Object value = Napi::Object::New(env);
  value.Set("destination", route.destination);
  if (!route.gateway.empty()) value.Set("gateway", route.gateway);
  if (!route.source.empty()) value.Set("source", route.source);
  value.Set("metric", route.metric);
  value.Set("scope", route.scope);
  value.Set("onlink", route.onlink);
  return value;
}

Napi::Object link_value(Napi::Env env, core::PodLink& link) {
  Napi::Array addresses = Napi::Array::New(env);
  for (const auto& each : link.addresses) addresses.Set(addresses.Length(), each.address);
  Napi::Array routes = Napi::Array::New(env);
  for (const auto& each : link.routes) routes.Set(routes.Length(), route_value(env, each));
  Napi::Array neighbours = Napi::Array::New(env);
  for (const auto& each : link.neighbours) {
    Napi::Object neighbour = Napi::Object::New(env);
    neighbour.Set("address", each.address);
    neighbour.Set("mac", printed(each.mac));
    neighbours.Set(neighbours.Length(), neighbour);
  }
  Napi::Object value = Napi::Object::New(env);
  value.Set("tap", link.tap.release());
  value.Set("mac", printed(link.mac));
  value.Set("mtu", link.mtu);
  value.Set("addresses", addresses);
  value.Set("routes", routes);
  value.Set("neighbours", neighbours);
  return value;
}

// On a thread of its own, whose network namespace it changes.
Napi::Value in_namespace(const Napi::CallbackInfo& info,
                         void (*work)(const Deferred&, const std::string&, const std::string&)) {
  Options options(info);
  const std::string netns = options.text("netns"), link = options.text("link");
  if (!options.ok()) return info.Env().Undefined();
  Deferred deferred(info.Env());
  if (!core::run_detached([=] { work(deferred, netns, link); }))
    deferred.reject(failure(EAGAIN, "start thread", ""));
  return deferred.promise();
}

void attach(const Deferred& deferred, const std::string& netns, const std::string& name) {
  Result<core::PodLink> link = core::tap_attach(netns, name);
  if (!link) return deferred.reject(link.error());
  auto held = std::make_shared<core::PodLink>(std::move(*link));
  deferred.resolve([held](Napi::Env env) { return link_value(env, *held); });
}

void detach(const Deferred& deferred, const std::string& netns, const std::string& name) {
  Status status = core::tap_detach(netns, name);
  status ? deferred.resolve() : deferred.reject(status.error());
}

}  // namespace

void export_tap(Napi::Env env, Napi::Object exports) {
  exports.Set("tapAttach", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return in_namespace(info, attach);
              }));
  exports.Set("tapDetach", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return in_namespace(info, detach);
              }));
}

}  // namespace isopod::addon
