import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { silentLog } from "../../src/base/log";
import { type Image, type Images, type ImagesOptions, openImages, type Snapshot } from "../../src/image";
import { native } from "../../src/native";
import { type BuiltImage, writeLayout } from "../support/images";

/** A folder of the test's own, removed afterwards whatever happens. */
export async function inFolder<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-image-"));
  try {
    return await work(dir);
  } finally {
    fs.rmSync(dir, { recursive: true, force: true });
  }
}

export const open = (dir: string, options: Partial<ImagesOptions> = {}): Promise<Images> =>
  openImages({ root: path.join(dir, "root"), log: silentLog, ...options });

/** An open store and a folder beside it. */
export async function inStore<T>(
  work: (images: Images, dir: string) => Promise<T>,
  options: Partial<ImagesOptions> = {},
): Promise<T> {
  return inFolder(async (dir) => {
    const images = await open(dir, options);
    try {
      return await work(images, dir);
    } finally {
      await images.close();
    }
  });
}

let layouts = 0;

/** Brings an image in through an OCI layout. */
export async function importBuilt(
  images: Images,
  dir: string,
  built: BuiltImage,
  name?: string,
): Promise<Image> {
  const layout = path.join(dir, `layout-${layouts++}`);
  writeLayout(layout, [{ name: "x", image: built }]);
  const [image] = await images.import({ path: layout, ...(name === undefined ? {} : { name }) });
  return image!;
}

/** The image's files as a container sees them, mounted for the time of `look`. */
export async function mounted<T>(
  images: Images,
  image: Image,
  dir: string,
  look: (root: string, snapshot: Snapshot) => Promise<T> | T,
): Promise<T> {
  const key = `look-${layouts++}`;
  const snapshot = await images.prepare({ key, image });
  const root = path.join(dir, key);
  fs.mkdirSync(root);
  const { type, source, options } = snapshot.mounts[0]!;
  try {
    await native().mount({ type, source, target: root, options });
    return await look(root, snapshot);
  } finally {
    await native().unmount({ path: root });
    await images.removeSnapshot(key);
  }
}

/** Everything below the store's root but its database, as relative paths. */
export function filesOf(dir: string): string[] {
  const names = fs.readdirSync(path.join(dir, "root"), { recursive: true }) as string[];
  return names.filter((name) => !name.startsWith("images.")).sort();
}
