// Runs aimock on a free port, tells its address, and ends when standard input closes.
import { pathToFileURL } from "node:url";

const { LLMock } = await import(pathToFileURL(process.argv[2]));
const mock = new LLMock({ port: 0, host: "127.0.0.1", strict: true, chunkSize: 5 });
await mock.start();
console.log(JSON.stringify({ url: mock.url }));
process.stdin.resume().on("end", () => process.exit(0));
