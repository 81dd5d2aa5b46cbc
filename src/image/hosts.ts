/** One server that may answer for a registry. */
export interface RegistryHost {
  /** Origin, e.g. `https://registry-1.docker.io`. */
  readonly origin: string;
}

/**
 * Which servers to ask for the images of a registry host, in order. hosts.toml (mirrors, CAs, headers) will
 * be another resolver behind the same type.
 */
export type HostsResolver = (host: string) => readonly RegistryHost[];

/** The registry itself: https, and http on the loopback interface. Docker Hub's API has its own name. */
export const defaultHosts: HostsResolver = (host) => {
  if (host === "docker.io") return [{ origin: "https://registry-1.docker.io" }];
  return [{ origin: `${isLoopback(host) ? "http" : "https"}://${host}` }];
};

function isLoopback(host: string): boolean {
  const name = host.replace(/:[0-9]+$/, "");
  return name === "localhost" || name === "[::1]" || /^127(\.[0-9]{1,3}){3}$/.test(name);
}
