/**
 * hostname, hosts and resolv.conf of a pod (R9), as text: on the Sandbox route the shim puts them into the
 * sandbox, on the pause route the daemon into files. Pure: what is taken from the host is given.
 */
export interface PodFilesOptions {
  /** "" for a pod in the host's network: it then has the host's own name. */
  readonly hostname: string;
  /** Absent: the host's resolv.conf. Present but empty: an empty one (the CRI's rule). */
  readonly dns?:
    | {
        readonly servers?: readonly string[] | null;
        readonly searches?: readonly string[] | null;
        readonly options?: readonly string[] | null;
      }
    | undefined;
  readonly host: { readonly hostname: string; readonly hosts: string; readonly resolvConf: string };
}

export interface PodFiles {
  readonly hostname: string;
  readonly hosts: string;
  readonly "resolv.conf": string;
}

export function podFiles({ hostname, dns, host }: PodFilesOptions): PodFiles {
  return {
    hostname: `${hostname || host.hostname}\n`,
    hosts: host.hosts,
    "resolv.conf": dns ? resolvConf(dns) : host.resolvConf,
  };
}

function resolvConf(dns: NonNullable<PodFilesOptions["dns"]>): string {
  const line = (word: string, values: readonly string[] | null | undefined): string =>
    values && values.length > 0 ? `${word} ${values.join(" ")}\n` : "";
  const servers = (dns.servers ?? []).map((server) => `nameserver ${server}\n`).join("");
  return line("search", dns.searches) + servers + line("options", dns.options);
}
