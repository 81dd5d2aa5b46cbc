import { IsopodError } from "../base/errors";

/**
 * Image references as Docker reads them (distribution/reference): `[host[:port]/]path[:tag][@digest]`. No
 * host means docker.io, there no slash means `library/`; neither tag nor digest means `latest`. A digest
 * beside a tag wins.
 */
export interface Reference {
  /** Registry host with its port, e.g. `docker.io`, `127.0.0.1:5000`. */
  readonly host: string;
  /** Path below the host, e.g. `library/busybox`. */
  readonly repository: string;
  /** `host/repository`. */
  readonly name: string;
  readonly tag: string | undefined;
  /** `sha256:…` */
  readonly digest: string | undefined;
}

const MAX_NAME = 255;
const component = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const repositoryPattern = new RegExp(`^${component}(?:/${component})*$`);
const label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?";
const hostPattern = new RegExp(`^(?:${label}(?:\\.${label})*|\\[[0-9a-fA-F:]+\\])(?::[0-9]{1,5})?$`);
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const digestPattern = /^sha256:[0-9a-f]{64}$/;

export const isDigest = (text: unknown): text is string =>
  typeof text === "string" && digestPattern.test(text);

/** Throws INVALID_ARGUMENT naming the reference and what is wrong with it. */
export function parseReference(text: string): Reference {
  const fail = (why: string): never => {
    throw new IsopodError("INVALID_ARGUMENT", `image reference ${JSON.stringify(text)}: ${why}`, {
      path: text,
    });
  };
  if (text === "") fail("is empty");
  let rest = text;
  let digest: string | undefined;
  const at = rest.indexOf("@");
  if (at >= 0) {
    digest = rest.slice(at + 1);
    rest = rest.slice(0, at);
    if (!isDigest(digest)) fail(`digest "${digest}" is not sha256 and 64 lower-case hex digits`);
  }
  let tag: string | undefined;
  const colon = rest.lastIndexOf(":");
  if (colon > rest.lastIndexOf("/")) {
    tag = rest.slice(colon + 1);
    rest = rest.slice(0, colon);
    if (!tagPattern.test(tag)) fail(`tag "${tag}" is not 1 to 128 letters, digits, "_", "." and "-"`);
  }
  const { host, repository } = splitHost(rest);
  if (!hostPattern.test(host)) fail(`host "${host}" is malformed`);
  if (/[A-Z]/.test(repository)) fail(`repository "${repository}" must be lower case`);
  if (!repositoryPattern.test(repository)) fail(`repository "${repository}" is malformed`);
  if (/^[0-9a-f]{64}$/.test(rest)) fail("a name of 64 hex digits would be an image id");
  const name = `${host}/${repository}`;
  if (name.length > MAX_NAME) fail(`the name is longer than ${MAX_NAME} characters`);
  if (tag === undefined && digest === undefined) tag = "latest";
  return { host, repository, name, tag, digest };
}

function splitHost(name: string): { host: string; repository: string } {
  const slash = name.indexOf("/");
  const first = slash < 0 ? "" : name.slice(0, slash);
  const isHost = /[.:]/.test(first) || first === "localhost" || first !== first.toLowerCase();
  let host = "docker.io";
  let repository = name;
  if (first !== "" && isHost) {
    host = first === "index.docker.io" ? "docker.io" : first;
    repository = name.slice(slash + 1);
  }
  if (host === "docker.io" && !repository.includes("/")) repository = `library/${repository}`;
  return { host, repository };
}

/** `name:tag`, or undefined for a reference by digest, whose tag names nothing here. */
export const repoTag = (reference: Reference): string | undefined =>
  reference.digest === undefined ? `${reference.name}:${reference.tag}` : undefined;

export const formatReference = (reference: Reference): string =>
  reference.name +
  (reference.tag === undefined ? "" : `:${reference.tag}`) +
  (reference.digest === undefined ? "" : `@${reference.digest}`);
