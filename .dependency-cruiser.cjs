// Who may import whom: the rooms of docs/architecture.md as a check.
const rooms = {
  base: [], gen: [], oci: ['base'], native: ['base'], ttrpc: ['base', 'gen'],
  image: ['base', 'oci', 'native'], network: ['base', 'native'],
  agent: ['base', 'gen', 'ttrpc', 'native'], runtime: ['base', 'oci', 'native', 'agent'],
  shim: ['base', 'gen', 'oci', 'native', 'ttrpc', 'runtime'], task: ['base', 'gen', 'oci', 'native', 'ttrpc'],
  sandbox: ['base', 'oci', 'native', 'task', 'image', 'network'], cri: ['base', 'gen', 'sandbox', 'image'],
};
const only = (name, to, ok) => ({ name, severity: 'error', from: { path: '^src/', pathNot: `^src/(${ok})` }, to: { path: to } });
const forbidden = [
  { name: 'no-circular', severity: 'error', from: {}, to: { circular: true } },
  ...Object.entries(rooms).map(([room, ok]) => ({
    name: `room-${room}`, severity: 'error', from: { path: `^src/${room}/` },
    to: { path: '^src/', pathNot: `^src/(${[room, ...ok].join('|')})/` },
  })),
  { name: 'library-door', severity: 'error', from: { path: '^src/index[.]ts$' },
    to: { path: '^src/', pathNot: '^src/(base|oci)/|^src/(image|network|runtime|native)/index[.]ts$' } },
  { name: 'use-the-door', severity: 'error', from: { path: '^src/([^/]+)/' },
    to: { path: '^src/[^/]+/(?!index[.]ts$)', pathNot: '^src/($1|gen|base|oci)/' } },
  { name: 'nothing-imports-bin', severity: 'error', from: { path: '^src/', pathNot: '^src/bin/' }, to: { path: '^src/bin/' } },
  only('addon-only-in-load', '[.]node$|(^|/)bindings(/|$)', 'native/load[.]ts'),
  only('grpc-only-in-cri', '@grpc/grpc-js', 'cri/'),
  { name: 'no-child-process', severity: 'error', from: { path: '^src/' }, to: { path: '^(node:)?child_process$' } },
];
module.exports = { forbidden, options: { tsPreCompilationDeps: true, tsConfig: { fileName: 'tsconfig.json' }, doNotFollow: { path: 'node_modules' } } };
