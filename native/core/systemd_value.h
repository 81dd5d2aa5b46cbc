// What goes into D-Bus messages. A value's type is its signature (D-Bus specification, "Type
// system"):
//
//   y b n q i u x t   byte, boolean, integers of 16, 32 and 64 bits, signed and not
//   s o g             text, object path, signature
//   aT (TU…) a{TU}    array, structure, dictionary
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/systemd_library.h"

namespace isopod::core {

struct BusValue {
  std::string text;             // s, o, g; of `ay` its bytes
  uint64_t number = 0;          // y b n q i u x t; signed ones in two's complement
  std::vector<BusValue> items;  // members of arrays, structures and dictionary entries
};

// One property of a unit, as it is set.
struct UnitProperty {
  std::string name;
  std::string signature;
  BusValue value;
};

// The length of the complete type that `signature` begins with; 0 if it begins with none that is
// known here.
size_t first_type(const char* signature);
// One complete type, no more.
bool is_one_type(const std::string& signature);

// Both append to a message; a negative errno on failure, which is sd-bus's. The value has the shape
// that its signature says: whoever made it has seen to that.
int append_value(const SystemdLibrary& sd, sd_bus_message* message, const std::string& signature,
                 const BusValue& value);
// a(sv)
int append_properties(const SystemdLibrary& sd, sd_bus_message* message,
                      const std::vector<UnitProperty>& properties);

}  // namespace isopod::core
