/** passwd(5) and group(5) as an image holds them. Lines that are not well-formed are passed over. */
export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

export interface Group {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

export function parsePasswd(text: string): Account[] {
  return entries(text, 6).flatMap(([name, , uid, gid, , home]) => {
    const ids = [idOf(uid!), idOf(gid!)];
    if (ids[0] === undefined || ids[1] === undefined) return [];
    return [{ name: name!, uid: ids[0], gid: ids[1], home: home! }];
  });
}

export function parseGroup(text: string): Group[] {
  return entries(text, 4).flatMap(([name, , id, members]) => {
    const gid = idOf(id!);
    if (gid === undefined) return [];
    return [{ name: name!, gid, members: members!.split(",").filter((member) => member !== "") }];
  });
}

/** A decimal uid or gid; -1 (4294967295) means "no change" to the kernel and is none. */
export function idOf(text: string): number | undefined {
  const id = /^\d{1,10}$/.test(text) ? Number(text) : -1;
  return id >= 0 && id < 0xffff_ffff ? id : undefined;
}

function entries(text: string, fields: number): string[][] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => line.split(":"))
    .filter((entry) => entry.length >= fields && entry[0] !== "");
}
