# Five products of one tree: the addon (core and vmm); the init stub that it carries (and its fault build for the tests);
# the monitor, which is also the shim's `start` launcher; the C++ test programs.
{
  "variables": {
    "warnings": ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"],
    # The stub is libc-free: nothing but raw system calls between clone and exec.
    "stub_flags": [
      "-std=c++17", "-Os", "-ffreestanding", "-nostdlib", "-fno-exceptions", "-fno-rtti", "-fno-stack-protector",
      "-fno-asynchronous-unwind-tables", "-fno-threadsafe-statics", "-fno-pic", "-fno-pie", "-mno-red-zone",
      "-fno-builtin", "-fno-tree-loop-distribute-patterns", "-ffunction-sections",
    ],
    "stub_ldflags": ["-nostdlib", "-static", "-no-pie", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,norelro", "-s"],
    "conditions": [["target_arch!='x64'", {"stub_flags!": ["-mno-red-zone"]}]],
  },
  "target_defaults": {
    "include_dirs": ["native"],
    "cflags_cc": ["-std=c++17", "-fno-exceptions", "-fno-rtti"],
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++14", "-fno-omit-frame-pointer"],
  },
  "targets": [
    {
      "target_name": "isopod-init",
      "type": "executable",
      "sources": ["<!@(ls native/init/*.cc)"],
      "cflags_cc": ["<@(warnings)", "<@(stub_flags)"],
      "cflags!": ["-fPIC", "-pthread", "-O3"],
      "ldflags": ["<@(stub_ldflags)"],
      "ldflags!": ["-pthread", "-rdynamic"],
      "libraries!": ["-pthread"],
    },
    {
      "target_name": "isopod-init-fault",
      "type": "executable",
      "defines": ["ISOPOD_FAULT=1"],
      "sources": ["<!@(ls native/init/*.cc)"],
      "cflags_cc": ["<@(warnings)", "<@(stub_flags)"],
      "cflags!": ["-fPIC", "-pthread", "-O3"],
      "ldflags": ["<@(stub_ldflags)"],
      "ldflags!": ["-pthread", "-rdynamic"],
    },
    {
      "target_name": "init-image",
      "type": "none",
      "dependencies": ["isopod-init"],
      "actions": [{
        "action_name": "embed",
        "inputs": ["<(PRODUCT_DIR)/isopod-init", "scripts/embed.mjs"],
        "outputs": ["<(SHARED_INTERMEDIATE_DIR)/init_image.h"],
        "action": ["node", "scripts/embed.mjs", "<(PRODUCT_DIR)/isopod-init", "<(SHARED_INTERMEDIATE_DIR)/init_image.h"],
      }],
    },
    {
      "target_name": "core",
      "type": "static_library",
      "sources": ["<!@(ls native/core/*.cc)"],
      "cflags_cc": ["<@(warnings)", "-O2", "-fPIC"],
    },
    {
      # The virtual machine monitor; like core it knows nothing of N-API.
      "target_name": "vmm",
      "type": "static_library",
      "sources": ["<!@(find native/vmm -name '*.cc' | sort)"],
      "cflags_cc": ["<@(warnings)", "-O2", "-fPIC"],
    },
    {
      "target_name": "isopod",
      "dependencies": ["core", "vmm", "init-image"],
      "libraries": ["-l:libzstd.a"],
      # Debian's archive is built for executables: its functions call each other knowing which registers the
      # callee leaves alone (-fipa-ra). A call through the PLT, which a library's exported functions get, does
      # not, and crashes. Hidden, they are called directly, and never mixed up with a zstd of Node's own.
      "ldflags": ["-Wl,--exclude-libs,libzstd.a"],
      "sources": ["<!@(ls native/addon/*.cc)"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")", "<(SHARED_INTERMEDIATE_DIR)"],
      "defines": ["NAPI_VERSION=9", "NAPI_DISABLE_CPP_EXCEPTIONS"],
      "cflags_cc": ["<@(warnings)", "-O2", "-Wno-unused-parameter", "-Wno-shadow"],
    },
    {
      # The file-system server of a microVM, a program of its own: it parses what the guest says.
      "target_name": "isopod-fs",
      "type": "executable",
      "sources": ["<!@(ls native/fs/*.cc)"],
      "cflags_cc": ["<@(warnings)", "-O2", "-ffunction-sections", "-fdata-sections"],
      "cflags!": ["-fPIC"],
      "ldflags": ["-static", "-s", "-pthread", "-Wl,--gc-sections"],
      "ldflags!": ["-rdynamic"],
    },
    {
      # The guest's first process: static, the same core and the same init stub as on the host.
      "target_name": "isopod-agent",
      "type": "executable",
      "dependencies": ["core", "init-image"],
      "sources": ["<!@(ls native/agent/*.cc)"],
      "include_dirs": ["<(SHARED_INTERMEDIATE_DIR)"],
      "defines": ["ISOPOD_VERSION=\"<!(node -p \"require('./package.json').version\")\""],
      "cflags_cc": ["<@(warnings)", "-Os", "-ffunction-sections", "-fdata-sections"],
      "cflags!": ["-fPIC"],
      "ldflags": ["-static", "-s", "-Wl,--gc-sections"],
      "ldflags!": ["-rdynamic"],
    },
    {
      "target_name": "containerd-shim-isopod-v2",
      "type": "executable",
      "sources": ["<!@(ls native/monitor/*.cc)"],
      # R1: the node that built us is looked for first; the size tells whether it is still the same file.
      "defines": [
        "ISOPOD_VERSION=\"<!(node -p \"require('./package.json').version\")\"",
        "ISOPOD_NODE_PATH=\"<!(node -p process.execPath)\"",
        "ISOPOD_NODE_MAJOR=<!(node -p \"parseInt(process.versions.node)\")",
        "ISOPOD_NODE_SIZE=<!(node -p \"fs.statSync(process.execPath).size\")",
      ],
      "cflags_cc": ["<@(warnings)", "-Os", "-ffunction-sections", "-fdata-sections"],
      "cflags!": ["-fPIC"],
      "ldflags": ["-static", "-s", "-Wl,--gc-sections"],
      "ldflags!": ["-rdynamic"],
    },
  ],
}
