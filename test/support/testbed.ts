/** The testbed (docs/testbed.md) as a test sees it from inside. */

/** Set in the testbed; what is missing there is a failure. */
export const inTestbed = process.env["ISOPOD_TESTBED"] === "1";

/** What a deadline is multiplied with: emulation is that much slower, and more on a busy host. */
export const patience = inTestbed ? 10 : 1;
