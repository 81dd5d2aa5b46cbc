/** What the main thread and an unpack worker say to each other: one job at a time per worker. */
export interface UnpackJob {
  /** A file of this host, or chunks over the port. */
  readonly source: { readonly file: string; readonly offset: number; readonly size: number } | "port";
  /** What must come: compressed size and digest, and the digest of the uncompressed archive. */
  readonly size: number;
  readonly digest: string;
  readonly diffId: string;
  /** Where the compressed bytes are kept on the way; absent: nowhere. */
  readonly copyTo?: string;
  readonly root: string;
  readonly limits: UnpackLimits;
}

/** Against archives that are small and unpack into something huge. */
export interface UnpackLimits {
  readonly entries: number;
  /** Uncompressed bytes. */
  readonly bytes: number;
  /** Uncompressed over compressed, looked at beyond `ratioFrom` uncompressed bytes. */
  readonly ratio: number;
  readonly ratioFrom: number;
}

export interface UnpackResult {
  /** The layer hides all layers below it. */
  readonly opaque: boolean;
  readonly bytes: number;
  readonly inodes: number;
}

export type ToWorker =
  | { readonly type: "job"; readonly job: UnpackJob }
  | { readonly type: "chunk"; readonly data: Uint8Array }
  | { readonly type: "end" }
  | { readonly type: "abort" }
  /** Directories of the layers below, nearest first: they are complete. */
  | { readonly type: "parents"; readonly parents: readonly string[] };

export type FromWorker =
  /** Bytes of chunks consumed: so many more may be sent. */
  | { readonly type: "credit"; readonly bytes: number }
  | { readonly type: "done"; readonly result: UnpackResult }
  | { readonly type: "failed"; readonly error: PlainError };

export interface PlainError {
  readonly code: string;
  readonly message: string;
  readonly step?: string | undefined;
  readonly errno?: string | undefined;
  readonly path?: string | undefined;
}
