/** The profile of containers that name none. */
export const APPARMOR_DEFAULT = "isopod-default";

/**
 * A second line behind masked paths, read-only mounts and seccomp: it holds what these hide also where a
 * container has found another way there, a procfs that it mounted itself in a user namespace, say.
 *
 * AppArmor has no "all but": a deny is stronger than any allow, so what a container may write below
 * /proc/sys is spared letter by letter. Those are the settings that belong to its own namespaces: net.*,
 * user.*, fs.mqueue.*, kernel.shm*, msg*, sem*, hostname and domainname.
 *
 * No rule speaks of mounts or of pivoting: a class without a rule is refused as a whole. Self-contained, so
 * that it loads where /etc/apparmor.d has other tunables, or none.
 *
 *   attach_disconnected   files that were opened outside the container's tree: its FIFOs, overlay's own
 *   mediate_deleted       a file that was unlinked while open stays under the same rules
 */
export const defaultApparmorPolicy = (): string => `
profile ${APPARMOR_DEFAULT} flags=(attach_disconnected, mediate_deleted) {
  capability,
  network,
  file,
  umount,

  # Stop signals come from the runtime and from kubelet's exec probes; otherwise only its like.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=${APPARMOR_DEFAULT},
  ptrace (trace, read, tracedby, readby) peer=${APPARMOR_DEFAULT},

  # The host's kernel, by procfs: files of no process, settings of no namespace.
  deny /proc/* wkl,
  deny /proc/{acpi,bus,fs,irq,scsi,tty}/** wkl,
  deny /proc/{kcore,kallsyms,kpage*} rwkl,
  deny /proc/sys/[^fknu]** wkl,
  deny /proc/sys/fs/{[^m]**,m[^q]**} wkl,
  deny /proc/sys/kernel/{[^dhms]**,d[^o]**,h[^o]**,m[^s]**,s[^eh]**,se[^m]**,sh[^m]**} wkl,

  # And by sysfs, but for its own cgroups.
  deny /sys/[^f]** wkl,
  deny /sys/f[^s]** wkl,
  deny /sys/fs/[^c]** wkl,
  deny /sys/fs/c[^g]** wkl,
  deny /sys/firmware/** rwkl,
  deny /sys/kernel/security/** rwkl,
}
`;
