// Units as JavaScript gives them.
#pragma once

#include <napi.h>

#include "core/systemd_unit.h"

namespace isopod::addon {

// `name`, `properties` and `timeoutMs` of an object. A wrong one throws INVALID_ARGUMENT with the
// property's name, and false is returned.
bool read_unit(Napi::Env env, const Napi::Value& value, core::TransientUnit& unit);

}  // namespace isopod::addon
