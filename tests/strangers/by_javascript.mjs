// The part of run.py that the AWS SDK for JavaScript v3 has.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.argv[2]}/`);
const PACKAGE = "@aws-sdk/client-marketplace-metering";
const sdk = require(PACKAGE);
const { version } = require(`${PACKAGE}/package.json`);
const clients = {};

const timed = (value) => {
  if (Array.isArray(value)) return value.map(timed);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) =>
    [name, name === "Timestamp" ? new Date(part * 1000) : timed(part)]));
};

class LeftOut extends Error {}

// The SDK sends what it knows, and leaves out what it does not without a word.
function compare(given, sent) {
  for (const [name, part] of Object.entries(given ?? {})) {
    if (sent?.[name] === undefined) throw new LeftOut("a member that this SDK does not know, and leaves out");
    if (part !== null && typeof part === "object" && !(part instanceof Date)) compare(part, sent[name]);
  }
}

const nothingIsLeftOut = (next) => async (args) => {
  compare(args.input, JSON.parse(new TextDecoder().decode(args.request.body)));
  return next(args);
};

function client(region) {
  if (!clients[region]) {
    clients[region] = new sdk.MarketplaceMeteringClient({ region });
    clients[region].middlewareStack.add(nothingIsLeftOut, { step: "finalizeRequest", priority: "high" });
  }
  return clients[region];
}

async function answer({ operation, request, region }) {
  try {
    const { $metadata, ...reply } = await client(region).send(new sdk[`${operation}Command`](timed(request)));
    return { reply, status: $metadata.httpStatusCode };
  } catch (error) {
    if (error instanceof LeftOut) return { cannot: error.message };
    return { code: error.name, status: error.$metadata?.httpStatusCode, modelled: error.name in sdk };
  }
}

const say = (members) => process.stdout.write(`${JSON.stringify(members)}\n`);
say({ version: `JavaScript v3 ${version}` });
for await (const line of createInterface({ input: process.stdin })) say(await answer(JSON.parse(line)));
