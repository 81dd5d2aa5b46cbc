import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  cgroupsPathBelow,
  isUnitForm,
  sliceOfParent,
  slicePath,
  unitForm,
  unitPlace,
} from "../../src/oci/cgroups-path";

const place = (value: string) => unitPlace("linux.cgroupsPath", value);
const refused = (value: string, why: RegExp) =>
  assert.throws(() => place(value), { code: "INVALID_ARGUMENT", path: "linux.cgroupsPath", message: why });

test("slice, prefix and name make a scope in a slice", () => {
  assert.deepEqual(place("kubepods-pod1.slice:cri-containerd:abc"), {
    slice: "kubepods-pod1.slice",
    unit: "cri-containerd-abc.scope",
  });
  assert.deepEqual(place(":isopod:abc"), { slice: "system.slice", unit: "isopod-abc.scope" });
  assert.deepEqual(place("-.slice::abc"), { slice: "-.slice", unit: "abc.scope" });
});

test("a path is for the other driver", () => {
  for (const path of ["/a/b", "a/b", "/a:b:c", "", "/kubepods.slice/a.slice"])
    assert.equal(place(path), undefined);
});

test("what systemd would not take is refused with the name", () => {
  refused("a.slice:x:", /slice:prefix:name/);
  refused("a.slice:x:y:z", /slice:prefix:name/);
  refused("a.slice:x:y.slice", /unit is a scope/);
  refused("a:x:y", /"a" is not a slice/);
  refused("a--b.slice:x:y", /empty part/);
  refused("-a.slice:x:y", /empty part/);
  refused(".slice:x:y", /empty part/);
  refused("a.slice:x:y/z", /"x-y\/z.scope" cannot be the name/);
  refused("a b.slice:x:y", /cannot be the name/);
  refused(`a.slice:x:${"y".repeat(250)}`, /cannot be the name/);
});

test("each dash of a slice is a step down", () => {
  assert.equal(slicePath("-.slice"), "/");
  assert.equal(slicePath("a.slice"), "/a.slice");
  assert.equal(slicePath("a-b-c.slice"), "/a.slice/a-b.slice/a-b-c.slice");
});

const word = fc.stringMatching(/^[a-z0-9_]{1,8}$/);
const slices = fc.array(word, { minLength: 1, maxLength: 4 }).map((words) => `${words.join("-")}.slice`);

test("what is put together is taken apart again", () => {
  fc.assert(
    fc.property(slices, word, word, (slice, prefix, name) => {
      const form = unitForm(slice, prefix, name);
      assert.ok(isUnitForm(form));
      assert.deepEqual(place(form), { slice, unit: `${prefix}-${name}.scope` });
    }),
  );
});

test("a slice's path has each part as the beginning of the next, and names it at its end", () => {
  fc.assert(
    fc.property(slices, (slice) => {
      const parts = slicePath(slice).split("/").slice(1);
      assert.equal(parts.at(-1), slice);
      for (const [i, part] of parts.slice(1).entries())
        assert.ok(part.startsWith(`${parts[i]!.slice(0, -".slice".length)}-`));
      for (const parent of [slice, slicePath(slice)])
        assert.equal(sliceOfParent("linux.cgroup_parent", parent), slice);
    }),
  );
});

test("kubelet's parent is the slice's path; one that is elsewhere is refused", () => {
  const parent = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";
  assert.equal(sliceOfParent("f", parent), "kubepods-burstable-pod1_2.slice");
  assert.equal(sliceOfParent("f", "/test.slice"), "test.slice");
  assert.equal(sliceOfParent("f", "/kubepods/pod1"), undefined);
  assert.equal(sliceOfParent("f", ""), undefined);
  assert.throws(() => sliceOfParent("f", "/other.slice/kubepods-pod1.slice"), {
    code: "INVALID_ARGUMENT",
    path: "f",
    message: /systemd has kubepods-pod1.slice at \/kubepods.slice\/kubepods-pod1.slice/,
  });
});

test("below a parent: a scope in a slice, a directory in a path", () => {
  assert.equal(cgroupsPathBelow("f", "/k.slice/k-p.slice", "id"), "k-p.slice:isopod:id");
  assert.equal(cgroupsPathBelow("f", "/kubepods/pod1", "id"), "/kubepods/pod1/id");
});
