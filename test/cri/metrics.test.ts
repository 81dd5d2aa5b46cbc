import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { capability } from "../support/capabilities";
import type { Daemon } from "../support/daemon";
import { needs } from "../support/needs";
import { logged, removePod, run, shell, startPodDaemon } from "../support/pods";
import { until } from "../support/processes";
import { withDouble } from "./double";

/** What critest asks for: all of it described, and each seen in a pod that runs but for those that may lack. */
const NAMES = `blkio_device_usage_total
  cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total
  cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total
  file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes
  fs_reads_total fs_reads_bytes_total fs_writes_total fs_writes_bytes_total fs_usage_bytes
  hugetlb_max_usage_bytes hugetlb_usage_bytes last_seen
  memory_cache memory_failcnt memory_failures_total memory_kernel_usage memory_mapped_file
  memory_max_usage_bytes memory_rss memory_swap memory_usage_bytes memory_working_set_bytes
  network_receive_bytes_total network_receive_errors_total network_receive_packets_total
  network_receive_packets_dropped_total network_transmit_bytes_total network_transmit_errors_total
  network_transmit_packets_total network_transmit_packets_dropped_total oom_events_total
  pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total
  pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total
  pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total
  processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares spec_memory_limit_bytes
  spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes start_time_seconds threads threads_max
  ulimits_soft`
  .split(/\s+/)
  .map((name) => `container_${name}`);
/** No device was read or written, no limit of that kind set, no network of its own. */
const MAY_LACK = /blkio|fs_(reads|writes)|quota|reservation|network|hugetlb|pressure|ulimits/;

const limited = needs(
  ...(["memory", "cpu", "pids", "io"] as const).map((name) => capability(`cgroup2:${name}`)),
);
let daemon: Daemon;
before(async () => {
  if (!limited.skip) daemon = await startPodDaemon();
});
after(() => daemon?.end());

test("every metric that critest asks for is described, once, with help and labels", async (t) => {
  const { cri } = await withDouble(t);
  const { descriptors } = await cri.ListMetricDescriptors({});
  assert.equal(NAMES.length, 56);
  assert.deepEqual(descriptors.map(({ name }) => name).sort(), [...NAMES].sort());
  for (const { name, help, labelKeys } of descriptors) {
    assert.ok(help, name!);
    assert.ok(labelKeys!.includes("pod"), name!);
    assert.equal(new Set(labelKeys).size, labelKeys!.length, name!);
  }
});

test("metrics of a pod that runs, each with the labels of its descriptor", limited, async () => {
  const { id, podId, log } = await run(daemon, shell("sleep 999 & echo up; wait"), {
    container: {
      linux: { resources: { cpuQuota: 50_000 as never, memoryLimitInBytes: (64 << 20) as never } },
    },
  });
  await logged(log, "up");
  const { descriptors } = await daemon.cri.ListMetricDescriptors({});
  const labels = new Map(descriptors.map(({ name, labelKeys }) => [name, labelKeys!.length]));
  let { podMetrics } = await daemon.cri.ListPodSandboxMetrics({});
  // Disk usage is measured behind a reading, for those that follow.
  const measured = () =>
    podMetrics[0]!.containerMetrics![0]!.metrics!.some(({ name }) => name === "container_fs_usage_bytes");
  await until(async () => {
    ({ podMetrics } = await daemon.cri.ListPodSandboxMetrics({}));
    return measured();
  }, "the disk usage is measured");
  assert.deepEqual(
    podMetrics.map((pod) => pod.podSandboxId),
    [podId],
  );
  const [container] = podMetrics[0]!.containerMetrics!;
  assert.equal(container!.containerId, id);
  const all = [...podMetrics[0]!.metrics!, ...container!.metrics!];
  for (const { name, labelValues } of all) assert.equal(labelValues!.length, labels.get(name!), name!);
  const seen = new Set(all.map(({ name }) => name));
  assert.deepEqual(
    NAMES.filter((name) => !seen.has(name) && !MAY_LACK.test(name)),
    [],
  );
  const value = (name: string) =>
    Number(all.find((metric) => metric.name === `container_${name}`)!.value!.value!.toString());
  assert.equal(value("processes"), 2);
  assert.ok(value("file_descriptors") >= 3);
  assert.equal(value("spec_cpu_quota"), 50_000);
  assert.equal(value("spec_memory_limit_bytes"), 64 << 20);
  assert.ok(Math.abs(value("last_seen") - Date.now() / 1000) < 100);
  await removePod(daemon, podId);
});
