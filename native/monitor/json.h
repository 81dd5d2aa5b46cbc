// Finds one member in a JSON text: config.json's annotations and the server's records, nothing else.
#pragma once

#include <cstdint>
#include <string_view>

namespace isopod::monitor {

// The raw value (string with its quotes, number, object …) of `key` in the object that `json` is; empty if
// there is none or the text is malformed. Nesting is bounded.
std::string_view json_member(std::string_view json, std::string_view key);

// The content of a raw string value, if it has no escapes (ids and paths have none); else empty.
std::string_view json_string(std::string_view raw);

// The value of a raw number, or of a string that holds one; `fallback` if it is neither.
int64_t json_number(std::string_view raw, int64_t fallback);

}  // namespace isopod::monitor
