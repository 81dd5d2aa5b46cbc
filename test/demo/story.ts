/** Prints steps with their times, and below each what there is to see. */
export class Story {
  private readonly begin = performance.now();

  async step<T>(name: string, work: () => Promise<T>): Promise<T> {
    const begin = performance.now();
    const value = await work().catch((error: unknown) => {
      console.log(line(performance.now() - begin, `${name}: failed`));
      throw error;
    });
    console.log(line(performance.now() - begin, name));
    return value;
  }

  say(text: string): void {
    console.log(`${" ".repeat(14)}${text}`);
  }

  failed(error: unknown): void {
    console.error(error);
  }

  end(): void {
    const verdict = process.exitCode ? "not all went well" : "all of it";
    console.log(line(performance.now() - this.begin, verdict));
  }
}

const line = (ms: number, text: string): string => `${ms.toFixed(1).padStart(9)} ms  ${text}`;
