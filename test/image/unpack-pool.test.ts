import assert from "node:assert/strict";
import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { unpackPool } from "../../src/image/unpack-pool";
import { tar } from "../support/tar";

test("a job that comes just as an idle worker ends gets another worker", async () => {
  const at = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-pool-"));
  const idleMs = 2;
  const pool = unpackPool(idleMs);
  try {
    const archive = tar([{ path: "f", data: "x" }]);
    const file = path.join(at, "layer.tar");
    fs.writeFileSync(file, archive);
    const digest = `sha256:${crypto.createHash("sha256").update(archive).digest("hex")}`;
    for (let i = 0; i < 60; i++) {
      const root = path.join(at, String(i));
      fs.mkdirSync(root);
      const job = {
        source: { file, offset: 0, size: archive.length },
        size: archive.length,
        digest,
        diffId: digest,
        root,
        limits: { entries: 10, bytes: 1e6, ratio: 1e6, ratioFrom: 1e6 },
      };
      const parents = Promise.resolve([]);
      await pool.run(job, { signal: new AbortController().signal, parents, started: () => {} });
      assert.equal(fs.readFileSync(path.join(root, "f"), "utf8"), "x");
      // Around the moment at which the worker is sent away, a little earlier or later each time.
      await sleep(idleMs + (i % 3) - 1);
    }
  } finally {
    await pool.close();
    fs.rmSync(at, { recursive: true });
  }
});
