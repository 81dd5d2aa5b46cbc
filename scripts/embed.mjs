// embed.mjs IN OUT: the bytes of IN as a C++ array, so that the addon carries its init stub.
import { readFileSync, writeFileSync } from "node:fs";

const [input, output] = process.argv.slice(2);
const bytes = [...readFileSync(input)];
writeFileSync(
  output,
  `#pragma once\n\nalignas(16) constexpr unsigned char kInitImage[] = {\n${bytes.join(",").replace(/(.{100}[^,]*,)/g, "$1\n")}\n};\n`,
);
