import {
  absolute,
  type ConfigOf,
  choice,
  exactly,
  later,
  type Named,
  opaque,
  optionalPath,
  paths,
  table,
  text,
  unixSocket,
} from "./fields";

export const handlerKeys = {
  runtime_type: text("The shim's type; its binary is containerd-shim-isopod-v2 for this one.", "", {
    pattern: /^io\.containerd\.[a-z0-9-]+\.v[0-9]+$/,
    why: 'must be written like "io.containerd.isopod.v2"',
  }),
  path: optionalPath("The shim's binary; empty: beside isopod's own, then in PATH."),
  options: opaque("Handed to the shim as they are."),
} as const;

/** Every handler is a shim, ours and others' alike. */
const handlers: Named<typeof handlerKeys> = {
  kind: "named",
  doc: "RuntimeClass handlers by name. Each is a containerd shim.",
  keys: handlerKeys,
  default: {
    // One server process for many pods.
    isopod: { runtime_type: "io.containerd.isopod.v2", path: "", options: { group: "node" } },
  },
};

/** Of the state directory: `<state>/s/<32 hex>` plus what a shim appends must fit a socket's 107 bytes. */
const MAX_STATE = 60;

export const schema = {
  version: exactly("Version of this file's format.", 1),
  root: absolute("What outlives a reboot: images, snapshots, records of pods.", "/var/lib/isopod"),
  state: absolute(
    "What does not: sockets, FIFOs, shims' state. On a tmpfs; at most 60 bytes long.",
    "/run/isopod",
    MAX_STATE,
  ),
  listen: unixSocket("Where kubelet and crictl connect.", "unix:///run/isopod/isopod.sock"),
  default_handler: text("The handler of pods that name none.", "isopod"),
  log: table("Log lines are JSON, on standard error.", {
    level: choice("info, debug, warn or error.", ["info", "debug", "warn", "error"]),
  }),
  cgroup: table("Control groups.", {
    driver: choice(
      "Who makes pods' cgroups: isopod itself, or systemd, which then shows each as a unit. kubelet asks for it.",
      ["cgroupfs", "systemd"],
    ),
  }),
  cni: table("Pod networks.", {
    conf_dir: absolute(
      "Network configurations; the first by name is used. Followed as it changes.",
      "/etc/cni/net.d",
    ),
    bin_dirs: paths("Where plugins are searched, in this order.", ["/opt/cni/bin", "/usr/lib/cni"]),
    netns_dir: absolute("Where pods' network namespaces are pinned.", "/run/netns"),
  }),
  registry: later,
  streaming: later,
  handlers,
} as const;

export type Config = ConfigOf<typeof schema>;
