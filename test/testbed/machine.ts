import type { Options } from "./arguments";

/** File descriptors that QEMU inherits: nothing of a run has a name that could be left behind. */
export interface Descriptors {
  /** A regular file. */
  readonly initramfs: number;
  /** A regular file with an ext4 file system, if there is a disk. */
  readonly disk?: number;
  /** Stream sockets, one to a port. */
  readonly ports: Readonly<Record<string, number>>;
}

/** QEMU's arguments. The console goes to stdout; the host's root is handed in read-only. */
export function qemuArguments(options: Options, image: string, fds: Descriptors): string[] {
  const ports = Object.entries(fds.ports).flatMap(([name, fd]) => [
    ...["-chardev", `socket,id=${name},fd=${fd}`],
    ...["-device", `virtserialport,chardev=${name},name=${name}`],
  ]);
  const disk =
    fds.disk === undefined
      ? []
      : [
          "-drive",
          `if=virtio,format=raw,cache=unsafe,discard=unmap,file.locking=off,file=/proc/self/fd/${fds.disk}`,
        ];
  return [
    ...["-machine", "q35", "-cpu", "max,+svm", "-m", String(options.memory), "-smp", String(options.cpus)],
    ...(options.icount
      ? ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]
      : ["-accel", "tcg,thread=multi"]),
    ...["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"],
    ...["-serial", "stdio"],
    ...["-kernel", image, "-initrd", `/proc/self/fd/${fds.initramfs}`, "-append", kernelArguments(options)],
    // remap: the host's root is made of several file systems, whose inode numbers collide.
    ...["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"],
    ...["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"],
    ...["-device", "virtio-rng-pci", "-device", "virtio-serial-pci,max_ports=8"],
    ...ports,
    ...disk,
  ];
}

/** What a host's basic.target brings along that a machine of a minute has no use for. */
const masked = [
  // Compiles every profile that the host has installed: minutes in emulation.
  "apparmor.service",
  "kmod-static-nodes.service",
  ...["configfs", "dm_mod", "drm", "efi_pstore", "fuse", "loop"].map((name) => `modprobe@${name}.service`),
  ...[
    "binfmt",
    "journal-flush",
    "modules-load",
    "random-seed",
    "sysusers",
    "timesyncd",
    "tmpfiles-setup",
    "tmpfiles-setup-dev",
    "update-utmp",
  ].map((name) => `systemd-${name}.service`),
  ...["cryptsetup", "integritysetup", "timers", "veritysetup"].map((name) => `${name}.target`),
];

function kernelArguments(options: Options): string {
  const words = ["console=ttyS0", "panic=-1", "quiet", "cryptomgr.notests", "psi=1", "hugepages=16"];
  if (options.systemd) {
    words.push("systemd.unit=isopod-testbed.target", "systemd.show_status=no");
    // The host's fstab names disks that are not here.
    words.push("fstab=no", ...masked.map((unit) => `systemd.mask=${unit}`));
  }
  return words.join(" ");
}
