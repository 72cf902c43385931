// The scenario of test_javascript.py, for the AWS SDK for JavaScript v3: each step's answer, or the
// name and status of its error, as a line of JSON.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.METERING_TEST_JS_SDK}/`);
const sdk = require("@aws-sdk/client-marketplace-metering");

const { endpoint, product, token, hour, buyer, stranger } = JSON.parse(process.argv[2]);
const client = new sdk.MarketplaceMeteringClient({ endpoint, region: "us-east-1", maxAttempts: 1 });
const at = new Date(hour);
const record = { Timestamp: at, CustomerAWSAccountId: buyer, Dimension: "requests", Quantity: 5 };
const batch = (...UsageRecords) => new sdk.BatchMeterUsageCommand({ ProductCode: product, UsageRecords });
const usage = { ProductCode: product, Timestamp: at, UsageDimension: "requests", UsageQuantity: 3 };

const steps = {
  metered: batch(record),
  duplicate: batch({ ...record, Quantity: 6 }),
  dimension: batch({ ...record, Dimension: "Requests" }),
  customer: batch({ ...record, CustomerAWSAccountId: stranger }),
  old: batch({ ...record, Timestamp: new Date(at - 25 * 3600e3) }),
  allocations: batch({ ...record, UsageAllocations: [{ AllocatedUsageQuantity: 4 }] }),
  resolved: new sdk.ResolveCustomerCommand({ RegistrationToken: token }),
  forged: new sdk.ResolveCustomerCommand({ RegistrationToken: "forged" }),
  dry: new sdk.MeterUsageCommand({ ...usage, DryRun: true }),
  hourly: new sdk.MeterUsageCommand(usage),
  another: new sdk.MeterUsageCommand({ ...usage, UsageQuantity: 4 }),
  registered: new sdk.RegisterUsageCommand({ ProductCode: product, PublicKeyVersion: 1, Nonce: "n" }),
  version: new sdk.RegisterUsageCommand({ ProductCode: product, PublicKeyVersion: 9 }),
  throttled: batch({ ...record, Dimension: "throttled" }),
  broken: batch({ ...record, Dimension: "broken" }),
};

for (const [step, command] of Object.entries(steps)) {
  let told;
  try {
    told = await client.send(command);
  } catch (error) {
    told = { error: error.name, status: error.$metadata?.httpStatusCode, modelled: error.name in sdk };
  }
  console.log(JSON.stringify({ step, ...told }));
}
