// libsystemd's D-Bus client, sd-bus(3), loaded when it is first needed: a host without systemd
// needs no library either, and there is no static one. The header is a build dependency only.
#pragma once

#include <systemd/sd-bus.h>

#include "base/result.h"

namespace isopod::core {

// The functions that we call, by their names without `sd_bus_`.
#define ISOPOD_SD_BUS(F)     \
  F(new)                     \
  F(set_address)             \
  F(set_bus_client)          \
  F(start)                   \
  F(is_open)                 \
  F(close_unref)             \
  F(get_fd)                  \
  F(get_events)              \
  F(get_timeout)             \
  F(process)                 \
  F(call_async)              \
  F(match_signal)            \
  F(slot_unref)              \
  F(message_new_method_call) \
  F(message_append)          \
  F(message_append_basic)    \
  F(message_append_array)    \
  F(message_open_container)  \
  F(message_close_container) \
  F(message_enter_container) \
  F(message_peek_type)       \
  F(message_read)            \
  F(message_read_basic)      \
  F(message_get_error)       \
  F(message_get_errno)       \
  F(message_unref)

struct SystemdLibrary {
#define ISOPOD_SD_BUS_MEMBER(name) decltype(&::sd_bus_##name) bus_##name = nullptr;
  ISOPOD_SD_BUS(ISOPOD_SD_BUS_MEMBER)
#undef ISOPOD_SD_BUS_MEMBER
};

// Loaded once, never unloaded. Fails where the library is absent or older than what we call.
Result<const SystemdLibrary*> systemd_library();

}  // namespace isopod::core
