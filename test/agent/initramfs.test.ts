import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { after, test } from "node:test";
import * as zlib from "node:zlib";
import { buildInitramfs, cachedInitramfs, GUEST_MODULES } from "../../src/agent";
import { cpio } from "../../src/agent/cpio";
import { kernelModules } from "../../src/agent/modules";
import { IsopodError } from "../../src/base/errors";
import { needs, requirement } from "../support/needs";

const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-initramfs-"));
after(() => fs.rmSync(scratch, { recursive: true, force: true }));
const hasCpio = requirement(fs.existsSync("/usr/bin/cpio"), "needs cpio");

/** A tree as a kernel package has it: files that say on what they depend. */
function tree(name: string, modules: Readonly<Record<string, string>>, builtin = ""): string {
  const directory = path.join(scratch, name);
  for (const [file, depends] of Object.entries(modules)) {
    const full = path.join(directory, "kernel", file);
    fs.mkdirSync(path.dirname(full), { recursive: true });
    const content = Buffer.from(`ELF\0license=GPL\0depends=${depends}\0name=x\0`);
    fs.writeFileSync(full, file.endsWith(".gz") ? zlib.gzipSync(content) : content);
  }
  fs.writeFileSync(path.join(directory, "modules.builtin"), builtin);
  return directory;
}

test("what cpio(1) unpacks is what went in: files, modes, directories, nodes", needs(hasCpio), () => {
  const into = path.join(scratch, "unpacked");
  fs.mkdirSync(into);
  const data = Buffer.from("content");
  const archive = cpio([
    { name: "a", mode: 0o040750 },
    { name: "a/file", mode: 0o100640, data },
    { name: "a/empty", mode: 0o100755 },
    { name: "a/link", mode: 0o120777, data: Buffer.from("file") },
    { name: "a/node", mode: 0o020600, device: { major: 5, minor: 1 } },
  ]);
  execFileSync("cpio", ["-i", "--quiet"], { cwd: into, input: archive });
  assert.equal(fs.readFileSync(path.join(into, "a/link"), "utf8"), "content");
  assert.equal(fs.statSync(path.join(into, "a")).mode, 0o040750);
  assert.equal(fs.statSync(path.join(into, "a/file")).mode, 0o100640);
  assert.equal(fs.statSync(path.join(into, "a/empty")).size, 0);
  const node = fs.statSync(path.join(into, "a/node"));
  assert.ok(node.isCharacterDevice());
  assert.equal(node.rdev, (5 << 8) | 1);
});

test("modules come after what they need, once, without what is built in", () => {
  const directory = tree(
    "order",
    {
      "a/virtio-mmio.ko": "virtio,virtio_ring",
      "b/virtio.ko": "virtio_ring",
      "c/virtio_ring.ko": "core",
      "d/x.ko.gz": "virtio",
    },
    "kernel/lib/core.ko\n",
  );
  assert.deepEqual(
    kernelModules(directory, ["virtio_mmio", "x"]).map(({ name }) => name),
    ["virtio_ring.ko", "virtio.ko", "virtio_mmio.ko", "x.ko"],
  );
  assert.match(kernelModules(directory, ["x"]).at(-1)!.data.toString(), /^ELF/);
});

test("a kernel without a module that is needed is refused, by its name; so is one that is packed", () => {
  const directory = tree("missing", { "a.ko": "gone", "b.ko.xz": "" });
  const refused = (name: string, code: string, text: RegExp) =>
    assert.throws(
      () => kernelModules(directory, [name]),
      (error: unknown) => IsopodError.is(error) && error.code === code && text.test(error.message),
    );
  refused("a", "NOT_FOUND", /has no gone, which a needs/);
  refused("virtio_mmio", "NOT_FOUND", /has no virtio_mmio, which a guest needs/);
  refused("b", "UNIMPLEMENTED", /b\.ko\.xz.*unpack it first/);
});

test("an initramfs holds init, its console and its modules; it is built once", needs(hasCpio), () => {
  const modules = tree("whole", Object.fromEntries(GUEST_MODULES.map((name) => [`${name}.ko`, ""])));
  const agent = path.join(scratch, "agent");
  fs.writeFileSync(agent, "#!program", { mode: 0o700 });
  const extra = [{ name: "more", mode: 0o100644, data: Buffer.from("x") }];
  const archive = buildInitramfs({ agent, modules, extra });
  const listed = execFileSync("cpio", ["-t", "--quiet"], { input: archive, encoding: "utf8" });
  assert.deepEqual(listed.trim().split("\n"), [
    ...["dev", "dev/console", "init", "modules", "modules/order"],
    ...GUEST_MODULES.map((name) => `modules/${name}.ko`),
    "more",
  ]);
  assert.ok(archive.includes(`${GUEST_MODULES.map((name) => `${name}.ko`).join("\n")}\n`));

  const cache = path.join(scratch, "cache/deep");
  const first = cachedInitramfs({ agent, modules }, cache);
  const { ino } = fs.statSync(first);
  assert.equal(cachedInitramfs({ agent, modules }, cache), first);
  assert.equal(fs.statSync(first).ino, ino, "not built again");
  fs.writeFileSync(agent, "#!another program");
  const second = cachedInitramfs({ agent, modules }, cache);
  assert.notEqual(second, first);
  assert.ok(fs.readFileSync(second).includes("another program"));
  assert.deepEqual(fs.readdirSync(cache).length, 2);
});
