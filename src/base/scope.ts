import { IsopodError } from "./errors";

/**
 * A stack of undo steps: register each right after the step it undoes. On failure they run newest first,
 * every one of them, under a deadline of their own; what fails on the way is kept beside the first error.
 */
export interface Scope {
  /** `undo` runs if the operation fails; `name` is for the log. */
  defer(name: string, undo: () => unknown): void;
}

const UNDO_DEADLINE_MS = 10_000;

/** Runs `work`; if it throws, undoes what it deferred and throws the original error. */
export async function undoOnFailure<T>(work: (scope: Scope) => Promise<T>): Promise<T> {
  const steps: { name: string; undo: () => unknown }[] = [];
  try {
    return await work({ defer: (name, undo) => void steps.push({ name, undo }) });
  } catch (error) {
    const failures = await unwind(steps);
    if (failures.length > 0 && IsopodError.is(error)) error.cleanupErrors = failures;
    throw error;
  }
}

async function unwind(steps: { name: string; undo: () => unknown }[]): Promise<unknown[]> {
  const failures: unknown[] = [];
  for (const { name, undo } of steps.reverse()) {
    try {
      await withDeadline(Promise.resolve(undo()), UNDO_DEADLINE_MS, `undoing ${name}`);
    } catch (error) {
      failures.push(error);
    }
  }
  return failures;
}

/** Rejects with DEADLINE_EXCEEDED if `work` takes longer than `ms`; the work itself goes on. */
export function withDeadline<T>(work: Promise<T>, ms: number, what: string): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new IsopodError("DEADLINE_EXCEEDED", `${what}: not done after ${ms} ms`)),
      ms,
    );
    work.then(
      (value) => {
        clearTimeout(timer);
        resolve(value);
      },
      (error: unknown) => {
        clearTimeout(timer);
        reject(error);
      },
    );
  });
}
