// A writer of ACPI Machine Language, as much of it as a machine without PCI needs (ACPI 6.5,
// chapter 20). AML is a byte code that names objects; lengths count themselves.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace isopod::vmm::aml {

using Code = std::vector<uint8_t>;

// The concatenation.
Code join(const std::vector<Code>& parts);
// Four characters, e.g. "COM1"; a leading backslash makes it absolute.
Code scope(const std::string& name, const std::vector<Code>& body);
Code device(const std::string& name, const std::vector<Code>& body);
Code name(const std::string& name, const Code& value);

Code integer(uint32_t value);
Code string(const std::string& value);
Code package(const std::vector<Code>& elements);
// "PNP0501" packed into 32 bits, as _HID wants it.
Code eisa_id(const std::string& id);
// Resource descriptors with their end tag, as _CRS wants them.
Code resources(const std::vector<Code>& descriptors);
Code memory32(uint32_t base, uint32_t size);
Code ports(uint16_t base, uint8_t size);
// Edge triggered, active high, not shared.
Code interrupt(uint32_t gsi);

}  // namespace isopod::vmm::aml
