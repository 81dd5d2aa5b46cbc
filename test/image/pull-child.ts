import { silentLog } from "../../src/base/log";
import { openImages } from "../../src/image";

/** A process to be killed: pulls REFERENCE into ROOT and says when it has begun and ended. */
async function main(): Promise<void> {
  const [root, reference] = process.argv.slice(2);
  const images = await openImages({ root: root!, log: silentLog });
  process.stdout.write("open\n");
  await images.pull({ reference: reference! });
  process.stdout.write("pulled\n");
  await new Promise(() => setInterval(() => {}, 1000));
}

if (require.main === module) void main();
