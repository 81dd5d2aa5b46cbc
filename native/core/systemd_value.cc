#include "core/systemd_value.h"

#include <cerrno>
#include <cstring>

namespace isopod::core {

namespace {

// As the D-Bus specification bounds arrays and structures in each other, but lower.
constexpr int kMaxDepth = 8;

size_t type_length(const char* signature, int depth) {
  if (depth > kMaxDepth) return 0;
  const char first = *signature;
  if (first != '\0' && strchr("ybnqiuxtsog", first) != nullptr) return 1;
  if (first == 'a' && signature[1] != '{') {
    const size_t element = type_length(signature + 1, depth + 1);
    return element == 0 ? 0 : 1 + element;
  }
  const bool entry = first == 'a';
  if (!entry && first != '(') return 0;
  size_t at = entry ? 2 : 1;
  const size_t begin = at;
  const char close = entry ? '}' : ')';
  while (signature[at] != close) {
    const size_t member = type_length(signature + at, depth + 1);
    if (member == 0) return 0;
    at += member;
  }
  return at == begin ? 0 : at + 1;
}

int append_number(const SystemdLibrary& sd, sd_bus_message* message, char type, uint64_t number) {
  const auto byte = static_cast<uint8_t>(number);
  const auto half = static_cast<uint16_t>(number);
  const auto word = static_cast<uint32_t>(number);
  switch (type) {
    case 'y':
      return sd.bus_message_append_basic(message, type, &byte);
    case 'n':
    case 'q':
      return sd.bus_message_append_basic(message, type, &half);
    case 'b':  // an int for sd-bus
    case 'i':
    case 'u':
      return sd.bus_message_append_basic(message, type, &word);
    default:
      return sd.bus_message_append_basic(message, type, &number);
  }
}

int append_members(const SystemdLibrary& sd, sd_bus_message* message, char container,
                   const std::string& contents, const std::vector<BusValue>& items) {
  int error = sd.bus_message_open_container(message, container, contents.c_str());
  size_t at = 0;
  for (const BusValue& item : items) {
    const size_t length = first_type(contents.c_str() + at);
    if (length == 0) return -EINVAL;
    if (error < 0) return error;
    if (contents[at] == '{')
      error = append_members(sd, message, 'e', contents.substr(at + 1, length - 2), item.items);
    else
      error = append_value(sd, message, contents.substr(at, length), item);
    // An array has one type for all its members.
    if (container != 'a') at += length;
  }
  return error < 0 ? error : sd.bus_message_close_container(message);
}

}  // namespace

size_t first_type(const char* signature) {
  // The entry of a dictionary is a type inside an array only.
  if (*signature != '{') return type_length(signature, 0);
  const std::string array = std::string("a") + signature;
  const size_t length = type_length(array.c_str(), 0);
  return length == 0 ? 0 : length - 1;
}

bool is_one_type(const std::string& signature) {
  return !signature.empty() && signature[0] != '{' &&
         first_type(signature.c_str()) == signature.size();
}

int append_value(const SystemdLibrary& sd, sd_bus_message* message, const std::string& signature,
                 const BusValue& value) {
  switch (signature[0]) {
    case 's':
    case 'o':
    case 'g':
      return sd.bus_message_append_basic(message, signature[0], value.text.c_str());
    case 'a':
      if (signature == "ay")
        return sd.bus_message_append_array(message, 'y', value.text.data(), value.text.size());
      return append_members(sd, message, 'a', signature.substr(1), value.items);
    case '(':
      return append_members(sd, message, 'r', signature.substr(1, signature.size() - 2),
                            value.items);
    default:
      return append_number(sd, message, signature[0], value.number);
  }
}

int append_properties(const SystemdLibrary& sd, sd_bus_message* message,
                      const std::vector<UnitProperty>& properties) {
  int error = sd.bus_message_open_container(message, 'a', "(sv)");
  for (const UnitProperty& property : properties) {
    if (error >= 0) error = sd.bus_message_open_container(message, 'r', "sv");
    if (error >= 0) error = sd.bus_message_append_basic(message, 's', property.name.c_str());
    if (error >= 0) error = sd.bus_message_open_container(message, 'v', property.signature.c_str());
    if (error >= 0) error = append_value(sd, message, property.signature, property.value);
    if (error >= 0) error = sd.bus_message_close_container(message);
    if (error >= 0) error = sd.bus_message_close_container(message);
  }
  return error < 0 ? error : sd.bus_message_close_container(message);
}

}  // namespace isopod::core
