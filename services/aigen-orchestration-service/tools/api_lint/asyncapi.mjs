// Parses an AsyncAPI document; prints its errors and exits with 1 if there are any.
import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

const ERROR = 0;
const text = await readFile(process.argv[2], "utf8");
const { diagnostics } = await new Parser().parse(text);
const errors = diagnostics.filter((found) => found.severity === ERROR);
for (const found of errors) console.error(`${found.path.join(".")}: ${found.message}`);
process.exit(errors.length ? 1 : 0);
